"""A source's volume at work: writes inline while the page cache takes them, else through one FIFO.

Writes reach the volume in the order in which they were admitted. While the page cache takes them at
once they are written on the loop; when a call is slow, or an fdatasync runs, they go through ONE
writer thread instead, in the same order, and come back to the loop only when its queue is empty.
One rule: never two writers at once, so that order needs no lock.
"""

import asyncio
import contextlib
import errno
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pratima_iscsi import limits
from pratima_iscsi.blocks import BLOCK_BYTES, BlockRange
from pratima_iscsi.edges.volume import Volume
from pratima_iscsi.engine.lane import Event, InlinePace, Job
from pratima_iscsi.engine.syncs import Syncs
from pratima_iscsi.engine.worker import Worker
from pratima_iscsi.errors import StateError, SyncError
from pratima_iscsi.operations import RESIZE, UPDATE, WRITE, ZERO, Buffer, Operation, ReadDone
from pratima_iscsi.replication.effects import BlocksRead


class LocalVolume:
    """One volume and the threads that may wait for it. Every method is called on the loop."""

    def __init__(self, volume: Volume, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self.volume = volume
        self._loop = loop
        self._writer = Worker(f"{name}-writer")
        self._syncer = Worker(f"{name}-sync")
        self._readers = ThreadPoolExecutor(limits.READERS_PER_VOLUME, f"{name}-read")
        self._queued = 0
        """Jobs of the writer's FIFO that are not done."""
        self._syncing = 0
        self._syncs = Syncs()
        self._pace = InlinePace()

    @property
    def inline(self) -> bool:
        """Whether the loop itself may write now."""
        return not self._queued and not self._syncing and self._pace.allows(time.monotonic())

    # --- writes --------------------------------------------------------------------------------

    def write_inline(self, operations: Sequence[Operation]) -> bool:
        """Write these now, in order, if the loop may; False: nothing was done, ``queue`` them."""
        now = time.monotonic()
        if not self._may_write_inline(operations, now):
            return False
        self._pace.begin(now)
        if self._write_all(operations):
            self._judge(operations)
        self._pace.end()
        return True

    def queue(self, operations: Sequence[Operation], done: Callable[[], None]) -> None:
        """Write these in the writer thread, after all that is queued; then ``done`` on the loop."""

        def written() -> None:
            self._judge(operations)
            done()

        def job() -> Callable[[], None]:
            return written if self._write_all(operations) else done

        self._enqueue(job, syncs=any(operation.fua for operation in operations))

    def _may_write_inline(self, operations: Sequence[Operation], now: float) -> bool:
        """Only data, and only while nothing else is under way (PROTOCOL: zeroes never inline)."""
        if self._queued or self._syncing or not self._pace.allows(now):
            return False
        # A loop costs a third of all() over a generator, and one write is the common batch.
        for operation in operations:  # noqa: SIM110
            if operation.kind != WRITE:
                return False
        return True

    def _write_all(self, operations: Sequence[Operation]) -> bool:
        """Write these; whether any of them was synced."""
        volume, synced = self.volume, False
        for operation in operations:
            try:
                if operation.kind == RESIZE:
                    volume.keep_to(operation.length)  # there is room for it already
                elif operation.fua:
                    synced = True
                    self._write_through(operation)
                elif operation.kind == ZERO:
                    volume.punch(operation.offset, operation.length)
                else:
                    volume.pwrite(operation.lent or operation.payload, operation.offset)
            except OSError as error:
                operation.error = error
            except StateError as error:  # it has shrunk since it made room
                operation.error = OSError(errno.EIO, str(error))
        return synced

    def _write_through(self, operation: Operation) -> None:
        volume, offset = self.volume, operation.offset
        if operation.kind == ZERO:
            volume.punch(offset, operation.length)
            self._syncs.run(volume.sync_now)
        else:
            data = operation.lent or operation.payload
            self._syncs.run(lambda: volume.write_through(data, offset))

    def _judge(self, operations: Sequence[Operation]) -> None:
        """What was synced beside a sync that failed, or after it, failed as well."""
        if self._syncs.failure is not None:
            for operation in operations:
                if operation.fua and operation.error is None:
                    operation.error = self._syncs.failure

    def update(self, operation: Operation, done: Callable[[bytes | None], None]) -> None:
        """Read the operation's range after every write before it, transform it, tell ``done``."""
        assert operation.kind == UPDATE and operation.transform is not None
        transform = operation.transform
        if self.inline:
            data = self._cached(operation.length, operation.offset)
            if data is not None:
                done(transform(data))
                return

        def job() -> Callable[[], None]:
            try:
                data = self.volume.pread(operation.length, operation.offset)
            except OSError as error:
                operation.error = error
                return lambda: done(None)
            return lambda: done(transform(data))

        self._enqueue(job)

    def _enqueue(self, job: Job, *, syncs: bool = False) -> None:
        self._queued += 1

        def finished(then: Event) -> None:
            self._queued -= 1
            then()

        self._submit(self._writer.submit, job, finished, syncs=syncs)

    def _submit(
        self,
        submit: Callable[[Callable[[], None]], object],
        job: Job,
        finished: Callable[[Event], None],
        *,
        syncs: bool = False,
    ) -> None:
        """Run ``job`` in a thread, then ``finished`` with its event on the loop; where it
        ``syncs``, not before it is known whether that counts."""

        def run() -> None:
            then = job()
            if syncs:
                self._syncs.settle(lambda: self._tell(finished, then))
            else:
                self._tell(finished, then)

        submit(run)

    def _tell(self, finished: Callable[[Event], None], then: Event) -> None:
        self._loop.call_soon_threadsafe(finished, then)

    def sync(self, done: Callable[[OSError | None], None]) -> None:
        """Fdatasync, begun after every write before this call is written; off the loop."""
        self._syncing += 1

        def job() -> Callable[[], None]:
            with contextlib.suppress(SyncError):  # which is remembered
                self._syncs.run(self.volume.sync_now)
            return lambda: done(self._syncs.failure)

        if self._queued:
            # Behind the writes that are queued: the sync thread begins when they are through.
            self._enqueue(lambda: lambda: self._submit_sync(job))
        else:
            self._submit_sync(job)

    def make_room(self, size: int, done: Callable[[bool, OSError | None], None]) -> None:
        """As ``Volume.make_room``, off the loop; it syncs, and so stands in line with the syncs."""
        self._syncing += 1

        def job() -> Callable[[], None]:
            try:
                zeros = self._syncs.run(lambda: self.volume.make_room(size))
            except OSError as error:
                failure = error
                return lambda: done(False, failure)
            return lambda: done(zeros, self._syncs.failure)

        self._submit_sync(job)

    def _submit_sync(self, job: Job) -> None:
        def finished(then: Event) -> None:
            self._syncing -= 1
            then()

        self._submit(self._syncer.submit, job, finished, syncs=True)

    # --- reads ---------------------------------------------------------------------------------

    def _cached(self, length: int, offset: int) -> bytes | None:
        try:
            return self.volume.read_cached(length, offset)
        except OSError:
            return None

    def _cached_into(self, room: memoryview, offset: int) -> memoryview | None:
        try:
            return room if self.volume.read_cached_into(room, offset) else None
        except OSError:
            return None

    def read(
        self,
        offset: int,
        length: int,
        done: ReadDone,
        after: Callable[[], None],
        room: memoryview | None = None,
    ) -> None:
        """Read for a front end: at once where memory has it, into ``room`` where there is any, else
        in a reader thread; ``after`` is called after a ``done`` that came from a thread."""
        data = self._cached(length, offset) if room is None else self._cached_into(room, offset)
        if data is not None:
            done(data, None)
            return

        def job() -> Callable[[], None]:
            try:
                found: Buffer | None = self.volume.pread(length, offset)
                failure = None
            except OSError as error:
                found, failure = None, error
            return lambda: done(found, failure)

        def finished(then: Event) -> None:
            then()
            after()

        self._submit(self._readers.submit, job, finished)

    def read_blocks(
        self,
        ranges: Sequence[BlockRange],
        blocks_max: int,
        *,
        sweep: bool,
        done: Callable[[list[BlocksRead]], None],
    ) -> None:
        """Read ranges for a resync, seeing every write that was admitted before."""
        space = _Space(self.volume)
        if sweep and self.inline:
            done([self._cached_piece(piece, space) for piece in ranges])
            return

        def job() -> Callable[[], None]:
            answers = [
                self._piece(piece, piece.count if sweep else blocks_max, space) for piece in ranges
            ]
            return lambda: done(answers)

        if self.inline:
            # Optimistic: a write admitted meanwhile makes its blocks be read again.
            self._submit(self._readers.submit, job, lambda then: then())
        else:
            self._enqueue(job)

    def _cached_piece(self, piece: BlockRange, space: "_Space") -> BlocksRead:
        length = piece.length(self.volume.size)
        allocated, run = space.at(piece.offset, length)
        if not allocated and run >= length:
            return BlocksRead(piece.count)
        data = self._cached(length, piece.offset)
        return BlocksRead(0) if data is None else BlocksRead(piece.count, data)

    def _piece(self, piece: BlockRange, blocks_max: int, space: "_Space") -> BlocksRead:
        size = self.volume.size
        length = piece.length(size)
        try:
            allocated, run = space.at(piece.offset, length)
            if not allocated:
                blocks = piece.count if run >= length else run // BLOCK_BYTES
                if blocks:
                    return BlocksRead(blocks)
            blocks = min(piece.count, blocks_max)
            wanted = BlockRange(piece.volume, piece.first, blocks).length(size)
            return BlocksRead(blocks, self.volume.pread(wanted, piece.offset))
        except OSError as error:
            return BlocksRead(0, None, error)

    def close(self) -> None:
        """Wait for the threads, then release the volume."""
        self._writer.finish()
        self._syncer.finish()
        self._readers.shutdown(wait=True)
        self.volume.close()


class _Space:
    """Where a volume has space, for the pieces of one read, in order of place.

    Some file systems look at every page up to the next hole, so they are not asked again for what
    one answer has said. A hole that is made meanwhile is read, and reads as zeros.
    """

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._start = self._end = 0

    def at(self, offset: int, length: int) -> tuple[bool, int]:
        """As ``Volume.allocated``. Raises OSError."""
        if not self._start <= offset < self._end:
            allocated, run = self._volume.allocated(offset, max(length, self._volume.size - offset))
            if not allocated:
                return False, min(run, length)
            self._start, self._end = offset, offset + run
        return True, min(self._end - offset, length)
