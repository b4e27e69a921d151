"""Commands that name a range of blocks: what is done with it is written once, the CDBs of 6, 10, 12
and 16 bytes only say it in other places.

One rule: nothing is checked here; that is the affair of what is done.
"""

from collections.abc import Callable

from pratima_iscsi.scsi.cdb import CDB_6, CDB_10, CDB_12, CDB_16, LBA_6_MASK
from pratima_iscsi.scsi.device import Device
from pratima_iscsi.scsi.task import WRITE_6_ZERO_MEANS, Task

Handler = Callable[[Device, Task], None]
"""Executes a task; ends in one call of ``task.done``, or raises."""
RangeHandler = Callable[[Device, Task, int, int, int], None]
"""The same, told the flags (byte 1), the first LBA and the number of blocks."""


def by_6(act: RangeHandler) -> Handler:
    """A CDB of 6 bytes: no flags, and length 0 means 256 blocks."""

    def handler(device: Device, task: Task) -> None:
        word, count, _ = CDB_6.unpack_from(task.cdb)
        act(device, task, 0, word & LBA_6_MASK, count or WRITE_6_ZERO_MEANS)

    return handler


def by_10(act: RangeHandler) -> Handler:
    """A CDB of 10 bytes."""

    def handler(device: Device, task: Task) -> None:
        _, flags, lba, _, count, _ = CDB_10.unpack_from(task.cdb)
        act(device, task, flags, lba, count)

    return handler


def by_12(act: RangeHandler) -> Handler:
    """A CDB of 12 bytes."""

    def handler(device: Device, task: Task) -> None:
        _, flags, lba, count, _, _ = CDB_12.unpack_from(task.cdb)
        act(device, task, flags, lba, count)

    return handler


def by_16(act: RangeHandler) -> Handler:
    """A CDB of 16 bytes."""

    def handler(device: Device, task: Task) -> None:
        _, flags, lba, count, _, _ = CDB_16.unpack_from(task.cdb)
        act(device, task, flags, lba, count)

    return handler
