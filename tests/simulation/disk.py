"""A simulated disk: the File and Directory protocols over memory, with unsynced state and faults.

What is written lands in a cache at the granularity of 512-byte sectors and is durable only after
that file's fdatasync; names are durable only after the directory's sync. One rule: whatever a
correct kernel and disk are free to do to unsynced state, a power cut here may do: each sector
independently ends as any of the versions it went through since its last sync, a file's size too,
and the pending name operations survive as an order-prefix. A sector itself is never torn.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from pratima_iscsi.operations import Buffer

SECTOR_BYTES: Final = 512
_ZERO: Final = bytes(SECTOR_BYTES)

UNLIMITED: Final = 1 << 50

Hook = Callable[[str, str], None]
"""Called with (operation, file name) before an operation takes effect."""

MUTATING: Final = frozenset(
    {"create", "pwrite", "punch", "truncate", "fdatasync", "rename", "unlink", "sync"}
)
"""Operations that change what the disk holds; ``pread`` is the one more that can fail."""


@dataclass(slots=True)
class Faults:
    """What is to go wrong, and how many operations there were.

    ``fail`` arms one failure. A failed pwrite lets half of its sectors through; a failed fdatasync
    loses what was written while the cache goes on showing it, as Linux does: a second fdatasync
    that succeeds proves nothing. Names, and a size that ``truncate`` has set, are not lost: they
    stand in the file system's own journal, and what fails there ends the whole file system.
    """

    capacity_bytes: int = UNLIMITED
    """Bytes that all files together may allocate; a write beyond fails with ENOSPC."""
    lying: bool = False
    """Every fdatasync and sync says yes and does nothing."""
    before: Hook | None = None
    """Told of every operation before it takes effect (and before it fails)."""
    counted: int = 0
    """Mutating operations so far."""
    failed: int = 0
    """Operations that were made to fail."""
    _at: int = -1
    _error: int = errno.EIO
    _for_good: bool = False
    _kinds: frozenset[str] = MUTATING

    def fail(
        self,
        nth: int,
        error: int = errno.EIO,
        *,
        for_good: bool = False,
        kinds: frozenset[str] = MUTATING,
    ) -> None:
        """Fail the ``nth`` operation of ``kinds`` from now on (0: the next), once or for good."""
        self._at, self._error, self._for_good, self._kinds = nth, error, for_good, kinds

    def heal(self) -> None:
        """Nothing armed fails any more."""
        self._at = -1

    def check(self, operation: str, name: str) -> None:
        """Count one operation; raises OSError when it is the one to fail."""
        if self.before is not None:
            self.before(operation, name)
        if operation in MUTATING:
            self.counted += 1
        if self._at < 0 or operation not in self._kinds:
            return
        if self._at > 0:
            self._at -= 1
            return
        if not self._for_good:
            self._at = -1
        self.failed += 1
        raise OSError(self._error, f"{os.strerror(self._error)} (injected)", name)

    def copy(self) -> "Faults":
        """The same limits with nothing armed and nobody told: what a clone starts with."""
        return Faults(self.capacity_bytes, self.lying)


@dataclass(slots=True)
class _Inode:
    """A file: what a reader sees, what is durable, and every version in between by sector.

    A missing sector is a hole; None among the versions is a sector that was punched.
    """

    cache: dict[int, bytes] = field(default_factory=dict)
    durable: dict[int, bytes] = field(default_factory=dict)
    pending: dict[int, list[bytes | None]] = field(default_factory=dict)
    size: int = 0
    durable_size: int = 0
    pending_sizes: list[int] = field(default_factory=list)
    truncated: int | None = None
    """The last pending size that ``truncate`` has set: no failed sync loses it."""

    def put(self, sector: int, data: bytes | None) -> None:
        if data is None:
            # A punch that a failed sync has lost is done again when it is asked for again.
            if not any(sector in known for known in (self.cache, self.pending, self.durable)):
                return
            self.cache.pop(sector, None)
        else:
            self.cache[sector] = data
        self.pending.setdefault(sector, []).append(data)

    def resize(self, size: int) -> None:
        if size != self.size:
            self.size = self.truncated = size
            self.pending_sizes.append(size)

    def extend(self, end: int) -> None:
        """A write ends at ``end``: once it is synced the file is as long at least, also where a
        failed sync has lost an earlier write that ended there, and the cache shows its size."""
        self.size = max(self.size, end)
        if end > (self.pending_sizes[-1] if self.pending_sizes else self.durable_size):
            self.pending_sizes.append(end)

    def persist(self) -> None:
        for sector, versions in self.pending.items():
            _set(self.durable, sector, versions[-1])
        if self.pending_sizes:
            self.durable_size = self.pending_sizes[-1]
        self.truncated = None
        self.lose()

    def lose(self) -> None:
        """What was written is pending no more, whatever became of it."""
        self.pending.clear()
        self.pending_sizes = [] if self.truncated is None else [self.truncated]

    def copy(self) -> "_Inode":
        return _Inode(
            dict(self.cache),
            dict(self.durable),
            {sector: list(versions) for sector, versions in self.pending.items()},
            self.size,
            self.durable_size,
            list(self.pending_sizes),
            self.truncated,
        )

    def after_power_cut(self, rng: Random) -> "_Inode":
        """This file with a random subset of what was pending, everything in it durable."""
        survivors = dict(self.durable)
        for sector, versions in self.pending.items():
            kept = rng.randrange(len(versions) + 1)
            if kept:
                _set(survivors, sector, versions[kept - 1])
        size = rng.choice([self.durable_size, *self.pending_sizes])
        last = (size + SECTOR_BYTES - 1) // SECTOR_BYTES
        survivors = {sector: data for sector, data in survivors.items() if sector < last}
        if size % SECTOR_BYTES and last - 1 in survivors:
            head = survivors[last - 1][: size % SECTOR_BYTES]
            survivors[last - 1] = head.ljust(SECTOR_BYTES, b"\0")
        return _Inode(survivors, dict(survivors), {}, size, size, [])


def _set(sectors: dict[int, bytes], sector: int, data: bytes | None) -> None:
    if data is None:
        sectors.pop(sector, None)
    else:
        sectors[sector] = data


class SimFile:
    """One open file of a simulated disk (the File protocol)."""

    def __init__(self, disk: "SimDisk", name: str, inode: _Inode) -> None:
        self._disk = disk
        self._name = name
        self._inode = inode
        self._open = True

    def _check(self, operation: str) -> None:
        assert self._open, f"{operation} on a closed file {self._name}"
        self._disk.faults.check(operation, self._name)

    @property
    def size(self) -> int:
        """Bytes of the file now."""
        return self._inode.size

    def pread(self, length: int, offset: int) -> bytes:
        """``length`` bytes from ``offset``, zeros beyond the end."""
        self._check("pread")
        assert length >= 0 and offset >= 0
        first, end = offset // SECTOR_BYTES, (offset + length + SECTOR_BYTES - 1) // SECTOR_BYTES
        get = self._inode.cache.get
        data = b"".join([get(sector, _ZERO) for sector in range(first, end)])
        skip = offset - first * SECTOR_BYTES
        return data if len(data) == length else data[skip : skip + length]

    def pwrite(self, data: Buffer, offset: int) -> None:
        """Write all of ``data``; a failure lets the first half of its sectors through."""
        assert offset >= 0
        written = bytes(data)
        try:
            self._check("pwrite")
            self._take_room(len(written), offset)
        except OSError:
            half = (offset + len(written) // 2) // SECTOR_BYTES * SECTOR_BYTES - offset
            self._write(written[: max(0, half)], offset)
            raise
        self._write(written, offset)

    def _take_room(self, length: int, offset: int) -> None:
        if self._disk.faults.capacity_bytes >= UNLIMITED:
            return
        room = self._disk.free_bytes()
        if length + SECTOR_BYTES <= room:
            return
        span = range(offset // SECTOR_BYTES, (offset + length + SECTOR_BYTES - 1) // SECTOR_BYTES)
        fresh = sum(sector not in self._inode.cache for sector in span)
        if fresh * SECTOR_BYTES > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._name)

    def _write(self, data: bytes, offset: int) -> None:
        if not data:
            return
        inode = self._inode
        end = offset + len(data)
        first, last = offset // SECTOR_BYTES, (end - 1) // SECTOR_BYTES
        head = offset - first * SECTOR_BYTES
        tail = (last + 1) * SECTOR_BYTES - end
        if head:
            data = inode.cache.get(first, _ZERO)[:head] + data
        if tail:
            data += inode.cache.get(last, _ZERO)[SECTOR_BYTES - tail :]
        cache, pending, at = inode.cache, inode.pending, 0
        for sector in range(first, last + 1):
            piece = data[at : at + SECTOR_BYTES]
            cache[sector] = piece
            versions = pending.get(sector)
            if versions is None:
                pending[sector] = [piece]
            else:
                versions.append(piece)
            at += SECTOR_BYTES
        inode.extend(end)

    def punch(self, offset: int, length: int) -> None:
        """Make a range read as zeros; whole sectors become holes. The size stays."""
        self._check("punch")
        self._clear(offset, min(offset + length, self._inode.size))

    def _clear(self, offset: int, end: int) -> None:
        if end <= offset:
            return
        first, last = -(-offset // SECTOR_BYTES), end // SECTOR_BYTES
        if end == self._inode.size:
            last = -(-end // SECTOR_BYTES)
        if first * SECTOR_BYTES > offset:
            self._write(bytes(min(first * SECTOR_BYTES, end) - offset), offset)
        if last >= first and last * SECTOR_BYTES < end:
            self._write(bytes(end - last * SECTOR_BYTES), last * SECTOR_BYTES)
        inode = self._inode
        known = {*inode.cache, *inode.pending, *inode.durable}
        if last - first > len(known):
            sectors = sorted(sector for sector in known if first <= sector < last)
        else:
            sectors = list(range(first, last))
        for sector in sectors:
            inode.put(sector, None)

    def is_hole(self, offset: int, length: int) -> bool:
        """Whether no sector of the range holds anything."""
        first, end = offset // SECTOR_BYTES, (offset + length + SECTOR_BYTES - 1) // SECTOR_BYTES
        cache = self._inode.cache
        if end - first > len(cache):
            return not any(first <= sector < end for sector in cache)
        return not any(sector in cache for sector in range(first, end))

    def fdatasync(self) -> None:
        """Make this file's data and size durable; after a failure what was pending is lost."""
        try:
            self._check("fdatasync")
        except OSError:
            self._inode.lose()
            raise
        if not self._disk.faults.lying:
            self._inode.persist()

    def truncate(self, size: int) -> None:
        """Set the size; what is cut off reads as zeros when the file grows again."""
        self._check("truncate")
        self._clear(size, self._inode.size)
        self._inode.resize(size)

    def close(self) -> None:
        """Release the file; its unsynced state stays in the cache."""
        self._open = False


