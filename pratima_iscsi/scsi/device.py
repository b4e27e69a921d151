"""What a logical unit is: its volume, geometry, limits, identity, and who knows of it.

State that the commands share. One rule: geometry is read from the storage when the unit is made
and when ``capacity_changed`` is called, never in between, so that what an initiator was told stays
true until it has been told otherwise.
"""

import hashlib
import string
from typing import Final

from pratima_iscsi.errors import UsageError
from pratima_iscsi.limits import COMPARE_BLOCKS_MAX, WRITE_SAME_BYTES_MAX, ZERO_BYTES_MAX
from pratima_iscsi.operations import Storage
from pratima_iscsi.scsi.reservations import Reservations
from pratima_iscsi.scsi.sense import (
    CAPACITY_CHANGED,
    LBA_OUT_OF_RANGE,
    SOFTWARE_WRITE_PROTECTED,
    CheckCondition,
)
from pratima_iscsi.scsi.task import Nexus, Task
from pratima_iscsi.scsi.unit_attention import UnitAttentions

BLOCK_SIZES: Final = (512, 4096)
PHYSICAL_BLOCK_BYTES: Final = 4096
"""Writes of whole, aligned physical blocks cost no reading; space is given back in these."""
SERIAL_LENGTH_MAX: Final = 64
NAA_SERIAL_DIGITS: Final = 25
UNIT_SERIAL_DIGITS: Final = 32
"""Hexadecimal digits of a serial that is made from a group's id."""


def unit_serial(group: bytes, index: int) -> str:
    """The serial of the unit of a group's volume ``index``, from the group's 16-byte id.

    Every front end's unit has it, and it names the unit in the kernel (``tcmu.names``): an
    initiator that knew the disk before knows it again, whichever way it is served.
    """
    return hashlib.sha256(group + index.to_bytes(2, "big")).hexdigest()[:UNIT_SERIAL_DIGITS]


class Device:
    """The state of one logical unit over ``storage``.

    ``serial`` is the unit's serial number, printable ASCII and unique: multipath merges what
    shares one. ``block_size`` is the logical block in bytes, 512 or 4096.
    """

    __slots__ = (
        "attentions",
        "block_shift",
        "block_size",
        "blocks",
        "compare_blocks_max",
        "reservations",
        "serial",
        "storage",
        "thin",
        "transfer_blocks_max",
        "unmap_blocks_max",
        "write_protected",
        "write_same_blocks_max",
    )

    def __init__(self, storage: Storage, *, serial: str, block_size: int = 512) -> None:
        if block_size not in BLOCK_SIZES:
            raise UsageError(f"block size {block_size} is not offered", "use 512 or 4096")
        printable = serial.isascii() and serial.isprintable()
        if not printable or not 0 < len(serial) <= SERIAL_LENGTH_MAX:
            raise UsageError(
                f"serial {serial!r} is not 1 to {SERIAL_LENGTH_MAX} printable ASCII characters"
            )
        self.storage = storage
        self.serial = serial
        self.block_size = block_size
        self.block_shift = block_size.bit_length() - 1
        self.thin = storage.thin
        self.write_protected = False
        """SWP of the control mode page."""
        self.attentions = UnitAttentions()
        self.reservations = Reservations(self.attentions)
        self._measure()

    def _measure(self) -> None:
        self.blocks = self.storage.size >> self.block_shift
        if self.blocks == 0:
            raise UsageError(f"the volume is smaller than one block of {self.block_size} bytes")
        self.transfer_blocks_max = self.storage.transfer_bytes_max >> self.block_shift
        self.compare_blocks_max = min(COMPARE_BLOCKS_MAX, self.transfer_blocks_max)
        self.unmap_blocks_max = ZERO_BYTES_MAX >> self.block_shift
        self.write_same_blocks_max = WRITE_SAME_BYTES_MAX >> self.block_shift

    @property
    def physical_block_exponent(self) -> int:
        """Logical blocks in a physical one, as a power of two."""
        return PHYSICAL_BLOCK_BYTES.bit_length() - 1 - self.block_shift

    def execute(self, task: Task) -> None:
        """Execute ``task``: the logical unit's affair."""
        raise NotImplementedError

    def capacity_changed(self) -> None:
        """The volume grew: every nexus is told (6/2A/09)."""
        self._measure()
        self.attentions.establish_for_all(CAPACITY_CHANGED)

    def attach(self, nexus: Nexus) -> None:
        """A session of an initiator that may use this unit came up."""
        self.attentions.attach(nexus)

    def detach(self, nexus: Nexus) -> None:
        """The session ended: its RESERVE ends, its registration stays."""
        self.reservations.lose(nexus)
        self.attentions.detach(nexus)

    def check_range(self, lba: int, count: int) -> None:
        """Raise 5/21/00 unless ``count`` blocks from ``lba`` on exist; ``lba`` itself must."""
        if not self._has(lba, count):
            raise CheckCondition(LBA_OUT_OF_RANGE)

    def takes(self, lba: int, count: int) -> bool:
        """Whether a transfer of these blocks lies within the unit and its limit."""
        return self._has(lba, count) and count <= self.transfer_blocks_max

    def _has(self, lba: int, count: int) -> bool:
        return lba < self.blocks and lba + count <= self.blocks

    def check_writable(self) -> None:
        """Raise 7/27/02 while software write protection is on."""
        if self.write_protected:
            raise CheckCondition(SOFTWARE_WRITE_PROTECTED)

    @property
    def naa_digits(self) -> str:
        """25 hexadecimal digits of the serial, for its NAA identifier.

        As Linux's LIO takes them from a UUID; a digest for a serial that has not so many.
        """
        digits = self.serial.replace("-", "").lower()
        if len(digits) < NAA_SERIAL_DIGITS or not set(digits) <= set(string.hexdigits):
            digits = hashlib.blake2b(self.serial.encode(), digest_size=16).hexdigest()
        return digits[:NAA_SERIAL_DIGITS]
