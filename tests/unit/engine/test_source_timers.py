"""When a source's group wakes by itself: for a frame that has waited, and for whatever else is due.

The clock and the loop are the test's own, so every moment is exact.
"""

import asyncio
import heapq
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks.core import BLOCK, SESSION, acknowledge, bring_in_step
from pratima_iscsi import limits
from pratima_iscsi.backstore import Backstore, GroupOptions
from pratima_iscsi.engine.source_group import SourceGroup
from pratima_iscsi.operations import WRITE, Operation
from pratima_iscsi.replication.group import LinkOptions
from pratima_iscsi.replication.messages import Message, Ping, VolumeOffer
from pratima_iscsi.replication.source_state import SourceState

pytestmark = pytest.mark.plain  # the loop, the volume and the counted ticks are no compiled types

FULL = limits.BATCH_BYTES_MAX // BLOCK


class Counted(Backstore):
    """Counts its ticks."""

    ticks = 0

    def tick(self, now: float) -> None:
        self.ticks += 1
        super().tick(now)


class Loop:
    """Timers in the order of their times, and a clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1.0
        self.early = 0.0
        """How much too soon timers are called, as by a loop that counts in milliseconds."""
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._cancelled: set[int] = set()
        self._made = 0

    def call_later(self, delay: float, callback: Callable[[], None]) -> SimpleNamespace:
        number = self._made = self._made + 1
        heapq.heappush(self._timers, (self.now + delay, number, callback))
        return SimpleNamespace(cancel=lambda: self._cancelled.add(number))

    def advance(self, seconds: float) -> None:
        end, calls = self.now + seconds, 0
        while self._timers and self._timers[0][0] - self.early <= end:
            at, number, callback = heapq.heappop(self._timers)
            if number not in self._cancelled:
                self.now = max(self.now, at - self.early)
                calls += 1
                assert calls < 1000, "timers are due again at once, over and over"
                callback()
        self.now = end


class Edge:
    """A link's sockets: keeps what was sent."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.frames = 0

    def send_control(self, message: Message) -> bool:
        self.messages.append(message)
        return True

    def send_frame(self, frame: bytearray) -> bool:
        self.frames += 1
        return True


class Scene:
    """A group whose one replica is in step and has nothing to confirm."""

    def __init__(self, loop: Loop) -> None:
        options = GroupOptions((VolumeOffer("v0", 1 << 30),), (LinkOptions("replica"),))
        self.loop, self.edge = loop, Edge()
        self.backstore = Counted(options, SourceState(b"g" * 16, "default", b"n" * 16))
        self.backstore.submit([Operation(WRITE, 0, 0, BLOCK, bytes(BLOCK))], loop.now)
        self.backstore.generation_persisted(loop.now)
        loop.now = bring_in_step(self.backstore, loop.now)
        volume = SimpleNamespace(write_inline=lambda operations: True)
        self.group = SourceGroup(
            self.backstore,
            cast(Any, [volume]),
            cast(Any, SimpleNamespace(remember_link=lambda flags: None)),
            "boot",
            cast(asyncio.AbstractEventLoop, loop),
            lambda report: None,
        )
        self.group.links.append(cast(Any, self.edge))
        self.group.sessions[0] = SESSION
        self.group.turn()
        loop.advance(2 * limits.TAIL_SECONDS)
        self.confirm()
        self.edge.messages.clear()
        self.edge.frames = self.backstore.ticks = 0

    def write(self, count: int = 1) -> None:
        self.group.batch += [Operation(WRITE, 0, 0, BLOCK, bytes(BLOCK)) for _ in range(count)]
        self.group.turn()

    def confirm(self) -> None:
        """The replica has all that was sent."""
        acknowledge(self.group.backstore, self.loop.now)
        self.group.turn()


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    loop = Loop()
    monkeypatch.setattr(time, "monotonic", lambda: loop.now)
    yield Scene(loop)


def test_a_frame_that_is_not_full_goes_when_it_has_waited(scene: Scene) -> None:
    scene.write()
    scene.loop.advance(limits.TAIL_SECONDS * 0.9)
    assert scene.edge.frames == 0
    scene.loop.advance(limits.TAIL_SECONDS * 0.2)
    assert scene.edge.frames == 1
    assert scene.backstore.ticks == 0, "nothing else was due"


def test_a_loop_that_calls_early_sends_the_frame_then(scene: Scene) -> None:
    scene.loop.early = 0.0005
    scene.write()
    scene.loop.advance(limits.TAIL_SECONDS - 0.0004)
    assert scene.edge.frames == 1


def test_what_fills_frames_before_their_time_waits_for_the_timer_of_none(scene: Scene) -> None:
    for _ in range(200):
        scene.write(FULL)
        scene.loop.advance(limits.TAIL_SECONDS / 4)
        scene.confirm()
    assert scene.edge.frames == 200
    assert scene.backstore.ticks == 0


def test_what_a_full_frame_leaves_behind_goes_when_it_has_waited_in_its_turn(scene: Scene) -> None:
    scene.write()
    scene.loop.advance(limits.TAIL_SECONDS / 2)
    scene.write(FULL)
    assert scene.edge.frames == 1
    scene.loop.advance(limits.TAIL_SECONDS * 0.9)
    assert scene.edge.frames == 1
    scene.loop.advance(limits.TAIL_SECONDS * 0.2)
    assert scene.edge.frames == 2


def test_writes_that_never_rest_keep_no_heartbeat_from_going(scene: Scene) -> None:
    heartbeats = 3
    steps = int(heartbeats * limits.HEARTBEAT_SECONDS * 1.1 / 0.001)
    for _ in range(steps):
        scene.write()
        scene.loop.advance(0.001)
        scene.confirm()
    pings = [message for message in scene.edge.messages if isinstance(message, Ping)]
    assert len(pings) == heartbeats
    assert scene.edge.frames >= steps * 0.001 / (limits.TAIL_SECONDS + 0.001)
