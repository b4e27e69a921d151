"""UNMAP, WRITE SAME and GET LBA STATUS: giving space back and asking about it (SBC-3 4.7).

One rule: what was unmapped reads as zeros (LBPRZ=1), on every copy; a range that cannot be given
back, being no whole physical block, is written with zeros.
"""

import struct
from collections.abc import Iterator
from typing import Final

from pratima_iscsi.limits import LBA_STATUS_DESCRIPTORS_MAX, UNMAP_DESCRIPTORS_MAX
from pratima_iscsi.operations import Buffer
from pratima_iscsi.scsi.cdb import PROTECT, integer
from pratima_iscsi.scsi.device import Device
from pratima_iscsi.scsi.read_write import PROTECTED, exactly
from pratima_iscsi.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_INFORMATION_UNIT,
    INVALID_PARAMETER,
    PARAMETER_LIST_LENGTH,
    CheckCondition,
)
from pratima_iscsi.scsi.sweep import Fill
from pratima_iscsi.scsi.task import NDOB, Task

UNMAP_HEADER = struct.Struct(">HH4x")
"""data length, block descriptor data length"""
UNMAP_DESCRIPTOR = struct.Struct(">QI4x")
"""LBA, number of blocks"""
UNMAP_ANCHOR: Final = 0x01

ANCHOR: Final = 0x10
UNMAP: Final = 0x08
PBDATA_LBDATA: Final = 0x06

STATUS_HEADER = struct.Struct(">I4x")
"""bytes that follow this field"""
STATUS_DESCRIPTOR = struct.Struct(">QIB3x")
"""LBA, number of blocks, provisioning status"""
STATUS_BLOCKS_MAX: Final = 0xFFFF_FFFF
MAPPED, DEALLOCATED = 0, 1


class Join:
    """Ends a task when all of several operations have settled, with the first failure."""

    def __init__(self, task: Task, count: int) -> None:
        self._task = task
        self._left = count
        self._error: OSError | None = None

    def settled(self, error: OSError | None) -> None:
        """One of them has settled."""
        self._error = self._error or error
        self._left -= 1
        if self._left == 0:
            self._task.write_settled(self._error)


def unmap(device: Device, task: Task) -> None:
    """UNMAP (42h): every descriptor is checked before any is carried out."""
    if task.cdb[1] & UNMAP_ANCHOR:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(1))
    device.check_writable()
    length = integer(task.cdb, 7, 2)
    extents = list(_joined(_unmap_extents(device, exactly(task.data_out, length))))
    if not extents:
        task.done()
        return
    join = Join(task, len(extents))
    for lba, count in extents:
        device.storage.zero(
            lba << device.block_shift, count << device.block_shift, False, join.settled
        )


def _unmap_extents(device: Device, parameters: Buffer) -> list[tuple[int, int]]:
    """(LBA, blocks) of each descriptor that is not empty."""
    if len(parameters) == 0:
        return []
    if len(parameters) < UNMAP_HEADER.size:
        raise CheckCondition(PARAMETER_LIST_LENGTH)
    _, length = UNMAP_HEADER.unpack_from(parameters)
    if UNMAP_HEADER.size + length > len(parameters):
        raise CheckCondition(INVALID_PARAMETER)
    if length // UNMAP_DESCRIPTOR.size > UNMAP_DESCRIPTORS_MAX:
        raise CheckCondition(INVALID_PARAMETER)
    extents: list[tuple[int, int]] = []
    for first in range(UNMAP_HEADER.size, UNMAP_HEADER.size + length, UNMAP_DESCRIPTOR.size):
        if first + UNMAP_DESCRIPTOR.size > UNMAP_HEADER.size + length:
            break  # SBC-3 5.28.2: an incomplete descriptor at the end is ignored
        lba, count = UNMAP_DESCRIPTOR.unpack_from(parameters, first)
        if count:
            device.check_range(lba, count)
            extents.append((lba, count))
    if sum(count for _, count in extents) > device.unmap_blocks_max:
        raise CheckCondition(INVALID_PARAMETER)
    return extents


