"""Layouts of command descriptor blocks (SPC-4 4.2.5, SBC-3 5) and the bits in their flag bytes.

One rule: a layout is read with ``unpack_from`` after the dispatcher has checked the CDB's length,
so padding after it does no harm.
"""

import struct
from typing import Final

from pratima_iscsi.operations import Buffer

CDB_6 = struct.Struct(">IBB")
"""opcode and 21-bit LBA, transfer length in blocks, control"""
CDB_10 = struct.Struct(">BBIBHB")
"""opcode, flags, LBA, group number, length in blocks, control"""
CDB_12 = struct.Struct(">BBIIBB")
"""opcode, flags, LBA, length in blocks, group number, control"""
CDB_16 = struct.Struct(">BBQIBB")
"""opcode, flags, LBA, length in blocks, group number, control"""

LBA_6_MASK: Final = 0x1F_FFFF
PROTECT: Final = 0xE0
"""RDPROTECT, WRPROTECT, VRPROTECT: protection information, which no volume has."""
FUA: Final = 0x08
BYTCHK_SHIFT: Final = 1
BYTCHK_MASK: Final = 0x03
SERVICE_ACTION: Final = 0x1F
NACA: Final = 0x04
"""In every control byte: "establish ACA", which is not offered (SAM-5 5.2)."""

SHORTEST_CDB: Final = 6
LONGEST_FIXED_CDB: Final = 16


def integer(cdb: Buffer, first: int, width: int) -> int:
    """The big-endian number in ``width`` bytes from byte ``first`` on."""
    return int.from_bytes(cdb[first : first + width], "big")
