"""The daemon's own file: the targets that were made at run time, in its state directory.

    targets.toml    [[group]] sections as a configuration file has them; their paths are absolute

It is replaced as a whole: written beside the old one, synced, renamed, and the directory synced.
One rule: what it says is what a restart serves.
"""

from typing import Final

import msgspec

from pratima_iscsi.control.config import read_file
from pratima_iscsi.control.sections import TargetsFile
from pratima_iscsi.edges.directory import DiskDirectory
from pratima_iscsi.errors import StateError, UsageError
from pratima_iscsi.limits import CONFIG_BYTES_MAX

NAME: Final = "targets.toml"
_HEAD: Final = """\
# Made by `pratima target create` and `pratima target delete`; edit it only while no daemon runs.
# It has the [[group]] sections of a configuration file, and names secrets' files, never secrets.

"""


def read_targets(directory: DiskDirectory) -> TargetsFile:
    """What the file says; nothing where there is none. Raises StateError or UsageError."""
    if not directory.exists(NAME):
        return TargetsFile()
    return read_file(directory.path / NAME, TargetsFile)


def write_targets(directory: DiskDirectory, file: TargetsFile) -> None:
    """Replace the file, durably. Raises StateError or UsageError, with the old one in place."""
    data = _HEAD.encode() + msgspec.toml.encode(file)
    if len(data) > CONFIG_BYTES_MAX:
        raise UsageError(
            f"{NAME} would be longer than {CONFIG_BYTES_MAX} bytes",
            "serve some of the groups with another daemon",
        )
    try:
        directory.replace(NAME, data)
    except OSError as error:
        raise StateError(
            f"{directory.path / NAME} cannot be written: {error.strerror or error}",
            "see to the state directory's disk and its space, and give the command again",
        ) from None
