"""RESERVE, RELEASE, PERSISTENT RESERVE IN and OUT: their formats (SPC-2 7.21, SPC-4 6.15, 6.16).

One rule: a parameter list is checked as a whole before ``reservations`` is asked to change
anything.
"""

import struct
from typing import Final

from pratima_iscsi.scsi.cdb import SERVICE_ACTION, integer
from pratima_iscsi.scsi.device import Device
from pratima_iscsi.scsi.reservations import ReservationType
from pratima_iscsi.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_INFORMATION_UNIT,
    INVALID_PARAMETER,
    PARAMETER_LIST_LENGTH,
    CheckCondition,
)
from pratima_iscsi.scsi.task import Task

THIRD_PARTY_OR_EXTENT: Final = 0x1F
"""Byte 1 of RESERVE: third party and extent reservations are obsolete."""

IN_HEADER = struct.Struct(">II")
"""PRGENERATION, bytes that follow"""
RESERVATION = struct.Struct(">Q4xxBxx")
"""key, scope and type"""
CAPABILITIES = struct.Struct(">HBBHxx")
"""length, two bytes of flags, type mask"""
FULL_STATUS = struct.Struct(">Q4xBB4xHI")
"""key, holder and all-ports flags, scope and type, relative target port, TransportID length"""
OUT_PARAMETERS = struct.Struct(">QQ4xBxxx")
"""reservation key, service action key, flags"""

ATP_C: Final = 0x04
TMV: Final = 0x80
TYPE_MASK: Final = 0xEA01
"""All six types, in the order that SPC-4 table 173 gives them."""
R_HOLDER, ALL_TG_PT_STATUS = 0x01, 0x02
SPEC_I_PT, APTPL = 0x08, 0x01
SCOPE_LOGICAL_UNIT: Final = 0
RELATIVE_TARGET_PORT: Final = 1

TRANSPORT_ID_ISCSI_PORT: Final = 0x45
TRANSPORT_ID_HEADER = struct.Struct(">BxH")
TRANSPORT_ID_NAME_MIN: Final = 20


def reserve(device: Device, task: Task) -> None:
    """RESERVE(6) (16h) and (10) (56h)."""
    if task.cdb[1] & THIRD_PARTY_OR_EXTENT:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(1))
    device.reservations.reserve_unit(task.nexus)
    task.done()


def release(device: Device, task: Task) -> None:
    """RELEASE(6) (17h) and (10) (57h)."""
    if task.cdb[1] & THIRD_PARTY_OR_EXTENT:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(1))
    device.reservations.release_unit(task.nexus)
    task.done()


# PERSISTENT RESERVE IN


def read_keys(device: Device, task: Task) -> None:
    """READ KEYS (5Eh/00h)."""
    keys = device.reservations.keys.values()
    _answer(device, task, b"".join(key.to_bytes(8, "big") for key in keys))


def read_reservation(device: Device, task: Task) -> None:
    """READ RESERVATION (5Eh/01h): one descriptor, or none."""
    reservations = device.reservations
    kind, holder = reservations.scope_type, reservations.holder
    if kind is None:
        _answer(device, task, b"")
        return
    key = 0 if holder is None else reservations.keys[holder]
    _answer(device, task, RESERVATION.pack(key, kind))


def report_capabilities(device: Device, task: Task) -> None:
    """REPORT CAPABILITIES (5Eh/02h)."""
    data = CAPABILITIES.pack(CAPABILITIES.size, ATP_C, TMV, TYPE_MASK)
    task.data_in = data[: integer(task.cdb, 7, 2)]
    task.done()


def read_full_status(device: Device, task: Task) -> None:
    """READ FULL STATUS (5Eh/03h): a descriptor for every registration."""
    reservations = device.reservations
    descriptors = []
    for port, key in reservations.keys.items():
        holds = reservations.holds(port)
        transport_id = _transport_id(port)
        descriptors.append(
            FULL_STATUS.pack(
                key,
                R_HOLDER if holds else 0,
                (reservations.scope_type or 0) if holds else 0,
                RELATIVE_TARGET_PORT,
                len(transport_id),
            )
            + transport_id
        )
    _answer(device, task, b"".join(descriptors))


