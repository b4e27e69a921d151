"""A resync transaction at its source: what it has sent, reads, compares, and how it ends.

BEGIN and END stand in the link's ordered stream, and a resync block is one more record in it, so
live writes and resync cannot overtake each other. T, the third set of the cover, holds every block
sent since BEGIN; only the durable acknowledgement of END drops it.

Reads leave the loop and are optimistic: a block that any write touches after its read began stays
in the table. One rule: a block leaves the table only into the log, or into T by a proof of
equality.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pratima_iscsi.block_write_table import BlockWriteTable
from pratima_iscsi.blocks import BLOCK_BYTES, BlockRange
from pratima_iscsi.records import Record

_ZEROS = bytes(BLOCK_BYTES)


@dataclass(slots=True)
class Watch:
    """Ranges whose blocks were read, and the blocks among them that were written since."""

    ranges: tuple[BlockRange, ...]
    written: BlockWriteTable
    compare: bool = False
    sweep: bool = False
    asked_at: float = 0.0

    def note(self, volume: int, first: int, end: int) -> None:
        """A write of blocks ``first`` to ``end`` was admitted."""
        for piece in self.ranges:
            if piece.overlaps(volume, first, end):
                self.written.add(volume, max(first, piece.first), min(end, piece.end))


@dataclass(slots=True)
class Transaction:
    """One open transaction of a link."""

    id: int
    direct: bool
    sent: BlockWriteTable
    """T. Empty in a direct transaction: there a durable acknowledgement is the proof."""
    begun_at: float
    blocks_total: int
    """Blocks in the table at BEGIN, and those that came back to it since."""
    sizes: list[int]
    """Bytes of each volume, as its records so far say them: BEGIN first, then each RESIZE."""
    comparing: bool = False
    proof: bool = False
    """Of ``clean``: nothing is copied, every live write is queued."""
    end: Record | None = None
    """The END record while it is queued or outstanding."""
    bytes_sent: int = 0
    reads: dict[int, Watch] = field(default_factory=dict)
    verifies: dict[int, Watch] = field(default_factory=dict)
    asked: BlockWriteTable = field(default_factory=lambda: BlockWriteTable(0))
    """Blocks that a read or a verify under way covers."""
    suspect: BlockWriteTable = field(default_factory=lambda: BlockWriteTable(0))
    """Blocks of reads that failed: each is now read alone."""
    unreadable: BlockWriteTable = field(default_factory=lambda: BlockWriteTable(0))
    retry_unreadable_at: float = 0.0

    @classmethod
    def begin(
        cls,
        transaction: int,
        sizes: Sequence[int],
        *,
        direct: bool,
        comparing: bool,
        blocks: int,
        now: float,
    ) -> "Transaction":
        """A transaction that begins at ``now`` over volumes of ``sizes`` bytes, with ``blocks`` to
        bring over."""
        return cls(
            id=transaction,
            direct=direct,
            sent=BlockWriteTable(len(sizes)),
            begun_at=now,
            blocks_total=blocks,
            sizes=list(sizes),
            comparing=comparing,
            asked=BlockWriteTable(len(sizes)),
            suspect=BlockWriteTable(len(sizes)),
            unreadable=BlockWriteTable(len(sizes)),
        )

    def note_write(self, volume: int, first: int, end: int) -> None:
        """A write of these blocks was admitted: whatever was read of them is old."""
        for watch in self.reads.values():
            watch.note(volume, first, end)
        if not self.proof:
            # In a proof the write is queued behind the VERIFY, whose answer stays true.
            for watch in self.verifies.values():
                watch.note(volume, first, end)
        if self.unreadable:
            self.unreadable.discard(volume, first, end)

    def resized(self, volume: int, size: int) -> None:
        """The transaction's records say another size of ``volume``; 0: what they said was lost."""
        self.sizes[volume] = size

    def ask(self, number: int, watch: Watch) -> None:
        """A read under ``number`` is under way."""
        self.reads[number] = watch
        for piece in watch.ranges:
            self.asked.add(piece.volume, piece.first, piece.end)

    def forget(self, watch: Watch) -> None:
        """A read or verify ended."""
        for piece in watch.ranges:
            self.asked.discard(piece.volume, piece.first, piece.end)


def unwritten_runs(
    piece: BlockRange, blocks: int, written: BlockWriteTable
) -> list[tuple[int, int]]:
    """Spans, relative to ``piece``, of its first ``blocks`` blocks that were not written since."""
    if not written.meets(piece.volume, piece.first, piece.first + blocks):
        return [(0, blocks)]
    runs: list[tuple[int, int]] = []
    for index in range(blocks):
        if (piece.volume, piece.first + index) in written:
            continue
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs


def zero_runs(data: bytes) -> list[tuple[int, int, bool]]:
    """Cut whole blocks into spans (first byte, end byte, all zeros); the last may be short."""
    if not data.strip(b"\0"):
        return [(0, len(data), True)]
    runs: list[tuple[int, int, bool]] = []
    for at in range(0, len(data), BLOCK_BYTES):
        block = data[at : at + BLOCK_BYTES]
        zero = block == _ZEROS or not block.strip(b"\0")
        end = at + len(block)
        if runs and runs[-1][2] == zero:
            runs[-1] = (runs[-1][0], end, zero)
        else:
            runs.append((at, end, zero))
    return runs
