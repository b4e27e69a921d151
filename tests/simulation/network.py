"""The simulated network: one control channel and, per session, one data channel.

Control keeps order within a connection and loses what was under way when it is cut. A data channel
delivers a prefix of what was sent; after a cut both ends may learn of it late, or never by itself.
Old, doubled and damaged frames are delivered now and then: the replica must drop them.
"""

from collections.abc import Callable

from tests.simulation.world import World


class Network:
    """Everything between one source and one replica."""

    def __init__(self, world: World, *, hostile: bool) -> None:
        self.world = world
        self.hostile = hostile
        self.up = True
        self.cuts = 0
        self.latency = world.rng.choice([0.0002, 0.001, 0.02])
        self._busy_until = {"to replica": 0.0, "to source": 0.0, "data": 0.0}
        self.channel: Channel | None = None
        self.old_frames: list[bytes] = []
        self.hold_acks_until = 0.0

    def control(self, direction: str, deliver: Callable[[], None]) -> None:
        """Carry one control message, unless the line is cut before it arrives."""
        if not self.up:
            return
        cuts = self.cuts
        when = self._next(direction)

        def arrive() -> None:
            if self.cuts == cuts:
                deliver()

        self.world.at(when, arrive)

    def _next(self, direction: str) -> float:
        """In order: nothing overtakes what was sent before it."""
        when = self.world.now + self.world.delay(self.latency)
        when = max(when, self._busy_until[direction])
        self._busy_until[direction] = when
        return when

    def partition(self) -> None:
        """Nothing passes, and what is under way is lost."""
        self.up = False
        self.reset("partition")

    def heal(self) -> None:
        """Messages pass again."""
        self.up = True

    def reset(self, reason: str) -> None:
        """Cut what is under way; the source hears of its data channel's end a little later."""
        self.cuts += 1
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.cut(reason)

    def open(
        self, deliver: Callable[[bytes], None], lost: Callable[[str], None], ready: Callable[[], None]
    ) -> "Channel":
        """A fresh data channel; the one before is closed with whatever it held."""
        if self.channel is not None:
            self.channel.close()
        channel = self.channel = Channel(self, deliver, lost)
        if self.up:
            self.world.at(self._next("data"), lambda: None if channel.closed else ready())
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

    def send(self, frame: bytes) -> None:
        """Send one frame."""
        world, network = self.network.world, self.network
        if self.closed:
            return
        world.at(network._next("data"), lambda: self._arrive(frame))
        if network.hostile:
            self._disturb(frame)

    def _arrive(self, frame: bytes) -> None:
        if not self.closed or self.late:
            self.deliver(frame)

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
            damaged = bytearray(frame)
            damaged[world.rng.randrange(len(damaged))] ^= 1 << world.rng.randrange(8)
            world.at(world.now + world.delay(0.01), lambda: self.deliver(bytes(damaged)))
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
