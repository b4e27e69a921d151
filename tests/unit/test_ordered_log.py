"""The ordered log and a link's queue: bytes, link sequences, batches, and what a record costs."""

import tracemalloc
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pratima_iscsi.frame_memory import FrameMemories
from pratima_iscsi.limits import (
    BATCH_BYTES_MAX,
    COALESCE_SECONDS,
    LAID_OUT_RECORDS_MAX,
    RECORD_OVERHEAD_BYTES,
    TAIL_SECONDS,
)
from pratima_iscsi.operations import Buffer, Operation, RecordKind
from pratima_iscsi.ordered_log import LinkQueue, OrderedLog
from pratima_iscsi.positions import History, Position
from pratima_iscsi.records import (
    ENTRY,
    End,
    GenerationBegin,
    Record,
    make_record,
    next_history,
)
from pratima_iscsi.replication.wire import (
    BatchHeader,
    decode_batch,
    encode_around,
    encode_batch,
    payloads_of,
)
from pratima_iscsi.sent_batch import SentBatch, SentWrites

KIB = 1024


def write(length: int, sequence: int = 1) -> Record:
    """A write of ``length`` bytes."""
    return make_record(RecordKind.WRITE, 0, 0, length, bytes(length), sequence)


def test_a_record_costs_no_more_than_its_payload_and_the_named_overhead() -> None:
    count, length = 10_000, 512
    queue = LinkQueue(OrderedLog(1 << 30))
    history = bytes(16)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for sequence in range(count):
        payload = bytes(bytearray(length))
        entry = ENTRY.pack(RecordKind.WRITE, 0, 0, length, sequence + 1, sequence * 512, length)
        history = next_history(history, entry, payload)
        queue.append(Record(entry, payload, history))
    used = (tracemalloc.get_traced_memory()[0] - before) / count
    tracemalloc.stop()
    assert length < used <= length + RECORD_OVERHEAD_BYTES


def test_a_write_kept_as_its_frame_costs_no_more_than_that_either() -> None:
    frames, length = 200, 512
    log = OrderedLog(1 << 30)
    queue = LinkQueue(log)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(frames):
        writes = [admitted(length, sequence + 1) for sequence in range(16)]
        log.admit(writes, cost(*writes), 0.0)
        send_tail(queue)
    del writes
    used = (tracemalloc.get_traced_memory()[0] - before) / (16 * frames)
    tracemalloc.stop()
    assert length < used <= length + RECORD_OVERHEAD_BYTES


def test_a_record_that_two_links_hold_counts_once_and_until_both_let_go() -> None:
    log = OrderedLog(1 << 20)
    queues = [LinkQueue(log), LinkQueue(log)]
    record = write(KIB)
    for queue in queues:
        queue.append(record)
    assert log.bytes == record.cost
    queues[0].drop(sent_too=True)
    assert log.bytes == record.cost
    queues[1].take_batch()
    queues[1].confirm(1)
    assert log.bytes == 0


def test_marks_have_room_when_writes_have_none() -> None:
    log = OrderedLog(8 * KIB, 2 * KIB)
    queue = LinkQueue(log)
    while log.fits(0):
        queue.append(make_record(RecordKind.FLUSH))
    end = make_record(RecordKind.END, payload=End(1, History(Position(1, 1)), bytes(16)).encode())
    queue.append(end)
    assert log.bytes <= log.limit


def test_the_log_never_grows_past_its_limit() -> None:
    queue = LinkQueue(OrderedLog(4 * KIB))
    with pytest.raises(AssertionError):
        queue.append(write(4 * KIB))


def test_a_generation_stands_first_in_its_batch_and_an_end_last() -> None:
    queue = LinkQueue(OrderedLog(1 << 20))
    generation = make_record(RecordKind.GENERATION, payload=GenerationBegin(7, 3, 2).encode())
    end = make_record(RecordKind.END, payload=End(1, History(Position(9, 1)), bytes(16)).encode())
    for record in (write(512), generation, write(512), end, write(512)):
        queue.append(record)
    batches = [queue.take_batch() for _ in range(3)]
    assert [[record.kind for record in batch.records] for _, _, batch in batches] == [
        [RecordKind.WRITE],
        [RecordKind.GENERATION, RecordKind.WRITE, RecordKind.END],
        [RecordKind.WRITE],
    ]
    assert [generation for _, generation, _ in batches] == [0, 7, 9]
    assert [first for first, _, _ in batches] == [1, 2, 5]
    queue.rewind(1)
    assert [queue.take_batch()[1] for _ in range(3)][1:] == [7, 9]