def _joined(extents: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same blocks with neighbours that follow each other made one."""
    begin = end = 0
    for lba, count in extents:
        if lba != end and end > begin:
            yield begin, end - begin
        if lba != end or end == begin:
            begin = lba
        end = lba + count
    if end > begin:
        yield begin, end - begin


def write_same_10(device: Device, task: Task, flags: int, lba: int, count: int) -> None:
    """WRITE SAME(10) (41h): the one below, but that it always has data."""
    if flags & NDOB:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(1))
    write_same(device, task, flags, lba, count)


def write_same(device: Device, task: Task, flags: int, lba: int, count: int) -> None:
    """WRITE SAME(16) (93h).

    Zeros become a range of zeros, whether UNMAP is set or not.

    Another pattern is written out: with UNMAP it must read back as that pattern too (SBC-3 5.49).
    0 blocks, which could mean all to the end, are refused (WSNZ=1).
    """
    if flags & PROTECT:
        raise CheckCondition(PROTECTED)
    if flags & (ANCHOR | PBDATA_LBDATA) or (flags & UNMAP and not device.thin):
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(1))
    device.check_range(lba, count)
    device.check_writable()
    if not 0 < count <= device.write_same_blocks_max:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    pattern = bytes(task.data_out)
    if flags & NDOB:
        pattern = bytes(device.block_size)
    elif len(pattern) != device.block_size:
        raise CheckCondition(INVALID_INFORMATION_UNIT)
    offset, length = lba << device.block_shift, count << device.block_shift
    if any(pattern):
        Fill(device, task, offset, length, pattern).start()
    else:
        device.storage.zero(offset, length, False, task.write_settled)


def get_lba_status(device: Device, task: Task) -> None:
    """GET LBA STATUS (9Eh/12h): extents from the LBA on, as many as fit and a limit allows."""
    lba = _first_reported(device, integer(task.cdb, 2, 8))
    allocation = integer(task.cdb, 10, 4)
    room = (allocation - STATUS_HEADER.size) // STATUS_DESCRIPTOR.size
    descriptors: list[bytes] = []
    while lba < device.blocks and len(descriptors) < min(max(room, 1), LBA_STATUS_DESCRIPTORS_MAX):
        left = min(device.blocks - lba, STATUS_BLOCKS_MAX)
        mapped, length = device.storage.allocated(
            lba << device.block_shift, left << device.block_shift
        )
        if not mapped and length < device.block_size:
            mapped = True  # only a part of this block is a hole
        count = -(-length >> device.block_shift) if mapped else length >> device.block_shift
        descriptors.append(STATUS_DESCRIPTOR.pack(lba, count, MAPPED if mapped else DEALLOCATED))
        lba += count
    size = STATUS_HEADER.size + len(descriptors) * STATUS_DESCRIPTOR.size
    header = STATUS_HEADER.pack(size - STATUS_HEADER_COUNTED_FROM)
    task.data_in = b"".join((header, *descriptors))[:allocation]
    task.done()


STATUS_HEADER_COUNTED_FROM: Final = 4


def _first_reported(device: Device, lba: int) -> int:
    """The LBA that the first descriptor begins with: the one asked for (SBC-3).

    Except right behind a hole, inside of the first physical block that holds space: there it is
    the next physical block, since iscsi-test-cu's GetLBAStatus.UnmapSingle wants it so. qemu takes
    that for an I/O error, but asks there only when its image begins inside of such a block.
    """
    device.check_range(lba, 0)
    physical = 1 << device.physical_block_exponent
    first = lba - lba % physical
    rounded = first + physical
    if lba == first or first == 0 or rounded >= device.blocks:
        return lba
    before, length = (first - physical) << device.block_shift, physical << device.block_shift
    return lba if device.storage.allocated(before, length)[0] else rounded
