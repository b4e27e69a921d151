"""A local volume: one regular file or block device, opened for this process alone.

It is a File (edges.files) and what the engine needs beside: reads that never wait for the disk,
writes that are durable when they return, and what the file system knows of holes. One rule: a
volume is used by one process at a time, and a call does the whole of its work or raises OSError.
"""

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from pratima_iscsi.blocks import VOLUME_BYTES_MAX
from pratima_iscsi.edges.directory import DiskFile
from pratima_iscsi.edges.file_calls import (
    data_run,
    make_zeros,
    punch_hole,
    read_all,
    write_rest,
)
from pratima_iscsi.edges.growth import make_room
from pratima_iscsi.errors import StateError, SyncError, UsageError
from pratima_iscsi.limits import MIB
from pratima_iscsi.operations import Buffer
from pratima_iscsi.replication.source_state import VolumeState

SECTOR_BYTES: Final = 512
_CANNOT_NOWAIT: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_MISALIGNED: Final = frozenset({errno.EINVAL})
"""What a device says of a range that is no whole number of its blocks."""
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
"""File systems whose pages are the page cache: a read of them waits for no disk."""


class Volume:
    """An open volume. Offsets and lengths are bytes; not safe to ``truncate`` from two threads."""

    def __init__(self, path: Path, fd: int) -> None:
        """Takes over ``fd``, which is open for reading and writing and locked; see ``open``."""
        mode = os.fstat(fd)
        self.path = path
        self.is_block_device = stat.S_ISBLK(mode.st_mode)
        self._fd = fd
        self._made: os.stat_result | None = None
        self._size = os.lseek(fd, 0, os.SEEK_END)
        self._in_memory = not self.is_block_device and _file_system(mode.st_dev) in _IN_MEMORY
        self._nowait = True
        self._seeks_data = not self.is_block_device
        self._thin = (
            _zeroes_offloaded(mode.st_rdev) if self.is_block_device else _can_punch(path, fd)
        )

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        size: int | None = None,
        create: bool = False,
        empty: bool = False,
        grown: bool = False,
        known: int | None = None,
        sector: int = SECTOR_BYTES,
    ) -> "Volume":
        """Open and lock ``path``.

        ``size`` makes a sparse file of that size where there is none (or an empty one), and is
        otherwise compared. ``empty`` takes an empty file as it is, and ``create`` makes one where
        there is none: for a replica, which learns the size later. ``grown`` takes one that is
        larger than ``size``: it may have grown since it was made. ``known`` is how large the
        volume's group knows it (0: that is forgotten): it is then never made, whatever ``size``
        says, for a resync would bring the zeros of a new one over the replicas' good copies; and it
        keeps to that size. Raises UsageError or StateError, which say what to do next.
        """
        path = Path(path)
        if size is not None:
            _check_size(path, size, sector)
        fd, is_new = _open(path, create=known is None and (create or size is not None), known=known)
        made = os.fstat(fd) if is_new else None
        try:
            _lock(fd, path)
            volume = cls(path, fd)
            volume._made = made
            if known is not None:
                volume._refuse_less(known)
            volume._take_size(size, create or empty, sector, grown or known is not None)
            # Whatever its file has by now: a volume grows only when it is asked to.
            volume._size = known or volume._size
        except BaseException:
            os.close(fd)
            _remove(path, made)
            raise
        return volume

    def _take_size(self, size: int | None, empty_is_fine: bool, sector: int, grown: bool) -> None:
        if size is not None and self._size == 0 and not self.is_block_device:
            try:
                self.truncate(size)
                os.fsync(self._fd)
                _sync_directory(self.path)
            except OSError as error:
                raise StateError(
                    f"volume {self.path} cannot be made {size} bytes long: {error.strerror}",
                    "see to its disk, or choose another size",
                ) from None
        if size is not None and size != self._size and not (grown and size < self._size):
            raise StateError(
                f"volume {self.path} has {self._size} bytes, but {size} were asked for",
                "leave the size out to use it as it is, or name another volume",
            )
        if self._size == 0 and empty_is_fine:
            return
        if self._size == 0:
            raise StateError(f"volume {self.path} is empty", "give its size, as in --size 1GiB")
        _check_size(self.path, self._size, sector)

    @property
    def size(self) -> int:
        """Bytes of the volume, as of opening or the last ``truncate``, ``measure`` or
        ``keep_to``."""
        return self._size

    @property
    def capacity(self) -> int:
        """Bytes that the file or device has now; the volume may keep to fewer."""
        return os.lseek(self._fd, 0, os.SEEK_END)

    def make_room(self, size: int) -> bool:
        """Let the file, or see that the device, has ``size`` bytes, durably, while the volume keeps
        its own; whether what lies behind that is known to read as zeros."""
        if not self.is_block_device:
            return make_room(DiskFile(self._fd, str(self.path)), self._size, size)
        if self.capacity < size:
            raise OSError(errno.ENOSPC, _too_small(self.capacity, size), str(self.path))
        return False

    def keep_to(self, size: int) -> None:
        """Be ``size`` bytes long, of which the file or device has as many at least. Raises
        StateError when it has not."""
        self._refuse_less(size)
        self._size = size

    def _refuse_less(self, size: int) -> None:
        if (capacity := self.capacity) < max(size, 1):
            raise _lost(f"volume {self.path} has {capacity} bytes", size)

    @property
    def thin(self) -> bool:
        """Whether zeroing a range costs no writing of zeros and gives its space back."""
        return self._thin

    @property
    def is_new(self) -> bool:
        """Whether its file was made by this opening."""
        return self._made is not None

    def unmake(self) -> None:
        """Remove the file if this opening made it: what it was made for is not to be. A file that
        was there stays; a closed volume can be unmade, too."""
        _remove(self.path, self._made)
        self._made = None

    def fileno(self) -> int:
        """The file descriptor, for ``select`` and the like; the volume keeps owning it."""
        return self._fd

    def measure(self) -> int:
        """Look again how large the volume is (a device may have grown) and return it."""
        self._size = os.lseek(self._fd, 0, os.SEEK_END)
        return self._size

    def pread(self, length: int, offset: int) -> bytes:
        """``length`` bytes from ``offset``; what lies beyond the end reads as zeros."""
        return read_all(self._fd, length, offset)

    def read_cached(self, length: int, offset: int) -> bytes | None:
        """The same without ever waiting for the disk: None unless memory holds all of it."""
        if self._in_memory:
            return self.pread(length, offset)
        if not self._nowait:
            return None
        data = bytearray(length)
        return bytes(data) if self.read_cached_into(data, offset) else None

    def read_cached_into(self, room: bytearray | memoryview, offset: int) -> bool:
        """The same into ``room``, which it fills; False, with ``room`` as it may be, unless memory
        holds all of that."""
        length = len(room)
        if not (self._in_memory or self._nowait) or offset + length > self._size:
            return False
        flags = 0 if self._in_memory else os.RWF_NOWAIT
        try:
            return os.preadv(self._fd, (room,), offset, flags) == length
        except OSError as error:
            if error.errno in _CANNOT_NOWAIT:
                self._nowait = False
                return False
            if error.errno == errno.EAGAIN:
                return False
            raise

    def pwrite(self, data: Buffer, offset: int) -> None:
        """Write all of ``data``; EINVAL beyond the end, for a volume never grows by a write."""
        length = len(data)
        self._check(offset, length)
        done = os.pwrite(self._fd, data, offset)
        if done != length:
            write_rest(self._fd, data, offset, done, str(self.path))

    def write_through(self, data: Buffer, offset: int) -> None:
        """Write all of ``data`` so that it is on stable storage on return (FUA).

        The kernel tells of a failed writeback once, by whatever errno it had, and to whoever syncs
        next. So an error is the write's own only if the write fails without a sync as well.
        """
        length = len(data)
        self._check(offset, length)
        try:
            done = os.pwritev(self._fd, (data,), offset, os.RWF_DSYNC)
        except OSError as error:
            if error.errno != errno.EIO:
                self.pwrite(data, offset)
            if error.errno not in _CANNOT_NOWAIT:
                raise SyncError.of(error) from None  # it may speak of any page of the volume
            self.sync_now()
            return
        if done != length:
            self.pwrite(memoryview(data)[done:], offset + done)
            self.sync_now()

    def punch(self, offset: int, length: int) -> None:
        """Make a range read as zeros, giving its space back where the volume can."""
        self._check(offset, length)
        if length:
            unable = _MISALIGNED if self.is_block_device else frozenset()
            make_zeros(self._fd, offset, length, str(self.path), unable)

    def allocated(self, offset: int, length: int) -> tuple[bool, int]:
        """Whether the byte at ``offset`` has space, and for how many bytes that stays so
        (at least 1, ``length`` at the most). In doubt it has."""
        run = data_run(self._fd, offset, length) if self._seeks_data else None
        if run is None:
            self._seeks_data = False
            return True, length
        return run

    def is_hole(self, offset: int, length: int) -> bool:
        """True only if the range is known to read as zeros without reading it."""
        has_space, run = self.allocated(offset, length)
        return not has_space and run >= length

    def fdatasync(self) -> None:
        """Bring every completed write and the size to stable storage."""
        os.fdatasync(self._fd)

    def sync_now(self) -> None:
        """The same as a part of a write: its failure is a SyncError, that of the write is none."""
        try:
            self.fdatasync()
        except OSError as error:
            raise SyncError.of(error) from None

    def truncate(self, size: int) -> None:
        """Set a file's size. A block device cannot be set: EINVAL unless it has that size, or was
        extended to it or beyond."""
        if self.is_block_device:
            before = self._size
            if self.measure() < size or size < before:
                raise OSError(errno.EINVAL, _too_small(self._size, size), str(self.path))
            return
        os.ftruncate(self._fd, size)
        self._size = size

    def state(self, name: str) -> VolumeState:
        """What the spill remembers of this volume; call it after the last ``fdatasync``."""
        if self.is_block_device:
            return VolumeState(name, self._size)
        status = os.fstat(self._fd)
        return VolumeState(name, self._size, status.st_ino, status.st_mtime_ns)

    def close(self) -> None:
        """Release the volume and its lock; a second call does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self._size:
            raise OSError(
                errno.EINVAL, f"range {offset}+{length} beyond {self._size} bytes", str(self.path)
            )


def _lost(problem: str, known: int) -> StateError:
    return StateError(
        f"{problem}, but its group knows it" + (f" with {known} bytes" if known else ""),
        "a volume never shrinks and is never made again: mount its file system, or bring its "
        "content back, from a replica if need be (a new volume wants another group, or one whose "
        "state is removed)",
    )


def _too_small(has: int, needed: int) -> str:
    return f"block device of {has} bytes, not {needed}: it must be extended first"


def _check_size(path: Path, size: int, sector: int) -> None:
    if size <= 0 or size % sector:
        raise UsageError(
            f"volume {path}: {size} bytes are no whole number of {sector}-byte blocks",
            f"choose a size that {sector} divides, or another block size",
        )
    if size > VOLUME_BYTES_MAX:
        raise UsageError(
            f"volume {path}: {size} bytes are more than the {VOLUME_BYTES_MAX} of one volume",
            "split it into several volumes of one group",
        )


def _open(path: Path, *, create: bool, known: int | None) -> tuple[int, bool]:
    """The open file, and whether there was none before."""
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        try:
            kind = path.stat().st_mode
        except FileNotFoundError:
            if not create:
                raise
            return os.open(path, flags | os.O_CREAT, 0o600), True
        if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
            raise UsageError(
                f"volume {path} is neither a file nor a block device", "name one that is"
            )
        # On a block device O_EXCL claims it: the kernel refuses one that is mounted or claimed.
        return os.open(path, flags | (os.O_EXCL if stat.S_ISBLK(kind) else 0)), False
    except FileNotFoundError:
        if create:
            raise StateError(
                f"volume {path} has no directory to be in", "create its directory first"
            ) from None
        if known is not None:
            raise _lost(f"volume {path} is missing", known) from None
        raise StateError(
            f"volume {path} does not exist",
            "correct the path, or give --size to have a sparse file made",
        ) from None
    except PermissionError:
        raise StateError(
            f"volume {path} may not be opened for writing",
            "change its owner or mode, or run as a user who may",
        ) from None
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise _in_use(path) from None
        raise StateError(
            f"volume {path} cannot be opened: {error.strerror}", "see whether the path is right"
        ) from None


def _remove(path: Path, made: os.stat_result | None) -> None:
    """Remove the file that was ``made`` at ``path``, if it is still that one."""
    if made is None:
        return
    with contextlib.suppress(OSError):
        real = path.resolve()
        if os.path.samestat(real.stat(), made):
            real.unlink()
            _sync_directory(path)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(path) from None
    except OSError as error:
        raise StateError(
            f"volume {path} cannot be locked: {error.strerror}",
            "put it on a file system that has flock",
        ) from None


def _in_use(path: Path) -> StateError:
    return StateError(
        f"volume {path} is in use by another process",
        f"stop that one (fuser -v {path} names it), or unmount it",
    )


def _sync_directory(path: Path) -> None:
    fd = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _can_punch(path: Path, fd: int) -> bool:
    """Whether a file can be punched.

    Tried on a nameless file beside it, since even a punch that changes nothing moves the mtime, by
    which the spill knows the volume. Where that cannot be, behind the file's own end.
    """
    status = os.fstat(fd)
    with contextlib.suppress(OSError):
        beside = os.open(path.resolve().parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(beside).st_dev == status.st_dev:
                return punch_hole(beside, 0, SECTOR_BYTES) == 0
        finally:
            os.close(beside)
    behind = -(-status.st_size // SECTOR_BYTES) * SECTOR_BYTES + MIB
    able = punch_hole(fd, behind, SECTOR_BYTES) == 0
    with contextlib.suppress(OSError):  # another user's file keeps the new one
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
    return able


def _zeroes_offloaded(device: int) -> bool:
    """Whether a block device zeroes ranges by itself (queue/write_zeroes_max_bytes)."""
    node = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for queue in (node / "queue", node / ".." / "queue"):  # a partition has its disk's queue
        try:
            return int((queue / "write_zeroes_max_bytes").read_text(encoding="ascii")) > 0
        except (OSError, ValueError):
            continue
    return False


def _file_system(device: int) -> str:
    """The type of the mounted file system with this device number, empty if it is not found."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[2] == wanted and "-" in fields:
            return fields[fields.index("-") + 1]
    return ""
