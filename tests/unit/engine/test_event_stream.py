"""What a daemon publishes and when: numbered, bounded, and nothing before it may."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from pratima_iscsi import limits
from pratima_iscsi.control.events import (
    AnyEvent,
    ChangeEvent,
    ControlEvent,
    SocketEvent,
    StartEvent,
    StatusEvent,
    StopEvent,
    decode_event,
)
from pratima_iscsi.control.status import GroupStatus, NodeStatus, PositionStatus
from pratima_iscsi.engine.event_stream import EventStream
from pratima_iscsi.engine.process import Events
from pratima_iscsi.replication.states import Role

GROUP = GroupStatus(role=Role.PRIMARY, group="db", position=PositionStatus("0" * 16, 7))
NODE = NodeStatus(version="1", pid=7, uptime_seconds=3.0, groups=(GROUP,))
LINK = "group db replica r:1"


def published(
    step: Callable[[EventStream], Awaitable[None]], *, start: bool = True
) -> list[AnyEvent]:
    """What is published while ``step`` runs, the start and the first status left out."""
    out: list[bytes] = []

    async def run() -> None:
        stream = EventStream(b"n" * 16)
        if start:
            stream.start(out.append, Role.PRIMARY, lambda: NODE)
            first, second = map(decode_event, out)
            assert isinstance(first, StartEvent) and isinstance(second, StatusEvent)
            out.clear()
        await step(stream)

    asyncio.run(run())
    return [decode_event(data) for data in out]


def test_each_kind_says_where_it_happened_and_numbers_have_no_gap() -> None:
    async def step(stream: EventStream) -> None:
        stream.change("group db", "generation", "1:0", alarm=False)
        stream.control(LINK, "reconnect")
        stream.sockets(LINK)("CONNECTED", "tcp://r:1", "9")
        stream.sockets("")("ACCEPTED", "tcp://r:1", "9")
        stream.stop()

    change, control, socket, other, stop = published(step)
    assert isinstance(change, ChangeEvent) and (change.group, change.replica) == ("db", "")
    assert isinstance(control, ControlEvent) and control.verb == "reconnect"
    assert (control.group, control.replica) == ("db", "r:1")
    assert isinstance(socket, SocketEvent) and socket.detail == "9"
    assert isinstance(other, SocketEvent) and (other.group, other.replica) == ("", "")
    assert isinstance(stop, StopEvent)
    assert [e.number for e in (change, control, socket, other, stop)] == [3, 4, 5, 6, 7]
    assert change.node == (b"n" * 16).hex() and change.run == stop.run != ""


def test_events_that_come_too_fast_are_counted_and_left_out() -> None:
    async def step(stream: EventStream) -> None:
        for number in range(limits.EVENTS_PER_STATUS_MAX + 5):
            stream.change("group db", "event", f"{number}", alarm=False)
        stream.snapshot()
        await asyncio.sleep(2 * limits.EVENT_SNAPSHOT_SECONDS)
        stream.change("group db", "event", "again", alarm=False)

    *many, status, again = published(step)
    assert len(many) == limits.EVENTS_PER_STATUS_MAX
    assert isinstance(status, StatusEvent) and status.left_out == 5
    assert status.number == many[-1].number + 6, "a reader sees the gap"
    assert isinstance(again, ChangeEvent) and again.reason == "again"


def test_a_crowd_of_subscribers_gets_one_snapshot() -> None:
    async def step(stream: EventStream) -> None:
        for _ in range(100):
            stream.snapshot()
        await asyncio.sleep(2 * limits.EVENT_SNAPSHOT_SECONDS)

    assert [type(event) for event in published(step)] == [StatusEvent]


def test_nothing_is_published_before_the_start_and_after_the_stop() -> None:
    async def step(stream: EventStream) -> None:
        stream.change("group db", "event", "", alarm=False)
        stream.snapshot()
        stream.stop()

    assert published(step, start=False) == []

    async def after(stream: EventStream) -> None:
        stream.stop()
        stream.change("group db", "event", "", alarm=False)
        stream.stop()

    assert [type(event) for event in published(after)] == [StopEvent]


def test_a_daemon_without_a_group_says_that_it_lives() -> None:
    out: list[bytes] = []

    async def run() -> None:
        empty = NodeStatus(version="1", pid=7, uptime_seconds=3.0)
        EventStream(b"n" * 16).start(out.append, Role.PRIMARY, lambda: empty)

    asyncio.run(run())
    status = decode_event(out[-1])
    assert isinstance(status, StatusEvent) and status.group is None


def test_what_was_noted_before_the_start_comes_with_every_status() -> None:
    out: list[bytes] = []

    async def run() -> None:
        events = Events()
        events.note("events", "no events port", "in use", alarm=True)

        def status() -> NodeStatus:
            return msgspec.structs.replace(NODE, node_alarms=events.node_alarms())

        events.stream.start(out.append, Role.PRIMARY, status)
        events.stream.snapshot()
        await asyncio.sleep(2 * limits.EVENT_SNAPSHOT_SECONDS)

    asyncio.run(run())
    statuses = [event for event in map(decode_event, out) if isinstance(event, StatusEvent)]
    assert len(statuses) == 2
    for status in statuses:
        (alarm,) = status.node_alarms
        assert (alarm.place, alarm.event, alarm.reason) == ("events", "no events port", "in use")


def test_what_is_only_repeated_is_no_event_but_each_command_is() -> None:
    async def step(stream: EventStream) -> None:
        events = Events(stream)
        for _ in range(3):
            events.note(LINK, "refused", "size", alarm=True)
            events.control(LINK, "reconnect")

    found = published(step)
    assert sum(isinstance(event, ChangeEvent) for event in found) == 1
    assert sum(isinstance(event, ControlEvent) for event in found) == 3