@given(st.lists(st.integers(1, 8 * KIB), min_size=1, max_size=20), st.integers(KIB, 16 * KIB))
def test_batches_keep_order_and_bytes(lengths: list[int], bytes_max: int) -> None:
    queue = LinkQueue(OrderedLog(1 << 20))
    sent = [write(length, at + 1) for at, length in enumerate(lengths)]
    for record in sent:
        queue.append(record)
    taken: list[Record] = []
    while queue.unsent:
        first_n, _, batch = queue.take_batch(bytes_max)
        assert first_n == len(taken) + 1
        assert batch.count == 1 or sum(len(r.payload) for r in batch.records) <= bytes_max
        taken += batch.records
    assert taken == sent


def admitted(length: int, sequence: int) -> Operation:
    """A write of ``length`` bytes as a group admits it."""
    operation = Operation(RecordKind.WRITE, 0, 512 * sequence, length, bytes([sequence]) * length)
    operation.sequence = sequence
    return operation


def cost(*operations: Operation) -> int:
    return sum(len(operation.payload) + RECORD_OVERHEAD_BYTES for operation in operations)


def send_tail(queue: LinkQueue, bytes_max: int = 1 << 20) -> tuple[SentWrites, Buffer, bool]:
    """What a link does with the tail: the batch, the frame that it is kept as, and whether that was
    made where the writes were laid out."""
    first_n, generation, batch = queue.take_tail(bytes_max)
    header = BatchHeader(b"g" * 16, b"s" * 16, 7, first_n, generation)
    in_place = batch.area is not None
    frame: Buffer
    if batch.area is None:
        frame = encode_batch(header, batch.entries, batch.payloads)
    else:
        frame = encode_around(header, batch.entries, batch.area)
    batch.keep(payloads_of(frame, batch.count))
    return batch, frame, in_place


def test_the_tail_counts_at_once_and_becomes_records_when_somebody_looks() -> None:
    log = OrderedLog(1 << 20)
    queues = [LinkQueue(log), LinkQueue(log)]
    first, second = admitted(KIB, 1), admitted(2 * KIB, 2)
    log.admit([first], cost(first), 3.0)
    log.admit([second], cost(second), 4.0)
    assert log.bytes == cost(first, second)
    assert not queues[0].has_backlog
    assert [record.sequence for record in queues[0].unsent] == [1, 2]
    assert list(queues[1].unsent) == list(queues[0].unsent)
    assert queues[1].unsent_at == 3.0
    assert log.bytes == cost(first, second)
    assert not log.tail


@pytest.mark.parametrize(
    "look",
    [
        lambda log, queue: log.digest,
        lambda log, queue: queue.unsent,
        lambda log, queue: queue.entries,
        lambda log, queue: queue.drop(sent_too=False),
        lambda log, queue: queue.append(make_record(RecordKind.FLUSH)),
        lambda log, queue: queue.take_batch(),
    ],
)
def test_nothing_passes_the_tail_over(look: Callable[[OrderedLog, LinkQueue], object]) -> None:
    log = OrderedLog(1 << 20)
    queue = LinkQueue(log)
    write = admitted(KIB, 1)
    log.admit([write], cost(write), 0.0)
    before = log._digest
    look(log, queue)
    assert not log.tail
    assert log.digest != before


def test_counting_what_a_queue_holds_leaves_the_tail_as_it_is() -> None:
    log = OrderedLog(1 << 20)
    queue = LinkQueue(log)
    first, second = admitted(KIB, 1), admitted(2 * KIB, 2)
    log.admit([first], cost(first), 3.0)
    assert (len(queue), queue.unsent_count, queue.end_n) == (1, 1, 2)
    assert queue.bytes == queue.unsent_bytes == queue.first_cost == cost(first)
    assert queue.due_at == log.tail_due == 3.0 + TAIL_SECONDS
    assert log.tail == [first] and queue.sends_tail
    log.seal()
    log.admit([second], cost(second), 4.0)
    assert (len(queue), queue.unsent_count, queue.end_n) == (2, 2, 3)
    assert queue.bytes == queue.unsent_bytes == cost(first, second)
    assert (queue.first_cost, queue.due_at) == (cost(first), 3.0 + COALESCE_SECONDS)
    assert log.tail == [second] and not queue.sends_tail


