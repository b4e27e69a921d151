"""The wire form of a batch: one frame is a header, a table of entries, the payloads, a digest.

The same frame, byte for byte, is what the replica's journal keeps. One rule: decode rejects and
never guesses; it checks every length before it looks further and raises RemoteProtocolError.

    header | entry 0 … entry n-1 | payload 0 … payload n-1 | xxh3-64 of all before
"""

import struct
from collections.abc import Sequence
from typing import Final

from xxhash import xxh3_64_intdigest

from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.limits import BATCH_RECORDS_MAX, FRAME_BYTES_MAX, FRAME_HEAD_BYTES
from pratima_iscsi.operations import COUNTED, WRITE, Buffer, RecordKind
from pratima_iscsi.records import ENTRY

MAGIC: Final = b"PRTM"
VERSION: Final = 1
PROTOCOL_VERSION: Final = 1

HEADER: Final = struct.Struct(">4sHHII16s16sQQQ")
"""magic, version, flags, records, payload bytes, group id, session nonce, source incarnation,
link sequence of the first record, generation of the first record"""

_DIGEST: Final = struct.Struct(">Q")
FRAME_BYTES_LEAST: Final = HEADER.size + _DIGEST.size

COMMIT_NOW: Final = 1
"""Header flag: the replica syncs its journal at once after this batch."""
ACK_NOW: Final = 2
"""Header flag: the replica acknowledges this batch as soon as it has RECEIVED it."""

_WITHOUT_PAYLOAD = frozenset(
    {RecordKind.ZERO, RecordKind.RESIZE, RecordKind.RESYNC_ZERO, RecordKind.FLUSH}
)
_WITH_DATA = frozenset({RecordKind.WRITE, RecordKind.RESYNC})
_KINDS = frozenset(RecordKind)


class BatchHeader:
    """What stands before a batch's records."""

    __slots__ = (
        "ack_now",
        "commit_now",
        "first_n",
        "generation",
        "group",
        "incarnation",
        "session",
    )

    def __init__(
        self,
        group: bytes,
        session: bytes,
        incarnation: int,
        first_n: int,
        generation: int,
        commit_now: bool = False,
        ack_now: bool = False,
    ) -> None:
        self.group = group
        self.session = session
        self.incarnation = incarnation
        self.first_n = first_n
        self.generation = generation
        self.commit_now = commit_now
        self.ack_now = ack_now


class Entry:
    """One decoded record: the fields of its table entry, and its payload as a view of the frame."""

    __slots__ = ("entry", "kind", "length", "offset", "payload", "sequence", "volume")

    def __init__(
        self,
        entry: bytes,
        fields: tuple[int, ...],
        payload: memoryview,
    ) -> None:
        self.entry = entry
        self.kind, _, self.volume, _, self.sequence, self.offset, self.length = fields
        self.payload = payload

    def __repr__(self) -> str:
        name = RecordKind(self.kind).name
        return f"<{name} {self.sequence} v{self.volume} {self.offset}+{self.length}>"


class Batch:
    """A decoded frame; ``frame`` is the whole of it, and every payload is a view of it."""

    __slots__ = ("entries", "frame", "header")

    def __init__(self, header: BatchHeader, frame: Buffer, entries: Sequence[Entry]) -> None:
        self.header = header
        self.frame = frame
        self.entries = entries

    @property
    def last_n(self) -> int:
        """Link sequence of the last record."""
        return self.header.first_n + len(self.entries) - 1


def _head(header: BatchHeader, records: int, payload_bytes: int) -> bytes:
    """The header's bytes."""
    return HEADER.pack(
        MAGIC,
        VERSION,
        header.commit_now * COMMIT_NOW | header.ack_now * ACK_NOW,
        records,
        payload_bytes,
        header.group,
        header.session,
        header.incarnation,
        header.first_n,
        header.generation,
    )


def encode_batch(header: BatchHeader, entries: bytes, payloads: Sequence[Buffer]) -> bytearray:
    """The frame of 1 to BATCH_RECORDS_MAX records, ready to be sent: their entries one behind the
    other, and the payload of each."""
    assert 0 < len(payloads) <= BATCH_RECORDS_MAX
    head = _head(header, len(payloads), sum(map(len, payloads)))
    frame = bytearray().join((head, entries, *payloads, bytes(_DIGEST.size)))
    with memoryview(frame) as view:
        digest = xxh3_64_intdigest(view[: -_DIGEST.size])
    _DIGEST.pack_into(frame, len(frame) - _DIGEST.size, digest)
    return frame


