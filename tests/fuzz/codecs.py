"""What decodes bytes of a peer or a disk, given any bytes.

Each target takes one input and returns. One rule: the decoder's own named error is the only one
that may come out, and what it accepted it encodes again to the same.
"""

from contextlib import suppress

from xxhash import xxh3_64_intdigest, xxh3_128_digest

from pratima_iscsi.blocks import block_span
from pratima_iscsi.edges import journal as journals
from pratima_iscsi.edges.journal import ALIGNMENT, Journal, JournalRot
from pratima_iscsi.errors import RemoteProtocolError, StateError
from pratima_iscsi.iscsi import chap, pdu, text
from pratima_iscsi.iscsi.names import normalized, normalized_initiator
from pratima_iscsi.iscsi.negotiation import Offer
from pratima_iscsi.limits import FRAME_BYTES_MAX, TEXT_BYTES_MAX
from pratima_iscsi.operations import COUNTED, RecordKind
from pratima_iscsi.records import Begin, End, GenerationBegin, Record, Verify
from pratima_iscsi.replication import messages, wire
from tests.fuzz.reader import Reader
from tests.simulation.disk import SimDisk
from tests.support.frames import frame_of

DIGEST_BYTES = 8
SEGMENT_BYTES = 4096
GROUP = b"g" * 16
SALT = b"s" * 16


def header(data: bytes) -> None:
    """The PDU's basic and additional header segments."""
    header_bytes = data[: pdu.BHS_BYTES].ljust(pdu.BHS_BYTES, b"\0")
    request = pdu.decode_request(header_bytes)
    assert request.encode() == header_bytes
    assert request.data_length < 1 << 24 and request.ahs_length <= 1020
    response = pdu.decode_response(header_bytes)
    assert response.encode() == header_bytes
    assert (
        pdu.serial_before(request.cmd_sn, request.exp_stat_sn)
        != pdu.serial_before(request.exp_stat_sn, request.cmd_sn)
        or (request.cmd_sn - request.exp_stat_sn) % (1 << 31) == 0
    )
    segments = data[pdu.BHS_BYTES :]
    with suppress(ValueError):
        cdb = pdu.extended_cdb(request.tail, segments)
        assert cdb.startswith(request.tail) and len(cdb) <= 16 + len(segments)


def login_text(data: bytes) -> None:
    """Text, its numbers, names and binary values, and the negotiation over it."""
    try:
        pairs = text.decode(data)
    except RemoteProtocolError:
        return
    assert len(data) <= TEXT_BYTES_MAX
    assert text.decode(text.encode(pairs)) == pairs
    offer = Offer(discovery=data[:1] == b"D")
    for key, value in pairs:
        with suppress(ValueError):
            assert text.decode_number(value) >= 0
        with suppress(ValueError):
            text.decode_binary(value)
        with suppress(ValueError):
            assert normalized(normalized(value)) == normalized(value)
        with suppress(ValueError):
            assert normalized_initiator(normalized_initiator(value)) == normalized_initiator(value)
        with suppress(RemoteProtocolError):
            answer = offer.answer(key, value)
            assert answer is None or "\0" not in answer
    with suppress(RemoteProtocolError):
        parameters = offer.concluded()
        assert 512 <= parameters.send_segment_bytes_max < 1 << 24
        assert 512 <= parameters.first_burst_bytes_max <= parameters.burst_bytes_max < 1 << 24
    with suppress(chap.AuthenticationError):
        authenticator = chap.Authenticator([chap.Account("user", "a secret of the user's")])
        keys = dict(pairs)
        authenticator.step(keys)
        authenticator.step(keys)


def frame(data: bytes) -> None:
    """A replication frame as it stands, then with its digest, lengths and magic put right."""
    _frame(data)
    if len(data) < wire.HEADER.size:
        return
    _, _, flags, count, _, group, session, *numbers = wire.HEADER.unpack_from(data)
    table = count * wire.ENTRY.size
    payload_bytes = max(len(data) - wire.HEADER.size - table, 0)
    mended = (
        wire.HEADER.pack(
            wire.MAGIC, wire.VERSION, flags, count, payload_bytes, group, session, *numbers
        )
        + data[wire.HEADER.size :]
    )
    _frame(mended + xxh3_64_intdigest(mended).to_bytes(DIGEST_BYTES, "big"))


