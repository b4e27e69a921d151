"""Data of a front end's buffer: written from there within the turn, copied for whatever waits."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pratima_iscsi.backstore import Backstore, GroupOptions
from pratima_iscsi.edges.source_store import SourceStore
from pratima_iscsi.edges.volume import Volume
from pratima_iscsi.engine.local_volume import LocalVolume
from pratima_iscsi.engine.source_group import SourceGroup
from pratima_iscsi.engine.volume_storage import VolumeStorage
from pratima_iscsi.limits import KIB, MIB
from pratima_iscsi.operations import Operation
from pratima_iscsi.replication.group import LinkOptions
from pratima_iscsi.replication.messages import VolumeOffer
from pratima_iscsi.replication.source_state import SourceState
from tests.support.on_loop import on_loop

OLD, NEW = b"o" * 64 * KIB, b"n" * 64 * KIB


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    opened = Volume.open(tmp_path / "volume.img", size=MIB)
    yield opened
    opened.close()


@asynccontextmanager
async def group_of(volume: Volume, *links: LinkOptions) -> AsyncIterator[SourceGroup]:
    offers = (VolumeOffer("v0", MIB),)
    state = SourceState(b"g" * 16, "default", b"n" * 16)
    local = LocalVolume(volume, asyncio.get_running_loop(), "v0")
    (directory := volume.path.with_name("state")).mkdir()
    store = SourceStore(directory)
    store.create(state)
    group = SourceGroup(
        Backstore(GroupOptions(offers, links), state),
        [local],
        store,
        "boot",
        asyncio.get_running_loop(),
        lambda report: None,
    )
    try:
        yield group
    finally:
        await group.stop()
        store.close()


async def written(group: SourceGroup, buffer: bytearray) -> None:
    """Lend the buffer for one write; its owner uses it for something else after the turn."""
    ended: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
    VolumeStorage(group, 0).write(0, memoryview(buffer), False, ended.set_result, lent=True)
    group.turn()
    buffer[:] = OLD
    async with asyncio.timeout(10):
        assert await ended is None


@on_loop
async def test_a_write_that_waits_keeps_what_was_lent_to_it(volume: Volume) -> None:
    async with group_of(volume) as group:
        await written(group, bytearray(NEW))  # the first of a generation, which must be stored
        assert volume.pread(len(NEW), 0) == NEW


@on_loop
async def test_a_write_at_once_is_made_from_the_buffer_itself(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with group_of(volume) as group:
        await written(group, bytearray(OLD))
        places: list[object] = []
        pwrite = os.pwrite

        def seen(fd: int, data: Any, offset: int) -> int:
            places.append(data.obj)
            return pwrite(fd, data, offset)

        monkeypatch.setattr(os, "pwrite", seen)
        buffer = bytearray(NEW)
        await written(group, buffer)
        monkeypatch.undo()
        assert len(places) == 1 and places[0] is buffer
        assert volume.pread(len(NEW), 0) == NEW


@on_loop
async def test_a_write_for_the_writers_thread_is_a_copy(volume: Volume) -> None:
    async with group_of(volume) as group:
        await written(group, bytearray(OLD))
        (local,) = group.volumes
        local._pace._slow_until = float("inf")
        await written(group, bytearray(NEW))
        assert volume.pread(len(NEW), 0) == NEW


@on_loop
async def test_what_a_link_is_to_keep_is_a_copy(volume: Volume) -> None:
    async with group_of(volume, LinkOptions("replica")) as group:
        ended: list[OSError | None] = []
        VolumeStorage(group, 0).write(0, memoryview(bytearray(NEW)), False, ended.append, lent=True)
        (operation,) = group.batch
        assert isinstance(operation, Operation)
        assert operation.lent is None and operation.payload == NEW
        group.turn()


@on_loop
async def test_a_read_fills_the_room_that_it_is_given(volume: Volume) -> None:
    async with group_of(volume) as group:
        await written(group, bytearray(NEW))
        room = memoryview(bytearray(OLD))
        told: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        VolumeStorage(group, 0).read(
            0,
            len(room),
            lambda data, error: told.set_result(data if error is None else error),
            room,
        )
        async with asyncio.timeout(10):
            data = await told
        assert isinstance(data, bytes | memoryview) and bytes(data) == NEW
