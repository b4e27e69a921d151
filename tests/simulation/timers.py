"""Timers that rest: after a tick nothing may be due that the tick has not done."""

from typing import Final

OVERDUE_MAX: Final = 4
"""Ticks in succession after which something was due still; a sum of floats may be off by a bit."""


class Restless:
    """Counts a node's ticks after which its next one was due at once: a daemon would spin."""

    def __init__(self) -> None:
        self.ticked = False
        self._overdue = 0

    def check(self, due: float, now: float) -> None:
        """After every event: ``due`` is when the next tick is."""
        if not self.ticked:
            return
        self.ticked = False
        self._overdue = self._overdue + 1 if due <= now else 0
        assert self._overdue < OVERDUE_MAX, "a tick leaves its timer due: a daemon would spin"
