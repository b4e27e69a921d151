"""What the package asks of a file system: a few calls on a directory and on open files.

The replica's journal, staging and state, and the volumes of both sides, use these protocols and
nothing else, so that the simulator can put a disk with unsynced state and power cuts under the real
code. One rule: a call does the whole of it or raises OSError.
"""

import errno
from typing import Final, Protocol

from pratima_iscsi.operations import Buffer

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What an OSError's number is when somebody else's room may mend it."""


class File(Protocol):
    """An open file or block device. Offsets and lengths in bytes."""

    @property
    def size(self) -> int:
        """Bytes of the file now."""

    def pread(self, length: int, offset: int) -> bytes:
        """``length`` bytes from ``offset``; what lies beyond the end reads as zeros."""

    def pwrite(self, data: Buffer, offset: int) -> None:
        """Write all of ``data``."""

    def punch(self, offset: int, length: int) -> None:
        """Make a range read as zeros and give its space back where that can be done."""

    def is_hole(self, offset: int, length: int) -> bool:
        """True only if the range is known to read as zeros without reading it."""

    def fdatasync(self) -> None:
        """Bring every completed write and the size to stable storage."""

    def truncate(self, size: int) -> None:
        """Set the file's size."""

    def close(self) -> None:
        """Release the file."""


class Directory(Protocol):
    """One directory of ours; names are plain file names in it."""

    def open(self, name: str, *, create: bool = False) -> File:
        """Open for reading and writing; FileNotFoundError unless ``create``. Mode 0600."""

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    def names(self) -> list[str]:
        """The files' names, sorted."""

    def rename(self, old: str, new: str) -> None:
        """Replace ``new`` by ``old``, atomically; durable after ``sync``."""

    def unlink(self, name: str) -> None:
        """Remove a file; durable after ``sync``."""

    def sync(self) -> None:
        """Bring names, renames and removals to stable storage."""

    def free_bytes(self) -> int:
        """Space left on the file system for an unprivileged writer."""
