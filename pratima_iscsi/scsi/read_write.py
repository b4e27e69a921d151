"""READ, WRITE and what else moves blocks in one step: ORWRITE, COMPARE AND WRITE, caches.

The hot path. One rule: nothing is allocated for a READ or WRITE but the bound method that the
storage calls; the task is the state.
"""

from pratima_iscsi.limits import PREFETCH_BYTES_MAX
from pratima_iscsi.operations import Buffer
from pratima_iscsi.scsi.cdb import CDB_16, FUA, PROTECT
from pratima_iscsi.scsi.device import Device
from pratima_iscsi.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_INFORMATION_UNIT,
    LBA_OUT_OF_RANGE,
    MISCOMPARE,
    SOFTWARE_WRITE_PROTECTED,
    CheckCondition,
    write_failure,
)
from pratima_iscsi.scsi.task import Task

PROTECTED = INVALID_FIELD_IN_CDB.at(1)
"""RDPROTECT, WRPROTECT or VRPROTECT is not 0."""


def read(device: Device, task: Task, flags: int, lba: int, count: int) -> None:
    """READ(6), (10), (12) and (16) (08h, 28h, A8h, 88h)."""
    if flags & PROTECT:
        raise CheckCondition(PROTECTED)
    blocks = device.blocks
    if lba >= blocks or lba + count > blocks:
        raise CheckCondition(LBA_OUT_OF_RANGE)
    if count > device.transfer_blocks_max:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    if count == 0:
        task.done()
        return
    shift = device.block_shift
    if flags & FUA:
        _read_through(device, task, lba << shift, count << shift)
        return
    length = count << shift
    room = task.room
    if room is not None and len(room) != length:
        room = None
    device.storage.read(lba << shift, length, task.read_settled, room)


def _read_through(device: Device, task: Task, offset: int, length: int) -> None:
    """READ with FUA: what the cache holds goes to the medium first (SBC-3 4.15)."""

    def flushed(error: OSError | None) -> None:
        if error is None and not task.aborted:
            device.storage.read(offset, length, task.read_settled)
        else:
            task.write_settled(error)

    device.storage.flush(flushed)


def write(device: Device, task: Task, flags: int, lba: int, count: int) -> None:
    """WRITE(6), (10), (12) and (16) (0Ah, 2Ah, AAh, 8Ah)."""
    if flags & PROTECT:
        raise CheckCondition(PROTECTED)
    blocks = device.blocks
    if lba >= blocks or lba + count > blocks:
        raise CheckCondition(LBA_OUT_OF_RANGE)
    if count > device.transfer_blocks_max:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    if device.write_protected:
        raise CheckCondition(SOFTWARE_WRITE_PROTECTED)
    if count == 0:
        task.done()
        return
    shift = device.block_shift
    data = task.data_out
    length = count << shift
    if len(data) != length:
        data = exactly(data, length)
    device.storage.write(lba << shift, data, flags & FUA != 0, task.write_settled, task.lent)


def exactly(data: Buffer, length: int) -> Buffer:
    """The first ``length`` bytes of data-out; 5/0E/03 when the initiator sent less."""
    if len(data) < length:
        raise CheckCondition(INVALID_INFORMATION_UNIT)
    return data if len(data) == length else memoryview(data)[:length]


def orwrite(device: Device, task: Task, flags: int, lba: int, count: int) -> None:
    """ORWRITE(16) (8Bh): one atomic step."""
    if flags & PROTECT:
        raise CheckCondition(PROTECTED)
    device.check_range(lba, count)
    device.check_writable()
    if count > device.transfer_blocks_max:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(10))
    if count == 0:
        task.done()
        return
    length = count << device.block_shift
    mask = int.from_bytes(exactly(task.data_out, length), "little")

    def either(old: bytes) -> bytes:
        return (int.from_bytes(old, "little") | mask).to_bytes(length, "little")

    def updated(wrote: bool, error: OSError | None) -> None:
        task.write_settled(error)

    device.storage.update(lba << device.block_shift, length, either, flags & FUA != 0, updated)


def compare_and_write(device: Device, task: Task) -> None:
    """COMPARE AND WRITE (89h): one atomic step; data-out is the blocks expected, then the new ones.

    A miscompare gives E/1D/00 with the first differing byte's offset (SBC-3 5.2).
    """
    _, flags, lba, _, _, _ = CDB_16.unpack_from(task.cdb)
    count = task.cdb[13]
    if flags & PROTECT:
        raise CheckCondition(PROTECTED)
    device.check_range(lba, count)
    device.check_writable()
    if count > device.compare_blocks_max:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(13))
    length = count << device.block_shift
    if len(task.data_out) != 2 * length:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(13))
    if count == 0:
        task.done()
        return
    expected, new = bytes(task.data_out[:length]), bytes(task.data_out[length:])
    different: list[int] = []

    def compare(old: bytes) -> bytes | None:
        if old == expected:
            return new
        different.append(first_difference(old, expected))
        return None

    def updated(wrote: bool, error: OSError | None) -> None:
        if error is not None:
            task.fail(write_failure(error))
        elif different:
            task.fail(MISCOMPARE.with_information(different[-1]))
        else:
            task.done()

    device.storage.update(lba << device.block_shift, length, compare, flags & FUA != 0, updated)


def first_difference(one: bytes, other: bytes) -> int:
    """Offset of the first byte in which two different strings of one length differ."""
    low, high = 0, len(one)
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def synchronize_cache(device: Device, task: Task, flags: int, lba: int, count: int) -> None:
    """SYNCHRONIZE CACHE(10) and (16) (35h, 91h).

    Flushes the whole volume, whatever the range; IMMED only allows an earlier answer.
    """
    device.check_range(lba, count)
    device.storage.flush(task.write_settled)


def prefetch(device: Device, task: Task, flags: int, lba: int, count: int) -> None:
    """PRE-FETCH(10) and (16) (34h, 90h): read the beginning of the range, so that the page cache
    has it.

    GOOD and not CONDITION MET: nobody promises that it stays there.
    """
    device.check_range(lba, count)
    length = min((count or device.blocks - lba) << device.block_shift, PREFETCH_BYTES_MAX)

    def fetched(data: Buffer | None, error: OSError | None) -> None:
        task.read_settled(b"" if data is not None else None, error)

    device.storage.read(lba << device.block_shift, length, fetched)