def _frame(data: bytes) -> None:
    try:
        batch = wire.decode_batch(memoryview(data))
    except RemoteProtocolError:
        return
    assert len(data) <= FRAME_BYTES_MAX
    for entry in batch.entries:
        repr(entry)
        assert entry.offset + entry.length <= 1 << 63 and bool(entry.sequence) == (
            entry.kind in COUNTED
        )
        _payload(entry)
    records = [Record(bytes(entry.entry), bytes(entry.payload)) for entry in batch.entries]
    assert frame_of(batch.header, records) == data
    assert wire.peek_session(batch.frame) == (batch.header.group, batch.header.session)


def _payload(entry: wire.Entry) -> None:
    kind = entry.kind
    with suppress(RemoteProtocolError):
        if kind == RecordKind.GENERATION:
            assert GenerationBegin.decode(entry.payload).encode() == entry.payload
        elif kind == RecordKind.BEGIN:
            Begin.decode(entry.payload)  # its padding is free
        elif kind == RecordKind.END:
            assert End.decode(entry.payload).encode() == entry.payload
        elif kind == RecordKind.VERIFY:
            first, end = block_span(entry.offset, entry.length)
            assert Verify.decode(entry.payload, end - first).encode() == entry.payload


def message(data: bytes) -> None:
    """A control message, in either direction."""
    for decode in (messages.decode_to_replica, messages.decode_to_source):
        with suppress(RemoteProtocolError):
            decoded = decode(data)
            assert decode(messages.encode(decoded)) == decoded


def journal(data: bytes) -> None:
    """Segments of units, most of them sealed as a real one is, scanned, read and used again."""
    reader = Reader(data)
    applied, durable = reader.number() % 8, reader.number() % 8
    disk = SimDisk()
    directory = disk.directory()
    for number in range(1 + reader.number() % 3):
        file = directory.open(f"{journals.PREFIX}{number:04d}", create=True)
        content = _segment(reader, number)
        file.pwrite(content, 0)
    opened = Journal(
        directory,
        GROUP,
        segment_bytes=SEGMENT_BYTES,
        quota_bytes=3 * SEGMENT_BYTES,
        clock=lambda: 1,
        random_bytes=lambda count: b"r" * count,
    )
    try:
        opened.scan(applied, durable)
    except (JournalRot, StateError):
        return
    assert opened.last >= max(applied, durable) and opened.seen >= opened.last
    for index in range(applied + 1, opened.last + 1):
        assert opened.read(index).index == index
    last = max(opened.seen, opened.last)
    if last >= journals.INDEX_MAX:
        return
    opened.restart(last)
    assert opened.append(b"next", last) == last + 1
    assert opened.sync() == last + 1
    assert bytes(opened.read(last + 1).frame) == b"next"
    again = Journal(
        directory,
        GROUP,
        segment_bytes=SEGMENT_BYTES,
        quota_bytes=3 * SEGMENT_BYTES,
        clock=lambda: 1,
        random_bytes=lambda count: b"r" * count,
    )
    again.scan(last, last + 1)
    assert again.last == last + 1, "what was appended after recovery is what is found"


def _segment(reader: Reader, number: int) -> bytes:
    kind = reader.number()
    if kind % 8 == 0:
        return reader.take(reader.number(2) % SEGMENT_BYTES).ljust(SEGMENT_BYTES, b"\0")
    version = 1 if kind % 8 != 1 else reader.number()
    group = GROUP if kind % 8 != 2 else reader.take(16)
    salt = SALT if kind % 8 != 3 else reader.take(16)
    head = journals._SEGMENT.pack(journals._SEGMENT_MAGIC, version, group, number, salt, 1)
    content = _seal(b"", head).ljust(ALIGNMENT, b"\0")
    while reader.left and len(content) < SEGMENT_BYTES:
        content += _unit(reader, salt)
    content = content[:SEGMENT_BYTES].ljust(SEGMENT_BYTES, b"\0")
    if kind & 0x80:  # some damage
        at = reader.number(2) % SEGMENT_BYTES
        content = content[:at] + bytes([content[at] ^ (reader.number() or 1)]) + content[at + 1 :]
    return content


def _unit(reader: Reader, salt: bytes) -> bytes:
    shape = reader.number()
    index, mark = reader.number() % 16, reader.number() % 16
    if shape == 255:
        index, mark = reader.number(8), reader.number(8)
    body = reader.take(reader.number() * (4 if shape & 1 else 1))
    length = len(body) if shape & 6 else reader.number(2)
    digest = xxh3_128_digest(body)
    head = journals._UNIT.pack(journals._UNIT_MAGIC, length, index, mark, 1, digest)
    unit = _seal(salt, head) + body
    return unit.ljust(-(-len(unit) // ALIGNMENT) * ALIGNMENT, b"\0")


def _seal(salt: bytes, head: bytes) -> bytes:
    return head + xxh3_128_digest(salt + head)
