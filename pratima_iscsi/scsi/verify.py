"""VERIFY and WRITE AND VERIFY (SBC-3 5.32 to 5.35, 5.44 to 5.47).

One rule: what is compared is copied first, for the front end reuses its buffer.
"""

from typing import Final

from pratima_iscsi.scsi.cdb import BYTCHK_MASK, BYTCHK_SHIFT, PROTECT
from pratima_iscsi.scsi.device import Device
from pratima_iscsi.scsi.read_write import PROTECTED, exactly
from pratima_iscsi.scsi.sense import INVALID_FIELD_IN_CDB, CheckCondition, write_failure
from pratima_iscsi.scsi.sweep import Verification
from pratima_iscsi.scsi.task import BYTCHK_ALL, BYTCHK_ONE, Task

BYTCHK_NONE: Final = 0


def verify(device: Device, task: Task, flags: int, lba: int, count: int) -> None:
    """VERIFY(10), (12) and (16) (2Fh, AFh, 8Fh).

    BYTCHK 0: the blocks can be read; 1: they equal data-out; 3: each equals its one block.
    """
    if flags & PROTECT:
        raise CheckCondition(PROTECTED)
    device.check_range(lba, count)
    check = flags >> BYTCHK_SHIFT & BYTCHK_MASK
    length = count << device.block_shift
    expected: bytes | None = None
    if check == BYTCHK_ALL:
        if count > device.transfer_blocks_max:
            raise CheckCondition(INVALID_FIELD_IN_CDB)
        expected = bytes(exactly(task.data_out, length))
    elif check == BYTCHK_ONE:
        # Of no blocks there is none to send either (SBC-3 5.32, VERIFICATION LENGTH 0).
        expected = bytes(exactly(task.data_out, device.block_size if count else 0))
    elif check != BYTCHK_NONE:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(1))
    Verification(device, task, lba << device.block_shift, length, expected).start()


def write_and_verify(device: Device, task: Task, flags: int, lba: int, count: int) -> None:
    """WRITE AND VERIFY(10), (12) and (16) (2Eh, AEh, 8Eh): write to the medium, then read it back;
    with BYTCHK=1 compare."""
    if flags & PROTECT:
        raise CheckCondition(PROTECTED)
    device.check_range(lba, count)
    device.check_writable()
    check = flags >> BYTCHK_SHIFT & BYTCHK_MASK
    if check not in (BYTCHK_NONE, BYTCHK_ALL):
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(1))
    if count > device.transfer_blocks_max:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    if count == 0:
        task.done()
        return
    offset, length = lba << device.block_shift, count << device.block_shift
    data = exactly(task.data_out, length)
    expected = bytes(data) if check == BYTCHK_ALL else None

    def written(error: OSError | None) -> None:
        if error is not None:
            task.fail(write_failure(error))
        else:
            Verification(device, task, offset, length, expected).start()

    device.storage.write(offset, data if expected is None else expected, True, written)
