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

from pratima_iscsi.frame_memory import SHARED, FrameMemory
from pratima_iscsi.limits import (
    BATCH_BYTES_MAX,
    BATCH_RECORDS_MAX,
    COALESCE_SECONDS,
    FRAME_HEAD_BYTES,
    LAID_OUT_RECORDS_MAX,
    RECORD_OVERHEAD_BYTES,
    TAIL_SECONDS,
)
from pratima_iscsi.operations import Buffer, Operation, RecordKind
from pratima_iscsi.positions import NO_GENERATION
from pratima_iscsi.records import NO_HISTORY, PACK_ENTRY, End, GenerationBegin, Record
from pratima_iscsi.sent_batch import SentBatch, SentWrites

_BEGIN = RecordKind.BEGIN
_GENERATION = RecordKind.GENERATION
_END = RecordKind.END
_PLAIN: Final = frozenset({RecordKind.WRITE, RecordKind.ZERO})
_NEVER: Final = float("inf")


class OrderedLog:
    """Counts the bytes of every record that at least one queue holds; 0 ≤ bytes ≤ limit.

    The links' own marks must never be refused, so a part of the limit, ``marks`` bytes, is theirs.

    Where every link streams and none is waited for, writes first stand in the log's *tail*, as they
    were admitted. When a frame is due, an only link takes them from there: they never become
    records. Queues count the tail with what is unsent. Whoever looks at a queue's unsent records,
    or at the digest, makes the tail records first, so that it is seen nowhere else.
    """

    __slots__ = (
        "_digest",
        "_memory",
        "bytes",
        "lays_out",
        "limit",
        "low_mark",
        "memories",
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
        self.lays_out = False
        """Whether writes are laid out when they come: the ones before them went from the tail."""
        self.memories = SHARED
        self._memory: FrameMemory | None = None
        """What writes are laid out in."""
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

    @property
    def tail_due(self) -> float:
        """When the tail is to be sent, though it fills no batch; infinity: it is empty."""
        return self.tail_at + TAIL_SECONDS if self.tail else _NEVER

    def admit(self, writes: Sequence[Operation], cost: int, now: float) -> None:
        """Put writes, ``cost`` bytes together, into the tail; they go into every queue."""
        if not self.tail:
            self.tail_at = now
        self.lays_out = len(self.queues) == 1
        self.tail += writes
        self.tail_bytes += cost
        self.bytes += cost
        assert self.bytes <= self.limit, "the log is over its limit"

    def lay_out(self, operation: Operation, data: memoryview) -> None:
        """Take in the data of a write that has just come: put it where its frame will have it, and
        see to its digest while the cache has it."""
        memory, length = self._memory, operation.length
        if length > self.memories.payload_bytes_max:
            operation.payload = data.tobytes()
            return
        if memory is None or not memory.fits(length):
            memory = self._memory = self.memories.next()
        operation.memory, operation.place = memory, memory.end
        payload = operation.payload = memory.put(data, length)
        operation.payload_digest = xxh3_64_digest(payload)

    def seal(self) -> None:
        """Make the tail records, in every queue."""
        self.lays_out = False
        if not self.tail:
            return
        writes, cost = self.tail, self.tail_bytes
        self.tail, self.tail_bytes = [], 0
        self.bytes -= cost
        records = self.records_of(writes)
        for queue in self.queues:
            queue.extend(records, cost, self.tail_at)

    def records_of(self, writes: Sequence[Operation]) -> list[Record]:
        """The records of admitted writes, in their order; the digest goes on over them."""
        entries, digests = self._entries_of(writes)
        return [
            Record(entry, bytes(write.payload), digest)
            for write, entry, digest in zip(writes, entries, digests, strict=True)
        ]

    def pass_by(self, writes: Sequence[Operation]) -> bytes:
        """Let the digest go on over writes that no queue takes: their table entries."""
        return b"".join(self._entries_of(writes)[0])

    def take_tail(self, bytes_max: int) -> SentWrites:
        """Take one batch out of the tail (``bytes_max`` of payload, or one longer write)."""
        count, size, memory = self._next_batch(bytes_max)
        writes, self.tail = self.tail[:count], self.tail[count:]
        cost = size + count * RECORD_OVERHEAD_BYTES
        self.tail_bytes -= cost
        before = self._digest
        entries, digests = self._entries_of(writes)
        last = writes[-1].sequence, digests[-1]
        if memory is None:
            payloads: list[Buffer] = [write.payload for write in writes]
            return SentWrites(entries, payloads, cost, before=before, last=last)
        if self._memory is memory:
            self._memory = None
        return SentWrites(entries, [], cost, before=before, last=last, area=memory.around())

    def _next_batch(self, bytes_max: int) -> tuple[int, int, FrameMemory | None]:
        """How many writes of the tail are the next batch, how many bytes their payloads have, and
        the memory that has these where their frame is to have them and nothing else; None: there is
        none, or it is far more than they need.

        A batch ends where memory begins: those behind one that was not in step with it are.
        """
        memory = self.tail[0].memory
        count = size = 0
        for write in self.tail[:BATCH_RECORDS_MAX]:
            payload_bytes, place = write.payload_bytes, write.place
            if count and (size + payload_bytes > bytes_max or place == FRAME_HEAD_BYTES):
                break
            if payload_bytes and (write.memory is not memory or place != FRAME_HEAD_BYTES + size):
                memory = None
            count += 1
            size += payload_bytes
        if memory is None or memory.end != FRAME_HEAD_BYTES + size:
            return count, size, None
        fitting = memory.half_full and count <= LAID_OUT_RECORDS_MAX
        return count, size, memory if fitting else None

    def _entries_of(self, writes: Iterable[Operation]) -> tuple[list[bytes], list[bytes]]:
        """The table entries of admitted writes, and the digest after each of them."""
        pack, hash_payload, hash_history = PACK_ENTRY, xxh3_64_digest, xxh3_128_digest
        digest = self._digest
        entries: list[bytes] = []
        digests: list[bytes] = []
        for write in writes:
            entry = pack(
                write.kind,
                0,
                write.volume,
                write.payload_bytes,
                write.sequence,
                write.offset,
                write.length,
            )
            digest = hash_history(
                digest + entry + (write.payload_digest or hash_payload(write.payload))
            )
            entries.append(entry)
            digests.append(digest)
        self._digest = digest
        return entries, digests

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
        "sent_count",
        "unsent_at",
    )

    def __init__(self, log: OrderedLog) -> None:
        self.log = log
        log.queues.append(self)
        self.first_n = 1
        self.sent: deque[SentBatch] = deque()
        self.sent_count = 0
        """Records of the batches that were sent."""
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
    def unsent_count(self) -> int:
        """How many there are, and will be of the log's tail."""
        return len(self._unsent) + len(self.log.tail)

    @property
    def unsent_bytes(self) -> int:
        """Bytes that they count for."""
        return self._unsent_bytes + self.log.tail_bytes

    @property
    def first_cost(self) -> int:
        """Bytes that the first of them counts for; 0: there is none."""
        if self._unsent:
            return self._unsent[0].cost
        tail = self.log.tail
        return tail[0].payload_bytes + RECORD_OVERHEAD_BYTES if tail else 0

    @property
    def due_at(self) -> float:
        """When they are to be sent, though they fill no batch."""
        if self._unsent:
            return self.unsent_at + COALESCE_SECONDS
        return self.log.tail_due

    @property
    def has_backlog(self) -> bool:
        """Whether there are unsent records beside the log's tail."""
        return bool(self._unsent)

    @property
    def begins(self) -> bool:
        """Whether a BEGIN is what comes next."""
        return bool(self._unsent) and self._unsent[0].entry[0] == _BEGIN

    @property
    def sends_tail(self) -> bool:
        """Whether the log's tail is all that is unsent, and is this queue's alone."""
        log = self.log
        return bool(log.tail) and not self._unsent and len(log.queues) == 1

    @property
    def sent_marks(self) -> list[Record]:
        """The sent records that may be anything but a host's WRITE or ZERO."""
        if not self.marks:
            return []
        return [record for batch in self.sent if not batch.plain for record in batch.records]

    @property
    def sent_entries(self) -> bytes:
        """The table entries of the sent records."""
        return b"".join([batch.entries for batch in self.sent])

    @property
    def unsent_entries(self) -> bytes:
        """The table entries of the unsent records."""
        return b"".join([record.entry for record in self.unsent])

    @property
    def entries(self) -> bytes:
        """The table entries of all records."""
        return self.sent_entries + self.unsent_entries

    def __len__(self) -> int:
        return self.sent_count + self.unsent_count

    @property
    def bytes(self) -> int:
        """Bytes that the queue's records count for."""
        return self.sent_bytes + self.unsent_bytes

    @property
    def next_n(self) -> int:
        """Link sequence of the next record to be sent."""
        return self.first_n + self.sent_count

    @property
    def end_n(self) -> int:
        """Link sequence of the next record to be appended."""
        return self.next_n + self.unsent_count

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

    def take_batch(self, bytes_max: int = BATCH_BYTES_MAX) -> tuple[int, int, SentBatch]:
        """Move one batch from unsent to sent: its first link sequence, its generation, its records
        (``bytes_max`` of payload, or one longer record).

        A GENERATION record only ever stands first in a batch, and END last, so that the header's
        generation holds for all of it. The log's tail stays as it is where there are records.
        """
        first_n, unsent = self.next_n, self._unsent or self.unsent
        plain = not self.marks
        count = size = 0
        for record in islice(unsent, BATCH_RECORDS_MAX):
            payload_bytes = len(record.payload)
            if count and size + payload_bytes > bytes_max:
                break
            if not plain and count and record.entry[0] == _GENERATION:
                break
            count += 1
            size += payload_bytes
            if not plain and record.entry[0] == _END:
                break
        records = [unsent.popleft() for _ in range(count)]
        if records[0].entry[0] == _GENERATION:
            self.generation = GenerationBegin.decode(records[0].payload).generation
        generation = self.generation
        if records[-1].entry[0] == _END:
            self.generation = End.decode(records[-1].payload).history.position.generation
        cost = size + RECORD_OVERHEAD_BYTES * count
        self._unsent_bytes -= cost
        batch = SentBatch(records, cost, plain=plain)
        self._sends(batch)
        return first_n, generation, batch

    def take_tail(self, bytes_max: int = BATCH_BYTES_MAX) -> tuple[int, int, SentWrites]:
        """The same, right from the log's tail, where ``sends_tail``."""
        assert self.sends_tail, "the tail is not this queue's to send"
        first_n = self.next_n
        batch = self.log.take_tail(bytes_max)
        self._sends(batch)
        return first_n, self.generation, batch

    def _sends(self, batch: SentBatch) -> None:
        self.sent.append(batch)
        self.sent_count += batch.count
        self.sent_bytes += batch.cost
        self.numbered = max(self.numbered, self.sent_count)

    def confirm(self, durable_n: int) -> list[SentBatch]:
        """Take out every sent record up to link sequence ``durable_n``; an old one takes none."""
        count = durable_n - self.first_n + 1
        if count <= 0:
            return []
        assert count <= self.sent_count, "acknowledged beyond what was sent"
        confirmed: list[SentBatch] = []
        left, cost = count, 0
        while left:
            batch = self.sent.popleft()
            if batch.count > left:
                batch, rest = _split(batch, left)
                self.sent.appendleft(rest)
            confirmed.append(batch)
            left -= batch.count
            cost += batch.cost
        self.first_n += count
        self.numbered -= count
        self.sent_count -= count
        self.sent_bytes -= cost
        self._release(confirmed)
        return confirmed

    def _release(self, batches: Iterable[SentBatch]) -> None:
        """These leave the queue."""
        for batch in batches:
            if len(self.log.queues) == 1:
                self.log.bytes -= batch.cost
            else:
                self.log.release(batch.records)
            if not batch.plain:
                self.marks -= len(_marks_of(batch.records))

    def rewind(self, next_n: int) -> None:
        """A session begins at link sequence ``next_n``: whatever was sent is unsent again."""
        while self.sent:
            for record in reversed(self.sent.pop().records):
                if record.entry[0] == _GENERATION:
                    self.generation = GenerationBegin.decode(record.payload).parent
                self._unsent.appendleft(record)
        self._unsent_bytes += self.sent_bytes
        self.sent_bytes = self.sent_count = 0
        assert not self.numbered or self.first_n == next_n, (
            "a session must begin where the queue does"
        )
        self.first_n = next_n

    def drop(self, *, sent_too: bool) -> list[Record]:
        """Drop the unsent records, or all; the caller has marked, or now marks, their blocks.

        Those that are dropped and no host's WRITE or ZERO are returned.
        """
        unsent = list(self.unsent)
        marks = _marks_of(unsent) if self.marks else []
        self._unsent.clear()
        self._unsent_bytes = 0
        self.numbered = 0 if sent_too else min(self.numbered, self.sent_count)
        self.log.release(unsent)
        self.marks -= len(marks)
        if sent_too:
            marks = [*_marks_of(self.sent_marks), *marks]
            sent = list(self.sent)
            self.sent.clear()
            self.sent_bytes = self.sent_count = 0
            self._release(sent)
        return marks


def _split(batch: SentBatch, count: int) -> tuple[SentBatch, SentBatch]:
    """The first ``count`` records of a batch, and the others."""
    records = batch.records
    first, rest = records[:count], records[count:]
    cost = sum([record.cost for record in first])
    return (
        SentBatch(first, cost, plain=batch.plain),
        SentBatch(rest, batch.cost - cost, plain=batch.plain),
    )


def _marks_of(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record.entry[0] not in _PLAIN]
