"""One thread that runs jobs in their order.

A pool of one would make for each job a future, with a condition and two locks, that nobody here
waits for, and which cost more than the hand-over itself. One rule: a job tells by itself how it
ended; one that raises is a bug, which is logged and ends no thread.
"""

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

LOG: Final = logging.getLogger(__name__)


class Worker:
    """The thread, named ``name``; it starts with the first job."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started = self._ended = False

    def submit(self, job: Callable[[], None]) -> None:
        """Run ``job`` after all that was submitted before."""
        assert not self._ended, "a job after the last"
        if not self._started:
            self._started = True
            self._thread.start()
        self._jobs.put(job)

    def wait(self) -> None:
        """Return when what was submitted is done; not from a job."""
        done = threading.Event()
        self.submit(done.set)
        done.wait()

    def finish(self) -> None:
        """The same, and end the thread: nothing is submitted after it."""
        self._ended = True
        if self._started:
            self._jobs.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                LOG.exception("thread %s", self._thread.name)
