"""Work over a range too long for one step: VERIFY reads it, WRITE SAME fills it, chunk by chunk.

One rule: one chunk is under way at a time, the next begins when it has settled, and none begins
after the task was aborted.
"""

from pratima_iscsi.limits import SWEEP_CHUNK_BYTES
from pratima_iscsi.operations import Buffer
from pratima_iscsi.scsi.device import Device
from pratima_iscsi.scsi.sense import MISCOMPARE, Sense, read_failure, write_failure
from pratima_iscsi.scsi.task import Task


class Sweep:
    """The bytes from ``offset`` on, ``length`` of them; a subclass says what a step does."""

    def __init__(self, device: Device, task: Task, offset: int, length: int) -> None:
        self.device = device
        self.task = task
        self.offset = offset
        self.end = offset + length
        self._looping = False
        self._ready = False

    def step(self, length: int) -> None:
        """Begin one chunk of ``length`` bytes at ``offset``; it ends in ``settled``."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin; ends the task when the range is done."""
        self._proceed()

    def settled(self, length: int, failure: Sense | None) -> None:
        """A chunk of ``length`` bytes has ended."""
        if failure is not None:
            self.task.fail(failure)
            return
        self.offset += length
        self._proceed()

    def _proceed(self) -> None:
        """Go on with the next chunk, in a loop where chunks settle at once (no recursion)."""
        self._ready = True
        if self._looping:
            return
        self._looping = True
        while self._ready:
            self._ready = False
            if self.offset >= self.end or self.task.aborted:
                self.task.done()
            else:
                self.step(min(SWEEP_CHUNK_BYTES, self.end - self.offset))
        self._looping = False


class Verification(Sweep):
    """Read a range, and compare it with ``expected`` where that is given.

    ``expected`` is as long as the range, or one block that every block must be like.
    """

    def __init__(
        self, device: Device, task: Task, offset: int, length: int, expected: bytes | None
    ) -> None:
        super().__init__(device, task, offset, length)
        self._begin = offset
        self._expected = expected
        self._is_pattern = expected is not None and len(expected) < length

    def step(self, length: int) -> None:
        """Read one chunk and compare it."""
        self.device.storage.read(self.offset, length, self._read)

    def _read(self, data: Buffer | None, error: OSError | None) -> None:
        if data is None:
            self.settled(0, read_failure(error or OSError()))
        elif self._expected is None or data == self._wanted(len(data)):
            self.settled(len(data), None)
        else:
            self.settled(0, MISCOMPARE)

    def _wanted(self, length: int) -> bytes:
        assert self._expected is not None
        if self._is_pattern:
            return self._expected * (length // len(self._expected))
        start = self.offset - self._begin
        return self._expected[start : start + length]


class Fill(Sweep):
    """Write one block's ``pattern`` over a range."""

    def __init__(
        self, device: Device, task: Task, offset: int, length: int, pattern: bytes
    ) -> None:
        super().__init__(device, task, offset, length)
        chunk = min(length, SWEEP_CHUNK_BYTES, device.transfer_blocks_max << device.block_shift)
        self._content = pattern * (chunk // len(pattern))

    def step(self, length: int) -> None:
        """Write one chunk."""
        content = self._content if length >= len(self._content) else self._content[:length]

        def written(error: OSError | None) -> None:
            self.settled(len(content), None if error is None else write_failure(error))

        self.device.storage.write(self.offset, content, False, written)
