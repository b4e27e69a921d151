"""Events as values: what goes out comes back, and what is no event is an error of the peer."""

import json

import msgspec
import pytest

from pratima_iscsi import limits
from pratima_iscsi.control.events import (
    SCHEMA,
    AnyEvent,
    ChangeEvent,
    ControlEvent,
    SocketEvent,
    StartEvent,
    StatusEvent,
    StopEvent,
    decode_event,
    encode_event,
    event_line,
)
from pratima_iscsi.control.status import Alarm, GroupStatus, PositionStatus, VolumeStatus
from pratima_iscsi.control.text import printable
from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.replication.states import Role

GROUP = GroupStatus(role=Role.REPLICA, group="db", position=PositionStatus("0" * 16, 7))
EVENTS: list[AnyEvent] = [
    StartEvent(node="ab", run="cd", number=1, at=2.5, role=Role.PRIMARY, version="1", pid=3),
    StopEvent(number=2),
    StatusEvent(version="1", pid=3, uptime_seconds=1.5, group=GROUP, left_out=4),
    ChangeEvent(group="db", replica="r:1", event="open", reason="in step", alarm=True),
    ControlEvent(group="db", verb="kill --drop-queue"),
    SocketEvent(group="db", event="CONNECTED", address="tcp://r:1", detail="7"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_as_it_went(event: AnyEvent) -> None:
    data = encode_event(event)
    assert data is not None
    assert decode_event(data) == event


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xff",
        msgspec.msgpack.encode({"type": "change", "event": "x"}),
        msgspec.msgpack.encode({"type": "nonsense"}),
        msgspec.msgpack.encode({"type": "stop", "number": -1}),
        msgspec.msgpack.encode({"type": "stop", "schema": SCHEMA + 1}),
        msgspec.msgpack.encode({"type": "control", "verb": "x" * 513}),
        msgspec.msgpack.encode([1, 2]),
    ],
)
def test_what_is_no_event_is_the_peers_fault(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_event(data)


def test_a_field_of_a_later_version_is_passed_over() -> None:
    data = msgspec.msgpack.encode({"type": "stop", "number": 7, "mood": "fine"})
    assert decode_event(data) == StopEvent(number=7)


def test_an_event_that_is_too_long_has_no_bytes() -> None:
    alarms = tuple(Alarm("e", "x" * 600_000) for _ in range(2))
    group = msgspec.structs.replace(GROUP, alarms=alarms)
    assert encode_event(StatusEvent(version="", pid=1, uptime_seconds=0, group=group)) is None


def test_the_longest_status_that_can_be_is_short_enough() -> None:
    group = msgspec.structs.replace(
        GROUP,
        volumes=tuple(
            VolumeStatus("v" * 63, "/" + "p" * 4094, 1 << 44) for _ in range(limits.VOLUMES_MAX)
        ),
        alarms=tuple(
            Alarm("e" * 64, "ä" * limits.REASON_CHARACTERS_MAX) for _ in range(limits.ALARMS_KEPT)
        ),
    )
    assert encode_event(StatusEvent(version="1", pid=1, uptime_seconds=0, group=group))


def test_a_line_of_json_has_no_control_character_and_means_the_same() -> None:
    reason = "a\x1b[2J\x9b31m\n\u202e\U000e0001b"
    line = event_line("p", ChangeEvent(event="open", reason=reason))
    assert line.isprintable()
    found = json.loads(line)
    assert (found["source"], found["type"], found["reason"]) == ("p", "change", reason)


def test_printable_text_is_cut_and_has_no_control_characters() -> None:
    assert printable("a\x1b[2Jb\x9b") == "a\\x1b[2Jb\\x9b"
    assert len(printable("x" * 9999)) == limits.REASON_CHARACTERS_MAX
