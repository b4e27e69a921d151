"""One TCMU device at work: its ring's commands become tasks of a logical unit, and answers.

The kernel does for TCMU what belongs to sessions and to several initiators: REPORT LUNS, RESERVE,
PERSISTENT RESERVE, conflicts, unit attentions after a reset, ALUA. All other commands come here,
from all initiators as one nexus. One rule: a command is answered once, and none that wrote is
answered, aborted or not, before its write has settled on the volume.
"""

from collections.abc import Callable, Sequence
from typing import Final

from pratima_iscsi.limits import KIB, TCMU_COMMANDS_MAX
from pratima_iscsi.operations import Buffer
from pratima_iscsi.scsi.logical_unit import LogicalUnit
from pratima_iscsi.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_INFORMATION_UNIT,
    POWER_ON_OR_RESET,
)
from pratima_iscsi.scsi.task import (
    DATA_OUT_FIELDS,
    GOOD,
    TASK_ABORTED,
    Aborted,
    Nexus,
    Task,
    data_out_length,
)
from pratima_iscsi.tcmu.ring import Feature, Request, Ring, TaskManagement

WRITES: Final = frozenset({0x0A, 0x2A, 0x2E, 0x8A, 0x8E, 0xAA, 0xAE})
"""WRITE and WRITE AND VERIFY: whose lengths must be equal. Of others the unit is the judge."""

IN_PLACE_BYTES_MIN: Final = 4 * KIB
"""From so many bytes on it is worth while to read and write where the data lies in the ring."""
LUN_RESET: Final = 5
TARGET_RESETS: Final = frozenset({6, 7})
"""Warm and cold."""


class OneUnit:
    """The inventory of a target that is one device."""

    luns: Sequence[int] = (0,)


class Command(Task):
    """One command of the ring."""

    __slots__ = ("answered", "request", "session")

    def __init__(self, session: "Session", request: Request) -> None:
        # Task.__init__ in line: this runs once for every command.
        self.nexus = session
        self.cdb = request.cdb
        self.data_out: Buffer = b""
        self.status = GOOD
        self.data_in: Buffer = b""
        self.sense = b""
        self.aborted = Aborted.NO
        self.room = None
        self.lent = False
        self.session = session
        self.request = request
        self.answered = False

    def done(self) -> None:
        """The unit has ended it."""
        self.session.answer(self)


class Session(Nexus):
    """What runs on one device's ring. ``wake`` is called with each answer: whoever owns the device
    sees to it that they are published, all of one turn of the loop together.
    """

    __slots__ = ("_wake", "closed", "commands", "ring", "unit")

    def __init__(self, ring: Ring, unit: LogicalUnit, wake: Callable[[], None]) -> None:
        super().__init__("tcmu", unit.serial, OneUnit())
        self.ring = ring
        self.unit = unit
        self.commands: dict[int, Command] = {}
        """What was taken out of the ring and not answered, by id."""
        self.closed = False
        self._wake = wake
        unit.attach(self)
        # Initiators are told of a power-on by the kernel, each of them; all we could tell is one.
        unit.attentions.withdraw(self, POWER_ON_OR_RESET)

    @property
    def has_room(self) -> bool:
        """Whether one more command may be under way."""
        return len(self.commands) < TCMU_COMMANDS_MAX

    def serve(self) -> bool:
        """Execute what was seen in the ring, as much as may be under way at once; whether there was
        any. Raises RingError.
        """
        ring, commands = self.ring, self.commands
        served = False
        while len(commands) < TCMU_COMMANDS_MAX:
            found = ring.take()
            if found is None:
                break
            served = True
            if isinstance(found, Request):
                self._execute(found)
            else:
                self._manage(found)
        return served

    def _execute(self, request: Request) -> None:
        command = Command(self, request)
        self.commands[request.id] = command
        cdb = request.cdb
        if request.bidirectional:
            command.fail(INVALID_FIELD_IN_CDB)
            return
        if cdb[0] in DATA_OUT_FIELDS:
            if cdb[0] in WRITES and data_out_length(cdb, self.unit.block_size) != request.length:
                # The kernel compares the two for its own disks only; the answer is what it gives.
                command.fail(INVALID_INFORMATION_UNIT)
                return
            command.data_out = self.ring.data_out(request)
            command.lent = request.length >= IN_PLACE_BYTES_MIN
        elif request.length >= IN_PLACE_BYTES_MIN:
            command.room = self.ring.room(request)
        self.unit.execute(command)
        command.data_out = b""

    def answer(self, command: Command) -> None:
        """A command has ended: write its answer into the ring, unless it was answered before."""
        if command.answered or self.closed:
            return
        command.answered = True
        request = command.request
        del self.commands[request.id]
        ring = self.ring
        if command.aborted:
            ring.answer(request.id, TASK_ABORTED, 0, b"", False)
        elif command.status != GOOD:
            ring.answer(request.id, command.status, 0, command.sense, False)
        elif request.length and request.cdb[0] not in DATA_OUT_FIELDS:
            if command.room is not None and command.data_in is command.room:
                went = request.length
            else:
                went = ring.put_data_in(request, command.data_in)
            trimmed = went < request.length and Feature.READ_LENGTH in ring.features
            ring.answer(request.id, GOOD, went, b"", trimmed)
        else:
            ring.answer(request.id, GOOD, 0, b"", False)
        command.data_in, command.room = b"", None
        self._wake()

    # --- task management -------------------------------------------------------------------------

    def _manage(self, notice: TaskManagement) -> None:
        """The kernel waits for commands that it was told to abort: end them once they settled.

        A write that only waits for its replica has settled. The ids that are not (any more) under
        way here are nobody's: their answers cross the notice.
        """
        listed = [self.commands[number] for number in notice.ids if number in self.commands]
        for command in listed:
            command.aborted = Aborted.SILENT

        def settled() -> None:
            for command in listed:
                self.answer(command)

        if notice.function == LUN_RESET or notice.function in TARGET_RESETS:
            self.unit.reset(None, settled)
            self.unit.attentions.withdraw(self, POWER_ON_OR_RESET)
        elif listed:
            self.unit.abort_task(listed[0], settled)

    def abort_tasks(self, unit: object, how: Aborted) -> None:
        """Of a reset: the kernel has listed in its notice what it aborts, and aborts no more."""

    # --- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """The device is gone or given up: what is under way is answered to nobody."""
        self.closed = True
        self.commands.clear()
        self.unit.detach(self)
        self.ring.close()
