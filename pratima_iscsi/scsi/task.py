"""The contract between a front end (the iSCSI portal, TCMU) and the logical unit.

A front end derives its command from ``Task``, so that the command itself is the task and nothing
more is allocated for it. It fills in nexus, CDB and data-out and calls ``unit.execute(task)``; the
unit sets status, data-in and sense and calls ``task.done()``. One rule: ``done`` is called exactly
once for each executed task, perhaps before ``execute`` returns, aborted tasks included.

What stays with the front end: the queue depth (TASK SET FULL), the comparison of the expected
length with ``len(data_in)`` or ``data_out_length`` (residuals, and cutting data-in), and the
silence about aborted tasks: ``done`` sees ``aborted`` and answers accordingly.
"""

import enum
import struct
from collections.abc import Sequence
from typing import Final, Protocol

from mypy_extensions import mypyc_attr

from pratima_iscsi.operations import Buffer
from pratima_iscsi.scsi.sense import Sense, read_failure, write_failure

GOOD: Final = 0x00
CHECK_CONDITION: Final = 0x02
BUSY: Final = 0x08
RESERVATION_CONFLICT: Final = 0x18
TASK_SET_FULL: Final = 0x28
TASK_ABORTED: Final = 0x40


class Aborted(enum.IntEnum):
    """Whether and how a task was aborted. The front end reads it in ``Task.done``."""

    NO = 0
    SILENT = 1
    """By its own nexus, or with its nexus: no response is sent."""
    REPORTED = 2
    """By another nexus: it ends in TASK ABORTED (the control mode page has TAS=1)."""


class Unit(Protocol):
    """What a nexus sees of a logical unit: something to compare its tasks with."""

    @property
    def block_size(self) -> int:
        """Bytes of a logical block, for ``data_out_length``."""

    def takes(self, lba: int, count: int) -> bool:
        """Whether a transfer of these blocks lies within the unit and its limit."""

    def execute(self, task: "Task") -> None:
        """Execute a task; ends in one call of its ``done``."""


class Inventory(Protocol):
    """What a nexus knows of its target."""

    @property
    def luns(self) -> Sequence[int]:
        """The LUNs, ascending."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Nexus:
    """An I_T nexus: one initiator port seen by one target port, for one session.

    ``initiator`` is the initiator's name and ``isid`` its session part as text; the two together
    are the initiator port, to which registrations belong: they outlive the nexus. The front end
    overrides ``abort_tasks``.
    """

    __slots__ = ("initiator", "inventory", "isid", "port")

    def __init__(self, initiator: str, isid: str, inventory: Inventory) -> None:
        self.initiator = initiator
        self.isid = isid
        self.inventory = inventory
        self.port = f"{initiator},i,0x{isid}"
        """The initiator port's name (RFC 7143 4.2.7.3)."""

    def abort_tasks(self, unit: Unit, how: Aborted) -> None:
        """Set ``aborted`` of every task of this nexus that ``unit`` executes or that waits for it.

        Called for task management and PREEMPT AND ABORT. Tasks not yet given to the unit (those
        that wait for data-out) must not be given to it afterwards.
        """


@mypyc_attr(allow_interpreted_subclasses=True)
class Task:
    """One command. The front end's command derives from it and overrides ``done``.

    Set before ``execute``: ``nexus``; ``cdb`` (6 to 260 bytes; padding after it does no harm);
    ``data_out``, all that the initiator sends, which may be reused when ``execute`` returned.
    Set when ``done`` is called: ``status``; ``data_in``, bytes that the front end may keep but
    not change, cut at the CDB's allocation length and not padded; ``sense``, 18 bytes with
    CHECK CONDITION, else empty.

    ``room`` may be a buffer as long as the data that a READ asks for: it may be filled, and is then
    ``data_in``. With ``lent``, ``data_out`` stays as it is until this turn of the loop ends.
    """

    __slots__ = (
        "aborted",
        "cdb",
        "data_in",
        "data_out",
        "lent",
        "nexus",
        "room",
        "sense",
        "status",
    )

    def __init__(self, nexus: Nexus, cdb: Buffer, data_out: Buffer = b"") -> None:
        self.nexus = nexus
        self.cdb = cdb
        self.data_out = data_out
        self.status = GOOD
        self.data_in: Buffer = b""
        self.sense = b""
        self.aborted = Aborted.NO
        self.room: memoryview | None = None
        self.lent = False

    def done(self) -> None:
        """Called once when the task has ended."""
        raise NotImplementedError

    # What the unit calls; a front end has no need of these.

    def fail(self, sense: Sense) -> None:
        """End in CHECK CONDITION."""
        self.status = CHECK_CONDITION
        self.sense = sense.encode()
        self.data_in = b""
        self.done()

    def read_settled(self, data: Buffer | None, error: OSError | None) -> None:
        """A ``ReadDone``: end with ``data`` as data-in."""
        if data is None:
            self.fail(read_failure(error or OSError()))
            return
        self.data_in = data
        self.done()

    def write_settled(self, error: OSError | None) -> None:
        """A ``Done`` of a write, a zeroing or a flush."""
        if error is not None:
            self.fail(write_failure(error))
            return
        self.done()