class SimDirectory:
    """The one directory of a simulated disk (the Directory protocol)."""

    def __init__(self, disk: "SimDisk") -> None:
        self._disk = disk

    def open(self, name: str, *, create: bool = False) -> SimFile:
        """Open a file; FileNotFoundError unless ``create``."""
        disk = self._disk
        if name not in disk._names:
            if not create:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            disk.faults.check("create", name)
            disk._number += 1
            disk._inodes[disk._number] = _Inode()
            disk._rename(("", name, disk._number))
        return SimFile(disk, name, disk._inodes[disk._names[name]])

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return name in self._disk._names

    def names(self) -> list[str]:
        """The files' names, sorted."""
        return sorted(self._disk._names)

    def rename(self, old: str, new: str) -> None:
        """Replace ``new`` by ``old``, atomically; durable after ``sync``."""
        self._need(old)
        self._disk.faults.check("rename", old)
        self._disk._rename((old, new, self._disk._names[old]))

    def unlink(self, name: str) -> None:
        """Remove a file; durable after ``sync``."""
        self._need(name)
        self._disk.faults.check("unlink", name)
        self._disk._rename((name, "", 0))

    def sync(self) -> None:
        """Make names, renames and removals durable."""
        self._disk.faults.check("sync", "")
        if not self._disk.faults.lying:
            self._disk._persist_names()

    def free_bytes(self) -> int:
        """What the capacity leaves."""
        return self._disk.free_bytes()

    def _need(self, name: str) -> None:
        if name not in self._disk._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


