"""The one table of commands: what is dispatched from it is what REPORT SUPPORTED OPCODES tells.

Each command has its CDB usage data (SPC-4 6.35.3): the opcode, then for every byte the bits that
are looked at, but a service action as its own code; its length is the CDB's. One rule: a command
exists here or not at all.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pratima_iscsi.scsi import capacity, inquiry, mode, provisioning, read_write, verify
from pratima_iscsi.scsi import reservation_commands as reservation
from pratima_iscsi.scsi.block_range import Handler, by_6, by_10, by_12, by_16
from pratima_iscsi.scsi.cdb import NACA, SERVICE_ACTION, integer
from pratima_iscsi.scsi.device import Device
from pratima_iscsi.scsi.reservations import Access
from pratima_iscsi.scsi.sense import INVALID_FIELD_IN_CDB, LUNS_CHANGED, NO_SENSE, CheckCondition
from pratima_iscsi.scsi.task import Aborted, Task


@dataclass(frozen=True, slots=True)
class Command:
    """One command: how it is recognised, reported, guarded and carried out."""

    name: str
    usage: bytes
    access: Access
    handler: Handler
    service_action: int | None = None
    thin_only: bool = False
    """Offered only where space can be given back."""

    @property
    def opcode(self) -> int:
        """The operation code."""
        return self.usage[0]

    @property
    def length(self) -> int:
        """Bytes of the CDB."""
        return len(self.usage)


# --- commands that have no module of their own ---------------------------------------------------


def test_unit_ready(device: Device, task: Task) -> None:
    """TEST UNIT READY (00h): a unit that can be addressed is ready."""
    task.done()


def request_sense(device: Device, task: Task) -> None:
    """REQUEST SENSE (03h): a waiting unit attention is reported here instead (SAM-5 5.14)."""
    if task.cdb[1] & DESC:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(1))
    sense = device.attentions.take(task.nexus) or NO_SENSE
    task.data_in = sense.encode()[: task.cdb[4]]
    task.done()


DESC: Final = 0x01


def start_stop_unit(device: Device, task: Task) -> None:
    """START STOP UNIT (1Bh): the unit is started, and that is all it can be."""
    if task.cdb[4] & (POWER_CONDITION | LOEJ) or not task.cdb[4] & START:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(4))
    task.done()


POWER_CONDITION, LOEJ, START = 0xF0, 0x02, 0x01


def prevent_allow(device: Device, task: Task) -> None:
    """PREVENT ALLOW MEDIUM REMOVAL (1Eh): the medium cannot be removed anyway; but to prevent it is
    to have a say over the unit, which another's persistent reservation forbids (SPC-4 5.13.1)."""
    if task.cdb[4] & PREVENT:
        device.reservations.check(task.nexus, Access.WRITE)
    task.done()


PREVENT: Final = 0x03


def report_luns(device: Device, task: Task) -> None:
    """REPORT LUNS (A0h): those of the nexus's target."""
    task.data_in = luns_data(task, task.nexus.inventory.luns)
    device.attentions.withdraw(task.nexus, LUNS_CHANGED)
    task.done()


def luns_data(task: Task, luns: Sequence[int]) -> bytes:
    """Parameter data of REPORT LUNS, cut at the allocation length."""
    select, allocation = task.cdb[2], integer(task.cdb, 6, 4)
    if select not in (ADDRESSED, WELL_KNOWN, EVERY_LUN):
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(2))
    if allocation < LUN_LIST_MIN:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(6))
    fields = b"" if select == WELL_KNOWN else b"".join(encode_lun(lun) for lun in luns)
    return (LUN_LIST_HEADER.pack(len(fields)) + fields)[:allocation]


ADDRESSED, WELL_KNOWN, EVERY_LUN = 0, 1, 2
LUN_LIST_MIN: Final = 16
LUN_LIST_HEADER = struct.Struct(">I4x")
"""bytes of the list"""
FLAT_SPACE: Final = 0x4000
PERIPHERAL_LUN_MAX: Final = 0xFF


def encode_lun(lun: int) -> bytes:
    """The 8-byte LUN field: peripheral addressing up to 255, flat space above (SAM-5 4.7)."""
    first = lun if lun <= PERIPHERAL_LUN_MAX else FLAT_SPACE | lun
    return first.to_bytes(2, "big") + bytes(6)


def preempt(device: Device, task: Task) -> None:
    """PREEMPT (5Fh/04h)."""
    reservation.preempt(device, task)
    task.done()


