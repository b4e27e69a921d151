"""Text that may come from a peer, made fit for a terminal, a log and a line of JSON.

One rule: no control character passes, so nothing that a peer says can move a cursor.
"""

from pratima_iscsi.limits import REASON_CHARACTERS_MAX


def printable(text: str, characters_max: int = REASON_CHARACTERS_MAX) -> str:
    """``text`` with its control characters spelled out, cut at ``characters_max``."""
    clean = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return clean[:characters_max]


def printable_json(text: str) -> str:
    """JSON in one line, with what is not printable spelled out; it means the same."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    """Such a character only stands inside a JSON string: white space was not put in."""
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
