"""Records: admitted writes and the link's own marks, in the form that log, wire and journal share.

A record is its 32-byte table entry and its payload; whatever else is asked of it is read out of the
entry, so that a record in the ordered log costs no more than its payload and RECORD_OVERHEAD_BYTES.
One rule: the entry holds nothing that differs from link to link, so the history digest over it is
the same at every link and hop.
"""

import struct
from dataclasses import dataclass
from typing import Final

from xxhash import xxh3_64_digest, xxh3_128_digest

from pratima_iscsi.blocks import block_span
from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.limits import ANCESTRY_MAX, RECORD_OVERHEAD_BYTES, VOLUMES_MAX
from pratima_iscsi.operations import Buffer, RecordKind
from pratima_iscsi.positions import SEQUENCE_MAX, Ancestor, History, Position

ENTRY: Final = struct.Struct(">BBHIQQQ")
"""kind, flags (0), volume, payload bytes, sequence (0: not counted), offset, length in bytes"""
PACK_ENTRY: Final = ENTRY.pack
"""Bound once: a write's path packs an entry for each."""

HISTORY_BYTES: Final = 16
NO_HISTORY: Final = bytes(HISTORY_BYTES)
VERIFY_DIGEST_BYTES: Final = 16
VERIFY_KEY_BYTES: Final = 16

_GENERATION = struct.Struct(">QQq")
"""generation, parent generation, last sequence of the parent (-1: unknown)"""
_BEGIN = struct.Struct(">QB3xI")
"""transaction id, direct (1) or staged (0), number of sizes"""
_SIZE = struct.Struct(">Q")
"""size of a volume in bytes"""
_END = struct.Struct(">QQQ16sI")
"""transaction id, generation, sequence, history digest, number of ancestors"""
_ANCESTOR = struct.Struct(">Qq")
"""generation, last sequence (-1: unknown)"""
_VERIFY = struct.Struct(">Q16s")
"""verify id, key of the digests"""


class Record:
    """One record; immutable but for ``links``, the number of link queues that still hold it."""

    __slots__ = ("entry", "history", "links", "payload")

    def __init__(self, entry: bytes, payload: bytes, history: bytes = NO_HISTORY) -> None:
        self.entry = entry
        self.payload = payload
        self.history = history
        self.links = 0

    @property
    def kind(self) -> int:
        """The record's kind, a RecordKind's number."""
        return self.entry[0]

    @property
    def volume(self) -> int:
        """Index of the volume in its group."""
        return int.from_bytes(self.entry[2:4], "big")

    @property
    def sequence(self) -> int:
        """Position's sequence, 0 for a record that the position does not count."""
        return int.from_bytes(self.entry[8:16], "big")

    @property
    def offset(self) -> int:
        """Byte offset in the volume."""
        return int.from_bytes(self.entry[16:24], "big")

    @property
    def length(self) -> int:
        """Bytes of the range."""
        return int.from_bytes(self.entry[24:32], "big")

    @property
    def blocks(self) -> tuple[int, int]:
        """First block and end block (exclusive) that the record touches."""
        return block_span(self.offset, self.length)

    @property
    def cost(self) -> int:
        """Bytes that the record counts for in the ordered log."""
        return len(self.payload) + RECORD_OVERHEAD_BYTES

    def __repr__(self) -> str:
        name = RecordKind(self.kind).name
        return f"<{name} {self.sequence} v{self.volume} {self.offset}+{self.length}>"


def make_record(
    kind: RecordKind,
    volume: int = 0,
    offset: int = 0,
    length: int = 0,
    payload: bytes = b"",
    sequence: int = 0,
) -> Record:
    """A record that is not a host's write, or a write in a test."""
    return Record(ENTRY.pack(kind, 0, volume, len(payload), sequence, offset, length), payload)


def next_history(history: bytes, entry: bytes, payload: Buffer) -> bytes:
    """H(s) = xxh3-128(H(s-1), entry, xxh3-64 of the payload)."""
    return xxh3_128_digest(history + entry + xxh3_64_digest(payload))


def seed_history(generation: int, parent: bytes) -> bytes:
    """H(0) of a generation, from its id and its parent's last H."""
    return xxh3_128_digest(generation.to_bytes(8, "big") + parent)


