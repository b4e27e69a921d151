"""What a daemon has set up in the kernel, noted in its state directory: so it knows its own.

    kernel.toml    targets = ["iqn…"], discovery_user = "…"

One rule: a note is made before what it is about, and goes only after it.
"""

from typing import Final

import msgspec

from pratima_iscsi.edges.directory import DiskDirectory
from pratima_iscsi.errors import StateError
from pratima_iscsi.limits import CONFIG_BYTES_MAX

NAME: Final = "kernel.toml"


class Notes(msgspec.Struct, frozen=True, omit_defaults=True):
    """The iSCSI targets that are this daemon's, and the account that it has set for discovery."""

    targets: tuple[str, ...] = ()
    discovery_user: str = ""


def read_notes(directory: DiskDirectory) -> Notes:
    """What is noted; nothing where the file is missing or is none of ours.

    Then a target of a wanted name is known by the devices in it; any other is left alone.
    """
    if not directory.exists(NAME):
        return Notes()
    try:
        file = directory.open(NAME)
        try:
            data = file.pread(min(file.size, CONFIG_BYTES_MAX), 0)
        finally:
            file.close()
        return msgspec.toml.decode(data, type=Notes)
    except (OSError, ValueError, msgspec.DecodeError):
        return Notes()


def write_notes(directory: DiskDirectory, notes: Notes) -> None:
    """Replace the notes, durably. Raises StateError."""
    try:
        directory.replace(NAME, msgspec.toml.encode(notes))
    except OSError as error:
        raise StateError(
            f"{directory.path / NAME} cannot be written: {error.strerror or error}",
            "see to the state directory's disk and its space",
        ) from None
