"""MODE SENSE and MODE SELECT (SPC-4 6.13 to 6.16, 7.5; SBC-3 6.5).

The caching page says the truth: WCE=1, writes complete into the page cache, and FUA is honoured.
One rule: MODE SELECT takes what is already so, and the one bit that may change: SWP, the software
write protection, which a reset ends.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Final

from pratima_iscsi.operations import Buffer
from pratima_iscsi.scsi.cdb import integer
from pratima_iscsi.scsi.device import Device
from pratima_iscsi.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_INFORMATION_UNIT,
    INVALID_PARAMETER,
    MODE_PARAMETERS_CHANGED,
    PARAMETER_LIST_LENGTH,
    SAVING_NOT_SUPPORTED,
    CheckCondition,
)
from pratima_iscsi.scsi.task import Task

HEADER_6 = struct.Struct(">BBBB")
"""mode data length, medium type, device-specific parameter, block descriptor length"""
HEADER_10 = struct.Struct(">HBBxxH")
"""the same with two-byte lengths"""
BLOCK_DESCRIPTOR = struct.Struct(">II")
"""number of blocks (FFFFFFFFh: more than fit), block length in the low three bytes"""
BLOCKS_MAX: Final = 0xFFFF_FFFF
BLOCK_LENGTH_MASK: Final = 0xFF_FFFF

WRITE_PROTECT: Final = 0x80
DPOFUA: Final = 0x10

DBD: Final = 0x08
PAGE_FORMAT: Final = 0x10
SAVE_PAGES: Final = 0x01
PAGE_CODE: Final = 0x3F
SUBPAGE_FORMAT: Final = 0x40
ALL_PAGES: Final = 0x3F
ALL_SUBPAGES: Final = 0xFF
CURRENT, CHANGEABLE, DEFAULT, SAVED = range(4)

CONTROL_PAGE: Final = 0x0A
SWP: Final = 0x08
SWP_BYTE: Final = 2
"""Place of the SWP bit in the control page's body."""


def _error_recovery(protected: bool) -> bytes:
    return bytes(10)


def _caching(protected: bool) -> bytes:
    return bytes((0x04,)) + bytes(17)  # WCE


def _control(protected: bool) -> bytes:
    # GLTSD; unrestricted reordering; SWP; TAS; busy timeout unlimited
    return bytes((0x02, 0x10, SWP if protected else 0, 0x40, 0, 0, 0xFF, 0xFF, 0, 0))


PAGES: Final[Mapping[int, Callable[[bool], bytes]]] = {
    0x01: _error_recovery,
    0x08: _caching,
    CONTROL_PAGE: _control,
}


def _page(code: int, control: int, protected: bool) -> bytes:
    """Page ``code`` with its header, for a page control value."""
    body = PAGES[code](protected and control == CURRENT)
    if control == CHANGEABLE:
        body = bytes(len(body)) if code != CONTROL_PAGE else _changeable_control()
    return bytes((code, len(body))) + body


def _changeable_control() -> bytes:
    body = bytearray(len(_control(False)))
    body[SWP_BYTE] = SWP
    return bytes(body)


def _block_descriptor(device: Device) -> bytes:
    return BLOCK_DESCRIPTOR.pack(min(device.blocks, BLOCKS_MAX), device.block_size)


def _sense(device: Device, cdb: Buffer) -> tuple[int, bytes, bytes]:
    """Device-specific parameter, block descriptors and pages that a MODE SENSE asks for."""
    code, control, subpage = cdb[2] & PAGE_CODE, cdb[2] >> 6, cdb[3]
    if control == SAVED:
        raise CheckCondition(SAVING_NOT_SUPPORTED)
    if subpage not in (0, ALL_SUBPAGES) or (subpage and code != ALL_PAGES and code not in PAGES):
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(3))
    if code == ALL_PAGES:
        codes = sorted(PAGES)
    elif code in PAGES:
        codes = [code]
    else:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(2))
    descriptor = b"" if cdb[1] & DBD else _block_descriptor(device)
    pages = b"".join(_page(each, control, device.write_protected) for each in codes)
    return DPOFUA | (WRITE_PROTECT if device.write_protected else 0), descriptor, pages


