"""The wire form of a batch: it comes back as it went, and nothing else is taken for one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_digest

from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.limits import BATCH_RECORDS_MAX, FRAME_BYTES_MAX, VOLUMES_MAX
from pratima_iscsi.operations import RecordKind
from pratima_iscsi.positions import SEQUENCE_MAX, Ancestor, History, Position
from pratima_iscsi.records import Begin, End, GenerationBegin, Record, Verify, make_record
from pratima_iscsi.replication.wire import BatchHeader, decode_batch, peek_session
from tests.support.frames import frame_of

NUMBERS = st.integers(0, (1 << 64) - 1)
OFFSETS = st.integers(0, 1 << 40)
IDS = st.binary(min_size=16, max_size=16)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """A record of any kind, well formed."""
    kind = draw(st.sampled_from(RecordKind))
    volume, offset, sequence = (
        draw(st.integers(0, 65535)),
        draw(OFFSETS),
        draw(st.integers(1, 1 << 60)),
    )
    data = draw(st.binary(min_size=1, max_size=64))
    match kind:
        case RecordKind.WRITE:
            return make_record(kind, volume, offset, len(data), data, sequence)
        case RecordKind.ZERO | RecordKind.RESIZE:
            return make_record(kind, volume, offset, draw(OFFSETS), b"", sequence)
        case RecordKind.BOOKMARK:
            return make_record(kind, payload=data, sequence=sequence)
        case RecordKind.GENERATION:
            begin = GenerationBegin(draw(NUMBERS), draw(NUMBERS), draw(st.integers(-1, 1 << 60)))
            return make_record(kind, payload=begin.encode())
        case RecordKind.RESYNC:
            return make_record(kind, volume, offset, len(data), data)
        case RecordKind.RESYNC_ZERO:
            return make_record(kind, volume, offset, draw(OFFSETS))
        case RecordKind.BEGIN:
            sizes = tuple(draw(st.lists(NUMBERS, max_size=VOLUMES_MAX)))
            begun = Begin(draw(st.integers(1, (1 << 64) - 1)), draw(st.booleans()), sizes)
            assert Begin.decode(begun.encode()) == begun
            return make_record(kind, payload=begun.encode())
        case RecordKind.END:
            history = History(
                Position(draw(NUMBERS), draw(st.integers(0, SEQUENCE_MAX))), (Ancestor(1, -1),)
            )
            return make_record(kind, payload=End(draw(NUMBERS), history, draw(IDS)).encode())
        case RecordKind.VERIFY:
            payload = Verify(draw(NUMBERS), draw(IDS), draw(IDS)).encode()
            return make_record(kind, volume, offset, 4096, payload)
    return make_record(kind)


@st.composite
def batches(draw: st.DrawFn) -> tuple[BatchHeader, list[Record]]:
    """A header and what follows it."""
    header = BatchHeader(
        draw(IDS),
        draw(IDS),
        draw(NUMBERS),
        draw(st.integers(1, 1 << 60)),
        draw(NUMBERS),
        draw(st.booleans()),
        draw(st.booleans()),
    )
    return header, draw(st.lists(records(), min_size=1, max_size=6))


def fields_of(header: BatchHeader) -> tuple[object, ...]:
    return (
        header.group,
        header.session,
        header.incarnation,
        header.first_n,
        header.generation,
        header.commit_now,
        header.ack_now,
    )


@given(batches())
def test_a_batch_comes_back_as_it_went(batch: tuple[BatchHeader, list[Record]]) -> None:
    header, sent = batch
    frame = memoryview(frame_of(header, sent))
    got = decode_batch(frame)
    assert fields_of(got.header) == fields_of(header)
    assert [(bytes(e.entry), bytes(e.payload)) for e in got.entries] == [
        (r.entry, r.payload) for r in sent
    ]
    assert peek_session(frame) == (header.group, header.session)
    assert got.last_n == header.first_n + len(sent) - 1


@settings(max_examples=25)
@given(batches())
def test_every_truncation_is_refused(batch: tuple[BatchHeader, list[Record]]) -> None:
    frame = frame_of(*batch)
    for length in range(len(frame)):
        with pytest.raises(RemoteProtocolError):
            decode_batch(memoryview(frame)[:length])
    with pytest.raises(RemoteProtocolError):
        decode_batch(memoryview(bytes(frame) + b"\0"))


@given(batches(), st.data())
def test_a_flipped_bit_is_refused(
    batch: tuple[BatchHeader, list[Record]], data: st.DataObject
) -> None:
    frame = frame_of(*batch)
    at = data.draw(st.integers(0, len(frame) * 8 - 1))
    frame[at // 8] ^= 1 << at % 8
    with pytest.raises(RemoteProtocolError):
        decode_batch(memoryview(frame))


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_batch(memoryview(data))


def test_a_frame_beyond_the_limit_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(RemoteProtocolError, match="frame of"):
        decode_batch(memoryview(bytearray(FRAME_BYTES_MAX + 1)))


def test_more_records_than_a_batch_may_have_are_refused() -> None:
    header = BatchHeader(b"g" * 16, b"s" * 16, 1, 1, 1)
    record = make_record(RecordKind.FLUSH)
    frame = frame_of(header, [record] * BATCH_RECORDS_MAX)[:-8]
    frame[8:12] = (BATCH_RECORDS_MAX + 1).to_bytes(4, "big")
    frame += record.entry
    frame += xxh3_64_digest(frame)
    with pytest.raises(RemoteProtocolError, match="record count"):
        decode_batch(memoryview(frame))


@given(st.binary(max_size=120), st.integers(0, 4))
def test_payloads_of_marks_are_decoded_or_refused(data: bytes, blocks: int) -> None:
    for decode in (
        lambda: GenerationBegin.decode(data).encode(),
        lambda: Begin.decode(data).encode(),
        lambda: End.decode(data).encode(),
        lambda: Verify.decode(data, blocks).encode(),
    ):
        try:
            again = decode()
        except RemoteProtocolError:
            continue
        assert len(again) == len(data)
