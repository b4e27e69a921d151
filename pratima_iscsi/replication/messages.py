"""Control messages between a source and a replica, and their wire form (MessagePack).

They go over DEALER and ROUTER. One rule: whatever must be ordered with writes is a record on the
data channel and never a message here.
"""

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.limits import (
    ANCESTRY_MAX,
    CONTROL_BYTES_MAX,
    NAME_BYTES_MAX,
    REASON_CHARACTERS_MAX,
    TO_REPLICA_BYTES_MAX,
    VOLUMES_MAX,
)
from pratima_iscsi.positions import SEQUENCE_MAX, UNKNOWN

Name = Annotated[str, Meta(min_length=1, max_length=NAME_BYTES_MAX)]
Text = Annotated[str, Meta(max_length=REASON_CHARACTERS_MAX)]
Id = Annotated[bytes, Meta(min_length=16, max_length=16)]
Number = Annotated[int, Meta(ge=0)]
Sequence = Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)]
Last = Annotated[int, Meta(ge=UNKNOWN, le=SEQUENCE_MAX)]
Ancestry = Annotated[tuple[tuple[Number, Last], ...], Meta(max_length=ANCESTRY_MAX)]


class Message(msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True):
    """What every message has: its type, as a tag."""


class VolumeOffer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One volume of a group as the source has it."""

    name: Name
    size: Number


class Hello(Message, frozen=True, tag="hello"):
    """Source to replica: who asks, for which group, of which shape, with which history."""

    version: int
    group: Id
    group_name: Name
    node: Id
    incarnation: Number
    volumes: Annotated[tuple[VolumeOffer, ...], Meta(max_length=VOLUMES_MAX)]
    generation: Number
    sequence: Sequence
    ancestry: Ancestry
    attempt: Number
    """Counts this source's handshakes; the answer carries it back, so that an old one is known."""
    overwrite: bool = False
    """The operator allows a first sync over a replica volume that is not blank."""


class Welcome(Message, frozen=True, tag="welcome"):
    """Replica to source: a session, and where the replica stands."""

    version: int
    node: Id
    attempt: Number
    session: Id
    credit: Number
    """Window in bytes: frames sent and not yet RECEIVED."""
    bound: bool
    """False: the replica has never had a first sync of this group begun."""
    consistent: bool
    generation: Number
    sequence: Sequence
    history: Id
    """History digest at the position."""
    ancestry: Ancestry
    incarnation: Number
    """Source incarnation whose link sequences follow; 0: none."""
    durable: Number
    """Last durable link sequence; a replica syncs what it has received before it answers."""
    transaction: Number
    """Open resync transaction, 0: none."""
    direct: bool
    """Whether that transaction is applied directly."""
    ended: Number
    """The last transaction whose END is durable, 0: none."""
    staging_bytes: Number
    """Room for a staged transaction."""


class Refused(Message, frozen=True, tag="refused"):
    """Replica to source: no session, for a named reason."""

    version: int
    attempt: Number
    rule: Name
    reason: Text


class Ack(Message, frozen=True, tag="ack"):
    """Replica to source, also as heartbeat: link sequences received and durable, and the durable
    position with the history digest there (of the old consistent point during a transaction)."""

    session: Id
    received: Number
    durable: Number
    generation: Number
    sequence: Sequence
    history: Id
    held: Text = ""
    """Why the replica grants no credit for now; empty: it does."""


class VerifyAnswer(Message, frozen=True, tag="verify-answer"):
    """Replica to source: the blocks of one verify record that differ (relative to its first)."""

    session: Id
    transaction: Number
    verify: Number
    differing: tuple[Number, ...]


class Closed(Message, frozen=True, tag="closed"):
    """Either way: that session is over, for a named reason."""

    session: Id
    reason: Text


class Ping(Message, frozen=True, tag="ping"):
    """Source to replica, as heartbeat: the source's position."""

    session: Id
    generation: Number
    sequence: Sequence


class Grow(Message, frozen=True, tag="grow"):
    """Source to replica: make room for a volume of ``size`` bytes; a RESIZE record may follow."""

    session: Id
    volume: Number
    size: Number


class Grown(Message, frozen=True, tag="grown"):
    """Replica to source: the answer to Grow."""

    session: Id
    volume: Number
    size: Number
    zeros: bool
    """Whether what was added is known to read as zeros there."""
    refusal: Text = ""
    """Why there is no room; empty: there is."""


T = TypeVar("T")

ToReplica = Hello | Ping | Closed | Grow
ToSource = Welcome | Refused | Ack | VerifyAnswer | Closed | Grown

_encoder = msgspec.msgpack.Encoder()
_to_replica = msgspec.msgpack.Decoder(ToReplica)
_to_source = msgspec.msgpack.Decoder(ToSource)


def encode(message: Message) -> bytes:
    """The message's bytes."""
    return _encoder.encode(message)


def decode_to_replica(data: bytes) -> ToReplica:
    """A source's message; raises RemoteProtocolError for anything else."""
    message: ToReplica = _decode(_to_replica, data, TO_REPLICA_BYTES_MAX)
    return message


def decode_to_source(data: bytes) -> ToSource:
    """A replica's message; raises RemoteProtocolError for anything else."""
    message: ToSource = _decode(_to_source, data, CONTROL_BYTES_MAX)
    return message


def _decode(decoder: "msgspec.msgpack.Decoder[T]", data: bytes, bytes_max: int) -> T:
    if len(data) > bytes_max:
        raise RemoteProtocolError(f"control message of {len(data)} bytes")
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise RemoteProtocolError(f"control message: {error}") from None
