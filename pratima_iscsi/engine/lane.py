"""One thread for calls that may wait, and a way around it for short ones.

A job through the thread costs the loop two switches and a wake-up, often more than the job. So a
short one may run on the loop: while nothing of its lane is under way, and while the disk takes such
calls at once. One rule: jobs of a lane never overlap, and end in the order in which they began.
"""

import asyncio
import resource
import time
from collections.abc import Callable

from pratima_iscsi import limits
from pratima_iscsi.engine.worker import Worker

Event = Callable[[], None]
Job = Callable[[], Event]
"""May wait; what it returns is for the loop, and does not."""


class InlinePace:
    """Whether calls that may wait are made on the loop, by how long the last ones took.

    A slow call that waited ends that for a while; one that was only preempted says nothing. Which
    of the two it was is known once the count of waits was read before the call, which costs too
    much to be done always: the first slow call only arouses suspicion.
    """

    def __init__(self) -> None:
        self._slow_until = 0.0
        self._suspect_until = 0.0
        self._began = 0.0
        self._waits: int | None = None

    def allows(self, now: float) -> bool:
        """Whether the next call may be made on the loop."""
        return now >= self._slow_until

    def begin(self, now: float) -> None:
        """A call on the loop begins."""
        self._began = now
        self._waits = _waits() if now < self._suspect_until else None

    def end(self) -> None:
        """It has returned."""
        if time.monotonic() - self._began <= limits.INLINE_SLOW_SECONDS:
            return
        if self._waits is None:
            self._suspect_until = self._began + limits.WRITER_DWELL_SECONDS
        elif _waits() > self._waits:
            self._slow_until = self._began + limits.WRITER_DWELL_SECONDS


class Lane:
    """The thread and its jobs. Every method is called on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._worker = Worker(name)
        self._under_way = 0
        """Jobs whose events the loop has not run yet."""
        self._pace = InlinePace()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._under_way

    def submit(self, job: Job, then: Callable[[Event], None]) -> None:
        """Run ``job`` in the thread, after all that is under way, and ``then`` with its event on
        the loop."""
        self._under_way += 1

        def ended(event: Event) -> None:
            self._under_way -= 1
            then(event)

        def run() -> None:
            try:
                event = job()
            except Exception as error:  # noqa: BLE001 - a bug, which belongs into the log
                event = _raising(error)
            self._loop.call_soon_threadsafe(ended, event)

        self._worker.submit(run)

    def try_here(self, job: Job) -> bool:
        """Run a short ``job`` and its event now, if that may be; False: nothing was done."""
        now = time.monotonic()
        if self._under_way or not self._pace.allows(now):
            return False
        self._pace.begin(now)
        event = job()
        self._pace.end()
        event()
        return True

    def wait(self) -> None:
        """Off the loop: until the thread has done what was submitted."""
        self._worker.wait()

    def finish(self) -> None:
        """Off the loop: wait for the jobs under way and end the thread."""
        self._worker.finish()


def _raising(error: Exception) -> Event:
    def event() -> None:
        raise error

    return event


def _waits() -> int:
    """How often this thread has given up its processor to wait for something."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
