"""INQUIRY: the standard data and the vital product data pages (SPC-4 6.6, 7.8; SBC-3 6.6).

One rule: the page list is made from the table that answers, so every listed page can be read.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Final

from pratima_iscsi.limits import MIB, UNMAP_DESCRIPTORS_MAX
from pratima_iscsi.scsi.cdb import integer
from pratima_iscsi.scsi.device import Device
from pratima_iscsi.scsi.sense import INVALID_FIELD_IN_CDB, CheckCondition
from pratima_iscsi.scsi.task import Task

VENDOR: Final = b"PRATIMA "
PRODUCT: Final = b"MIRRORED DISK   "
REVISION: Final = b"1   "
VERSION_DESCRIPTORS: Final = (0x0960, 0x0460, 0x04C0)
"""iSCSI, SPC-4, SBC-3."""

EVPD: Final = 0x01
CMDDT: Final = 0x02
NO_SUCH_UNIT: Final = 0x7F
"""Peripheral qualifier 3, device type 1Fh: the target has nothing at this LUN."""

STANDARD = struct.Struct(">BBBBBBBB8s16s4s22x8H")
"""qualifier and type, RMB, version, format, additional length, three flag bytes, vendor, product,
revision, version descriptors"""
STANDARD_LENGTH_FIELD_END: Final = 5

BLOCK_LIMITS = struct.Struct(">BBHIIIIIIIQ20x")
"""WSNZ, COMPARE AND WRITE max, granularity, transfer max, optimal, prefetch max, UNMAP max,
UNMAP descriptors max, UNMAP granularity, its alignment, WRITE SAME max"""
WSNZ: Final = 1
UGAVALID: Final = 0x8000_0000
OPTIMAL_TRANSFER_BYTES: Final = MIB

NON_ROTATING: Final = 1
CHARACTERISTICS = struct.Struct(">H58x")
"""medium rotation rate"""

LBPU, LBPWS, LBPWS10, LBPRZ = 0x80, 0x40, 0x20, 0x04
THIN: Final = 2
PROVISIONING = struct.Struct(">BBBB")
"""threshold exponent, abilities, provisioning type, threshold percentage"""

DESIGNATOR = struct.Struct(">BBxB")
"""protocol and code set, association and type, length"""
BINARY, ASCII = 1, 2
T10_VENDOR_ID, NAA = 1, 3
NAA_6_PREFIX: Final = "6001405"
"""NAA 6 and the company id that Linux's LIO uses."""


def standard_data(peripheral: int = 0) -> bytes:
    """The standard INQUIRY data of a disk; ``peripheral`` is its first byte."""
    descriptors = VERSION_DESCRIPTORS + (0,) * (8 - len(VERSION_DESCRIPTORS))
    additional = STANDARD.size - STANDARD_LENGTH_FIELD_END
    flags = (0x00, 0x00, 0x02)  # no TPGS, 3PC or PROTECT; one port; CMDQUE
    return STANDARD.pack(
        peripheral, 0, 0x06, 0x02, additional, *flags, VENDOR, PRODUCT, REVISION, *descriptors
    )


def _supported_pages(device: Device) -> bytes:
    return bytes(sorted(PAGES))


def _serial(device: Device) -> bytes:
    return device.serial.encode("ascii")


def _identification(device: Device) -> bytes:
    naa = bytes.fromhex(NAA_6_PREFIX + device.naa_digits)
    text = VENDOR + device.serial.encode("ascii")
    return (
        DESIGNATOR.pack(BINARY, NAA, len(naa))
        + naa
        + DESIGNATOR.pack(ASCII, T10_VENDOR_ID, len(text))
        + text
    )


def _block_limits(device: Device) -> bytes:
    physical = 1 << device.physical_block_exponent
    optimal = min(OPTIMAL_TRANSFER_BYTES >> device.block_shift, device.transfer_blocks_max)
    return BLOCK_LIMITS.pack(
        WSNZ,
        device.compare_blocks_max,
        physical,
        device.transfer_blocks_max,
        optimal,
        0,
        device.unmap_blocks_max if device.thin else 0,
        UNMAP_DESCRIPTORS_MAX if device.thin else 0,
        physical if device.thin else 0,
        UGAVALID if device.thin else 0,
        device.write_same_blocks_max,
    )


def _characteristics(device: Device) -> bytes:
    return CHARACTERISTICS.pack(NON_ROTATING)


def _provisioning(device: Device) -> bytes:
    if not device.thin:
        return PROVISIONING.pack(0, 0, 0, 0)
    return PROVISIONING.pack(0, LBPU | LBPWS | LBPWS10 | LBPRZ, THIN, 0)


PAGES: Final[Mapping[int, Callable[[Device], bytes]]] = {
    0x00: _supported_pages,
    0x80: _serial,
    0x83: _identification,
    0xB0: _block_limits,
    0xB1: _characteristics,
    0xB2: _provisioning,
}


def inquiry(device: Device, task: Task) -> None:
    """INQUIRY (12h)."""
    cdb = task.cdb
    page = cdb[2]
    if cdb[1] & CMDDT:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(1))
    if cdb[1] & EVPD:
        content = PAGES.get(page)
        if content is None:
            raise CheckCondition(INVALID_FIELD_IN_CDB.at(2))
        body = content(device)
        data = bytes((0, page)) + len(body).to_bytes(2, "big") + body
    elif page:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(2))
    else:
        data = standard_data()
    task.data_in = data[: integer(cdb, 3, 2)]
    task.done()
