"""What a resync reads of a volume: data where there is space, holes unread, few questions asked."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pratima_iscsi.blocks import BLOCK_BYTES, BlockRange
from pratima_iscsi.edges.volume import Volume
from pratima_iscsi.engine.local_volume import LocalVolume
from pratima_iscsi.limits import MIB
from pratima_iscsi.replication.effects import BlocksRead
from tests.support.on_loop import on_loop

DATA = bytes(range(1, 129)) * (MIB // 4 // 128)
FIRST = MIB // BLOCK_BYTES
"""Of the blocks that have data: 64, with holes before and after."""


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    opened = Volume.open(tmp_path / "volume.img", size=4 * MIB)
    opened.pwrite(DATA, MIB)
    opened.fdatasync()
    if opened.allocated(0, 4096)[0]:
        pytest.skip("this file system does not report holes")
    yield opened


async def read(volume: Volume, ranges: list[BlockRange], *, sweep: bool) -> list[BlocksRead]:
    loop = asyncio.get_running_loop()
    local = LocalVolume(volume, loop, "v0")
    answered: asyncio.Future[list[BlocksRead]] = loop.create_future()
    local.read_blocks(ranges, 64, sweep=sweep, done=answered.set_result)
    async with asyncio.timeout(10):
        found = await answered
    local.close()
    return found


@pytest.mark.parametrize("sweep", [False, True])
@on_loop
async def test_data_is_read_and_holes_are_not(volume: Volume, sweep: bool) -> None:
    firsts = [0, FIRST - 1, FIRST, FIRST + 63, FIRST + 64, FIRST + 5]
    found = await read(volume, [BlockRange(0, first, 1) for first in firsts], sweep=sweep)
    blocks = [DATA[:BLOCK_BYTES], DATA[-BLOCK_BYTES:], DATA[5 * BLOCK_BYTES : 6 * BLOCK_BYTES]]
    assert [answer.blocks for answer in found] == [1] * 6
    assert [answer.data for answer in found] == [None, None, blocks[0], blocks[1], None, blocks[2]]


@pytest.mark.parametrize("sweep", [False, True])
@on_loop
async def test_a_file_system_is_asked_once_for_blocks_that_lie_in_one_run(
    volume: Volume, sweep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    seek = os.lseek

    def counted(fd: int, offset: int, whence: int) -> int:
        asked.append(whence)
        return seek(fd, offset, whence)

    monkeypatch.setattr(os, "lseek", counted)
    ranges = [BlockRange(0, FIRST + at, 1) for at in range(0, 64, 2)]
    found = await read(volume, ranges, sweep=sweep)
    assert all(answer.data is not None for answer in found)
    assert asked.count(os.SEEK_HOLE) == 1
