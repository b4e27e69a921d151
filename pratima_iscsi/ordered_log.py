"""The ordered log: the bounded FIFO of records, with their data, that some link has yet to confirm.

The log counts bytes; each link has a queue of references into it. A queue's records have
consecutive link sequences, the first of them ``first_n``: those sent in this session stand before
those that are not, and only unsent ones may be dropped while a session lasts. One rule: a record
leaves a queue by a durable acknowledgement or by being dropped into the block write table, and in
no other way.
"""

from collections import deque
from collections.abc import Iterable

from pratima_iscsi.limits import BATCH_BYTES_MAX, BATCH_RECORDS_MAX, RECORD_OVERHEAD_BYTES
from pratima_iscsi.operations import RecordKind
from pratima_iscsi.positions import NO_GENERATION
from pratima_iscsi.records import End, GenerationBegin, Record

_GENERATION = RecordKind.GENERATION
_END = RecordKind.END


class OrderedLog:
    """Counts the bytes of every record that at least one queue holds; 0 ≤ bytes ≤ limit.

    The links' own marks must never be refused, so a part of the limit, ``marks`` bytes, is theirs.
    """

    __slots__ = ("bytes", "limit", "low_mark", "room")

    def __init__(self, limit: int, marks: int = 0) -> None:
        self.limit = limit
        self.low_mark = limit // 2
        self.room = limit - marks
        self.bytes = 0

    def fits(self, payload_bytes: int) -> bool:
        """Whether one more record with so much payload stays within what is not for marks."""
        return self.bytes + payload_bytes + RECORD_OVERHEAD_BYTES <= self.room

    def release(self, records: Iterable[Record]) -> None:
        """One queue less holds each of ``records``."""
        freed = 0
        for record in records:
            record.links -= 1
            if record.links == 0:
                freed += len(record.payload) + RECORD_OVERHEAD_BYTES
        self.bytes -= freed
        assert self.bytes >= 0


class LinkQueue:
    """One link's references into the log, in link sequence order.

    Invariant: the record at place i, sent ones first, has link sequence ``first_n`` + i.
    """

    __slots__ = (
        "first_n",
        "generation",
        "log",
        "numbered",
        "sent",
        "sent_bytes",
        "unsent",
        "unsent_bytes",
    )

    def __init__(self, log: OrderedLog) -> None:
        self.log = log
        self.first_n = 1
        self.sent: deque[Record] = deque()
        self.unsent: deque[Record] = deque()
        self.sent_bytes = 0
        self.unsent_bytes = 0
        self.generation = NO_GENERATION
        """Generation of the first unsent record."""
        self.numbered = 0
        """How many records, from the first on, were ever sent and so keep their link sequence."""

    def __len__(self) -> int:
        return len(self.sent) + len(self.unsent)

    @property
    def bytes(self) -> int:
        """Bytes that the queue's records count for."""
        return self.sent_bytes + self.unsent_bytes

    @property
    def next_n(self) -> int:
        """Link sequence of the next record to be sent."""
        return self.first_n + len(self.sent)

    @property
    def end_n(self) -> int:
        """Link sequence of the next record to be appended."""
        return self.first_n + len(self.sent) + len(self.unsent)

    def append(self, record: Record) -> None:
        """Queue ``record``; the log has room for it, or it is the link's own mark."""
        cost = len(record.payload) + RECORD_OVERHEAD_BYTES
        if not record.links:
            log = self.log
            log.bytes += cost
            assert log.bytes <= log.limit, "the log is over its limit"
        record.links += 1
        self.unsent.append(record)
        self.unsent_bytes += cost

    def take_batch(self, bytes_max: int = BATCH_BYTES_MAX) -> tuple[int, int, list[Record]]:
        """Move one batch from unsent to sent: its first link sequence, its generation, its records
        (``bytes_max`` of payload, or one longer record).

        A GENERATION record only ever stands first in a batch, and END last, so that the header's
        generation holds for all of it.
        """
        first_n, unsent = self.next_n, self.unsent
        batch: list[Record] = []
        size = 0
        while unsent and len(batch) < BATCH_RECORDS_MAX:
            record = unsent[0]
            if batch and (record.entry[0] == _GENERATION or size + len(record.payload) > bytes_max):
                break
            batch.append(unsent.popleft())
            size += len(record.payload)
            if record.entry[0] == _END:
                break
        if batch[0].entry[0] == _GENERATION:
            self.generation = GenerationBegin.decode(batch[0].payload).generation
        generation = self.generation
        if batch[-1].entry[0] == _END:
            self.generation = End.decode(batch[-1].payload).history.position.generation
        self.sent.extend(batch)
        self.numbered = max(self.numbered, len(self.sent))
        cost = size + RECORD_OVERHEAD_BYTES * len(batch)
        self.unsent_bytes -= cost
        self.sent_bytes += cost
        return first_n, generation, batch

    def confirm(self, durable_n: int) -> list[Record]:
        """Take out every sent record up to link sequence ``durable_n``; an old one takes none."""
        sent = self.sent
        count = durable_n - self.first_n + 1
        if count <= 0:
            return []
        assert count <= len(sent), "acknowledged beyond what was sent"
        confirmed = [sent.popleft() for _ in range(count)]
        self.first_n += count
        self.numbered -= count
        self.sent_bytes -= sum(record.cost for record in confirmed)
        self.log.release(confirmed)
        return confirmed

    def rewind(self, next_n: int) -> None:
        """A session begins at link sequence ``next_n``: whatever was sent is unsent again."""
        while self.sent:
            record = self.sent.pop()
            if record.entry[0] == _GENERATION:
                self.generation = GenerationBegin.decode(record.payload).parent
            self.unsent.appendleft(record)
        self.unsent_bytes += self.sent_bytes
        self.sent_bytes = 0
        assert not self.numbered or self.first_n == next_n, (
            "a session must begin where the queue does"
        )
        self.first_n = next_n

    def drop(self, *, sent_too: bool) -> list[Record]:
        """Drop the unsent records, or all; the caller has marked, or now marks, their blocks."""
        dropped = list(self.unsent)
        self.unsent.clear()
        self.unsent_bytes = 0
        self.numbered = 0 if sent_too else min(self.numbered, len(self.sent))
        if sent_too:
            dropped = [*self.sent, *dropped]
            self.sent.clear()
            self.sent_bytes = 0
        self.log.release(dropped)
        return dropped
