"""Overlapping stamped writes through an iSCSI login, many at once, recorded for the oracle.

``depth`` workers each draw an operation, record it, send it, record the answer. How much is
written is *granted* by the test, so a run is bounded by operations and not by time. One rule: an
operation is recorded as issued before a byte of it is sent and as acknowledged after its status
was read; when the connection is lost, what was under way stays open for ever.
"""

import asyncio
import contextlib
import enum
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from tests.oracle.recorder import Op, OpKind, Recorder
from tests.oracle.stamps import SECTOR_BYTES, stamp, stamp_sector

DEPTH: Final = 32
WAIT_SECONDS: Final = 120.0
RETRIES_MAX: Final = 200


class Outcome(enum.Enum):
    """How a command ended."""

    GOOD = enum.auto()
    UNCHANGED = enum.auto()
    """It certainly changed nothing: a miscompare."""
    RETRY = enum.auto()
    """It was not executed, and may be sent again: busy, task set full, unit attention."""


class CommandFailed(Exception):
    """A command ended in an error that does not say whether it was executed."""


class Session(Protocol):
    """An iSCSI session with one logical unit. ConnectionError when it is lost, CommandFailed when
    a command fails and may have been executed.

    LBAs and counts are in blocks of ``block_bytes``.
    """

    block_bytes: int
    blocks: int

    async def write(self, lba: int, data: bytes) -> Outcome:
        """WRITE."""

    async def zero(self, lba: int, count: int, *, unmap: bool) -> Outcome:
        """UNMAP, or WRITE SAME of zeros."""

    async def compare_and_write(self, lba: int, expected: bytes, data: bytes) -> Outcome:
        """COMPARE AND WRITE."""

    async def close(self) -> None:
        """Log out, or just go."""


@dataclass(frozen=True, slots=True)
class Mix:
    """What is drawn: lengths in blocks, weights of the kinds, how hot the hot spot is."""

    lengths: tuple[int, ...] = (1, 8, 8, 8, 8, 16, 16, 64, 256)
    zeroes: float = 0.1
    compares: float = 0.04
    hot: float = 0.5
    """Share of the operations that go to the first sixteenth of the volume."""


