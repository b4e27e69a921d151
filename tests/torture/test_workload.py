"""The workload drives a session as the scenarios need it, and the oracle can judge the result.

The session is a device in memory: it applies commands one after another, answers them late and in
another order, and can be told to misbehave.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.oracle.checker import Verdict, check
from tests.oracle.client_view import lost
from tests.oracle.recorder import OpKind, Recorder
from tests.oracle.stamps import SECTOR_BYTES, read_image
from tests.torture.workload import Mix, Outcome, Workload

RUN = 99
BLOCK_BYTES = 4096
BLOCKS = 64
SECTORS = BLOCKS * BLOCK_BYTES // SECTOR_BYTES


class MemorySession:
    """A disk; ``journal`` holds (offset, data) in the order in which they took effect."""

    block_bytes = BLOCK_BYTES
    blocks = BLOCKS

    def __init__(self, seed: int) -> None:
        self.disk = bytearray(BLOCKS * BLOCK_BYTES)
        self.journal: list[tuple[int, bytes]] = []
        self.depth = self.depth_max = 0
        self.dies_after: int | None = None
        self.refusals = 0
        self._random = Random(seed)

    async def write(self, lba: int, data: bytes) -> Outcome:
        return await self._take(lba, data)

    async def zero(self, lba: int, count: int, *, unmap: bool) -> Outcome:
        return await self._take(lba, bytes(count * BLOCK_BYTES))

    async def compare_and_write(self, lba: int, expected: bytes, data: bytes) -> Outcome:
        offset = lba * BLOCK_BYTES
        await self._pause()
        if self.disk[offset : offset + len(expected)] != expected:
            return Outcome.UNCHANGED
        return await self._take(lba, data)

    async def close(self) -> None:
        pass

    async def _take(self, lba: int, data: bytes) -> Outcome:
        self.depth += 1
        self.depth_max = max(self.depth, self.depth_max)
        try:
            if self._random.random() < 0.05:
                self.refusals += 1
                return Outcome.RETRY
            if self.dies_after is not None and len(self.journal) >= self.dies_after:
                raise ConnectionResetError("the target is gone")
            offset = lba * BLOCK_BYTES
            self.disk[offset : offset + len(data)] = data
            self.journal.append((offset, data))
            await self._pause()
            return Outcome.GOOD
        finally:
            self.depth -= 1

    async def _pause(self) -> None:
        for _ in range(self._random.randrange(20)):
            await asyncio.sleep(0)


def connecting(session: MemorySession) -> Callable[[], "asyncio.Future[MemorySession]"]:
    def connect() -> "asyncio.Future[MemorySession]":
        future = asyncio.get_running_loop().create_future()
        future.set_result(session)
        return future

    return connect


def judge(recorder: Recorder, name: str, journal: list[tuple[int, bytes]]) -> Verdict:
    disk = bytearray(BLOCKS * BLOCK_BYTES)
    for offset, data in journal:
        disk[offset : offset + len(data)] = data
    (path,) = recorder.image_paths(name)
    path.write_bytes(disk)
    return check(recorder.history(), read_image([path], RUN, [SECTORS]))


MIX = Mix(lengths=(1, 1, 2, 4, 16))


def test_run_is_recorded_so_that_every_prefix_passes_and_a_hole_does_not(tmp_path: Path) -> None:
    session = MemorySession(1)
    with Recorder(tmp_path, RUN, [SECTORS]) as recorder:
        workload = Workload(recorder, connecting(session), seed=1, mix=MIX)
        with workload.running():
            workload.work(1500, until=1200)
            workload.drain()
            workload.check()
        history = recorder.history()
        kinds = {op.kind for op in history.ops if not op.zeroes or op.acknowledged}
        assert kinds == set(OpKind)
        assert session.depth_max >= 16 and session.refusals
        assert workload.acknowledged == len(session.journal)
        assert workload.bytes_written == sum(len(data) for _, data in session.journal)
        random = Random(1)
        for number in range(5):
            length = random.randrange(len(session.journal))
            assert judge(recorder, f"prefix-{number}", session.journal[:length]).ok
        overtaken = session.journal.copy()
        overtaken[-100:-50], overtaken[-50:] = overtaken[-50:], overtaken[-100:-50]
        assert not judge(recorder, "overtaken", overtaken).ok
        assert not judge(recorder, "hole", session.journal[:-40] + session.journal[-10:]).ok
        image = read_image(recorder.image_paths("prefix-0"), RUN, [SECTORS])
        assert lost(history, image), "a prefix that lacks acknowledged writes loses them"


def test_lost_connection_leaves_what_was_under_way_open(tmp_path: Path) -> None:
    session = MemorySession(2)
    session.dies_after = 300
    with Recorder(tmp_path, RUN, [SECTORS]) as recorder:
        workload = Workload(recorder, connecting(session), seed=2, mix=MIX)
        with workload.running():
            workload.grant(1000)
            workload.wait_lost()
        ops = recorder.history().ops
        assert len(session.journal) == 300
        assert workload.acknowledged <= 300 < len(ops)
        assert judge(recorder, "after", session.journal).ok
        (path,) = recorder.image_paths("after")
        assert not lost(recorder.history(), read_image([path], RUN, [SECTORS]))
        session.dies_after = None
        with workload.running():
            workload.work(100, until=80)
            workload.drain()
            workload.check()
        assert judge(recorder, "later", session.journal).ok