def test_records_are_sent_without_making_records_of_the_tail_behind_them() -> None:
    log = OrderedLog(1 << 20)
    queue = LinkQueue(log)
    first, second = admitted(KIB, 1), admitted(2 * KIB, 2)
    log.admit([first], cost(first), 0.0)
    log.seal()
    log.admit([second], cost(second), 0.0)
    _, _, batch = queue.take_batch()
    assert [record.sequence for record in batch.records] == [1]
    assert log.tail == [second] and queue.sends_tail
    first_n, _, writes = queue.take_tail()
    assert (first_n, writes.count) == (2, 1)
    assert log.digest == writes.last_counted[1]


def test_an_only_link_sends_the_tail_and_two_make_records_of_it() -> None:
    log = OrderedLog(1 << 20)
    queue = LinkQueue(log)
    writes = [admitted(KIB, 1), admitted(2 * KIB, 2), admitted(KIB, 3)]
    log.admit(writes, cost(*writes), 0.0)
    assert queue.sends_tail
    first_n, _, batch = queue.take_tail(3 * KIB)
    assert (first_n, batch.count, batch.cost) == (1, 2, cost(*writes[:2]))
    assert log.tail == writes[2:] and log.tail_bytes == cost(writes[2])
    assert queue.sends_tail and log.bytes == cost(*writes)
    LinkQueue(log)
    assert not queue.sends_tail, "the other link wants them, too"


def test_no_write_overtakes_records_that_wait() -> None:
    log = OrderedLog(1 << 20)
    queue = LinkQueue(log)
    queue.append(make_record(RecordKind.FLUSH))
    write = admitted(KIB, 1)
    log.admit([write], cost(write), 0.0)
    assert not queue.sends_tail
    with pytest.raises(AssertionError):
        queue.take_tail()


@given(st.lists(st.integers(1, 8 * KIB), min_size=1, max_size=20))
def test_records_made_again_are_those_that_were_sent(lengths: list[int]) -> None:
    straight, as_records = OrderedLog(1 << 20), OrderedLog(1 << 20)
    queue, other = LinkQueue(straight), LinkQueue(as_records)
    writes = [admitted(length, at + 1) for at, length in enumerate(lengths)]
    for log in (straight, as_records):
        log.admit(writes, cost(*writes), 0.0)
    batch, frame, _ = send_tail(queue)
    _, _, expected = other.take_batch(1 << 20)
    entries = [(entry.entry, entry.payload) for entry in decode_batch(memoryview(frame)).entries]
    assert _contents(batch.records) == _contents(expected.records) == entries
    assert [record.history for record in batch.records] == [r.history for r in expected.records]
    assert all(record.links == 1 for record in batch.records)
    assert batch.entries == expected.entries
    assert batch.last_counted == expected.last_counted
    assert straight.digest == as_records.digest


def test_the_digest_is_the_same_whenever_the_records_are_made() -> None:
    at_once, later = OrderedLog(1 << 20), OrderedLog(1 << 20)
    LinkQueue(later)
    writes = [admitted(512 * at, at) for at in range(1, 5)]
    for write in writes:
        at_once.records_of([write])
        later.admit([write], cost(write), 0.0)
    assert at_once.digest == later.digest


