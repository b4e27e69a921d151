"""A volume in memory that keeps the ``Storage`` contract, for tests of what stands above it.

It completes synchronously, unless ``deferred``: then operations take effect when they are called
and are told done by ``complete``. It records what it was asked in ``calls``.
"""

from collections import deque
from collections.abc import Callable

from pratima_iscsi.operations import Buffer, Done, ReadDone, Transform, UpdateDone

ALLOCATION_BYTES = 4096
TRANSFER_BYTES_MAX = 8 << 20


class MemoryStorage:
    """``size`` bytes of zeros; thin unless told otherwise."""

    def __init__(
        self,
        size: int,
        *,
        thin: bool = True,
        transfer_bytes_max: int = TRANSFER_BYTES_MAX,
        deferred: bool = False,
    ) -> None:
        self.data = bytearray(size)
        self.thin = thin
        self.transfer_bytes_max = transfer_bytes_max
        self.deferred = deferred
        self.failure: OSError | None = None
        """While set, every operation fails with it and changes nothing."""
        self.calls: list[tuple[str, int, int, bool]] = []
        """(operation, offset, length, fua) in the order of the calls."""
        self._allocated: set[int] = set()
        self._waiting: deque[Callable[[], None]] = deque()

    @property
    def size(self) -> int:
        """Bytes of the volume now."""
        return len(self.data)

    @property
    def waiting(self) -> int:
        """Completions held back."""
        return len(self._waiting)

    def grow(self, size: int) -> None:
        """Make the volume larger."""
        assert size >= len(self.data)
        self.data.extend(bytes(size - len(self.data)))

    def complete(self, count: int | None = None) -> None:
        """Tell the oldest ``count`` held completions, or all, those that they bring about too."""
        while self._waiting and (count is None or count > 0):
            self._waiting.popleft()()
            count = None if count is None else count - 1

    def read(
        self, offset: int, length: int, done: ReadDone, room: memoryview | None = None
    ) -> None:
        """Read ``length`` bytes, into ``room`` where there is any."""
        self._called("read", offset, length, False)
        failure = self.failure
        data: Buffer | None = None if failure else bytes(self.data[offset : offset + length])
        if data is not None and room is not None:
            room[:] = data
            data = room
        self._settle(lambda: done(data, failure))

    def write(self, offset: int, data: Buffer, fua: bool, done: Done, lent: bool = False) -> None:
        """Write all of ``data``."""
        self._called("write", offset, len(data), fua)
        assert len(data) <= self.transfer_bytes_max
        failure = self.failure
        if failure is None:
            self._store(offset, data)
        self._settle(lambda: done(failure))

    def zero(self, offset: int, length: int, fua: bool, done: Done) -> None:
        """Make a range read as zeros and give whole allocation blocks back."""
        self._called("zero", offset, length, fua)
        failure = self.failure
        if failure is None:
            self.data[offset : offset + length] = bytes(length)
            first = -(-offset // ALLOCATION_BYTES)
            end = (offset + length) // ALLOCATION_BYTES
            self._allocated.difference_update(range(first, end))
        self._settle(lambda: done(failure))

    def update(
        self, offset: int, length: int, transform: Transform, fua: bool, done: UpdateDone
    ) -> None:
        """Read, transform, write as one step."""
        self._called("update", offset, length, fua)
        failure = self.failure
        new = None if failure else transform(bytes(self.data[offset : offset + length]))
        if new is not None:
            assert len(new) == length
            self._store(offset, new)
        self._settle(lambda: done(new is not None, failure))

    def flush(self, done: Done) -> None:
        """Memory has nothing to flush."""
        self._called("flush", 0, 0, False)
        failure = self.failure
        self._settle(lambda: done(failure))

    def allocated(self, offset: int, length: int) -> tuple[bool, int]:
        """Whether the byte at ``offset`` has space, and for how many bytes that stays so."""
        assert 0 <= offset < self.size and length > 0
        block, end = offset // ALLOCATION_BYTES, offset + length
        state = not self.thin or block in self._allocated
        while block * ALLOCATION_BYTES < end and (
            not self.thin or (block in self._allocated) == state
        ):
            block += 1
        return state, min(block * ALLOCATION_BYTES, end) - offset

    def settle(self, done: Callable[[], None]) -> None:
        """Tell ``done`` after every operation called before."""
        self._settle(done)

    def _called(self, operation: str, offset: int, length: int, fua: bool) -> None:
        assert offset >= 0 and length >= 0 and offset + length <= self.size, (operation, offset)
        self.calls.append((operation, offset, length, fua))

    def _store(self, offset: int, data: Buffer) -> None:
        self.data[offset : offset + len(data)] = data
        if len(data):
            end = (offset + len(data) - 1) // ALLOCATION_BYTES
            self._allocated.update(range(offset // ALLOCATION_BYTES, end + 1))

    def _settle(self, tell: Callable[[], None]) -> None:
        if self.deferred:
            self._waiting.append(tell)
        else:
            tell()
