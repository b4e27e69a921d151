"""A target's inventory: which logical unit a LUN field names, and what answers where none is.

One rule: ``unit`` always gives something that executes; a LUN without a unit answers as SPC-4 6.6
and SAM-5 5.11 want.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from pratima_iscsi.errors import UsageError
from pratima_iscsi.limits import LUNS_MAX
from pratima_iscsi.scsi.cdb import integer
from pratima_iscsi.scsi.inquiry import EVPD, NO_SUCH_UNIT, standard_data
from pratima_iscsi.scsi.logical_unit import INQUIRY, REPORT_LUNS, REQUEST_SENSE, LogicalUnit
from pratima_iscsi.scsi.opcodes import FLAT_SPACE, PERIPHERAL_LUN_MAX, luns_data
from pratima_iscsi.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_OPCODE,
    LUN_NOT_SUPPORTED,
    LUNS_CHANGED,
    CheckCondition,
)
from pratima_iscsi.scsi.task import Nexus, Task

FIRST_LEVEL_SHIFT: Final = 48
"""The first two bytes of the 8-byte LUN field name the unit, the others are 0."""
CDB_BYTES: Final = 12
"""As many bytes of the CDB as the commands below look at."""


class AbsentUnit:
    """What is behind a LUN that has no logical unit."""

    __slots__ = ()

    block_size: Final = 512
    """A block as good as any other: nothing is read or written here."""

    def takes(self, lba: int, count: int) -> bool:
        """It takes no transfer."""
        return False

    def execute(self, task: Task) -> None:
        """Answer INQUIRY, REPORT LUNS and REQUEST SENSE, and 5/25/00 to all else."""
        try:
            task.data_in = _absent_data(task)
        except CheckCondition as condition:
            task.fail(condition.sense)
            return
        task.done()


def _absent_data(task: Task) -> bytes:
    cdb = task.cdb
    if len(cdb) == 0:
        raise CheckCondition(INVALID_OPCODE)
    if cdb[0] == INQUIRY and len(cdb) >= 6:
        if cdb[1] & EVPD or cdb[2]:
            raise CheckCondition(INVALID_FIELD_IN_CDB.at(1))
        return standard_data(NO_SUCH_UNIT)[: integer(cdb, 3, 2)]
    if cdb[0] == REPORT_LUNS and len(cdb) >= CDB_BYTES:
        return luns_data(task, task.nexus.inventory.luns)
    if cdb[0] == REQUEST_SENSE and len(cdb) >= 6:
        return LUN_NOT_SUPPORTED.encode()[: cdb[4]]
    raise CheckCondition(LUN_NOT_SUPPORTED)


ABSENT: Final = AbsentUnit()


class Target:
    """The logical units of one target, and the nexuses that see them."""

    def __init__(self) -> None:
        self._units: dict[int, LogicalUnit] = {}
        self._by_field: dict[int, LogicalUnit] = {}
        self._nexuses: dict[Nexus, None] = {}

    @property
    def luns(self) -> Sequence[int]:
        """The LUNs, ascending."""
        return tuple(sorted(self._units))

    def __iter__(self) -> Iterator[LogicalUnit]:
        return iter(tuple(self._units.values()))

    def add(self, lun: int, unit: LogicalUnit) -> None:
        """Put ``unit`` at ``lun``; nexuses that are there already are told (6/3F/0E)."""
        if not 0 <= lun < LUNS_MAX:
            raise UsageError(f"LUN {lun} is not offered", f"use 0 to {LUNS_MAX - 1}")
        if lun in self._units:
            raise UsageError(f"LUN {lun} is taken")
        for other in self:
            other.attentions.establish_for_all(LUNS_CHANGED)
        self._units[lun] = unit
        if lun <= PERIPHERAL_LUN_MAX:
            self._by_field[lun << FIRST_LEVEL_SHIFT] = unit
        self._by_field[(FLAT_SPACE | lun) << FIRST_LEVEL_SHIFT] = unit
        for nexus in self._nexuses:
            unit.attach(nexus)

    def unit_at(self, lun: int) -> LogicalUnit:
        """The unit at ``lun``, which is there."""
        return self._units[lun]

    def unit(self, field: int) -> LogicalUnit | AbsentUnit:
        """What the 8-byte LUN field, as a big-endian number, names."""
        return self._by_field.get(field, ABSENT)

    def attach(self, nexus: Nexus) -> None:
        """A session came up."""
        self._nexuses[nexus] = None
        for unit in self:
            unit.attach(nexus)

    def detach(self, nexus: Nexus) -> None:
        """A session ended; the front end has aborted its tasks."""
        self._nexuses.pop(nexus, None)
        for unit in self:
            unit.detach(nexus)

    def reset(self, nexus: Nexus | None, done: Callable[[], None]) -> None:
        """TARGET WARM RESET and COLD RESET: every unit is reset; ``done`` when all have settled."""
        left = len(self._units)
        if left == 0:
            done()
            return

        def settled() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                done()

        for unit in self:
            unit.reset(nexus, settled)
