"""Pratima: an iSCSI target whose mirrored backstore keeps an exact, ordered copy of its volumes."""

__version__ = "0.1.0"
EXIT_INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended, as a shell has it."""


def hot_path() -> str:
    """How what is done for each command runs in this installation: compiled, or plain Python."""
    from importlib.util import find_spec  # not for each start

    spec = find_spec("pratima_iscsi.ordered_log")
    plain = spec is None or str(spec.origin).endswith(".py")
    return "plain Python" if plain else "compiled"