def mode_sense_6(device: Device, task: Task) -> None:
    """MODE SENSE(6) (1Ah)."""
    specific, descriptor, pages = _sense(device, task.cdb)
    length = HEADER_6.size + len(descriptor) + len(pages)
    header = HEADER_6.pack(length - 1, 0, specific, len(descriptor))
    task.data_in = (header + descriptor + pages)[: task.cdb[4]]
    task.done()


def mode_sense_10(device: Device, task: Task) -> None:
    """MODE SENSE(10) (5Ah)."""
    specific, descriptor, pages = _sense(device, task.cdb)
    length = HEADER_10.size + len(descriptor) + len(pages)
    header = HEADER_10.pack(length - 2, 0, specific, len(descriptor))
    task.data_in = (header + descriptor + pages)[: integer(task.cdb, 7, 2)]
    task.done()


def mode_select_6(device: Device, task: Task) -> None:
    """MODE SELECT(6) (15h)."""
    parameters = _parameters(task, task.cdb[4], HEADER_6.size)
    if parameters:
        _select(device, task, parameters[HEADER_6.size :], parameters[3])
    task.done()


def mode_select_10(device: Device, task: Task) -> None:
    """MODE SELECT(10) (55h)."""
    parameters = _parameters(task, integer(task.cdb, 7, 2), HEADER_10.size)
    if parameters:
        _select(device, task, parameters[HEADER_10.size :], integer(parameters, 6, 2))
    task.done()


def _parameters(task: Task, length: int, header: int) -> bytes:
    """The parameter list, empty or with a whole header."""
    if not task.cdb[1] & PAGE_FORMAT or task.cdb[1] & SAVE_PAGES:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(1))
    if len(task.data_out) < length:
        raise CheckCondition(INVALID_INFORMATION_UNIT)
    if 0 < length < header:
        raise CheckCondition(PARAMETER_LIST_LENGTH)
    return bytes(task.data_out[:length])


def _select(device: Device, task: Task, rest: bytes, descriptor_length: int) -> None:
    """Check block descriptor and pages, then set what may be set."""
    if descriptor_length > len(rest):
        raise CheckCondition(PARAMETER_LIST_LENGTH)
    _check_descriptor(device, rest[:descriptor_length])
    rest = rest[descriptor_length:]
    protected = device.write_protected
    while rest:
        code, body, rest = _split_page(rest)
        now = PAGES[code](protected)
        wanted = bytearray(body)
        if code == CONTROL_PAGE and len(body) == len(now):
            protected = bool(body[SWP_BYTE] & SWP)
            wanted[SWP_BYTE] ^= (body[SWP_BYTE] ^ now[SWP_BYTE]) & SWP
        if wanted != now:
            raise CheckCondition(INVALID_PARAMETER)
    if protected != device.write_protected:
        device.write_protected = protected
        device.attentions.establish_for_all(MODE_PARAMETERS_CHANGED, but=task.nexus)


def _check_descriptor(device: Device, descriptor: bytes) -> None:
    """At most one descriptor, that changes nothing; 0 and FFFFFFFFh blocks mean all."""
    if not descriptor:
        return
    if len(descriptor) != BLOCK_DESCRIPTOR.size:
        raise CheckCondition(INVALID_PARAMETER)
    blocks, block_length = BLOCK_DESCRIPTOR.unpack(descriptor)
    if blocks not in (0, BLOCKS_MAX, device.blocks) or (
        block_length & BLOCK_LENGTH_MASK != device.block_size
    ):
        raise CheckCondition(INVALID_PARAMETER)


def _split_page(pages: bytes) -> tuple[int, bytes, bytes]:
    """Code and body of the first page, and what follows it."""
    code = pages[0] & PAGE_CODE
    if pages[0] & SUBPAGE_FORMAT or code not in PAGES:
        raise CheckCondition(INVALID_PARAMETER)
    if len(pages) < 2 or len(pages) < 2 + pages[1]:
        raise CheckCondition(PARAMETER_LIST_LENGTH)
    end = 2 + pages[1]
    return code, pages[2:end], pages[end:]
