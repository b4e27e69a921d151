"""The simulated world: one virtual clock, one heap of events, one seeded source of chance.

One rule: nothing in a run depends on anything but its seed; the same seed replays bit for bit.
"""

import heapq
from collections.abc import Callable
from random import Random

Event = Callable[[], None]


class Node:
    """Something that can stop: its events wait while it is paused, and vanish when it dies."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.life = 0
        """Counts incarnations: an event of an earlier life never happens."""
        self.alive = False
        self.paused_until = 0.0
        self.stirred = True
        """Whether anything happened here since somebody looked."""
        self.backlog: list[Event] = []
        """Events that came while the node was paused, in their order."""

    def later(self, delay: float, event: Event) -> None:
        """Run ``event`` after ``delay`` seconds, if this node still lives the same life."""
        life = self.life

        def run() -> None:
            if self.life != life or not self.alive:
                return
            if self.backlog or self.world.now < self.paused_until:
                if not self.backlog:
                    self.world.at(self.paused_until, self._resume)
                self.backlog.append(run)
                return
            self.stirred = True
            event()
            self.after_event()

        self.world.at(self.world.now + delay, run)

    def pause(self, seconds: float) -> None:
        """Do nothing for so long."""
        self.paused_until = max(self.paused_until, self.world.now + seconds)

    def resume(self) -> None:
        """Go on at once."""
        self.paused_until = 0.0
        if self.backlog:
            self._resume()

    def _resume(self) -> None:
        if self.world.now < self.paused_until:
            self.world.at(self.paused_until, self._resume)
            return
        held, self.backlog = self.backlog, []
        for run in held:
            run()
            self.world.check()

    def after_event(self) -> None:
        """Called after every event of this node."""

    def die(self) -> None:
        """Whatever was under way is gone."""
        self.life += 1
        self.alive = False
        self.backlog.clear()


class World:
    """Clock, events, chance, trace."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.now = 1000.0
        self.events = 0
        self.tracing = trace
        self.lines: list[str] = []
        self._heap: list[tuple[float, int, Event]] = []
        self._count = 0
        self.checks: list[Callable[[], None]] = []
        """Run after every event."""

    def at(self, when: float, event: Event) -> None:
        """Run ``event`` at ``when``; events of one instant run in the order of their making."""
        self._count += 1
        heapq.heappush(self._heap, (max(when, self.now), self._count, event))

    def run(self, until: float, *, stop: Callable[[], bool] | None = None) -> bool:
        """Run events up to ``until``; True as soon as ``stop`` says so after one."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, event = heapq.heappop(self._heap)
            self.events += 1
            event()
            self.check()
            if stop is not None and stop():
                return True
        self.now = until
        return False

    def check(self) -> None:
        """Hold everything that must always hold."""
        for check in self.checks:
            check()

    def trace(self, who: str, what: object) -> None:
        """One line of the run's story."""
        if self.tracing:
            self.lines.append(f"{self.now - 1000.0:10.4f} {who:9} {what}")

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.rng.random() < probability

    def delay(self, typical: float) -> float:
        """A delay around ``typical``, now and then much longer."""
        stretch = 20.0 if self.rng.random() < 0.03 else 1.0
        return typical * stretch * (0.2 + 1.6 * self.rng.random())
