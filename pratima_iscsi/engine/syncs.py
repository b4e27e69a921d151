"""The syncs of one volume: what runs, and whether one of them failed.

The kernel tells of a failed writeback once, to whichever call asks first: a FUA write may take what
an fdatasync beside it should have heard, and the other way round. One rule: a sync that succeeded
counts once every sync that ran beside it has ended, and if none ever failed.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

from pratima_iscsi.errors import SyncError

Result = TypeVar("Result")


class Syncs:
    """Every method may be called by any thread, and none of them waits for another's sync."""

    def __init__(self) -> None:
        self.failure: SyncError | None = None
        """The first sync that failed: after it no success proves anything."""
        self._lock = threading.Lock()
        self._begun = 0
        self._running: set[int] = set()
        """Numbers of the calls under way."""
        self._held: list[tuple[set[int], Callable[[], None]]] = []
        """What is called once those have ended."""

    def run(self, call: Callable[[], Result]) -> Result:
        """Run what syncs; raises what it raises, a SyncError where the sync is what failed."""
        with self._lock:
            self._begun += 1
            number = self._begun
            self._running.add(number)
        failure: SyncError | None = None
        try:
            return call()
        except SyncError as error:
            failure = error
            raise
        finally:
            self._ended(number, failure)

    def settle(self, then: Callable[[], None]) -> None:
        """Call ``then``, which must not wait, once all that runs now has ended: then ``failure``
        speaks for everything that ran beside what had ended before."""
        with self._lock:
            if self._running:
                self._held.append((self._running.copy(), then))
            else:
                then()

    def _ended(self, number: int, failure: SyncError | None) -> None:
        # Under the lock, so that what was held is called before what need not be.
        with self._lock:
            self.failure = self.failure or failure
            self._running.discard(number)
            for held in self._held.copy():
                held[0].discard(number)
                if not held[0]:
                    self._held.remove(held)
                    held[1]()
