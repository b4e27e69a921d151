"""READ CAPACITY(10) and (16) (SBC-3 5.15, 5.16).

One rule: what the provisioning fields say here agrees with VPD pages B0 and B2.
"""

import struct
from typing import Final

from pratima_iscsi.scsi.cdb import integer
from pratima_iscsi.scsi.device import Device
from pratima_iscsi.scsi.task import Task

CAPACITY_10 = struct.Struct(">II")
"""last LBA (FFFFFFFFh: ask with READ CAPACITY(16)), block length"""
CAPACITY_16 = struct.Struct(">QIBBH16x")
"""last LBA, block length, protection, physical block exponent, LBPME, LBPRZ and alignment"""
LAST_LBA_MAX: Final = 0xFFFF_FFFF
LBPME_LBPRZ: Final = 0xC000


def read_capacity_10(device: Device, task: Task) -> None:
    """READ CAPACITY(10) (25h)."""
    last = min(device.blocks - 1, LAST_LBA_MAX)
    task.data_in = CAPACITY_10.pack(last, device.block_size)
    task.done()


def read_capacity_16(device: Device, task: Task) -> None:
    """READ CAPACITY(16) (9Eh/10h)."""
    data = CAPACITY_16.pack(
        device.blocks - 1,
        device.block_size,
        0,
        device.physical_block_exponent,
        LBPME_LBPRZ if device.thin else 0,
    )
    task.data_in = data[: integer(task.cdb, 10, 4)]
    task.done()
