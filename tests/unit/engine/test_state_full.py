"""A state directory that cannot be written: status says so for as long as it lasts, and no longer.

The loop, its timers and the state thread are the test's own, so every step is exact.
"""

import asyncio
import errno
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pratima_iscsi.backstore import Backstore, GroupOptions
from pratima_iscsi.control.status import ACT, OK, GroupStatus, group_exit_code
from pratima_iscsi.engine.source_group import SourceGroup
from pratima_iscsi.engine.source_status import LagClock, source_status
from pratima_iscsi.operations import WRITE, Operation
from pratima_iscsi.replication import effects as fx
from pratima_iscsi.replication.group import LinkOptions
from pratima_iscsi.replication.messages import VolumeOffer
from pratima_iscsi.replication.source_state import LinkState, SourceState

pytestmark = pytest.mark.plain  # the loop, the volume and the store are no compiled types

BLOCK = 4096
FULL = "the state directory cannot be written: No space left on device"


class Loop:
    """Calls what it was given when the test says so; timers apart."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.retries: list[Callable[[], None]] = []

    def call_soon_threadsafe(self, callback: Callable[..., None], *arguments: Any) -> None:
        self.calls.append(lambda: callback(*arguments))

    def call_later(self, delay: float, callback: Callable[[], None]) -> SimpleNamespace:
        if getattr(callback, "__name__", "") == "again":
            self.retries.append(callback)
        return SimpleNamespace(cancel=lambda: None)

    def run(self) -> None:
        while self.calls:
            self.calls.pop(0)()

    def retry(self) -> None:
        """The time to try again has come."""
        retries, self.retries = self.retries, []
        for again in retries:
            again()
        self.run()


class Here(ThreadPoolExecutor):
    """Does each job at once."""

    def submit(self, job: Callable[..., Any], /, *given: Any, **named: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(job(*given, **named))
        return future


class Store:
    """Fails, job by job, while it is told to."""

    def __init__(self) -> None:
        self.full: set[str] = set()
        self.enabled = True
        """What is stored of the link."""

    def begin_generation(
        self, history: object, digest: bytes, boot_id: str, links: Sequence[LinkState]
    ) -> None:
        self._store("generation")
        for link in links:
            self.enabled = link.enabled

    def remember_link(self, link: LinkState) -> None:
        self._store("link")
        self.enabled = link.enabled

    def mark(self, link: str) -> SimpleNamespace:
        return SimpleNamespace(write=lambda degraded: self._store("mark"))

    def _store(self, what: str) -> None:
        if what in self.full:
            raise OSError(errno.ENOSPC, "No space left on device")


class Scene:
    """A group at its primary, and the store of its state."""

    def __init__(self, links: tuple[LinkOptions, ...] = ()) -> None:
        options = GroupOptions((VolumeOffer("v0", 1 << 20),), links)
        self.loop, self.store = Loop(), Store()
        self.reports: list[str] = []
        self.backstore = Backstore(options, SourceState(b"g" * 16, "default", b"n" * 16))
        volume = SimpleNamespace(
            write_inline=lambda operations: True,
            volume=SimpleNamespace(path=Path("v0"), size=1 << 20),
        )
        self.group = SourceGroup(
            self.backstore,
            cast(Any, [volume]),
            cast(Any, self.store),
            "boot",
            cast(asyncio.AbstractEventLoop, self.loop),
            lambda report: self.reports.append(report.event),
        )
        self.group._state_writer = Here()

    def write(self) -> Operation:
        operation = Operation(WRITE, 0, 0, BLOCK, bytes(BLOCK))
        self.group.batch.append(operation)
        self.group.turn()
        self.loop.run()
        return operation

    def store_effect(self, effect: fx.Effect) -> None:
        self.backstore.emit(effect)
        self.group.turn()
        self.loop.run()

    def status(self) -> GroupStatus:
        return source_status(
            self.group,
            LagClock(),
            (),
            portal="",
            front_end="",
            trouble="",
            target="",
            sessions=0,
        )


def test_a_generation_that_cannot_be_stored_is_the_groups_failure_until_it_is() -> None:
    scene = Scene()
    assert group_exit_code(scene.status()) == OK
    scene.store.full = {"generation"}
    assert scene.write().error is not None
    for _ in range(2):
        assert scene.status().failed == FULL
        assert group_exit_code(scene.status()) == ACT
        scene.loop.retry()
    assert scene.reports.count("state failed") == 1, "a repetition is no news"
    scene.store.full.clear()
    scene.loop.retry()
    assert scene.status().failed == ""
    assert group_exit_code(scene.status()) == OK
    assert scene.reports.count("state written") == 1
    assert scene.write().error is None
    assert not scene.loop.retries


def test_a_degraded_mark_that_cannot_be_stored_is_the_groups_failure_until_it_is() -> None:
    scene = Scene((LinkOptions("replica"),))
    scene.store.full = {"mark"}
    scene.store_effect(fx.PersistDegraded(0, True))
    assert scene.status().failed == FULL
    assert group_exit_code(scene.status()) == ACT
    scene.store.full.clear()
    scene.loop.retry()
    assert scene.status().failed == ""
    assert group_exit_code(scene.status()) != ACT


def test_what_can_be_stored_hides_nothing_that_cannot() -> None:
    scene = Scene((LinkOptions("replica"),))
    scene.store.full = {"generation"}
    scene.write()
    scene.store_effect(fx.PersistLink(0))
    assert scene.status().failed == FULL
    assert "state written" not in scene.reports
    scene.loop.retry()
    assert scene.reports.count("state failed") == 1
    scene.store.full.clear()
    scene.loop.retry()
    assert scene.status().failed == ""
    assert scene.reports.count("state written") == 1


@pytest.mark.parametrize("what", ["link", "generation"])
def test_what_is_stored_late_does_not_undo_what_was_stored_meanwhile(what: str) -> None:
    scene = Scene((LinkOptions("replica"),))
    scene.store.full = {what}
    if what == "generation":
        scene.write()
    else:
        scene.store_effect(fx.PersistLink(0))
    scene.store.full.clear()
    flags = scene.backstore.link_flags()[0]
    scene.group.remember_link(replace(flags, enabled=False))
    scene.backstore.disable(0, 0.0)
    assert not scene.store.enabled
    scene.loop.retry()
    assert scene.status().failed == "" and not scene.store.enabled
