"""Sense data: why a command did not end in GOOD, and how an OSError becomes that.

One rule: every failure of a command is one ``Sense`` value, and it goes to the initiator in fixed
format, 18 bytes (SPC-4 4.5.3).
"""

import errno
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pratima_iscsi.errors import PratimaError

FIXED_SENSE = struct.Struct(">BxBIB4sBBxBH")
"""response code and VALID, key, information, additional length, command specific information,
ASC, ASCQ, sense key specific"""

RESPONSE_CURRENT_FIXED: Final = 0x70
VALID: Final = 0x80
ADDITIONAL_LENGTH: Final = 10
INFORMATION_MAX: Final = 0xFFFF_FFFF
FIELD_POINTER_IN_CDB: Final = 0xC0
"""SKSV and C/D: the sense key specific bytes point at a byte of the CDB."""


class SenseKey(IntEnum):
    """Sense keys (SPC-4 table 48)."""

    NO_SENSE = 0x0
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    ABORTED_COMMAND = 0xB
    MISCOMPARE = 0xE


@dataclass(frozen=True, slots=True)
class Sense:
    """A sense key with its additional sense code and qualifier, and what goes with them.

    ``information`` is the INFORMATION field with VALID=1 (left out when it does not fit in 32
    bits); ``field`` the number of the CDB's byte that is wrong.
    """

    key: SenseKey
    asc: int
    ascq: int
    information: int | None = None
    field: int | None = None

    def encode(self) -> bytes:
        """The 18 bytes of fixed format sense data."""
        valid = self.information is not None and self.information <= INFORMATION_MAX
        return FIXED_SENSE.pack(
            RESPONSE_CURRENT_FIXED | (VALID if valid else 0),
            self.key,
            (self.information or 0) if valid else 0,
            ADDITIONAL_LENGTH,
            b"",
            self.asc,
            self.ascq,
            0 if self.field is None else FIELD_POINTER_IN_CDB,
            self.field or 0,
        )

    def at(self, field: int) -> "Sense":
        """The same with a field pointer to byte ``field`` of the CDB."""
        return Sense(self.key, self.asc, self.ascq, self.information, field)

    def with_information(self, information: int) -> "Sense":
        """The same with an INFORMATION field."""
        return Sense(self.key, self.asc, self.ascq, information, self.field)

    def __str__(self) -> str:
        return f"{self.key:X}/{self.asc:02X}/{self.ascq:02X}"


NO_SENSE: Final = Sense(SenseKey.NO_SENSE, 0x00, 0x00)
READ_ERROR: Final = Sense(SenseKey.MEDIUM_ERROR, 0x11, 0x00)
WRITE_ERROR: Final = Sense(SenseKey.MEDIUM_ERROR, 0x0C, 0x00)
INTERNAL_FAILURE: Final = Sense(SenseKey.HARDWARE_ERROR, 0x44, 0x00)
INVALID_INFORMATION_UNIT: Final = Sense(SenseKey.ILLEGAL_REQUEST, 0x0E, 0x03)
"""The initiator's expected length and the CDB's length do not go together."""
PARAMETER_LIST_LENGTH: Final = Sense(SenseKey.ILLEGAL_REQUEST, 0x1A, 0x00)
INVALID_OPCODE: Final = Sense(SenseKey.ILLEGAL_REQUEST, 0x20, 0x00)
LBA_OUT_OF_RANGE: Final = Sense(SenseKey.ILLEGAL_REQUEST, 0x21, 0x00)
INVALID_FIELD_IN_CDB: Final = Sense(SenseKey.ILLEGAL_REQUEST, 0x24, 0x00)
LUN_NOT_SUPPORTED: Final = Sense(SenseKey.ILLEGAL_REQUEST, 0x25, 0x00)
INVALID_PARAMETER: Final = Sense(SenseKey.ILLEGAL_REQUEST, 0x26, 0x00)
INVALID_RELEASE: Final = Sense(SenseKey.ILLEGAL_REQUEST, 0x26, 0x04)
"""INVALID RELEASE OF PERSISTENT RESERVATION."""
SAVING_NOT_SUPPORTED: Final = Sense(SenseKey.ILLEGAL_REQUEST, 0x39, 0x00)
NO_REGISTRATION_ROOM: Final = Sense(SenseKey.ILLEGAL_REQUEST, 0x55, 0x04)
"""INSUFFICIENT REGISTRATION RESOURCES."""
POWER_ON_OR_RESET: Final = Sense(SenseKey.UNIT_ATTENTION, 0x29, 0x00)
MODE_PARAMETERS_CHANGED: Final = Sense(SenseKey.UNIT_ATTENTION, 0x2A, 0x01)
CAPACITY_CHANGED: Final = Sense(SenseKey.UNIT_ATTENTION, 0x2A, 0x09)
RESERVATIONS_PREEMPTED: Final = Sense(SenseKey.UNIT_ATTENTION, 0x2A, 0x03)
RESERVATIONS_RELEASED: Final = Sense(SenseKey.UNIT_ATTENTION, 0x2A, 0x04)
REGISTRATIONS_PREEMPTED: Final = Sense(SenseKey.UNIT_ATTENTION, 0x2A, 0x05)
COMMANDS_CLEARED: Final = Sense(SenseKey.UNIT_ATTENTION, 0x2F, 0x00)
"""COMMANDS CLEARED BY ANOTHER INITIATOR."""
LUNS_CHANGED: Final = Sense(SenseKey.UNIT_ATTENTION, 0x3F, 0x0E)
WRITE_PROTECTED: Final = Sense(SenseKey.DATA_PROTECT, 0x27, 0x00)
SOFTWARE_WRITE_PROTECTED: Final = Sense(SenseKey.DATA_PROTECT, 0x27, 0x02)
NO_SPACE: Final = Sense(SenseKey.DATA_PROTECT, 0x27, 0x07)
"""SPACE ALLOCATION FAILED WRITE PROTECT."""
MISCOMPARE: Final = Sense(SenseKey.MISCOMPARE, 0x1D, 0x00)


class CheckCondition(PratimaError):
    """The initiator's fault or the medium's: the command ends in CHECK CONDITION with ``sense``.

    Caught once, where a logical unit executes a task.
    """

    def __init__(self, sense: Sense) -> None:
        super().__init__(str(sense))
        self.sense = sense


OF_ERRNO: Final = {
    errno.ENOSPC: NO_SPACE,
    errno.EDQUOT: NO_SPACE,
    errno.EROFS: WRITE_PROTECTED,
}
"""What an errno means whatever the command did; EIO depends on the direction."""


def read_failure(error: OSError) -> Sense:
    """Sense of a read that ended in ``error``."""
    if error.errno == errno.EIO:
        return READ_ERROR
    return OF_ERRNO.get(error.errno or 0, INTERNAL_FAILURE)


def write_failure(error: OSError) -> Sense:
    """Sense of a write, a zeroing or a flush that ended in ``error``."""
    if error.errno == errno.EIO:
        return WRITE_ERROR
    return OF_ERRNO.get(error.errno or 0, INTERNAL_FAILURE)
