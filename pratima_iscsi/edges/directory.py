"""A state directory on a real file system: the Directory and File protocols over system calls.

One rule: every file is a regular file of ours, opened without following a link, readable by its
owner only; and the directory is locked, so that one process at a time has it.
"""

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from pratima_iscsi.edges.file_calls import data_run, make_zeros, read_all, write_all
from pratima_iscsi.errors import StateError
from pratima_iscsi.operations import Buffer

_FILE_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""O_NONBLOCK: opening a FIFO that somebody put there must not hang; files do not mind it."""
_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class DiskFile:
    """An open regular file (the File protocol); Python itself goes on after EINTR."""

    def __init__(self, fd: int, name: str) -> None:
        """Takes over ``fd``."""
        self._fd = fd
        self._name = name

    @property
    def size(self) -> int:
        """Bytes of the file now."""
        return os.fstat(self._fd).st_size

    def pread(self, length: int, offset: int) -> bytes:
        """``length`` bytes from ``offset``; what lies beyond the end reads as zeros."""
        return read_all(self._fd, length, offset)

    def pwrite(self, data: Buffer, offset: int) -> None:
        """Write all of ``data``; a short write goes on until all is written or its cause shows."""
        write_all(self._fd, data, offset, self._name)

    def punch(self, offset: int, length: int) -> None:
        """Make a range read as zeros and give its space back; where the file system cannot punch,
        overwrite it. The size stays."""
        length = min(offset + length, self.size) - offset
        if length > 0:
            make_zeros(self._fd, offset, length, self._name)

    def is_hole(self, offset: int, length: int) -> bool:
        """True only if the file system says that the range holds no data."""
        return data_run(self._fd, offset, length) == (False, length)

    def fdatasync(self) -> None:
        """Bring every completed write and the size to stable storage."""
        os.fdatasync(self._fd)

    def truncate(self, size: int) -> None:
        """Set the file's size."""
        os.ftruncate(self._fd, size)

    def close(self) -> None:
        """Release the file; a second call does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class DiskDirectory:
    """A directory of ours, locked for this process (the Directory protocol)."""

    def __init__(self, fd: int, path: Path) -> None:
        """Takes over ``fd``, which is open and locked; see ``open_at``."""
        self._fd = fd
        self.path = path

    @classmethod
    def open_at(cls, path: Path | str, *, create: bool = False) -> "DiskDirectory":
        """Open and lock ``path``; ``create`` makes it (0700) where there is none.

        Raises StateError, which says what to do next.
        """
        path = Path(path)
        try:
            if create:
                _make(path)
            fd = os.open(path, _DIRECTORY_FLAGS)
        except FileNotFoundError:
            raise StateError(
                f"state directory {path} does not exist", "see whether the path is right"
            ) from None
        except OSError as error:
            raise StateError(
                f"state directory {path} cannot be opened: {error.strerror}",
                "name a directory of your own (a link to one is not followed)",
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno != errno.EWOULDBLOCK:
                raise StateError(
                    f"state directory {path} cannot be locked: {error.strerror}",
                    "put it on a file system that has flock",
                ) from None
            raise StateError(
                f"state directory {path} is in use by another process", "stop that one first"
            ) from None
        return cls(fd, path)

    def open(self, name: str, *, create: bool = False) -> DiskFile:
        """Open for reading and writing; FileNotFoundError unless ``create``. Mode 0600.

        Raises OSError for a link (ELOOP) and for whatever is no regular file (EINVAL).
        """
        flags = _FILE_FLAGS | (os.O_CREAT if create else 0)
        fd = os.open(_plain(name), flags, 0o600, dir_fd=self._fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "not a regular file", str(self.path / name))
        return DiskFile(fd, str(self.path / name))

    def exists(self, name: str) -> bool:
        """Whether there is such a file (or anything else of that name)."""
        try:
            os.stat(_plain(name), dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def names(self) -> list[str]:
        """The regular files' names, sorted."""
        with os.scandir(self._fd) as entries:
            return sorted(e.name for e in entries if e.is_file(follow_symlinks=False))

    def rename(self, old: str, new: str) -> None:
        """Replace ``new`` by ``old``, atomically; durable after ``sync``."""
        os.rename(_plain(old), _plain(new), src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def replace(self, name: str, data: bytes) -> None:
        """Make ``data`` the content of ``name``, atomically and durably. Raises OSError."""
        new = f"{name}.new"
        with contextlib.suppress(FileNotFoundError):
            self.unlink(new)
        file = self.open(new, create=True)
        try:
            file.pwrite(data, 0)
            file.fdatasync()
        finally:
            file.close()
        self.rename(new, name)
        self.sync()

    def unlink(self, name: str) -> None:
        """Remove a file; durable after ``sync``."""
        os.unlink(_plain(name), dir_fd=self._fd)

    def sync(self) -> None:
        """Bring names, renames and removals to stable storage."""
        os.fsync(self._fd)

    def free_bytes(self) -> int:
        """Space left on the file system for an unprivileged writer."""
        status = os.fstatvfs(self._fd)
        return status.f_bavail * status.f_frsize

    def close(self) -> None:
        """Give the directory and its lock back; a second call does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def _plain(name: str) -> str:
    assert name and "/" not in name and name not in {".", ".."}, name
    return name


def _make(path: Path) -> None:
    """Make a directory and its name durable, and those above it; what is there stays as it is."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make(path.parent)
        path.mkdir(mode=0o700)
    fd = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
