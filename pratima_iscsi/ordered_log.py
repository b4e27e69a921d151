"""The ordered log: the bounded FIFO of records, with their data, that some link has yet to confirm.

The log counts bytes; each link has a queue of references into it. A queue's records have
consecutive link sequences, the first of them ``first_n``: those sent in this session stand before
those that are not, and only unsent ones may be dropped while a session lasts. One rule: a record
leaves a queue by a durable acknowledgement or by being dropped into the block write table, and in
no other way.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from xxhash import xxh3_64_digest, xxh3_128_digest

from pratima_iscsi.limits import BATCH_BYTES_MAX, BATCH_RECORDS_MAX, RECORD_OVERHEAD_BYTES
from pratima_iscsi.operations import Operation, RecordKind
from pratima_iscsi.positions import NO_GENERATION
from pratima_iscsi.records import NO_HISTORY, PACK_ENTRY, End, GenerationBegin, Record

_GENERATION = RecordKind.GENERATION
_END = RecordKind.END
_PLAIN: Final = frozenset({RecordKind.WRITE, RecordKind.ZERO})


class OrderedLog:
    """Counts the bytes of every record that at least one queue holds; 0 ≤ bytes ≤ limit.

    The links' own marks must never be refused, so a part of the limit, ``marks`` bytes, is theirs.

    Where every link streams and none is waited for, writes first stand in the log's *tail*, as they
    were admitted, and become records together when a frame is due: most of what a record costs
    is then paid in one loop for many. Whoever looks at a queue's unsent records, or at the digest,
    makes the tail records first, so that it is seen nowhere else.
    """

    __slots__ = (
        "_digest",
        "bytes",
        "limit",
        "low_mark",
        "queues",
        "room",
        "tail",
        "tail_at",
        "tail_bytes",
    )

    def __init__(self, limit: int, marks: int = 0) -> None:
        self.limit = limit
        self.low_mark = limit // 2
        self.room = limit - marks
        self.bytes = 0
        self.queues: list[LinkQueue] = []
        self.tail: list[Operation] = []
        self.tail_at = 0.0
        """When the first write of the tail came."""
        self.tail_bytes = 0
        self._digest = NO_HISTORY

    @property
    def digest(self) -> bytes:
        """H of the last write that was admitted."""
        if self.tail:
            self.seal()
        return self._digest

    @digest.setter
    def digest(self, digest: bytes) -> None:
        assert not self.tail, "a digest begins anew behind the writes before it"
        self._digest = digest

    def admit(self, writes: Sequence[Operation], cost: int, now: float) -> None:
        """Put writes, ``cost`` bytes together, into the tail; they go into every queue."""
        if not self.tail:
            self.tail_at = now
        self.tail += writes
        self.tail_bytes += cost
        self.bytes += cost
        assert self.bytes <= self.limit, "the log is over its limit"

    def seal(self) -> None:
        """Make the tail records, in every queue."""
        if not self.tail:
            return
        writes, cost = self.tail, self.tail_bytes
        self.tail, self.tail_bytes = [], 0
        self.bytes -= cost
        records = self.records_of(writes)
        for queue in self.queues:
            queue.extend(records, cost, self.tail_at)

    def records_of(self, writes: Iterable[Operation]) -> list[Record]:
        """The records of admitted writes, in their order; the digest goes on over them."""
        pack, hash_payload, hash_history = PACK_ENTRY, xxh3_64_digest, xxh3_128_digest
        digest = self._digest
        records: list[Record] = []
        for write in writes:
            payload = write.payload
            entry = pack(
                write.kind,
                0,
                write.volume,
                len(payload),
                write.sequence,
                write.offset,
                write.length,
            )
            digest = hash_history(digest + entry + hash_payload(payload))
            record = write.record = Record(entry, payload, digest)
            records.append(record)
        self._digest = digest
        return records

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
        "_unsent",
        "_unsent_bytes",
        "first_n",
        "generation",
        "log",
        "marks",
        "numbered",
        "sent",
        "sent_bytes",
        "unsent_at",
    )

    def __init__(self, log: OrderedLog) -> None:
        self.log = log
        log.queues.append(self)
        self.first_n = 1
        self.sent: deque[Record] = deque()
        self._unsent: deque[Record] = deque()
        self.sent_bytes = 0
        self._unsent_bytes = 0
        self.unsent_at = 0.0
        """When the first unsent record came, or the session began that is to send it."""
        self.generation = NO_GENERATION
        """Generation of the first unsent record."""
        self.numbered = 0
        """How many records, from the first on, were ever sent and so keep their link sequence."""
        self.marks = 0
        """How many records are anything but a host's WRITE or ZERO. A link in step has none, and
        need not look for them in each of its batches."""

    @property
    def unsent(self) -> deque[Record]:
        """The records that were not sent in this session."""
        if self.log.tail:
            self.log.seal()
        return self._unsent

    @property
    def unsent_bytes(self) -> int:
        """Bytes that they count for."""
        if self.log.tail:
            self.log.seal()
        return self._unsent_bytes

    @property
    def has_backlog(self) -> bool:
        """Whether there are unsent records beside the log's tail, which stays as it is."""
        return bool(self._unsent)

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

    def append(self, record: Record, now: float = 0.0) -> None:
        """Queue ``record``; the log has room for it, or it is the link's own mark."""
        if not self.unsent:
            self.unsent_at = now
        cost = len(record.payload) + RECORD_OVERHEAD_BYTES
        if not record.links:
            log = self.log
            log.bytes += cost
            assert log.bytes <= log.limit, "the log is over its limit"
        record.links += 1
        self._unsent.append(record)
        self._unsent_bytes += cost
        self.marks += record.entry[0] not in _PLAIN

    def extend(self, records: Sequence[Record], cost: int, now: float) -> None:
        """Queue writes that count for ``cost`` bytes together; the log has room for them."""
        if not self._unsent:
            self.unsent_at = now
        log = self.log
        log.bytes += cost
        for record in records:
            if record.links:
                log.bytes -= len(record.payload) + RECORD_OVERHEAD_BYTES
            record.links += 1
        assert log.bytes <= log.limit, "the log is over its limit"
        self._unsent.extend(records)
        self._unsent_bytes += cost

    def take_batch(self, bytes_max: int = BATCH_BYTES_MAX) -> tuple[int, int, list[Record]]:
        """Move one batch from unsent to sent: its first link sequence, its generation, its records
        (``bytes_max`` of payload, or one longer record).

        A GENERATION record only ever stands first in a batch, and END last, so that the header's
        generation holds for all of it.
        """
        first_n, unsent = self.next_n, self.unsent
        count = size = 0
        for record in islice(unsent, BATCH_RECORDS_MAX):
            payload_bytes = len(record.payload)
            if count and size + payload_bytes > bytes_max:
                break
            if self.marks:
                if count and record.entry[0] == _GENERATION:
                    break
                if record.entry[0] == _END:
                    count += 1
                    size += payload_bytes
                    break
            count += 1
            size += payload_bytes
        batch = [unsent.popleft() for _ in range(count)]
        if batch[0].entry[0] == _GENERATION:
            self.generation = GenerationBegin.decode(batch[0].payload).generation
        generation = self.generation
        if batch[-1].entry[0] == _END:
            self.generation = End.decode(batch[-1].payload).history.position.generation
        self.sent.extend(batch)
        self.numbered = max(self.numbered, len(self.sent))
        cost = size + RECORD_OVERHEAD_BYTES * len(batch)
        self._unsent_bytes -= cost
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
        cost = sum([len(record.payload) for record in confirmed]) + count * RECORD_OVERHEAD_BYTES
        self.sent_bytes -= cost
        if len(self.log.queues) == 1:
            self.log.bytes -= cost
        else:
            self.log.release(confirmed)
        if self.marks:
            self.marks -= _marks_of(confirmed)
        return confirmed

    def rewind(self, next_n: int) -> None:
        """A session begins at link sequence ``next_n``: whatever was sent is unsent again."""
        while self.sent:
            record = self.sent.pop()
            if record.entry[0] == _GENERATION:
                self.generation = GenerationBegin.decode(record.payload).parent
            self._unsent.appendleft(record)
        self._unsent_bytes += self.sent_bytes
        self.sent_bytes = 0
        assert not self.numbered or self.first_n == next_n, (
            "a session must begin where the queue does"
        )
        self.first_n = next_n

    def drop(self, *, sent_too: bool) -> list[Record]:
        """Drop the unsent records, or all; the caller has marked, or now marks, their blocks."""
        dropped = list(self.unsent)
        self._unsent.clear()
        self._unsent_bytes = 0
        self.numbered = 0 if sent_too else min(self.numbered, len(self.sent))
        if sent_too:
            dropped = [*self.sent, *dropped]
            self.sent.clear()
            self.sent_bytes = 0
        self.log.release(dropped)
        if self.marks:
            self.marks -= _marks_of(dropped)
        return dropped


def _marks_of(records: Iterable[Record]) -> int:
    return sum(record.entry[0] not in _PLAIN for record in records)
