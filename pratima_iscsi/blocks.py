"""Replication blocks: the 4 KiB unit in which a block write table and a resync count.

A volume's own logical block (512 bytes or 4 KiB) is the SCSI layer's affair; offsets and
lengths elsewhere are bytes. One rule: a block is named by (volume index, block number), and a
volume's last block may be short.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

BLOCK_BYTES: Final = 4096
"""Bytes in a replication block."""

BLOCKS_PER_VOLUME_MAX: Final = 1 << 32
"""Blocks that one 32-bit bitmap can name: 16 TiB a volume."""

VOLUME_BYTES_MAX: Final = BLOCK_BYTES * BLOCKS_PER_VOLUME_MAX


def block_span(offset: int, length: int) -> tuple[int, int]:
    """First block and end block (exclusive) that ``length`` bytes from ``offset`` touch."""
    if length <= 0:
        return offset // BLOCK_BYTES, offset // BLOCK_BYTES
    return offset // BLOCK_BYTES, (offset + length + BLOCK_BYTES - 1) // BLOCK_BYTES


def block_count(volume_bytes: int) -> int:
    """Blocks of a volume of ``volume_bytes``, the short last one included."""
    return (volume_bytes + BLOCK_BYTES - 1) // BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class BlockRange:
    """``count`` consecutive blocks of volume ``volume`` from block ``first`` on."""

    volume: int
    first: int
    count: int

    @property
    def end(self) -> int:
        """The block after the last one."""
        return self.first + self.count

    @property
    def offset(self) -> int:
        """Byte offset of the range in its volume."""
        return self.first * BLOCK_BYTES

    def length(self, volume_bytes: int) -> int:
        """Bytes of the range, cut at the end of a volume of ``volume_bytes``."""
        return min(self.end * BLOCK_BYTES, volume_bytes) - self.offset

    def overlaps(self, volume: int, first: int, end: int) -> bool:
        """Whether it shares a block with ``first`` to ``end`` (exclusive) of ``volume``."""
        return volume == self.volume and first < self.end and self.first < end


def split_span(first: int, end: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut blocks ``first`` to ``end`` into spans of ``most`` blocks at the most."""
    while first < end:
        upto = min(end, first + most)
        yield first, upto
        first = upto
