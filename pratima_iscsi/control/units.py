"""Sizes as people write them, and numbers as people read them.

One rule: sizes are in powers of 1024, whatever the letter's case; KiB, K and KB are the same.
"""

import re
from typing import Final

from pratima_iscsi.errors import UsageError

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_STEPS: Final = "kmgtp"
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def parse_size(text: str | int) -> int:
    """Bytes of ``1GiB``, ``512M``, ``1.5T`` or a plain number. Raises UsageError."""
    if isinstance(text, int):
        return _not_negative(text)
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a size", "write it like 1GiB, 512M or 1073741824")
    number, unit = match.groups()
    factor = 1024 ** (_STEPS.index(unit.lower()) + 1) if unit else 1
    size = float(number) * factor if "." in number else int(number) * factor
    if size != int(size):
        raise UsageError(f"{text!r} is no whole number of bytes", "leave the fraction out")
    return int(size)


def format_size(size: float) -> str:
    """``size`` bytes with three figures and a unit."""
    step = 0
    while abs(size) >= 999.5 and step < len(_UNITS) - 1:
        size /= 1024
        step += 1
    return f"{size:.0f} {_UNITS[step]}" if step == 0 else f"{size:.3g} {_UNITS[step]}"


def format_seconds(seconds: float | None) -> str:
    """A duration in its two greatest units, ``-`` for an unknown one."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for size, unit, less, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // less} {small}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def _not_negative(size: int) -> int:
    if size < 0:
        raise UsageError(f"{size} is not a size", "write it like 1GiB, 512M or 1073741824")
    return size