def encode_around(header: BatchHeader, entries: bytes, area: memoryview) -> memoryview:
    """The same frame where its payloads lie in ``area`` already, from FRAME_HEAD_BYTES to the place
    of the digest: the rest is put around them."""
    end = len(area) - _DIGEST.size
    head = _head(header, len(entries) // ENTRY.size, end - FRAME_HEAD_BYTES) + entries
    frame = area[FRAME_HEAD_BYTES - len(head) :]
    frame[: len(head)] = head
    _DIGEST.pack_into(area, end, xxh3_64_intdigest(frame[: -_DIGEST.size]))
    return frame


def payloads_of(frame: Buffer, count: int) -> memoryview:
    """Where the payloads of our own frame of ``count`` records are, one behind the other."""
    return memoryview(frame)[HEADER.size + count * ENTRY.size : -_DIGEST.size]


def peek_session(frame: memoryview) -> tuple[bytes, bytes]:
    """Group id and session nonce of a frame, before anything else in it is believed."""
    if not FRAME_BYTES_LEAST <= len(frame) <= FRAME_BYTES_MAX:
        raise RemoteProtocolError(f"frame of {len(frame)} bytes")
    magic, version, _, _, _, group, session, *_ = HEADER.unpack_from(frame)
    if magic != MAGIC:
        raise RemoteProtocolError("not a Pratima frame")
    if version != VERSION:
        raise RemoteProtocolError(f"frame version {version}, this side speaks {VERSION}")
    return group, session


def decode_batch(frame: memoryview) -> Batch:
    """The batch in ``frame``, whole and checked; raises RemoteProtocolError for anything else."""
    peek_session(frame)
    _, _, flags, count, payload_bytes, group, session, incarnation, first_n, generation = (
        HEADER.unpack_from(frame)
    )
    if flags & ~(COMMIT_NOW | ACK_NOW) or not 0 < count <= BATCH_RECORDS_MAX or not first_n:
        raise RemoteProtocolError("batch header: reserved flags, record count or sequence")
    table_end = HEADER.size + count * ENTRY.size
    if len(frame) != table_end + payload_bytes + _DIGEST.size:
        raise RemoteProtocolError("batch header: lengths do not add up")
    body = frame[: -_DIGEST.size]
    if _DIGEST.unpack_from(frame, len(body))[0] != xxh3_64_intdigest(body):
        raise RemoteProtocolError("frame digest differs")
    header = BatchHeader(
        bytes(group),
        bytes(session),
        incarnation,
        first_n,
        generation,
        bool(flags & COMMIT_NOW),
        bool(flags & ACK_NOW),
    )
    table = bytes(frame[HEADER.size : table_end])
    return Batch(header, frame, _entries(table, body[table_end:]))


def _entries(table: bytes, payloads: memoryview) -> list[Entry]:
    entries: list[Entry] = []
    at = start = 0
    room = len(payloads)
    for fields in ENTRY.iter_unpack(table):
        kind, flags, _, size, sequence, offset, length = fields
        # A plain write passes by the first test alone: most records are one.
        if kind != WRITE or flags or not sequence or size != length:
            _check_entry(fields)
        if size > room - at or offset + length > 1 << 63:
            raise RemoteProtocolError("record beyond its frame")
        entries.append(Entry(table[start : start + ENTRY.size], fields, payloads[at : at + size]))
        at += size
        start += ENTRY.size
    if at != room:
        raise RemoteProtocolError("payload bytes that no record owns")
    return entries


def _check_entry(fields: tuple[int, ...]) -> None:
    kind, flags, _, size, sequence, _, length = fields
    if kind not in _KINDS or flags:
        raise RemoteProtocolError(f"record kind {kind}, flags {flags}")
    if (sequence != 0) != (kind in COUNTED):
        raise RemoteProtocolError(f"record kind {kind} with sequence {sequence}")
    if (kind in _WITHOUT_PAYLOAD and size) or (kind in _WITH_DATA and size != length):
        raise RemoteProtocolError(f"record kind {kind} with {size} bytes for {length}")
