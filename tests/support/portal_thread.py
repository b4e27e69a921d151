"""A portal on a free port of the loopback, its loop in a thread of its own, for tests.

    with served(directory) as portal:
        Initiator.connect(portal.host, portal.port, target=…)

``call`` runs a function in the loop and gives its result: how a test looks at what the loop owns.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from pratima_iscsi.edges.descriptors import Descriptors
from pratima_iscsi.edges.portal import Portal
from pratima_iscsi.iscsi.directory import Directory

T = TypeVar("T")
SECONDS_MAX = 20.0


class ServedPortal:
    """What a test sees of the portal in the other thread."""

    def __init__(self, directory: Directory, descriptors: Descriptors | None) -> None:
        self.descriptors = descriptors
        self.directory = directory
        self.host = "127.0.0.1"
        self.port = 0
        self.errors: list[str] = []
        """Exceptions that reached the loop: there must be none."""
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._failed)
        self.portal = self.call_now(self._begin)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def call_now(self, function: Callable[[], Portal]) -> Portal:
        """Run something in the loop before its thread begins."""

        async def within() -> Portal:
            return function()

        return self._loop.run_until_complete(within())

    def _begin(self) -> Portal:
        portal = Portal(self.directory, descriptors=self.descriptors)
        self.host, self.port = portal.listen(self.host, 0)
        return portal

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        self.errors.append(str(context.get("exception") or context.get("message")))

    def call(self, function: Callable[[], T]) -> T:
        """Run ``function`` in the loop."""
        outcome: Future[T] = Future()

        def within() -> None:
            try:
                outcome.set_result(function())
            except Exception as error:  # noqa: BLE001 - handed over to the test
                outcome.set_exception(error)

        self._loop.call_soon_threadsafe(within)
        return outcome.result(SECONDS_MAX)

    def close(self, grace_seconds: float = 0.0) -> None:
        """Close the portal, and its loop."""
        closing = asyncio.run_coroutine_threadsafe(self.portal.close(grace_seconds), self._loop)
        closing.result(SECONDS_MAX)

    def withdraw(self, target: str, grace_seconds: float) -> None:
        """Serve a target no more."""
        leaving = self.portal.withdraw(target, grace_seconds)
        asyncio.run_coroutine_threadsafe(leaving, self._loop).result(SECONDS_MAX)

    def stop(self) -> None:
        """End the thread."""
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS_MAX)
        self._loop.close()
        if self.descriptors is not None:
            self.descriptors.close()


@contextmanager
def served(directory: Directory, descriptors: Descriptors | None = None) -> Iterator[ServedPortal]:
    """Serve until the block ends; an exception in the portal's loop fails the test."""
    portal = ServedPortal(directory, descriptors)
    try:
        yield portal
    finally:
        portal.stop()
    assert not portal.errors, portal.errors