def preempt_and_abort(device: Device, task: Task) -> None:
    """PREEMPT AND ABORT (5Fh/05h): ends when the victims' commands have settled."""
    lost = reservation.preempt(device, task)
    for nexus in device.attentions:
        if nexus.port in lost:
            nexus.abort_tasks(device, Aborted.REPORTED)
    device.storage.settle(task.done)


def report_supported_task_management(device: Device, task: Task) -> None:
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (A3h/0Dh)."""
    allocation = integer(task.cdb, 6, 4)
    if allocation < TASK_MANAGEMENT_MIN:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(6))
    extended = task.cdb[2] & REPD
    data = bytes((ATS | ATSS | CTSS | LURS, 0, 0, REPD_LENGTH if extended else 0))
    data += bytes(REPD_LENGTH) if extended else b""
    task.data_in = data[:allocation]
    task.done()


TASK_MANAGEMENT_MIN: Final = 4
REPD, REPD_LENGTH = 0x80, 12
ATS, ATSS, CTSS, LURS = 0x80, 0x40, 0x10, 0x08

# --- REPORT SUPPORTED OPERATION CODES ------------------------------------------------------------

ALL_COMMANDS, ONE_OPCODE, ONE_SERVICE_ACTION, ONE_COMMAND = range(4)
RCTD: Final = 0x80
REPORTING_OPTIONS: Final = 0x07
SERVACTV, CTDP_IN_LIST, CTDP_ALONE = 0x01, 0x02, 0x80
NOT_SUPPORTED, SUPPORTED = 0x01, 0x03
LIST_DESCRIPTOR = struct.Struct(">BxHxBH")
"""opcode, service action, flags, CDB length"""
ONE_HEADER = struct.Struct(">xBH")
"""CTDP and support, CDB length"""
TIMEOUTS = struct.Struct(">HxBII")
"""length that follows, command specific, nominal and recommended seconds: 0, none is given"""
NO_TIMEOUTS: Final = TIMEOUTS.pack(TIMEOUTS.size - 2, 0, 0, 0)


def report_supported_opcodes(device: Device, task: Task) -> None:
    """REPORT SUPPORTED OPERATION CODES (A3h/0Ch)."""
    cdb = task.cdb
    options, opcode, action = cdb[2] & REPORTING_OPTIONS, cdb[3], integer(cdb, 4, 2)
    timeouts = NO_TIMEOUTS if cdb[2] & RCTD else b""
    if options == ALL_COMMANDS:
        data = _command_list(device, timeouts)
    elif options in (ONE_OPCODE, ONE_SERVICE_ACTION, ONE_COMMAND):
        data = _one_command(_asked_for(device, options, opcode, action), timeouts)
    else:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(2))
    task.data_in = data[: integer(cdb, 6, 4)]
    task.done()


def _command_list(device: Device, timeouts: bytes) -> bytes:
    descriptors = []
    for command in COMMANDS:
        if command.thin_only and not device.thin:
            continue
        flags = 0 if command.service_action is None else SERVACTV
        flags |= CTDP_IN_LIST if timeouts else 0
        action = command.service_action or 0
        descriptors.append(LIST_DESCRIPTOR.pack(command.opcode, action, flags, command.length))
        descriptors.append(timeouts)
    content = b"".join(descriptors)
    return len(content).to_bytes(4, "big") + content


def _asked_for(device: Device, options: int, opcode: int, action: int) -> Command | None:
    """The command, or None; 5/24/00 when the option does not go with the opcode."""
    with_actions = opcode in SERVICE_ACTION_OPCODES
    known = with_actions or (opcode, None) in BY_CODE
    if (options == ONE_OPCODE and with_actions) or (
        options == ONE_SERVICE_ACTION and known and not with_actions
    ):
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(2))
    if not with_actions and options == ONE_COMMAND and action:
        return None
    command = BY_CODE.get((opcode, action if with_actions else None))
    if command is not None and command.thin_only and not device.thin:
        return None
    return command


def _one_command(command: Command | None, timeouts: bytes) -> bytes:
    if command is None:
        return ONE_HEADER.pack(NOT_SUPPORTED, 0)
    support = SUPPORTED | (CTDP_ALONE if timeouts else 0)
    return ONE_HEADER.pack(support, command.length) + command.usage + timeouts


# --- the table -----------------------------------------------------------------------------------


def _command(
    name: str,
    usage: str,
    access: Access,
    handler: Handler,
    service_action: int | None = None,
    *,
    thin_only: bool = False,
) -> Command:
    data = bytearray.fromhex(usage)
    data[-1] |= NACA
    if service_action is not None:
        data[1] = data[1] & ~SERVICE_ACTION | service_action
    return Command(name, bytes(data), access, handler, service_action, thin_only)


_FREE, _INFORM, _PERSISTENT = Access.FREE, Access.INFORM, Access.PERSISTENT
_READ, _WRITE = Access.READ, Access.WRITE
_LBA_10, _LBA_16 = "FFFFFFFF", "FFFFFFFFFFFFFFFF"

COMMANDS: Final[tuple[Command, ...]] = (
    _command("TEST UNIT READY", "00 00 00 00 00 00", _INFORM, test_unit_ready),
    _command("REQUEST SENSE", "03 01 00 00 FF 00", _FREE, request_sense),
    _command("READ(6)", "08 1F FF FF FF 00", _READ, by_6(read_write.read)),
    _command("WRITE(6)", "0A 1F FF FF FF 00", _WRITE, by_6(read_write.write)),
    _command("INQUIRY", "12 03 FF FF FF 00", _FREE, inquiry.inquiry),
    _command("MODE SELECT(6)", "15 11 00 00 FF 00", _WRITE, mode.mode_select_6),
    _command("RESERVE(6)", "16 1F 00 00 00 00", _INFORM, reservation.reserve),
    _command("RELEASE(6)", "17 1F 00 00 00 00", _FREE, reservation.release),
    _command("MODE SENSE(6)", "1A 08 FF FF FF 00", _READ, mode.mode_sense_6),
    _command("START STOP UNIT", "1B 01 00 00 F7 00", _INFORM, start_stop_unit),
    _command("PREVENT ALLOW MEDIUM REMOVAL", "1E 00 00 00 03 00", _INFORM, prevent_allow),
    _command("READ CAPACITY(10)", "25" + "00" * 9, _INFORM, capacity.read_capacity_10),
    _command("READ(10)", f"28 F8 {_LBA_10} 00 FFFF 00", _READ, by_10(read_write.read)),
    _command("WRITE(10)", f"2A F8 {_LBA_10} 00 FFFF 00", _WRITE, by_10(read_write.write)),
    _command(
        "WRITE AND VERIFY(10)",
        f"2E F6 {_LBA_10} 00 FFFF 00",
        _WRITE,
        by_10(verify.write_and_verify),
    ),
    _command("VERIFY(10)", f"2F F6 {_LBA_10} 00 FFFF 00", _READ, by_10(verify.verify)),
    _command("PRE-FETCH(10)", f"34 02 {_LBA_10} 00 FFFF 00", _READ, by_10(read_write.prefetch)),
    _command(
        "SYNCHRONIZE CACHE(10)",
        f"35 02 {_LBA_10} 00 FFFF 00",
        _WRITE,
        by_10(read_write.synchronize_cache),
    ),
    _command(
        "WRITE SAME(10)", f"41 FF {_LBA_10} 00 FFFF 00", _WRITE, by_10(provisioning.write_same_10)
    ),
    _command("UNMAP", "42 01 00000000 00 FFFF 00", _WRITE, provisioning.unmap, thin_only=True),
    _command("MODE SELECT(10)", "55 11 0000000000 FFFF 00", _WRITE, mode.mode_select_10),
    _command("RESERVE(10)", "56 1F 0000000000 0000 00", _INFORM, reservation.reserve),
    _command("RELEASE(10)", "57 1F 0000000000 0000 00", _FREE, reservation.release),
    _command("MODE SENSE(10)", "5A 08 FF FF 000000 FFFF 00", _READ, mode.mode_sense_10),
    *(
        _command(
            f"PERSISTENT RESERVE IN, {name}", "5E 1F 0000000000 FFFF 00", _PERSISTENT, handler, sa
        )
        for sa, name, handler in (
            (0x00, "READ KEYS", reservation.read_keys),
            (0x01, "READ RESERVATION", reservation.read_reservation),
            (0x02, "REPORT CAPABILITIES", reservation.report_capabilities),
            (0x03, "READ FULL STATUS", reservation.read_full_status),
        )
    ),
    *(
        _command(
            f"PERSISTENT RESERVE OUT, {name}", "5F 1F FF 0000 FFFFFFFF 00", _PERSISTENT, handler, sa
        )
        for sa, name, handler in (
            (0x00, "REGISTER", reservation.register),
            (0x01, "RESERVE", reservation.reserve_persistently),
            (0x02, "RELEASE", reservation.release_persistently),
            (0x03, "CLEAR", reservation.clear),
            (0x04, "PREEMPT", preempt),
            (0x05, "PREEMPT AND ABORT", preempt_and_abort),
            (0x06, "REGISTER AND IGNORE EXISTING KEY", reservation.register_and_ignore),
        )
    ),
    _command("READ(16)", f"88 F8 {_LBA_16} FFFFFFFF 00 00", _READ, by_16(read_write.read)),
    _command(
        "COMPARE AND WRITE",
        f"89 F8 {_LBA_16} 000000 FF 00 00",
        _WRITE,
        read_write.compare_and_write,
    ),
    _command("WRITE(16)", f"8A F8 {_LBA_16} FFFFFFFF 00 00", _WRITE, by_16(read_write.write)),
    _command("ORWRITE(16)", f"8B F8 {_LBA_16} FFFFFFFF 00 00", _WRITE, by_16(read_write.orwrite)),
    _command(
        "WRITE AND VERIFY(16)",
        f"8E F6 {_LBA_16} FFFFFFFF 00 00",
        _WRITE,
        by_16(verify.write_and_verify),
    ),
    _command("VERIFY(16)", f"8F F6 {_LBA_16} FFFFFFFF 00 00", _READ, by_16(verify.verify)),
    _command("PRE-FETCH(16)", f"90 02 {_LBA_16} FFFFFFFF 00 00", _READ, by_16(read_write.prefetch)),
    _command(
        "SYNCHRONIZE CACHE(16)",
        f"91 02 {_LBA_16} FFFFFFFF 00 00",
        _WRITE,
        by_16(read_write.synchronize_cache),
    ),
    _command(
        "WRITE SAME(16)", f"93 FF {_LBA_16} FFFFFFFF 00 00", _WRITE, by_16(provisioning.write_same)
    ),
    _command(
        "READ CAPACITY(16)",
        "9E 1F 0000000000000000 FFFFFFFF 00 00",
        _INFORM,
        capacity.read_capacity_16,
        0x10,
    ),
    _command(
        "GET LBA STATUS",
        f"9E 1F {_LBA_16} FFFFFFFF 00 00",
        _READ,
        provisioning.get_lba_status,
        0x12,
    ),
    _command("REPORT LUNS", "A0 00 FF 000000 FFFFFFFF 00 00", _FREE, report_luns),
    _command(
        "REPORT SUPPORTED OPERATION CODES",
        "A3 1F 87 FF FFFF FFFFFFFF 00 00",
        _READ,
        report_supported_opcodes,
        0x0C,
    ),
    _command(
        "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
        "A3 1F 80 00 0000 FFFFFFFF 00 00",
        _READ,
        report_supported_task_management,
        0x0D,
    ),
    _command("READ(12)", f"A8 F8 {_LBA_10} FFFFFFFF 00 00", _READ, by_12(read_write.read)),
    _command("WRITE(12)", f"AA F8 {_LBA_10} FFFFFFFF 00 00", _WRITE, by_12(read_write.write)),
    _command(
        "WRITE AND VERIFY(12)",
        f"AE F6 {_LBA_10} FFFFFFFF 00 00",
        _WRITE,
        by_12(verify.write_and_verify),
    ),
    _command("VERIFY(12)", f"AF F6 {_LBA_10} FFFFFFFF 00 00", _READ, by_12(verify.verify)),
)

BY_CODE: Final[Mapping[tuple[int, int | None], Command]] = {
    (command.opcode, command.service_action): command for command in COMMANDS
}
SERVICE_ACTION_OPCODES: Final = frozenset(
    command.opcode for command in COMMANDS if command.service_action is not None
)
CONTROL_AT: Final[Mapping[int, int]] = {command.opcode: command.length - 1 for command in COMMANDS}
"""By opcode: where the control byte stands."""


def find(cdb: bytes | bytearray | memoryview) -> Command | None:
    """The command that ``cdb`` (not empty) asks for, whatever its length."""
    opcode = cdb[0]
    if opcode not in SERVICE_ACTION_OPCODES:
        return BY_CODE.get((opcode, None))
    return BY_CODE.get((opcode, cdb[1] & SERVICE_ACTION)) if len(cdb) > 1 else None
