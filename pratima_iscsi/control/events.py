"""What a daemon publishes, as typed values and as MessagePack (docs/formats.md has the tables).

A status stands for a snapshot: who begins to listen knows within EVENT_STATUS_SECONDS how each
group stands, and needs nothing of what was before. Numbers count every event of a run, those that
were left out or did not reach a slow subscriber, too. One rule: a reader takes what it knows and
passes over fields that it does not; ``schema`` changes when a field changes its meaning.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from pratima_iscsi.control.status import Alarm, GroupStatus
from pratima_iscsi.control.text import printable_json
from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.limits import EVENT_BYTES_MAX, NAME_BYTES_MAX, REASON_CHARACTERS_MAX
from pratima_iscsi.replication.states import Role

SCHEMA: Final = 1

_Name = Annotated[str, Meta(max_length=NAME_BYTES_MAX)]
_Text = Annotated[str, Meta(max_length=REASON_CHARACTERS_MAX)]
_Number = Annotated[int, Meta(ge=0)]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every event has."""

    schema: int = SCHEMA
    node: _Name = ""
    """The node's id, hexadecimal."""
    run: _Name = ""
    """A random number of this run of the daemon, hexadecimal."""
    number: _Number = 0
    """Counts this run's events, from 1."""
    at: float = 0.0
    """Time of day, seconds since 1970."""


class StartEvent(Event, frozen=True, kw_only=True, tag="start"):
    """The daemon serves from now on."""

    role: Role
    version: _Name
    pid: _Number


class StopEvent(Event, frozen=True, kw_only=True, tag="stop"):
    """The daemon stops, cleanly; it was asked to."""


class StatusEvent(Event, frozen=True, kw_only=True, tag="status"):
    """How one group stands, every EVENT_STATUS_SECONDS; None: the daemon lives and has none."""

    version: _Name
    pid: _Number
    uptime_seconds: float
    group: GroupStatus | None
    node_alarms: tuple[Alarm, ...] = ()
    """Those that belong to no group; the same with each group."""
    left_out: _Number = 0
    """Changes, commands and socket events of this run that were too many to publish."""


class ChangeEvent(Event, frozen=True, kw_only=True, tag="change"):
    """A state changed, for a reason."""

    group: _Name = ""
    replica: _Name = ""
    """The link's, empty: of the group itself."""
    event: _Text
    reason: _Text
    alarm: bool = False


class ControlEvent(Event, frozen=True, kw_only=True, tag="control"):
    """An operator gave a command."""

    group: _Name = ""
    replica: _Name = ""
    verb: _Text


class SocketEvent(Event, frozen=True, kw_only=True, tag="socket"):
    """What ZeroMQ's monitor told of a link's socket. A hint, never proof."""

    group: _Name = ""
    replica: _Name = ""
    event: _Text
    address: _Text
    detail: _Text


AnyEvent = StartEvent | StopEvent | StatusEvent | ChangeEvent | ControlEvent | SocketEvent

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: "msgspec.msgpack.Decoder[AnyEvent]" = msgspec.msgpack.Decoder(AnyEvent)
_json: Final = msgspec.json.Encoder()


def encode_event(event: Event) -> bytes | None:
    """The event's bytes; None if they are too many."""
    data = _encoder.encode(event)
    return data if len(data) <= EVENT_BYTES_MAX else None


def decode_event(data: bytes) -> AnyEvent:
    """A daemon's event; raises RemoteProtocolError for anything else."""
    try:
        event = _decoder.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise RemoteProtocolError(f"event: {error}") from None
    if event.schema != SCHEMA:
        raise RemoteProtocolError(f"event of schema {event.schema}, not {SCHEMA}")
    return event


def event_line(source: str, event: Event) -> str:
    """The event as one line of JSON, with ``source``: who sent it, as the operator named it."""
    fields = {"source": source, **msgspec.to_builtins(event)}
    return printable_json(_json.encode(fields).decode())
