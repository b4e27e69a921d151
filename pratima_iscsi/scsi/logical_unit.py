"""The logical unit: executes tasks, and aborts them.

Order of the checks (SAM-5 5.3): unit attention, then the command, then reservations, then its
fields. One rule: every task that is executed ends exactly once, whatever its CDB says.
"""

from collections.abc import Callable
from typing import Final

from pratima_iscsi.operations import Storage
from pratima_iscsi.scsi.block_range import Handler
from pratima_iscsi.scsi.cdb import LONGEST_FIXED_CDB, NACA, SHORTEST_CDB
from pratima_iscsi.scsi.device import Device
from pratima_iscsi.scsi.opcodes import BY_CODE, CONTROL_AT, SERVICE_ACTION_OPCODES, Command, find
from pratima_iscsi.scsi.reservations import Conflict
from pratima_iscsi.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_OPCODE,
    POWER_ON_OR_RESET,
    CheckCondition,
)
from pratima_iscsi.scsi.task import RESERVATION_CONFLICT, Aborted, Nexus, Task

INQUIRY: Final = 0x12
REQUEST_SENSE: Final = 0x03
REPORT_LUNS: Final = 0xA0
ATTENTION_EXEMPT: Final = frozenset({INQUIRY, REQUEST_SENSE, REPORT_LUNS})
"""Commands that a unit attention does not stop (SAM-5 5.14)."""

NO_CONTROL: Final = 1 << 16
"""Beyond any CDB: an opcode that is not there has no place for a control byte."""

Settled = Callable[[], None]
"""Told once when what was aborted has settled: the task management response may go."""


class LogicalUnit(Device):
    """One LUN's device server and task manager over a ``Storage``."""

    __slots__ = ("_control_at", "_handlers")

    def __init__(self, storage: Storage, *, serial: str, block_size: int = 512) -> None:
        super().__init__(storage, serial=serial, block_size=block_size)
        self._handlers: list[Handler] = [self._handler_of(opcode) for opcode in range(256)]
        self._control_at = [
            NO_CONTROL if handler is _unknown else CONTROL_AT[opcode]
            for opcode, handler in enumerate(self._handlers)
        ]

    def _handler_of(self, opcode: int) -> Handler:
        if opcode in SERVICE_ACTION_OPCODES:
            return _service_action
        command = BY_CODE.get((opcode, None))
        if command is None or (command.thin_only and not self.thin):
            return _unknown
        return command.handler

    def execute(self, task: Task) -> None:
        """Execute ``task``; ends in one call of ``task.done``, perhaps before this returns."""
        cdb = task.cdb
        try:
            if len(cdb) < LONGEST_FIXED_CDB:
                _check_length(task)
            if self.attentions.pending or self.reservations.active:
                self._admit(task)
            opcode = cdb[0]
            at = self._control_at[opcode]
            if at < len(cdb) and cdb[at] & NACA:
                raise CheckCondition(INVALID_FIELD_IN_CDB.at(at))
            self._handlers[opcode](self, task)
        except CheckCondition as condition:
            task.fail(condition.sense)
        except Conflict:
            task.status = RESERVATION_CONFLICT
            task.done()

    def _admit(self, task: Task) -> None:
        """Report a unit attention, or a conflict with a reservation."""
        if task.cdb[0] not in ATTENTION_EXEMPT:
            attention = self.attentions.take(task.nexus)
            if attention is not None:
                raise CheckCondition(attention)
        command = find(task.cdb)
        if command is not None:
            self.reservations.check(task.nexus, command.access)

    # Task management (SAM-5 7). Aborted tasks still end in ``done``, with ``aborted`` set.

    def abort_task(self, task: Task, done: Settled) -> None:
        """ABORT TASK of a task that was executed and has not ended."""
        task.aborted = Aborted.SILENT
        self.storage.settle(done)

    def abort_task_set(self, nexus: Nexus, done: Settled) -> None:
        """ABORT TASK SET: all tasks of ``nexus``."""
        nexus.abort_tasks(self, Aborted.SILENT)
        self.storage.settle(done)

    def clear_task_set(self, nexus: Nexus, done: Settled) -> None:
        """CLEAR TASK SET: the tasks of every nexus (the control mode page has TST=0)."""
        self._abort_all(nexus)
        self.storage.settle(done)

    def reset(self, nexus: Nexus | None, done: Settled) -> None:
        """LOGICAL UNIT RESET, asked for by ``nexus`` or by nobody: no task, no RESERVE and no
        write protection is left, and every nexus is told (6/29/00)."""
        self._abort_all(nexus)
        self.reservations.reset()
        self.write_protected = False
        self.attentions.establish_for_all(POWER_ON_OR_RESET)
        self.storage.settle(done)

    def _abort_all(self, by: Nexus | None) -> None:
        for nexus in self.attentions:
            nexus.abort_tasks(self, Aborted.SILENT if nexus is by else Aborted.REPORTED)


def _check_length(task: Task) -> None:
    """A CDB that is cut short: 5/24/00, or 5/20/00 when not even its command can be told."""
    cdb = task.cdb
    command: Command | None = find(cdb) if len(cdb) else None
    if command is None and len(cdb) >= SHORTEST_CDB:
        return
    if command is None:
        raise CheckCondition(INVALID_OPCODE)
    if len(cdb) < command.length:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(len(cdb)))


def _unknown(device: Device, task: Task) -> None:
    raise CheckCondition(INVALID_OPCODE)


def _service_action(device: Device, task: Task) -> None:
    """A service action that is not there is an invalid field (SPC-4 4.2.5.2)."""
    command = find(task.cdb)
    if command is None:
        raise CheckCondition(INVALID_FIELD_IN_CDB.at(1))
    command.handler(device, task)
