"""The replica's journal: wire frames appended to preallocated segments, synced by commit group.

A segment is a file of fixed size, written full of zeros once and used over and over: its first
sector is a header with a salt that is new at each use. Behind it stand *units*, each 512-byte
aligned: a header and one frame, or nothing (such a unit only carries a mark). A unit never spans
segments; its index counts on by one for as long as the replica lives. Its checksum covers the
segment's salt and the header, in it the frame's digest, so what an earlier use left behind, or a
peer hid in a payload, is never taken for a unit (nor costs more than the hash of a header).

    segment header (512) | unit header (48) checksum (16) frame padding | unit header ...

**What a missing unit means**. Units written between two syncs may reach the disk in
any order, so a valid unit after a bad one proves nothing by itself: both may belong to the commit
group that a power cut tore, of which nothing was acknowledged. Hence each unit carries a *mark*:
the index of the last unit that was durable when it was written. A valid unit whose mark is at or
above the missing index proves that the missing one was durable once and that the medium lost it:
ROT, the replica is INCONSISTENT. So does the state's own memory of what was durable. A mark below
the missing index proves nothing. Without such proof the missing unit is a torn tail and the
journal ends before it. A header sector that is neither zeros nor valid is rot too: a sector is
never torn, and each was durable before a unit behind it was acknowledged.

**Why a torn tail cannot come back.** Units behind it may be whole on disk. After recovery all that
is valid is applied and checkpointed, and `restart` clears every segment's header, durably, before
the first append: without its salt no old unit is valid again.

One rule: a unit is believed only if its checksum, salt and index say so, and is never dropped while
a mark says that it was durable.
"""

import errno
import struct
import threading
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from xxhash import xxh3_128_digest

from pratima_iscsi.edges.files import Directory, File
from pratima_iscsi.errors import StateError
from pratima_iscsi.limits import FRAME_BYTES_MAX, MIB
from pratima_iscsi.operations import Buffer

ALIGNMENT: Final = 512
INDEX_MAX: Final = (1 << 63) - 1
"""No journal counts so far: what bears a greater index is no unit, and none would fit after it."""
_SALT_BYTES: Final = 16
_CHECKSUM_BYTES: Final = 16
PREFIX: Final = "journal."

_SEGMENT_MAGIC: Final = b"PRJS"
_VERSION: Final = 1
_SEGMENT: Final = struct.Struct(">4sI16sQ16sq")
"""magic, version, group id, index of the first unit (the segment's number), salt, wall time in ns;
the checksum follows"""

_UNIT_MAGIC: Final = b"PRJU"
_UNIT: Final = struct.Struct(">4sIQQq16s")
"""magic, bytes of the frame, index, mark, wall time in ns, xxh3-128 of the frame; the checksum
follows"""
_UNIT_HEAD_BYTES: Final = _UNIT.size + _CHECKSUM_BYTES