class QueueMachine(RuleBasedStateMachine):
    """A queue against plain lists of its records' contents."""

    def __init__(self) -> None:
        super().__init__()
        self.log = OrderedLog(1 << 20)
        self.queue = LinkQueue(self.log)
        self.sent: list[Content] = []
        self.unsent: list[Content] = []
        self.first_n = 1

    @rule(length=st.integers(1, 4 * KIB))
    def append(self, length: int) -> None:
        if self.log.fits(length):
            record = write(length)
            self.queue.append(record)
            self.unsent.append(_content(record))

    @rule()
    def append_a_mark(self) -> None:
        if self.log.fits(0):
            record = make_record(RecordKind.FLUSH)
            self.queue.append(record)
            self.unsent.append(_content(record))

    @rule(lengths=st.lists(st.integers(1, 4 * KIB), min_size=1, max_size=4))
    def admit(self, lengths: list[int]) -> None:
        writes = [admitted(length, 1) for length in lengths]
        if self.log.bytes + cost(*writes) <= self.log.room:
            self.log.admit(writes, cost(*writes), 0.0)
            self.unsent += [_admitted_content(write) for write in writes]

    @precondition(lambda self: self.unsent)
    @rule()
    def send(self) -> None:
        if self.queue.sends_tail:
            batch: SentBatch = send_tail(self.queue, 4 * KIB)[0]
        else:
            _, _, batch = self.queue.take_batch(4 * KIB)
        assert _contents(batch.records) == self.unsent[: batch.count]
        self.sent += self.unsent[: batch.count]
        del self.unsent[: batch.count]

    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        upto = data.draw(st.integers(0, self.first_n + len(self.sent) - 1))
        count = max(0, upto - self.first_n + 1)
        confirmed = [record for batch in self.queue.confirm(upto) for record in batch.records]
        assert _contents(confirmed) == self.sent[:count]
        del self.sent[:count]
        self.first_n += count

    @rule()
    def begin_a_session(self) -> None:
        self.queue.rewind(self.first_n)
        self.unsent, self.sent = self.sent + self.unsent, []

    @rule()
    def overflow_in_a_session(self) -> None:
        assert _contents(self.queue.drop(sent_too=False)) == _marks(self.unsent)
        self.unsent = []

    @rule(further=st.integers(0, 5))
    def overflow_without_one(self, further: int) -> None:
        assert _contents(self.queue.drop(sent_too=True)) == _marks(self.sent + self.unsent)
        self.sent, self.unsent = [], []
        self.first_n += further
        self.queue.rewind(self.first_n)

    @invariant()
    def counts_agree(self) -> None:
        queue, log = self.queue, self.log
        sent = [record for batch in queue.sent for record in batch.records]
        tail = [_admitted_content(write) for write in log.tail]
        assert _contents(sent) == self.sent
        assert _contents(queue._unsent) + tail == self.unsent
        assert queue.first_n == self.first_n
        assert queue.next_n == self.first_n + len(self.sent)
        assert queue.marks == len(_marks(self.sent + self.unsent))
        assert queue.sent_entries == b"".join(entry for entry, _ in self.sent)
        assert queue.sent_bytes == sum(map(_cost_of, self.sent))
        assert queue._unsent_bytes + log.tail_bytes == sum(map(_cost_of, self.unsent))
        assert log.bytes == queue.sent_bytes + queue._unsent_bytes + log.tail_bytes

    @rule()
    def look(self) -> None:
        assert self.queue.unsent_entries == b"".join(entry for entry, _ in self.unsent)


Content = tuple[bytes, bytes]
"""A record's table entry and its payload."""


def _content(record: Record) -> Content:
    return record.entry, record.payload


def laid_out(log: OrderedLog, length: int, sequence: int) -> Operation:
    """The same write, laid out in the log when it came."""
    operation = admitted(length, sequence)
    data, operation.payload = memoryview(bytes(operation.payload)), b""
    log.lay_out(operation, data)
    return operation


def small_log() -> OrderedLog:
    """One whose frames' memory is for four writes of a KiB."""
    log = OrderedLog(1 << 20)
    log.memories = FrameMemories(4 * KIB, 4 * KIB)
    return log


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 512, KIB, 3 * KIB, 5 * KIB]), st.booleans()), max_size=30
    ),
    st.integers(KIB, 8 * KIB),
)
def test_frames_of_writes_that_were_laid_out_are_the_frames_of_their_records(
    writes: list[tuple[int, bool]], bytes_max: int
) -> None:
    log, plain = small_log(), OrderedLog(1 << 20)
    queue, other = LinkQueue(log), LinkQueue(plain)
    sent: list[tuple[SentWrites, Buffer]] = []
    for at, (length, now) in enumerate(writes):
        log.admit([one := laid_out(log, length, at + 1)], cost(one), 0.0)
        plain.admit([one := admitted(length, at + 1)], cost(one), 0.0)
        while now and queue.sends_tail:
            batch, frame, _ = send_tail(queue, bytes_max)
            sent.append((batch, frame))
    if log.tail:
        batch, frame, _ = send_tail(queue, 1 << 20)
        sent.append((batch, frame))
    expected = list(other.unsent)
    for batch, frame in sent:
        records, expected = expected[: batch.count], expected[batch.count :]
        first_n = len(writes) - len(expected) - batch.count + 1
        header = BatchHeader(b"g" * 16, b"s" * 16, 7, first_n, 0)
        entries = b"".join([record.entry for record in records])
        assert frame == encode_batch(header, entries, [record.payload for record in records])
        assert _contents(batch.records) == _contents(records)


