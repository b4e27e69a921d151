"""The block write table: which 4 KiB blocks of each volume a replica may lack.

One compressed bitmap per volume, so that a terabyte of scattered writes costs bits and a long run
costs nothing. One rule: a write marks every block that it touches; only whole blocks are cleared.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pyroaring import BitMap

from pratima_iscsi.blocks import BLOCKS_PER_VOLUME_MAX, BlockRange, block_count, block_span
from pratima_iscsi.operations import RecordKind
from pratima_iscsi.records import ENTRY, Record

_RANGED: Final = frozenset(
    {RecordKind.WRITE, RecordKind.ZERO, RecordKind.RESYNC, RecordKind.RESYNC_ZERO}
)
"""Kinds that bring blocks; a VERIFY has a range, too, but only asks."""


class BlockWriteTable:
    """A set of blocks over the volumes of one group."""

    __slots__ = ("bitmaps",)

    def __init__(self, volumes: int) -> None:
        self.bitmaps = [BitMap() for _ in range(volumes)]

    @classmethod
    def full(cls, sizes: Sequence[int]) -> "BlockWriteTable":
        """The table of every block of volumes of ``sizes`` bytes."""
        table = cls(len(sizes))
        table.fill(sizes)
        return table

    @classmethod
    def deserialize(cls, parts: Sequence[bytes]) -> "BlockWriteTable":
        """The table that ``serialize`` gave; ValueError for bytes that are none."""
        table = cls(0)
        table.bitmaps = [BitMap.deserialize(part) for part in parts]
        return table

    def serialize(self) -> tuple[bytes, ...]:
        """One byte string per volume."""
        return tuple(bitmap.serialize() for bitmap in self.bitmaps)

    def copy(self) -> "BlockWriteTable":
        """An independent table with the same blocks."""
        table = BlockWriteTable(0)
        table.bitmaps = [bitmap.copy() for bitmap in self.bitmaps]
        return table

    def __len__(self) -> int:
        return sum(len(bitmap) for bitmap in self.bitmaps)

    def __bool__(self) -> bool:
        return any(self.bitmaps)

    def __contains__(self, block: tuple[int, int]) -> bool:
        volume, number = block
        return number in self.bitmaps[volume]

    def fill(self, sizes: Sequence[int]) -> None:
        """Mark every block of volumes of ``sizes`` bytes."""
        for bitmap, size in zip(self.bitmaps, sizes, strict=True):
            bitmap.add_range(0, block_count(size))

    def add(self, volume: int, first: int, end: int) -> None:
        """Mark blocks ``first`` to ``end`` (exclusive) of ``volume``."""
        if end - first == 1:
            self.bitmaps[volume].add(first)
        else:
            self.bitmaps[volume].add_range(first, end)

    def add_records(self, records: Iterable[Record]) -> None:
        """Mark every block that a record with data or zeros touches."""
        self.add_entries(b"".join([record.entry for record in records]))

    def add_entries(self, entries: bytes) -> None:
        """The same for records' table entries, one behind the other.

        Writers wait while a log overflows, so its thousands of records are decoded together, and
        the blocks that are touched alone go into the bitmap together.
        """
        if len(entries) == ENTRY.size:
            kind, _, volume, _, _, offset, length = ENTRY.unpack(entries)
            if kind in _RANGED:
                self.add(volume, *block_span(offset, length))
            return
        single: list[list[int]] = [[] for _ in self.bitmaps]
        for kind, _, volume, _, _, offset, length in ENTRY.iter_unpack(entries):
            if kind in _RANGED:
                first, end = block_span(offset, length)
                if end - first == 1:
                    single[volume].append(first)
                else:
                    self.add(volume, first, end)
        for bitmap, blocks in zip(self.bitmaps, single, strict=True):
            bitmap.update(blocks)

    def discard(self, volume: int, first: int, end: int) -> None:
        """Clear blocks ``first`` to ``end`` (exclusive) of ``volume``."""
        self.bitmaps[volume].remove_range(first, end)

    def holds(self, volume: int, first: int, end: int) -> bool:
        """Whether ALL blocks ``first`` to ``end`` are marked."""
        bitmap = self.bitmaps[volume]
        return first in bitmap if end - first == 1 else bitmap.contains_range(first, end)

    def meets(self, volume: int, first: int, end: int) -> bool:
        """Whether ANY block from ``first`` to ``end`` is marked."""
        return self.bitmaps[volume].range_cardinality(first, end) > 0

    def update(self, other: "BlockWriteTable") -> None:
        """Mark every block that ``other`` marks."""
        for mine, theirs in zip(self.bitmaps, other.bitmaps, strict=True):
            mine |= theirs

    def subtract(self, other: "BlockWriteTable") -> None:
        """Clear every block that ``other`` marks."""
        for mine, theirs in zip(self.bitmaps, other.bitmaps, strict=True):
            mine -= theirs

    def intersect(self, other: "BlockWriteTable") -> None:
        """Keep only the blocks that ``other`` marks, too."""
        for mine, theirs in zip(self.bitmaps, other.bitmaps, strict=True):
            mine &= theirs

    def clear(self) -> None:
        """Clear all."""
        for bitmap in self.bitmaps:
            bitmap.clear()

    def runs(self, count_max: int) -> Iterator[BlockRange]:
        """The marked blocks as runs of ``count_max`` blocks at the most, in order of place.

        The table must not change between two steps.
        """
        for volume, bitmap in enumerate(self.bitmaps):
            at = 0
            while (run := _run(bitmap, at, count_max)) is not None:
                yield BlockRange(volume, run[0], run[1] - run[0])
                at = run[1]


def _run(bitmap: BitMap, at: int, count_max: int) -> tuple[int, int] | None:
    """The first run of marked blocks at or after ``at``, cut at ``count_max`` blocks."""
    if at >= BLOCKS_PER_VOLUME_MAX:
        return None
    first = next(bitmap.iter_equal_or_larger(at), None)
    if first is None:
        return None
    most = min(first + count_max, BLOCKS_PER_VOLUME_MAX)
    if bitmap.contains_range(first, most):
        return first, most
    # Doubling steps, then halves of the last: a resync asks once for each of its reads, and a run
    # may be as long as a volume.
    end, beyond, step = first + 1, most, 1
    while end + step < beyond:
        if not bitmap.contains_range(end, end + step):
            beyond = end + step
            break
        end += step
        step *= 2
    while beyond - end > 1:
        middle = (end + beyond) // 2
        if bitmap.contains_range(end, middle):
            end = middle
        else:
            beyond = middle
    return first, end
