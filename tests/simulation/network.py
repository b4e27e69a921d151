"""The simulated network: one control channel and, per session, one data channel.

Control keeps order within a connection and loses what was under way when it is cut. A data channel
delivers a prefix of what was sent; after a cut both ends may learn of it late, or never by itself.
Old, doubled and damaged frames are delivered now and then: the replica must drop them.
"""

from collections.abc import Callable
from random import Random

from pratima_iscsi.replication.messages import Message
from tests.simulation.world import World

TO_REPLICA = "to replica"
TO_SOURCE = "to source"
DATA = "data"

Filter = Callable[[str, object], bool]
"""Told the direction and the message or frame; True: it is lost."""


class Network:
    """Everything between one source and one replica."""

    def __init__(self, world: World, *, hostile: bool) -> None:
        self.world = world
        self.hostile = hostile
        self.up = True
        self.cuts = 0
        self.latency = world.rng.choice([0.0002, 0.001, 0.02])
        self._busy_until = {TO_REPLICA: 0.0, TO_SOURCE: 0.0, DATA: 0.0}
        self.channel: Channel | None = None
        self.old_frames: list[bytes] = []
        self.old_messages: list[Message] = []
        self.deaf_until = {TO_REPLICA: 0.0, TO_SOURCE: 0.0, DATA: 0.0}
        """A direction loses everything until then, and nobody is told."""
        self.lost_types: dict[type, float] = {}
        """Messages of one type are lost until then."""
        self.drop: Filter = lambda direction, what: False
        self.passed: Callable[[str, object], None] = lambda direction, what: None
        """Told of whatever arrives: scenarios wait for it."""

    def control(self, direction: str, message: Message, deliver: Callable[[Message], None]) -> None:
        """Carry one control message, unless the line is cut before it arrives."""
        world = self.world
        if not self.up or world.now < self.deaf_until[direction]:
            return
        if world.now < self.lost_types.get(type(message), 0.0) or self.drop(direction, message):
            return
        cuts = self.cuts

        def arrive() -> None:
            if self.cuts == cuts:
                deliver(message)
                self.passed(direction, message)

        world.at(self._next(direction), arrive)
        if self.hostile and direction == TO_SOURCE:
            self.old_messages = [*self.old_messages[-50:], message]
            if world.chance(0.03):
                old = world.rng.choice(self.old_messages)
                world.at(world.now + world.delay(0.01), lambda: deliver(old))

    def _next(self, direction: str) -> float:
        """In order: nothing overtakes what was sent before it."""
        when = max(self.world.now + self.world.delay(self.latency), self._busy_until[direction])
        self._busy_until[direction] = when
        return when

    def partition(self) -> None:
        """Nothing passes, and what is under way is lost."""
        self.up = False
        self.reset("partition")

    def heal(self) -> None:
        """Messages pass again."""
        self.up = True
        self.lost_types.clear()
        self.deaf_until = dict.fromkeys(self.deaf_until, 0.0)

    def reset(self, reason: str) -> None:
        """Cut what is under way; the source hears of its data channel's end a little later."""
        self.cuts += 1
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.cut(reason)

    def open(
        self,
        deliver: Callable[[bytes], None],
        lost: Callable[[str], None],
        ready: Callable[[], None],
    ) -> "Channel":
        """A fresh data channel; the one before is closed with whatever it held."""
        if self.channel is not None:
            self.channel.close()
        channel = self.channel = Channel(self, deliver, lost)
        if self.up:
            self.world.at(self._next(DATA), lambda: None if channel.closed else ready())
        else:
            channel.cut("connection refused")
        return channel


class Channel:
    """One session's data channel."""

    def __init__(
        self, network: Network, deliver: Callable[[bytes], None], lost: Callable[[str], None]
    ) -> None:
        self.network = network
        self.deliver = deliver
        self.lost = lost
        self.closed = False
        self.late = False
        """Closed by the source: what still arrives belongs to a dead session."""
        self.broken = False
        """A frame was lost in it: by TCP's nature nothing after it arrives either."""

    def send(self, frame: bytes) -> None:
        """Send one frame."""
        world, network = self.network.world, self.network
        if self.closed:
            return
        if world.now < network.deaf_until[DATA] or network.drop(DATA, frame):
            self.broken = True
        if self.broken:
            return
        if network.hostile:
            self._disturb(frame)
            if world.chance(0.004):
                return  # lost, and what comes after it is not
            if world.chance(0.004):
                frame = _flip(frame, world.rng)
        world.at(network._next(DATA), lambda: self._arrive(frame))

    def _arrive(self, frame: bytes) -> None:
        if not self.closed or self.late:
            self.deliver(frame)
            self.network.passed(DATA, frame)

    def _disturb(self, frame: bytes) -> None:
        """Deliver what no honest network would."""
        world, network = self.network.world, self.network
        network.old_frames.append(frame)
        if len(network.old_frames) > 50:
            network.old_frames.pop(world.rng.randrange(50))
        if world.chance(0.01):
            old = world.rng.choice(network.old_frames)
            world.at(world.now + world.delay(0.01), lambda: self.deliver(old))
        if world.chance(0.01):
            damaged = _flip(frame, world.rng)
            world.at(world.now + world.delay(0.01), lambda: self.deliver(damaged))
        if world.chance(0.005):
            cut = frame[: world.rng.randrange(len(frame))]
            world.at(world.now + world.delay(0.01), lambda: self.deliver(cut))

    def cut(self, reason: str) -> None:
        """The connection breaks under it."""
        if not self.closed:
            self.closed = True
            world = self.network.world
            world.at(world.now + world.delay(0.005), lambda: self.lost(reason))

    def close(self) -> None:
        """The source closes it; what is under way may still arrive."""
        self.late = not self.closed and self.network.world.chance(0.5)
        self.closed = True


def _flip(frame: bytes, rng: Random) -> bytes:
    """The frame with one bit the other way."""
    damaged = bytearray(frame)
    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)