@dataclass(frozen=True, slots=True)
class GenerationBegin:
    """Payload of a GENERATION record: it descends from ``parent`` at ``last``."""

    generation: int
    parent: int
    last: int

    def encode(self) -> bytes:
        """The payload's bytes."""
        return _GENERATION.pack(self.generation, self.parent, self.last)

    @classmethod
    def decode(cls, payload: bytes | memoryview) -> "GenerationBegin":
        """Raises RemoteProtocolError for a payload of another length."""
        return cls(*_exactly(_GENERATION, payload, "generation"))


@dataclass(frozen=True, slots=True)
class Begin:
    """Payload of a BEGIN record."""

    transaction: int
    direct: bool
    sizes: tuple[int, ...] = ()
    """Bytes of each volume: a RESIZE of theirs may have been dropped with the log. Empty: as they
    were."""

    def encode(self) -> bytes:
        """The payload's bytes."""
        head = _BEGIN.pack(self.transaction, self.direct, len(self.sizes))
        return head + b"".join(map(_SIZE.pack, self.sizes))

    def makes_direct(self, transaction: int) -> bool:
        """Whether ``transaction``, if it is open and staged, goes on with what it has, directly;
        any other BEGIN forgets it."""
        return self.direct and self.transaction == transaction

    @classmethod
    def decode(cls, payload: bytes | memoryview) -> "Begin":
        """Raises RemoteProtocolError for a malformed payload."""
        if len(payload) < _BEGIN.size:
            raise RemoteProtocolError("BEGIN: truncated")
        transaction, direct, count = _BEGIN.unpack_from(payload)
        if direct > 1 or not transaction:
            raise RemoteProtocolError("BEGIN: bad transaction or mode")
        if count > VOLUMES_MAX or len(payload) != _BEGIN.size + count * _SIZE.size:
            raise RemoteProtocolError("BEGIN: wrong length")
        sizes = tuple(size for (size,) in _SIZE.iter_unpack(payload[_BEGIN.size :]))
        return cls(transaction, bool(direct), sizes)


@dataclass(frozen=True, slots=True)
class End:
    """Payload of an END record: the replica adopts ``history`` and ``digest``."""

    transaction: int
    history: History
    digest: bytes

    def encode(self) -> bytes:
        """The payload's bytes."""
        position = self.history.position
        ancestry = self.history.ancestry
        head = _END.pack(
            self.transaction, position.generation, position.sequence, self.digest, len(ancestry)
        )
        return head + b"".join(_ANCESTOR.pack(a.generation, a.last) for a in ancestry)

    @classmethod
    def decode(cls, payload: bytes | memoryview) -> "End":
        """Raises RemoteProtocolError for a malformed payload."""
        if len(payload) < _END.size:
            raise RemoteProtocolError("END: truncated")
        transaction, generation, sequence, digest, count = _END.unpack_from(payload)
        if count > ANCESTRY_MAX or len(payload) != _END.size + count * _ANCESTOR.size:
            raise RemoteProtocolError("END: wrong length")
        if sequence > SEQUENCE_MAX:
            raise RemoteProtocolError(f"END at {sequence}")
        ancestry = tuple(Ancestor(*pair) for pair in _ANCESTOR.iter_unpack(payload[_END.size :]))
        return cls(transaction, History(Position(generation, sequence), ancestry), digest)


@dataclass(frozen=True, slots=True)
class Verify:
    """Payload of a VERIFY record: one blake2b-128 digest, keyed, for each block of its range."""

    verify: int
    key: bytes
    digests: bytes

    def encode(self) -> bytes:
        """The payload's bytes."""
        return _VERIFY.pack(self.verify, self.key) + self.digests

    @classmethod
    def decode(cls, payload: bytes | memoryview, blocks: int) -> "Verify":
        """Raises RemoteProtocolError unless there is one digest for each of ``blocks``."""
        if len(payload) != _VERIFY.size + blocks * VERIFY_DIGEST_BYTES:
            raise RemoteProtocolError("VERIFY: wrong length")
        verify, key = _VERIFY.unpack_from(payload)
        return cls(verify, key, bytes(payload[_VERIFY.size :]))


def _exactly(layout: struct.Struct, payload: bytes | memoryview, name: str) -> tuple[int, ...]:
    if len(payload) != layout.size:
        raise RemoteProtocolError(f"{name.upper()}: wrong length {len(payload)}")
    return layout.unpack(payload)