def _answer(device: Device, task: Task, content: bytes) -> None:
    data = IN_HEADER.pack(device.reservations.generation, len(content)) + content
    task.data_in = data[: integer(task.cdb, 7, 2)]
    task.done()


def _transport_id(port: str) -> bytes:
    """The TransportID of an iSCSI initiator port: its name, NUL, padded to 4 (SPC-4 7.6.4.6)."""
    name = port.encode() + b"\0"
    name = name.ljust(max(TRANSPORT_ID_NAME_MIN, -(-len(name) // 4) * 4), b"\0")
    return TRANSPORT_ID_HEADER.pack(TRANSPORT_ID_ISCSI_PORT, len(name)) + name


# PERSISTENT RESERVE OUT


def register(device: Device, task: Task) -> None:
    """REGISTER (5Fh/00h)."""
    key, new_key = _keys(task)
    device.reservations.register(task.nexus, key, new_key, ignore=False)
    task.done()


def register_and_ignore(device: Device, task: Task) -> None:
    """REGISTER AND IGNORE EXISTING KEY (5Fh/06h)."""
    key, new_key = _keys(task)
    device.reservations.register(task.nexus, key, new_key, ignore=True)
    task.done()


def reserve_persistently(device: Device, task: Task) -> None:
    """RESERVE (5Fh/01h)."""
    key, _ = _keys(task)
    device.reservations.reserve(task.nexus, key, _wanted_type(task))
    task.done()


def release_persistently(device: Device, task: Task) -> None:
    """RELEASE (5Fh/02h)."""
    key, _ = _keys(task)
    device.reservations.release(task.nexus, key, _wanted_type(task))
    task.done()


def clear(device: Device, task: Task) -> None:
    """CLEAR (5Fh/03h)."""
    key, _ = _keys(task)
    device.reservations.clear(task.nexus, key)
    task.done()


def preempt(device: Device, task: Task) -> set[str]:
    """PREEMPT (5Fh/04h) up to its end; returns the ports that lost their registration."""
    key, victim = _keys(task)
    return device.reservations.preempt(task.nexus, key, victim, _preempting_type(device, task))


def _keys(task: Task) -> tuple[int, int]:
    """Reservation key and service action key of a parameter list that asks for nothing more.

    With one target port ALL_TG_PT means no more than without it.
    """
    if integer(task.cdb, 5, 4) != OUT_PARAMETERS.size:
        raise CheckCondition(PARAMETER_LIST_LENGTH)
    if len(task.data_out) < OUT_PARAMETERS.size:
        raise CheckCondition(INVALID_INFORMATION_UNIT)
    key, action_key, flags = OUT_PARAMETERS.unpack_from(task.data_out)
    if task.cdb[1] & SERVICE_ACTION in REGISTERING and flags & (SPEC_I_PT | APTPL):
        raise CheckCondition(INVALID_PARAMETER)
    return key, action_key


REGISTERING: Final = frozenset({0x00, 0x06})


def _wanted_type(task: Task) -> ReservationType:
    scope, kind = task.cdb[2] >> 4, task.cdb[2] & 0x0F
    if scope != SCOPE_LOGICAL_UNIT or kind not in TYPES:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(2))
    return ReservationType(kind)


TYPES: Final = frozenset(int(kind) for kind in ReservationType)


def _preempting_type(device: Device, task: Task) -> ReservationType:
    """The type that a preempted reservation takes; it is not looked at when none is preempted."""
    if device.reservations.scope_type is None and task.cdb[2] & 0x0F not in TYPES:
        return ReservationType.WRITE_EXCLUSIVE
    return _wanted_type(task)