class Workload:
    """Runs in a thread of its own from ``running`` on; one volume."""

    def __init__(
        self,
        recorder: Recorder,
        connect: Callable[[], Awaitable[Session]],
        seed: int,
        depth: int = DEPTH,
        mix: Mix | None = None,
    ) -> None:
        self.recorder = recorder
        self.promised = False
        """Whether what is acknowledged now must be in every replica image from then on."""
        self.failures: list[str] = []
        self.acknowledged = 0
        self.answered = 0
        """Acknowledged, or refused: those whose comparison failed."""
        self.bytes_written = 0
        self._connect = connect
        self._random = random.Random(seed)
        self._depth = depth
        self._mix = mix or Mix()
        self._changed = threading.Condition()
        self._under_way = 0
        self._granted = 0
        self._lost: str | None = None
        self._shown: dict[int, Op] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator["Workload"]:
        """Log in and work as granted, until the block ends."""
        self._reset()
        started = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._run(started)), name="workload")
        thread.start()
        started.wait(WAIT_SECONDS)
        if self._lost is not None:
            thread.join(WAIT_SECONDS)
            raise AssertionError(f"no login: {self._lost}")
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive(), "the workload does not end"

    def _reset(self) -> None:
        self._lost = None
        self._granted = 0

    def grant(self, operations: int) -> None:
        """Let that many more be issued."""

        def granting() -> None:
            self._granted += operations
            self._work.set()

        self._loop.call_soon_threadsafe(granting)

    def work(self, operations: int, until: int) -> None:
        """Grant ``operations`` more, and wait until ``until`` more than now were answered."""
        target = self.answered + until
        self.grant(operations)
        self._wait(lambda: self.answered >= target, f"{until} more answered")

    def drain(self) -> None:
        """Take back what was granted, and wait until nothing is under way."""
        asyncio.run_coroutine_threadsafe(self._revoke(), self._loop).result(WAIT_SECONDS)
        self._wait(lambda: self._under_way == 0, "nothing under way")

    def wait_lost(self) -> None:
        """Wait until the connection is lost, as a test wants it to be."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._lost is not None, WAIT_SECONDS)
        assert done, "the connection is not lost"

    def check(self) -> None:
        """AssertionError when a command failed or the connection was lost."""
        assert not self.failures, self.failures[:10]
        assert self._lost is None, self._lost

    def _wait(self, predicate: Callable[[], bool], what: str) -> None:
        with self._changed:
            done = self._changed.wait_for(
                lambda: predicate() or self._lost is not None or bool(self.failures), WAIT_SECONDS
            )
        self.check()
        assert done, f"not within {WAIT_SECONDS:.0f} s: {what}; {self._under_way} under way"

    # --- in its thread --------------------------------------------------------------------------

    async def _revoke(self) -> None:
        self._granted = 0
        self._work.clear()

    async def _run(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._work = asyncio.Event()
        try:
            session = await self._connect()
        except (OSError, EOFError) as problem:
            self._lose(problem)
            started.set()
            return
        self._shown.clear()
        started.set()
        workers = [asyncio.create_task(self._worker(session)) for _ in range(self._depth)]
        for worker in workers:
            worker.add_done_callback(self._ended)
        await self._stop.wait()
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        with contextlib.suppress(OSError, EOFError):
            await session.close()

    def _ended(self, worker: "asyncio.Task[None]") -> None:
        if not worker.cancelled() and (problem := worker.exception()) is not None:
            self._lose(problem)

    def _lose(self, problem: BaseException) -> None:
        with self._changed:
            self._lost = f"{type(problem).__name__}: {problem}"
            self._changed.notify_all()

    async def _worker(self, session: Session) -> None:
        while self._lost is None:
            await self._work.wait()
            if not self._granted:
                self._work.clear()
                continue
            self._granted -= 1
            self._under_way += 1
            try:
                await self._one(session)
            except (OSError, EOFError) as problem:
                self._lose(problem)
            finally:
                with self._changed:
                    self._under_way -= 1
                    self._changed.notify_all()

    async def _one(self, session: Session) -> None:
        """Draw, record, send, record."""
        per_block = session.block_bytes // SECTOR_BYTES
        lba, count = self._draw_range(session.blocks)
        chance = self._random.random()
        kind = OpKind.WRITE
        if chance < self._mix.zeroes:
            kind = OpKind.ZERO
        elif chance < self._mix.zeroes + self._mix.compares:
            kind, count = OpKind.COMPARE_AND_WRITE, min(count, 4)
        op = self.recorder.issue(kind, 0, lba * per_block, count * per_block)
        send = self._command(session, op, lba, count)
        outcome = Outcome.RETRY
        try:
            for _ in range(RETRIES_MAX):
                outcome = await send()
                if outcome is not Outcome.RETRY:
                    break
                await asyncio.sleep(0)
        except CommandFailed as problem:
            self.failures.append(f"{op}: {problem}")
            return
        self.answered += 1
        if outcome is Outcome.GOOD:
            self.recorder.acknowledge(op.id, required=self.promised)
            self._note(op)
        elif outcome is Outcome.UNCHANGED and kind is OpKind.COMPARE_AND_WRITE:
            self.recorder.refuse(op.id)
        else:
            self.failures.append(f"{op}: {outcome.name}")

    def _draw_range(self, blocks: int) -> tuple[int, int]:
        count = min(self._random.choice(self._mix.lengths), blocks)
        region = blocks // 16 if self._random.random() < self._mix.hot else blocks
        if self._random.random() < 0.02:
            return blocks - count, count
        return self._random.randrange(max(1, min(region, blocks - count + 1))), count

    def _command(
        self, session: Session, op: Op, lba: int, count: int
    ) -> Callable[[], Awaitable[Outcome]]:
        if op.zeroes:
            unmap = self._random.random() < 0.5
            return lambda: session.zero(lba, count, unmap=unmap)
        data = stamp(self.recorder.run, op.volume, op.id, op.lba, op.count)
        if op.kind is OpKind.WRITE:
            return lambda: session.write(lba, data)
        expected = b"".join(self._content(op.volume, sector) for sector in range(op.lba, op.end))
        return lambda: session.compare_and_write(lba, expected, data)

    def _content(self, volume: int, sector: int) -> bytes:
        """What was acknowledged last for a sector: a guess, as others may be under way."""
        op = self._shown.get(sector)
        if op is None or op.zeroes:
            return bytes(SECTOR_BYTES)
        return stamp_sector(self.recorder.run, volume, op.id, sector, sector - op.lba, op.count)

    def _note(self, op: Op) -> None:
        for sector in range(op.lba, op.end):
            self._shown[sector] = op
        with self._changed:
            self.acknowledged += 1
            self.bytes_written += op.count * SECTOR_BYTES