def data_out_length(cdb: Buffer, block_size: int) -> int:
    """Bytes of data-out that ``cdb`` itself asks for: what the expected length is compared with.

    0 for commands without data-out, for unknown ones and for a CDB that is cut short;
    ``block_size`` is the logical unit's. Quickest for WRITE(10) and WRITE(16).
    """
    if len(cdb) >= CDB_16_BYTES and cdb[0] == WRITE_16:
        (blocks,) = LENGTH_16.unpack_from(cdb, 10)
        return int(blocks) * block_size
    if len(cdb) >= CDB_10_BYTES and cdb[0] == WRITE_10:
        return (cdb[7] << 8 | cdb[8]) * block_size
    field = DATA_OUT_FIELDS.get(cdb[0]) if len(cdb) else None
    if field is None:
        return 0
    first, width, in_blocks = field
    if len(cdb) < first + width:
        return 0
    opcode = cdb[0]
    count = int.from_bytes(cdb[first : first + width], "big")
    if opcode in VERIFY_OPCODES:
        bytchk = cdb[1] >> 1 & 3
        if bytchk == BYTCHK_ONE:
            count = min(count, 1)
        elif bytchk != BYTCHK_ALL:
            count = 0
    elif opcode == WRITE_6 and count == 0:
        count = WRITE_6_ZERO_MEANS
    elif opcode == COMPARE_AND_WRITE:
        count *= 2
    elif opcode == WRITE_SAME_10:
        count = 1
    elif opcode == WRITE_SAME_16:
        count = 0 if cdb[1] & NDOB else 1
    return count * block_size if in_blocks else count


WRITE_6: Final = 0x0A
WRITE_10: Final = 0x2A
WRITE_16: Final = 0x8A
LENGTH_16: Final = struct.Struct(">I")
CDB_10_BYTES: Final = 10
CDB_16_BYTES: Final = 16
WRITE_6_ZERO_MEANS: Final = 256
COMPARE_AND_WRITE: Final = 0x89
WRITE_SAME_10: Final = 0x41
WRITE_SAME_16: Final = 0x93
NDOB: Final = 0x01
VERIFY_OPCODES: Final = frozenset({0x2F, 0x8F, 0xAF})
BYTCHK_ALL: Final = 1
BYTCHK_ONE: Final = 3

DATA_OUT_FIELDS: Final = {
    0x0A: (4, 1, True),  # WRITE(6)
    0x15: (4, 1, False),  # MODE SELECT(6)
    0x2A: (7, 2, True),  # WRITE(10)
    0x2E: (7, 2, True),  # WRITE AND VERIFY(10)
    0x2F: (7, 2, True),  # VERIFY(10)
    0x41: (7, 2, True),  # WRITE SAME(10)
    0x42: (7, 2, False),  # UNMAP
    0x55: (7, 2, False),  # MODE SELECT(10)
    0x5F: (5, 4, False),  # PERSISTENT RESERVE OUT
    0x89: (13, 1, True),  # COMPARE AND WRITE
    0x8A: (10, 4, True),  # WRITE(16)
    0x8B: (10, 4, True),  # ORWRITE(16)
    0x8E: (10, 4, True),  # WRITE AND VERIFY(16)
    0x8F: (10, 4, True),  # VERIFY(16)
    0x93: (10, 4, True),  # WRITE SAME(16)
    0xAA: (6, 4, True),  # WRITE(12)
    0xAE: (6, 4, True),  # WRITE AND VERIFY(12)
    0xAF: (6, 4, True),  # VERIFY(12)
}
"""Opcode: first byte and width of the length field, and whether it counts logical blocks."""
