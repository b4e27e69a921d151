"""Where a daemon's own sockets lie: in its state directory, or where their path is short enough.

A UNIX socket's path is at most 107 bytes long. Where the state directory makes it longer the socket
lies in a short runtime directory, and a file in the state directory names it. One rule: every
directory on the way that we made is ours and nobody else's (0700, no link, no other owner).
"""

import contextlib
import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from pratima_iscsi.errors import StateError

SOCKET_PATH_BYTES_MAX: Final = 107
"""sockaddr_un holds 108 bytes, the last of them NUL."""

_DIRECTORY: Final = "control"
_POINTER: Final = ".path"


def socket_place(state: Path, name: str) -> Path:
    """Where the socket ``name`` shall listen; recorded where it is not the usual place.

    Raises StateError.
    """
    directory = state.absolute() / _DIRECTORY
    _own_directory(directory)
    pointer = directory / (name + _POINTER)
    path = directory / name
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        pointer.unlink(missing_ok=True)
        return path
    short = hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:32]
    path = _runtime_directory() / f"{short}.{name}"
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise StateError(
            f"the path of the socket is too long: {path}",
            "set XDG_RUNTIME_DIR to a directory with a shorter path",
        )
    new = pointer.with_name(pointer.name + ".new")
    new.write_bytes(os.fsencode(path))
    new.replace(pointer)
    return path


def find_socket(state: Path, name: str) -> Path:
    """Where the daemon of ``state`` listens as ``name``, or would. Raises StateError."""
    directory = state.absolute() / _DIRECTORY
    try:
        recorded = (directory / (name + _POINTER)).read_bytes()[: SOCKET_PATH_BYTES_MAX + 1]
    except FileNotFoundError:
        return directory / name
    except OSError as error:
        raise StateError(
            f"{directory} cannot be read: {error.strerror}", "ask as the user that runs the daemon"
        ) from None
    return Path(os.fsdecode(recorded))


def _runtime_directory() -> Path:
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(given) and os.path.isdir(given):
        directory = Path(given) / "pratima"
    else:
        directory = Path(f"/tmp/pratima-{os.geteuid()}")  # a fixed place, whatever TMPDIR says
    _own_directory(directory)
    return directory


def _own_directory(directory: Path) -> None:
    """Make it (0700), or see that it is ours and nobody else's: no link, no other owner."""
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise StateError(
                f"{directory} is no directory of this user", "remove it; it is made anew"
            )
        if status.st_mode & 0o077:
            directory.chmod(0o700)
    except OSError as error:
        raise StateError(
            f"{directory} cannot be made: {error.strerror}", "see to the owner of the one above"
        ) from None