def unit_bytes(frame_bytes: int) -> int:
    """What a frame of ``frame_bytes`` takes in the journal."""
    return -(-(_UNIT_HEAD_BYTES + frame_bytes) // ALIGNMENT) * ALIGNMENT


class JournalRot(Exception):
    """The journal does not give back what was durable in it."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit as it was read back; ``frame`` is empty for one that only carries a mark."""

    index: int
    mark: int
    wall_ns: int
    frame: Buffer


class _Segment:
    """One file, and where the units stand that were appended to it."""

    __slots__ = ("end", "file", "first", "name", "offsets", "salt")

    def __init__(self, name: str, file: File) -> None:
        self.name = name
        self.file = file
        self.begin(0, b"")

    def begin(self, first: int, salt: bytes) -> None:
        """A new use, whose first unit is ``first``."""
        self.first = first
        self.salt = salt
        self.offsets = array("Q")
        self.end = ALIGNMENT

    @property
    def last(self) -> int:
        """Index of the last unit, ``first`` - 1 when there is none."""
        return self.first + len(self.offsets) - 1


_Place = tuple[_Segment, int, int]
"""Where a unit stands: segment, offset, bytes."""


class Journal:
    """The journal of one group.

    ``append``, ``sync`` and ``release`` belong to one thread, ``read`` to another; ``room`` to
    anybody. What they share is the list of segments, and that is what the lock guards.
    """

    def __init__(
        self,
        directory: Directory,
        group: bytes,
        *,
        segment_bytes: int,
        quota_bytes: int,
        clock: Callable[[], int],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        assert segment_bytes % ALIGNMENT == 0 and quota_bytes >= segment_bytes
        self._directory = directory
        self._group = group
        self._segment_bytes = segment_bytes
        self._quota = quota_bytes // segment_bytes
        self._clock = clock
        self._random_bytes = random_bytes
        self._lock = threading.Lock()
        self._live: list[_Segment] = []
        """In use, by number; the last one takes the next unit."""
        self._free: list[_Segment] = []
        self._unsynced: list[_Segment] = []
        self._found: dict[int, _Place] = {}
        """During recovery: units after the applied one."""
        self._broken = "its recovery has not ended"
        self._mark = 0
        self.last = 0
        """Index of the last unit."""
        self.seen = 0
        """After ``scan``: no unit has an index above this one, in order or not."""
        self.durable = 0
        """Index of the last unit that is known to be durable; ``durable`` <= ``last``."""
        self.applicable = 0
        """The last mark that is itself durable: how far units may be applied."""

    # --- recovery ------------------------------------------------------------------------------

    def scan(self, applied: int, durable: int) -> None:
        """Read what there is and find the units after ``applied``, up to ``last``.

        They are written once more and synced, for recovery is about to let the volumes depend on
        them, and after a failed fdatasync the page cache shows what the disk does not hold.
        Raises JournalRot if a unit up to ``durable``, or up to any mark, is missing, StateError for
        another version.
        """
        damaged = self._load()
        proven = self.seen = max(durable, applied)
        for segment in self._free:
            for place, unit in _units(segment):
                proven, self.seen = max(proven, unit.mark), max(self.seen, unit.index)
                if unit.index > applied:
                    self._found[unit.index] = place
        last = applied
        while last + 1 in self._found:
            last += 1
        if damaged or last < proven:
            missing = f"journal: unit {last + 1} is missing though unit {proven} was durable"
            raise JournalRot(damaged or missing)
        self._write_again(applied, last)
        self.last = self.durable = last

    def _load(self) -> str:
        """Open all segments; what is wrong with a header, or nothing."""
        damaged = ""
        for name in self._directory.names():
            if not name.startswith(PREFIX):
                continue
            segment = _Segment(name, self._directory.open(name))
            self._free.append(segment)
            head = segment.file.pread(ALIGNMENT, 0)
            magic, version, group, first, salt, _ = _SEGMENT.unpack_from(head)
            if any(head):
                if magic != _SEGMENT_MAGIC or not _is_sealed(b"", head, _SEGMENT.size):
                    damaged = f"journal: the header of segment {name} is damaged"
                elif version != _VERSION:
                    raise StateError(
                        f"the replica's journal has version {version}, this program {_VERSION}",
                        "use the program that wrote it, or a newer one",
                    )
                elif group != self._group:
                    damaged = f"journal: segment {name} belongs to another group"
                else:
                    segment.begin(first, salt)
        return damaged

    def _write_again(self, applied: int, last: int) -> None:
        touched: dict[str, File] = {}
        for index in range(applied + 1, last + 1):
            segment, offset, size = self._found[index]
            segment.file.pwrite(segment.file.pread(size, offset), offset)
            touched[segment.name] = segment.file
        for file in touched.values():
            file.pwrite(file.pread(ALIGNMENT, 0), 0)
            file.fdatasync()

    def restart(self, last: int) -> None:
        """Empty the journal, durably: the next unit is ``last`` + 1. Nothing in it is needed."""
        segments, kept = self._free, list[_Segment]()
        for segment in segments:
            if segment.file.size != self._segment_bytes or len(kept) == self._quota:
                segment.file.close()
                self._directory.unlink(segment.name)
                continue
            segment.file.pwrite(bytes(ALIGNMENT), 0)
            segment.file.fdatasync()
            segment.begin(0, b"")
            kept.append(segment)
        self._directory.sync()
        self._found.clear()
        self._free = kept
        self._mark = self.last = self.durable = self.applicable = last
        self._broken = ""

    # --- the journal half ----------------------------------------------------------------------

    def append(self, frame: Buffer | None, mark: int) -> int:
        """Write one unit to the journal file (not synced) and return its index.

        OSError ENOSPC when over quota: everything is as it was, and it may be tried again. After
        any other failure the journal takes nothing more until it is opened again.
        """
        self._check()
        assert mark <= self.durable, "a mark speaks of durable units only"
        payload = b"" if frame is None else frame
        size = unit_bytes(len(payload))
        assert size <= self._segment_bytes - ALIGNMENT, "a unit fits into a segment"
        segment = self._segment_for(size)
        index = self.last + 1
        digest = xxh3_128_digest(payload)
        head = _UNIT.pack(_UNIT_MAGIC, len(payload), index, mark, self._clock(), digest)
        padding = bytes(size - _UNIT_HEAD_BYTES - len(payload))
        unit = b"".join((_seal(segment.salt, head), payload, padding))
        self._write(segment, unit, segment.end)
        with self._lock:
            segment.offsets.append(segment.end)
            segment.end += size
            self.last = index
        self._mark = mark
        return index

    def sync(self) -> int:
        """Make every unit so far durable; returns the index of the last one.

        A failed fdatasync is final: the kernel may have dropped the pages and say yes next time.
        """
        self._check()
        last, mark = self.last, self._mark
        try:
            for segment in self._unsynced:
                segment.file.fdatasync()
        except OSError as error:
            self._broken = f"a sync of it failed: {error.strerror}"
            raise
        self._unsynced.clear()
        self.durable, self.applicable = last, mark
        return last

    def release(self, upto: int) -> None:
        """Let the segments be reused all of whose units are at or below ``upto``; those must be
        covered by a durable checkpoint."""
        assert upto <= self.durable
        with self._lock:
            while self._live and self._live[0].last <= upto:
                self._free.append(self._live.pop(0))

    def room(self, wanted: int = INDEX_MAX) -> int:
        """Frames whose ``unit_bytes`` add up to this many bytes are sure to fit; ``wanted`` bytes
        are enough for the caller.

        A unit that does not fit into the rest of a segment begins the next one; two successive
        segments together hold more than one segment's bytes all the same, which is what is counted.
        """
        with self._lock:
            capacity = self._segment_bytes - ALIGNMENT
            rest = self._rest()
            if wanted <= rest:
                return rest
            fresh = self._quota - len(self._live) - len(self._free)
            free = len(self._free)
        if fresh > 0:
            free += min(fresh, self._directory.free_bytes() // self._segment_bytes)
        longest = min(unit_bytes(FRAME_BYTES_MAX), capacity)
        return max(
            rest + free // 2 * capacity,
            (free + 1) // 2 * capacity,
            free * (capacity - longest + ALIGNMENT),
        )

    def is_prepared(self, size: int) -> bool:
        """Whether units of ``size`` bytes together fit without a segment being created, which takes
        a while; for the thread that appends."""
        return size <= self._rest() or bool(self._free)

    def _rest(self) -> int:
        """Bytes that the segment in use has left."""
        return self._segment_bytes - self._live[-1].end if self._live else 0

    def used(self) -> int:
        """Bytes of the segments that are not released yet."""
        with self._lock:
            return sum(segment.end for segment in self._live)

    def _segment_for(self, size: int) -> _Segment:
        """The segment that takes the next unit of ``size`` bytes; a new use is begun at need."""
        if self._live and self._live[-1].end + size <= self._segment_bytes:
            return self._live[-1]
        segment = self._free[0] if self._free else self._create()
        salt, first = self._random_bytes(_SALT_BYTES), self.last + 1
        head = _SEGMENT.pack(_SEGMENT_MAGIC, _VERSION, self._group, first, salt, self._clock())
        self._write(segment, _seal(b"", head).ljust(ALIGNMENT, b"\0"), 0)
        with self._lock:
            segment.begin(first, salt)
            self._free.remove(segment)
            self._live.append(segment)
        return segment

    def _write(self, segment: _Segment, data: bytes, offset: int) -> None:
        try:
            segment.file.pwrite(data, offset)
        except OSError as error:
            self._broken = f"a write to it failed: {error.strerror}"
            raise
        if segment not in self._unsynced:
            self._unsynced.append(segment)

    def _create(self) -> _Segment:
        """One more free segment, full of zeros and durable; ENOSPC when the quota is used up."""
        if len(self._live) + len(self._free) >= self._quota:
            raise OSError(errno.ENOSPC, "the journal's quota is used up")
        taken = {segment.name for segment in self._live + self._free}
        name = next(n for i in range(self._quota) if (n := f"{PREFIX}{i:04d}") not in taken)
        file = self._directory.open(name, create=True)
        try:
            for at in range(0, self._segment_bytes, MIB):
                file.pwrite(bytes(min(MIB, self._segment_bytes - at)), at)
            file.fdatasync()
            self._directory.sync()
        except OSError:
            file.close()
            with suppress(OSError):
                self._directory.unlink(name)
            raise
        segment = _Segment(name, file)
        with self._lock:
            self._free.append(segment)
        return segment

    def _check(self) -> None:
        if self._broken:
            raise OSError(errno.EIO, f"the journal is closed: {self._broken}")

    # --- the apply half ------------------------------------------------------------------------

    def read(self, index: int) -> Unit:
        """Unit ``index``, checked; raises JournalRot if it is not what was written."""
        segment, offset, size = self._found.get(index) or self._locate(index)
        unit = _parse(segment.salt, segment.file.pread(size, offset), 0)
        if unit is None or unit.index != index:
            raise JournalRot(f"journal: unit {index} is damaged")
        return unit

    def _locate(self, index: int) -> _Place:
        with self._lock:
            at = bisect_right(self._live, index, key=lambda segment: segment.first) - 1
            assert at >= 0, f"unit {index} was released"
            segment = self._live[at]
            assert index <= segment.last, f"unit {index} was never written"
            number = index - segment.first
            offset = segment.offsets[number]
            more = number + 1 < len(segment.offsets)
            return segment, offset, (segment.offsets[number + 1] if more else segment.end) - offset

    def close(self) -> None:
        """Release the files; nothing is synced."""
        self._broken = "it was closed"
        with self._lock:
            for segment in self._live + self._free:
                segment.file.close()
            self._live, self._free = [], []


def _seal(salt: bytes, head: bytes) -> bytes:
    return head + xxh3_128_digest(salt + head)


def _is_sealed(salt: bytes, data: bytes, size: int) -> bool:
    return data[: size + _CHECKSUM_BYTES] == _seal(salt, data[:size])


def _units(segment: _Segment) -> Iterator[tuple[_Place, Unit]]:
    """Every valid unit of a segment, whatever lies between them."""
    if not segment.salt:
        return
    data = segment.file.pread(segment.file.size, 0)
    offset = ALIGNMENT
    while (found := data.find(_UNIT_MAGIC, offset)) >= 0:
        offset = -(-found // ALIGNMENT) * ALIGNMENT
        if found != offset:
            continue
        unit = _parse(segment.salt, data, offset)
        size = ALIGNMENT if unit is None else unit_bytes(len(unit.frame))
        if unit is not None:
            yield (segment, offset, size), unit
        offset += size


def _parse(salt: bytes, data: bytes, offset: int) -> Unit | None:
    """The unit at ``offset`` of ``data``; None if there is no valid one."""
    start = offset + _UNIT_HEAD_BYTES
    if not _is_sealed(salt, data[offset:start], _UNIT.size):
        return None
    _, length, index, mark, wall_ns, digest = _UNIT.unpack_from(data, offset)
    if index > INDEX_MAX:
        return None
    frame = memoryview(data)[start : start + length]
    if len(frame) != length or xxh3_128_digest(frame) != digest:
        return None
    return Unit(index, mark, wall_ns, frame)