def test_a_full_frame_is_made_where_its_writes_are_and_a_small_one_is_copied() -> None:
    log = small_log()
    queue = LinkQueue(log)
    for lengths, in_place in [([KIB] * 4, True), ([2 * KIB], True), ([KIB], False)]:
        writes = [laid_out(log, length, at + 1) for at, length in enumerate(lengths)]
        log.admit(writes, cost(*writes), 0.0)
        assert send_tail(queue)[2] is in_place


def test_a_frame_ends_where_memory_begins_so_that_the_next_is_made_in_place() -> None:
    log = small_log()
    queue = LinkQueue(log)
    small = laid_out(log, KIB, 1)
    log.admit([small], cost(small), 0.0)
    assert not send_tail(queue)[2]
    writes = [laid_out(log, KIB, at + 2) for at in range(7)]
    log.admit(writes, cost(*writes), 0.0)
    sent = [send_tail(queue) for _ in range(2)]
    assert [(batch.count, in_place) for batch, _, in_place in sent] == [(3, False), (4, True)]


def test_a_frame_has_nothing_of_a_write_that_was_laid_out_and_comes_later() -> None:
    log = small_log()
    queue = LinkQueue(log)
    writes = [laid_out(log, KIB, at + 1) for at in range(4)]
    log.admit(writes[:3], cost(*writes[:3]), 0.0)
    batch, frame, in_place = send_tail(queue)
    assert (batch.count, in_place) == (3, False)
    assert payloads_of(frame, 3) == b"".join([write.payload for write in writes[:3]])
    assert writes[3].payload == bytes([4]) * KIB


def test_what_was_laid_out_and_refused_is_in_no_frame() -> None:
    log = small_log()
    queue = LinkQueue(log)
    first, _, *others = [laid_out(log, KIB, at + 1) for at in range(4)]
    writes = [first, *others]
    log.admit(writes, cost(*writes), 0.0)
    batch, frame, in_place = send_tail(queue)
    assert (batch.count, in_place) == (3, False)
    assert payloads_of(frame, 3) == b"".join([write.payload for write in writes])


def test_writes_are_laid_out_only_while_they_go_from_the_tail_into_one_link() -> None:
    log = OrderedLog(1 << 20)
    queue = LinkQueue(log)
    assert not log.lays_out
    log.admit([write := admitted(KIB, 1)], cost(write), 0.0)
    assert log.lays_out
    assert queue.unsent and not log.lays_out, "somebody looked at records"
    LinkQueue(log)
    log.admit([write := admitted(KIB, 2)], cost(write), 0.0)
    assert not log.lays_out, "two links share records"


def test_there_is_room_for_the_head_of_the_most_records_that_are_laid_out() -> None:
    log = OrderedLog(1 << 30)
    queue = LinkQueue(log)
    length = BATCH_BYTES_MAX // LAID_OUT_RECORDS_MAX
    writes = [laid_out(log, length, at % 200 + 1) for at in range(LAID_OUT_RECORDS_MAX)]
    log.admit(writes, cost(*writes), 0.0)
    batch, frame, in_place = send_tail(queue)
    assert (batch.count, in_place) == (LAID_OUT_RECORDS_MAX, True)
    assert [entry.payload for entry in decode_batch(memoryview(frame)).entries] == [
        write.payload for write in writes
    ]


def test_a_long_write_gets_memory_of_its_own() -> None:
    log = OrderedLog(1 << 20)
    long = laid_out(log, log.memories.payload_bytes_max + 1, 1)
    assert long.memory is None and long.payload == bytes([1]) * long.length


def _contents(records: Iterable[Record]) -> list[Content]:
    return [_content(record) for record in records]


def _admitted_content(write: Operation) -> Content:
    entry = ENTRY.pack(
        write.kind, 0, 0, len(write.payload), write.sequence, write.offset, write.length
    )
    return entry, write.payload


def _marks(contents: list[Content]) -> list[Content]:
    return [content for content in contents if content[0][0] == RecordKind.FLUSH]


def _cost_of(content: Content) -> int:
    return len(content[1]) + RECORD_OVERHEAD_BYTES


TestQueue = QueueMachine.TestCase
