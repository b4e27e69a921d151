"""A logical unit in memory with an initiator or two, and CDBs by name."""

from pratima_iscsi.operations import Buffer
from pratima_iscsi.scsi.logical_unit import LogicalUnit
from pratima_iscsi.scsi.target import Target
from pratima_iscsi.scsi.task import CHECK_CONDITION, Aborted, Nexus, Task, Unit
from tests.support.memory_storage import MemoryStorage

BLOCKS = 4096
TEST_UNIT_READY = bytes(6)


class Command(Task):
    """A task that counts how often it ended."""

    __slots__ = ("ended",)

    def __init__(self, nexus: Nexus, cdb: Buffer, data_out: Buffer = b"") -> None:
        super().__init__(nexus, cdb, data_out)
        self.ended = 0

    def done(self) -> None:
        self.ended += 1

    @property
    def data(self) -> bytes:
        return bytes(self.data_in)

    @property
    def sense_triple(self) -> tuple[int, int, int] | None:
        """Key, ASC, ASCQ of a CHECK CONDITION."""
        if self.status != CHECK_CONDITION:
            return None
        return self.sense[2] & 0xF, self.sense[12], self.sense[13]


class Session(Nexus):
    """A nexus that keeps what it has under way, and forgets nothing."""

    __slots__ = ("commands",)

    def __init__(self, name: str, target: Target) -> None:
        super().__init__(f"iqn.2026-01.org.example:{name}", "00023d000001", target)
        self.commands: list[Command] = []

    def abort_tasks(self, unit: Unit, how: Aborted) -> None:
        for command in self.commands:
            if not command.ended:
                command.aborted = how


class Lab:
    """One target, LUN 0, one session whose power-on attention has been taken."""

    def __init__(
        self,
        *,
        size: int = BLOCKS * 512,
        block_size: int = 512,
        thin: bool = True,
        deferred: bool = False,
        transfer_bytes_max: int = 8 << 20,
    ) -> None:
        self.storage = MemoryStorage(size, thin=thin, transfer_bytes_max=transfer_bytes_max)
        self.unit = LogicalUnit(self.storage, serial="0123456789ab", block_size=block_size)
        self.target = Target()
        self.target.add(0, self.unit)
        self.session = self.join("one")
        self.storage.deferred = deferred

    def join(self, name: str) -> Session:
        """Another session, told of its power-on already."""
        session = Session(name, self.target)
        self.target.attach(session)
        assert self.run(TEST_UNIT_READY, session=session).sense_triple == (6, 0x29, 0)
        return session

    def begin(self, cdb: Buffer, data: Buffer = b"", session: Session | None = None) -> Command:
        """Execute, without asking for an end."""
        session = session or self.session
        command = Command(session, cdb, data)
        session.commands.append(command)
        self.unit.execute(command)
        return command

    def run(self, cdb: Buffer, data: Buffer = b"", session: Session | None = None) -> Command:
        """Execute to the end."""
        command = self.begin(cdb, data, session)
        self.storage.complete()
        assert command.ended == 1
        return command

    def good(self, cdb: Buffer, data: Buffer = b"", session: Session | None = None) -> bytes:
        """Execute, demand GOOD, give the data-in."""
        command = self.run(cdb, data, session)
        assert (command.status, command.sense) == (0, b""), command.sense_triple
        return command.data

    def refused(
        self, cdb: Buffer, data: Buffer = b"", session: Session | None = None
    ) -> tuple[int, int, int]:
        """Execute, demand CHECK CONDITION, give the sense."""
        triple = self.run(cdb, data, session).sense_triple
        assert triple is not None
        return triple


def cdb_6(opcode: int, lba: int = 0, count: int = 0) -> bytes:
    return bytes((opcode,)) + lba.to_bytes(3, "big") + bytes((count, 0))


def cdb_10(opcode: int, lba: int = 0, count: int = 0, flags: int = 0) -> bytes:
    return (
        bytes((opcode, flags)) + lba.to_bytes(4, "big") + b"\0" + count.to_bytes(2, "big") + b"\0"
    )


def cdb_12(opcode: int, lba: int = 0, count: int = 0, flags: int = 0) -> bytes:
    return bytes((opcode, flags)) + lba.to_bytes(4, "big") + count.to_bytes(4, "big") + bytes(2)


def cdb_16(opcode: int, lba: int = 0, count: int = 0, flags: int = 0) -> bytes:
    return bytes((opcode, flags)) + lba.to_bytes(8, "big") + count.to_bytes(4, "big") + bytes(2)


def inquiry(page: int | None = None, allocation: int = 512) -> bytes:
    return bytes((0x12, page is not None, page or 0)) + allocation.to_bytes(2, "big") + b"\0"


def mode_sense_6(page: int, *, control: int = 0, allocation: int = 255, dbd: bool = False) -> bytes:
    return bytes((0x1A, 8 if dbd else 0, control << 6 | page, 0, allocation, 0))


def report_opcodes(options: int = 0, opcode: int = 0, action: int = 0, rctd: bool = False) -> bytes:
    first = bytes((0xA3, 0x0C, options | (0x80 if rctd else 0), opcode))
    return first + action.to_bytes(2, "big") + (65535).to_bytes(4, "big") + bytes(2)


def compare_and_write(lba: int, count: int, flags: int = 0) -> bytes:
    return bytes((0x89, flags)) + lba.to_bytes(8, "big") + bytes((0, 0, 0, count, 0, 0))


def unmap(*extents: tuple[int, int]) -> tuple[bytes, bytes]:
    """CDB and parameter list."""
    descriptors = b"".join(
        lba.to_bytes(8, "big") + count.to_bytes(4, "big") + bytes(4) for lba, count in extents
    )
    length = len(descriptors)
    data = (length + 6).to_bytes(2, "big") + length.to_bytes(2, "big") + bytes(4) + descriptors
    return cdb_10(0x42, 0, len(data)), data


def reserve_out(
    action: int, key: int = 0, new_key: int = 0, kind: int = 0, flags: int = 0
) -> tuple[bytes, bytes]:
    """PERSISTENT RESERVE OUT: CDB and parameter list."""
    data = key.to_bytes(8, "big") + new_key.to_bytes(8, "big") + bytes((0, 0, 0, 0, flags, 0, 0, 0))
    return bytes((0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0)), data


def reserve_in(action: int, allocation: int = 4096) -> bytes:
    return bytes((0x5E, action, 0, 0, 0, 0, 0)) + allocation.to_bytes(2, "big") + b"\0"
