"""What a daemon tells the world of itself: changes as they come, a status every second.

Nothing here is on the way of a write: what can be counted is sampled at an interval, and events
that come too fast are counted and left out. One rule: publishing never fails and never waits.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Final

import msgspec

from pratima_iscsi import __version__
from pratima_iscsi.control.events import (
    ChangeEvent,
    ControlEvent,
    Event,
    SocketEvent,
    StartEvent,
    StatusEvent,
    StopEvent,
    encode_event,
)
from pratima_iscsi.control.status import NodeStatus
from pratima_iscsi.control.text import printable
from pratima_iscsi.limits import EVENT_SNAPSHOT_SECONDS, EVENT_STATUS_SECONDS, EVENTS_PER_STATUS_MAX
from pratima_iscsi.replication.states import Role

_RUN_BYTES: Final = 8

Publish = Callable[[bytes], None]


class EventStream:
    """The events of one run of a daemon; silent until it is given where to publish."""

    def __init__(self, node: bytes) -> None:
        self._node = node.hex()
        self._run = secrets.token_hex(_RUN_BYTES)
        self._number = 0
        self._left_out = 0
        self._room = EVENTS_PER_STATUS_MAX
        self._publish: Publish | None = None
        self._status: Callable[[], NodeStatus] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # --- life ----------------------------------------------------------------------------------

    def start(self, publish: Publish, role: Role, status: Callable[[], NodeStatus]) -> None:
        """Publish from now on; ``status`` is asked every EVENT_STATUS_SECONDS."""
        self._publish, self._status = publish, status
        now = status()
        self._send(StartEvent(role=role, version=__version__, pid=now.pid))
        self._sample()

    def stop(self) -> None:
        """Say goodbye, and publish nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._send(StopEvent())
        self._publish = None

    def snapshot(self) -> None:
        """Somebody new listens: the next status comes soon; a crowd gets one together."""
        loop = asyncio.get_running_loop()
        if self._timer is not None and self._timer.when() - loop.time() > EVENT_SNAPSHOT_SECONDS:
            self._timer.cancel()
            self._timer = loop.call_later(EVENT_SNAPSHOT_SECONDS, self._sample)

    # --- what happens --------------------------------------------------------------------------

    def change(self, where: str, event: str, reason: str, *, alarm: bool) -> None:
        """Something changed at ``where``: "group NAME", and "replica ADDRESS" after it."""
        group, replica = _parts(where)
        self._occasional(
            ChangeEvent(
                group=group,
                replica=replica,
                event=printable(event),
                reason=printable(reason),
                alarm=alarm,
            )
        )

    def control(self, where: str, verb: str) -> None:
        """An operator gave a command about ``where``."""
        group, replica = _parts(where)
        self._occasional(ControlEvent(group=group, replica=replica, verb=printable(verb)))

    def sockets(self, where: str) -> Callable[[str, str, str], None]:
        """What the sockets of ``where`` tell their events to (an EventHook)."""
        group, replica = _parts(where)

        def told(event: str, address: str, detail: str) -> None:
            self._occasional(
                SocketEvent(
                    group=group,
                    replica=replica,
                    event=event,
                    address=printable(address),
                    detail=printable(detail),
                )
            )

        return told

    # --- out -----------------------------------------------------------------------------------

    def _occasional(self, event: Event) -> None:
        if self._room:
            self._room -= 1
            self._send(event)
        else:
            self._number += 1
            self._left_out += 1

    def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(EVENT_STATUS_SECONDS, self._sample)
        self._room = EVENTS_PER_STATUS_MAX
        if self._publish is None or self._status is None:
            return
        node = self._status()
        for group in node.groups or (None,):
            self._send(
                StatusEvent(
                    version=node.version,
                    pid=node.pid,
                    uptime_seconds=node.uptime_seconds,
                    group=group,
                    node_alarms=node.node_alarms,
                    left_out=self._left_out,
                )
            )

    def _send(self, event: Event) -> None:
        if self._publish is None:
            return
        self._number += 1
        stamped = msgspec.structs.replace(
            event, node=self._node, run=self._run, number=self._number, at=time.time()
        )
        data = encode_event(stamped)
        if data is None:
            self._left_out += 1
        else:
            self._publish(data)


def _parts(where: str) -> tuple[str, str]:
    """Group and replica of "group NAME replica ADDRESS"; a name has no space in it."""
    group, _, replica = where.partition(" replica ")
    return group.removeprefix("group ") if group.startswith("group ") else "", replica
