"""I5, looked at from outside: what differs, and whether log, table, T or a write in flight name it.

It keeps its own count of the blocks in a link's queue, followed record by record, and asks
nothing of the product but its three sets.
"""

from collections import Counter, deque

from pyroaring import BitMap

from pratima_iscsi.backstore import Backstore
from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.operations import RecordKind
from pratima_iscsi.ordered_log import LinkQueue
from pratima_iscsi.records import ENTRY, Record
from pratima_iscsi.replication.link import Link
from pratima_iscsi.sent_batch import SentWrites

_BRINGS = frozenset({RecordKind.WRITE, RecordKind.ZERO, RecordKind.RESYNC, RecordKind.RESYNC_ZERO})
_Key = tuple[int, int]
_Item = Record | SentWrites


class QueueBlocks:
    """How many of a queue's items, records and frames of writes, touch each block."""

    def __init__(self) -> None:
        self._mirror: deque[tuple[_Item, list[_Key]]] = deque()
        self.count: Counter[_Key] = Counter()

    def follow(self, queue: LinkQueue) -> None:
        """Take in what left the queue at its head and what came at its tail."""
        items, mirror = _items(queue), self._mirror
        while mirror and not (items and mirror[0][0] is items[0]):
            self._drop()
        known = len(mirror)
        if known > len(items) or (known and mirror[-1][0] is not items[known - 1]):
            while mirror:
                self._drop()
            known = 0
        for item in items[known:]:
            blocks = _blocks(item)
            mirror.append((item, blocks))
            self.count.update(blocks)

    def _drop(self) -> None:
        _, blocks = self._mirror.popleft()
        count = self.count
        for block in blocks:
            count[block] -= 1


def _items(queue: LinkQueue) -> list[_Item]:
    """What a queue holds: a record keeps its identity when it is sent, as does a frame of writes.

    Not by ``unsent``, which would make the log's tail records: what a queue of the product holds
    between two events must be seen as it is.
    """
    items: list[_Item] = []
    for batch in queue.sent:
        items += [batch] if isinstance(batch, SentWrites) else batch.records
    return [*items, *queue._unsent]


def _blocks(item: _Item) -> list[_Key]:
    entries = item.entry if isinstance(item, Record) else item.entries
    return [
        (volume, block)
        for kind, _, volume, _, _, offset, length in ENTRY.iter_unpack(entries)
        if kind in _BRINGS
        for block in range(offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES))
    ]


class Cover:
    """One link's differing blocks, and the check that something covers each."""

    def __init__(self, volumes: int) -> None:
        self.differing = [BitMap() for _ in range(volumes)]
        self._queue = QueueBlocks()

    def compare(self, blocks: set[_Key], mine: list[bytearray], theirs: list[bytearray]) -> None:
        """Look at ``blocks`` again; what a replica's file has not, it reads as zeros."""
        for volume, block in blocks:
            start, end = block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES
            data = mine[volume][start:end]
            if data == theirs[volume][start : start + len(data)].ljust(len(data), b"\0"):
                self.differing[volume].discard(block)
            else:
                self.differing[volume].add(block)

    @staticmethod
    def every_block(images: list[bytearray]) -> set[_Key]:
        """All blocks of all volumes."""
        return {
            (volume, block)
            for volume, image in enumerate(images)
            for block in range(-(-len(image) // BLOCK_BYTES))
        }

    @property
    def differs(self) -> int:
        """How many blocks differ."""
        return sum(map(len, self.differing))

    def check(self, backstore: Backstore, link: Link) -> None:
        """I5: {local ≠ the replica's durable} ⊆ log ∪ table ∪ T ∪ writes in flight."""
        in_flight: set[_Key] | None = None
        followed = False
        for volume, differing in enumerate(self.differing):
            if not differing:
                continue
            rest = differing - link.table.bitmaps[volume]
            if rest and link.transaction is not None:
                rest -= link.transaction.sent.bitmaps[volume]
            if rest and not followed:
                self._queue.follow(link.queue)
                followed = True
            for block in rest:
                if self._queue.count[volume, block] > 0:
                    continue
                if in_flight is None:
                    in_flight = _in_flight(backstore)
                assert (volume, block) in in_flight, (
                    f"I5: block {(volume, block)} differs and nothing covers it"
                )


def _in_flight(backstore: Backstore) -> set[_Key]:
    """Blocks of writes under way, and of those that stand in the log's tail."""
    table = backstore.in_flight_cover()
    found = {(volume, block) for volume, bitmap in enumerate(table.bitmaps) for block in bitmap}
    for write in backstore.log.tail:
        first, end = write.offset // BLOCK_BYTES, -(-(write.offset + write.length) // BLOCK_BYTES)
        found.update((write.volume, block) for block in range(first, end))
    return found