_NameChange = tuple[str, str, int]
"""Old name ('': a new file), new name ('': a removal), inode number."""


class SimDisk:
    """A disk with one directory. ``clone``, ``crash`` and ``power_cut`` give NEW disks; files that
    are open on this one stay with this one."""

    def __init__(self) -> None:
        self.faults = Faults()
        self._inodes: dict[int, _Inode] = {}
        self._names: dict[str, int] = {}
        self._durable_names: dict[str, int] = {}
        self._pending_names: list[_NameChange] = []
        self._number = 0

    def directory(self) -> SimDirectory:
        """The disk's directory."""
        return SimDirectory(self)

    def free_bytes(self) -> int:
        """What the capacity leaves over what the named files hold."""
        used = sum(len(self._inodes[number].cache) for number in self._names.values())
        return max(0, self.faults.capacity_bytes - used * SECTOR_BYTES)

    def clone(self) -> "SimDisk":
        """An independent copy, unsynced state and all; no fault is armed in it."""
        copy = SimDisk()
        copy.faults = self.faults.copy()
        reachable = {*self._names.values(), *self._durable_names.values()}
        reachable.update(number for _, _, number in self._pending_names if number)
        copy._inodes = {number: self._inodes[number].copy() for number in reachable}
        copy._names = dict(self._names)
        copy._durable_names = dict(self._durable_names)
        copy._pending_names = list(self._pending_names)
        copy._number = self._number
        return copy

    def crash(self) -> "SimDisk":
        """What the next process finds after this one was killed: everything, synced or not."""
        return self.clone()

    def power_cut(self, rng: Random) -> "SimDisk":
        """What is found after a power cut: what is durable, and a random part of the rest."""
        copy = SimDisk()
        copy.faults = self.faults.copy()
        names = dict(self._durable_names)
        for change in self._pending_names[: rng.randrange(len(self._pending_names) + 1)]:
            _apply(names, change)
        copy._names, copy._durable_names = names, dict(names)
        for number in sorted(set(names.values())):
            copy._inodes[number] = self._inodes[number].after_power_cut(rng)
        copy._number = self._number
        return copy

    def flip(self, name: str, offset: int, mask: int = 1) -> None:
        """Bit rot: invert the bits of ``mask`` in one byte, in the cache and on the medium."""
        inode = self._inodes[self._names[name]]
        sector, at = divmod(offset, SECTOR_BYTES)
        for sectors in (inode.cache, inode.durable):
            data = bytearray(sectors.get(sector, _ZERO))
            data[at] ^= mask
            sectors[sector] = bytes(data)

    def pending_sectors(self) -> int:
        """How many sector writes are not durable: what a power cut has to choose from."""
        return sum(len(self._inodes[number].pending) for number in set(self._names.values()))

    def _rename(self, change: _NameChange) -> None:
        _apply(self._names, change)
        self._pending_names.append(change)

    def _persist_names(self) -> None:
        self._durable_names = dict(self._names)
        self._pending_names.clear()


def _apply(names: dict[str, int], change: _NameChange) -> None:
    old, new, number = change
    if old:
        names.pop(old, None)
    if new:
        names[new] = number
