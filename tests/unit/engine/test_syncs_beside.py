"""Syncs of a volume beside each other, of which the kernel tells one that a writeback failed.

The kernel of these tests holds each call until the test lets it return, so their order is exact.
"""

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pratima_iscsi.backstore import Backstore, GroupOptions
from pratima_iscsi.edges.source_store import SourceStore
from pratima_iscsi.edges.volume import Volume
from pratima_iscsi.engine.local_volume import LocalVolume
from pratima_iscsi.engine.source_group import SourceGroup
from pratima_iscsi.errors import SyncError
from pratima_iscsi.operations import WRITE, Operation
from pratima_iscsi.replication.messages import VolumeOffer
from pratima_iscsi.replication.source_state import SourceState
from tests.support.on_loop import on_loop

SIZE = 1 << 20
BLOCK = 4096
SECONDS = 20.0
"""Nothing waits for so long but a test that fails."""


class Call:
    """A syncing call: the test waits until it is in the kernel, and says how it returns."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._leave = threading.Event()
        self._fails = False

    def run(self) -> None:
        """In a thread of the volume's."""
        self._entered.set()
        assert self._leave.wait(SECONDS)
        if self._fails:
            raise OSError(errno.EIO, "Input/output error")

    async def entered(self) -> None:
        """It is in the kernel."""
        assert await asyncio.to_thread(self._entered.wait, SECONDS)

    def leave(self, *, fails: bool = False) -> None:
        """It returns; with ``fails`` it was told of the writeback."""
        self._fails = fails
        self._leave.set()


class Kernel:
    """Its fdatasync, and its FUA writes by the number of their block."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.flush = Call()
        self.fua = {block: Call() for block in range(3)}
        really = os.pwritev

        def pwritev(fd: int, buffers: list[bytes], offset: int, flags: int = 0) -> int:
            done = really(fd, buffers, offset)
            if flags & os.RWF_DSYNC:
                self.fua[offset // BLOCK].run()
            return done

        monkeypatch.setattr(os, "fdatasync", lambda fd: self.flush.run())
        monkeypatch.setattr(os, "pwritev", pwritev)

    def leave(self) -> None:
        """No call waits any more."""
        for call in (self.flush, *self.fua.values()):
            call.leave()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    yield (kernel := Kernel(monkeypatch))
    kernel.leave()


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume.open(tmp_path / "volume", size=SIZE)


class Work:
    """What a test has under way on a volume: each by its answer, once it has one."""

    def __init__(self, volume: Volume, kernel: Kernel) -> None:
        self.local = LocalVolume(volume, asyncio.get_running_loop(), "test")
        self._kernel = kernel

    def flush(self) -> asyncio.Future[OSError | None]:
        """A FLUSH begins."""
        ended: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
        self.local.sync(ended.set_result)
        return ended

    def write(self, *blocks: int, fua: bool) -> asyncio.Future[list[OSError | None]]:
        """Writes are queued in one go."""
        ended: asyncio.Future[list[OSError | None]] = asyncio.get_running_loop().create_future()
        operations = [
            Operation(WRITE, 0, block * BLOCK, BLOCK, b"w" * BLOCK, fua=fua) for block in blocks
        ]
        self.local.queue(
            operations, lambda: ended.set_result([operation.error for operation in operations])
        )
        return ended


@asynccontextmanager
async def at_work(volume: Volume, kernel: Kernel) -> AsyncIterator[Work]:
    work = Work(volume, kernel)
    try:
        async with asyncio.timeout(SECONDS):
            yield work
    finally:
        kernel.leave()
        await asyncio.to_thread(work.local.close)


@on_loop
async def test_a_flush_is_not_good_when_a_fua_write_beside_it_was_told_instead(
    volume: Volume, kernel: Kernel
) -> None:
    async with at_work(volume, kernel) as work:
        flush, writes = work.flush(), work.write(0, 1, fua=True)
        await kernel.flush.entered()
        await kernel.fua[0].entered()
        kernel.fua[0].leave(fails=True)
        await kernel.fua[1].entered()  # so the batch of both goes on for longer than the flush
        kernel.flush.leave()
        kernel.fua[1].leave()
        assert isinstance(await flush, SyncError)
        assert isinstance((await writes)[0], SyncError)


@on_loop
async def test_a_flush_waits_for_a_fua_write_that_may_have_been_told_and_has_yet_to_return(
    volume: Volume, kernel: Kernel
) -> None:
    async with at_work(volume, kernel) as work:
        flush, writes = work.flush(), work.write(0, fua=True)
        await kernel.flush.entered()
        await kernel.fua[0].entered()
        kernel.flush.leave()
        work.local._syncer.wait()  # it has returned
        kernel.fua[0].leave(fails=True)
        assert isinstance(await flush, SyncError)
        assert isinstance((await writes)[0], SyncError)


@on_loop
async def test_a_fua_write_is_not_good_when_a_flush_beside_it_was_told_instead(
    volume: Volume, kernel: Kernel
) -> None:
    async with at_work(volume, kernel) as work:
        flush, writes = work.flush(), work.write(0, fua=True)
        await kernel.flush.entered()
        await kernel.fua[0].entered()
        kernel.fua[0].leave()
        work.local._writer.wait()
        kernel.flush.leave(fails=True)
        assert isinstance(await flush, SyncError)
        assert isinstance((await writes)[0], SyncError)


@on_loop
async def test_a_success_after_a_failed_sync_proves_nothing(volume: Volume, kernel: Kernel) -> None:
    async with at_work(volume, kernel) as work:
        kernel.fua[0].leave(fails=True)
        await work.write(0, fua=True)
        kernel.leave()
        assert isinstance(await work.flush(), SyncError)
        assert isinstance((await work.write(1, fua=True))[0], SyncError)
        operation = Operation(WRITE, 0, 0, BLOCK, b"w" * BLOCK, fua=True)
        assert work.local.write_inline([operation])
        assert isinstance(operation.error, SyncError)


@on_loop
async def test_a_flush_holds_up_no_write_but_those_that_are_synced_beside_it(
    volume: Volume, kernel: Kernel
) -> None:
    async with at_work(volume, kernel) as work:
        flush = work.flush()
        await kernel.flush.entered()
        through = work.write(0, fua=True)
        await kernel.fua[0].entered()
        kernel.fua[0].leave()
        assert await work.write(1, 2, fua=False) == [None, None]
        assert not flush.done() and not through.done()
        kernel.flush.leave()
        assert await flush is None and await through == [None]


@on_loop
async def test_room_for_a_growth_whose_sync_fails_is_no_clean_stop(
    tmp_path: Path, volume: Volume, kernel: Kernel
) -> None:
    """Nobody waits for the growth any more when it has failed."""
    state = SourceState(b"g" * 16, "g", b"n" * 16, volumes=(volume.state("v"),))
    (directory := tmp_path / "state").mkdir()
    kernel.flush.leave()
    store = SourceStore(directory)
    store.create(state)
    kernel.flush = Call()
    loop = asyncio.get_running_loop()
    group = SourceGroup(
        Backstore(GroupOptions((VolumeOffer("v", SIZE),)), state),
        [LocalVolume(volume, loop, "v")],
        store,
        "boot",
        loop,
        lambda report: None,
    )
    group.grow(0, 2 * SIZE, lambda error: None, later=False)
    await kernel.flush.entered()
    room, kernel.flush = kernel.flush, Call()
    kernel.flush.leave()
    stopping = asyncio.ensure_future(group.stop())
    await asyncio.sleep(0)  # it begins
    room.leave(fails=True)
    async with asyncio.timeout(SECONDS):
        assert not await stopping
    store.close()
