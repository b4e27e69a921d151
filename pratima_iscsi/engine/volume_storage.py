"""The Storage that a logical unit sees: one volume of a source group.

One rule: a call only collects; the group's turn, once per wake-up, submits them all together.
"""

import errno
from collections.abc import Callable

from pratima_iscsi.engine.source_group import SourceGroup
from pratima_iscsi.operations import (
    FLUSH,
    UPDATE,
    WRITE,
    ZERO,
    Buffer,
    Done,
    Operation,
    ReadDone,
    Transform,
    UpdateDone,
)


class VolumeStorage:
    """Implements ``operations.Storage`` over volume ``index`` of ``group``."""

    def __init__(self, group: SourceGroup, index: int) -> None:
        self._group = group
        self._index = index
        self._volume = group.volumes[index]

    @property
    def size(self) -> int:
        """Bytes of the volume."""
        return self._volume.volume.size

    @property
    def transfer_bytes_max(self) -> int:
        """Longest write in bytes."""
        return self._group.backstore.transfer_bytes_max

    @property
    def thin(self) -> bool:
        """Whether zeroing gives space back."""
        return self._volume.volume.thin

    def read(
        self, offset: int, length: int, done: ReadDone, room: memoryview | None = None
    ) -> None:
        """Read; sees every write whose ``done`` was told."""
        if offset + length > self.size:
            done(None, OSError(errno.EINVAL, "read beyond the volume"))
            return
        self._volume.read(offset, length, done, self._group.turn, room)

    def write(self, offset: int, data: Buffer, fua: bool, done: Done, lent: bool = False) -> None:
        """Write; ``data`` is copied once, here, for the volume and every link."""
        group, length = self._group, len(data)
        view = data if isinstance(data, memoryview) else None
        if lent and group.takes_lent and view is not None:
            operation = Operation(WRITE, self._index, offset, length, fua=fua, done=done)
            operation.lent = view
            group.lent = True
        elif view is not None and group.log.lays_out:
            operation = Operation(WRITE, self._index, offset, length, fua=fua, done=done)
            group.log.lay_out(operation, view)
        else:
            payload = bytes(data) if view is None else view.tobytes()  # in half of the time
            operation = Operation(WRITE, self._index, offset, length, payload, fua=fua, done=done)
        group.batch.append(operation)

    def zero(self, offset: int, length: int, fua: bool, done: Done) -> None:
        """Make a range read as zeros."""
        self._group.batch.append(Operation(ZERO, self._index, offset, length, fua=fua, done=done))

    def update(
        self, offset: int, length: int, transform: Transform, fua: bool, done: UpdateDone
    ) -> None:
        """Read, transform and write as one step; later writes of the group wait for it."""
        self._group.batch.append(
            Operation(
                UPDATE,
                self._index,
                offset,
                length,
                fua=fua,
                transform=transform,
                update_done=done,
            )
        )

    def flush(self, done: Done) -> None:
        """Bring everything written before to stable storage."""
        self._group.batch.append(Operation(FLUSH, self._index, 0, 0, done=done))

    def allocated(self, offset: int, length: int) -> tuple[bool, int]:
        """Whether there is space behind ``offset``, and how far that stays so."""
        return self._volume.volume.allocated(offset, length)

    def settle(self, done: Callable[[], None]) -> None:
        """Tell ``done`` when every operation called before is written locally."""
        group = self._group
        group.turn()
        group.backstore.settle(lambda error: done())
        group.turn()
