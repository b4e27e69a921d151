"""Whatever CDB and data arrive, in whatever order and with whatever failures and aborts: every
task ends exactly once, legally, and nothing is written outside the volume."""

import errno

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pratima_iscsi.operations import Buffer, Done, ReadDone, Transform, UpdateDone
from pratima_iscsi.scsi.logical_unit import LogicalUnit
from pratima_iscsi.scsi.opcodes import COMMANDS
from pratima_iscsi.scsi.sense import SenseKey
from pratima_iscsi.scsi.target import Target
from pratima_iscsi.scsi.task import CHECK_CONDITION, GOOD, RESERVATION_CONFLICT, data_out_length
from tests.support.memory_storage import MemoryStorage
from tests.unit.scsi.lab import Command, Session

SIZE = 64 * 512 + 100
"""No whole number of blocks."""
KEYS = frozenset(int(key) for key in SenseKey)
READERS = frozenset({0x08, 0x28, 0x88, 0xA8})


class Guarded(MemoryStorage):
    """Notes whether a call went past the last whole block or the longest write."""

    def _called(self, operation: str, offset: int, length: int, fua: bool) -> None:
        assert offset + length <= SIZE - 100
        assert operation == "flush" or length > 0
        super()._called(operation, offset, length, fua)


@st.composite
def cdbs(draw: st.DrawFn) -> bytes:
    """Anything of 0 to 260 bytes; or a command of ours with its fields drawn, small and large."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.binary(max_size=260))
    command = draw(st.sampled_from(COMMANDS))
    field = st.sampled_from([0, 0, 0, 1, 2, 3, 7, 8, 24, 63, 64, 65, 0x80, 0xFF])
    cdb = bytearray([command.opcode])
    cdb += bytes(
        draw(field) & mask if mask != 0xFF or draw(st.booleans()) else 0
        for mask in command.usage[1:]
    )
    if command.service_action is not None and draw(st.integers(0, 7)):
        cdb[1] = cdb[1] & 0xE0 | command.service_action
    tail = draw(st.sampled_from([b"", b"", bytes(16 - len(cdb)), b"\xff" * 4]))
    return bytes(cdb[: draw(st.integers(0, 16)) if draw(st.integers(0, 9)) == 0 else 16]) + tail


STEP = st.tuples(
    cdbs(),
    st.sampled_from(["exact", "exact", "exact", "short", "long", "none"]),
    st.integers(0, 255),
    st.integers(0, 1),
    st.sampled_from(["", "", "", "complete", "abort", "reset", "fail", "mend", "grow"]),
)


def data_for(cdb: bytes, how: str, fill: int, block_size: int) -> bytes:
    length = min(data_out_length(cdb, block_size), 1 << 20)
    length = {"exact": length, "short": max(length - 1, 0), "long": length + 7, "none": 0}[how]
    return (bytes((fill, 0, fill ^ 1, 24))[: 4 if fill & 1 else 1] * length)[:length]


def check(command: Command) -> None:
    assert command.ended == 1
    if command.status == CHECK_CONDITION:
        assert len(command.sense) == 18
        assert command.sense[0] in (0x70, 0xF0)
        assert command.sense[2] in KEYS and command.sense[2] != 0
        assert len(command.data_in) == 0
    else:
        assert command.status in (GOOD, RESERVATION_CONFLICT)
        assert command.sense == b""
        if command.status == RESERVATION_CONFLICT:
            assert len(command.data_in) == 0
    if command.cdb and command.cdb[0] in READERS and len(command.data_in):
        assert len(command.data_in) % 512 == 0


@settings(max_examples=400, deadline=None)
@given(
    steps=st.lists(STEP, min_size=1, max_size=12),
    block_size=st.sampled_from([512, 4096]),
    thin=st.booleans(),
    deferred=st.booleans(),
    transfer=st.sampled_from([4096, 16 * 4096]),
)
@example([(b"", "exact", 0, 0, "")], 512, True, False, 4096)
@example([(b"\x93\x01" + bytes(14), "exact", 0, 0, "abort")], 512, True, True, 4096)
def test_any_cdb_ends_once_and_legally(
    steps: list[tuple[bytes, str, int, int, str]],
    block_size: int,
    thin: bool,
    deferred: bool,
    transfer: int,
) -> None:
    storage = Guarded(SIZE, thin=thin, transfer_bytes_max=transfer, deferred=deferred)
    unit = LogicalUnit(storage, serial="fuzz", block_size=block_size)
    target = Target()
    target.add(0, unit)
    sessions = [Session("one", target), Session("two", target)]
    for session in sessions:
        target.attach(session)
        unit.attentions.take(session)
    commands: list[Command] = []
    told: list[int] = []
    asked = 0
    for cdb, how, fill, which, event in steps:
        session = sessions[which]
        data = bytearray(data_for(cdb, how, fill, block_size))
        command = Command(session, memoryview(cdb) if fill & 2 else cdb, memoryview(data))
        session.commands.append(command)
        commands.append(command)
        (target.unit(1 << 48) if fill == 255 else unit).execute(command)
        data[:] = b"\xa5" * len(data)  # the front end reuses its buffer
        if event == "complete":
            storage.complete(2)
        elif event == "abort":
            asked += 1
            unit.abort_task(command, lambda: told.append(1))
        elif event == "reset":
            asked += 1
            unit.reset(session, lambda: told.append(1))
        elif event in ("fail", "mend"):
            storage.failure = OSError(errno.EIO, "made to fail") if event == "fail" else None
        elif event == "grow":
            unit.capacity_changed()
    storage.complete()
    for command in commands:
        check(command)
    assert len(told) == asked
    assert not any(storage.data[SIZE - 100 :])


class Hostile:
    """A storage that calls back at once and fails every other call."""

    size = SIZE
    transfer_bytes_max = 65536
    thin = True

    def __init__(self) -> None:
        self.count = 0

    def _error(self) -> OSError | None:
        self.count += 1
        return OSError(errno.ENOSPC, "full") if self.count % 2 else None

    def read(self, offset: int, length: int, done: ReadDone) -> None:
        error = self._error()
        done(None if error else memoryview(bytes(length)), error)

    def write(self, offset: int, data: Buffer, fua: bool, done: Done) -> None:
        done(self._error())

    def zero(self, offset: int, length: int, fua: bool, done: Done) -> None:
        done(self._error())

    def update(
        self, offset: int, length: int, transform: Transform, fua: bool, done: UpdateDone
    ) -> None:
        error = self._error()
        done(error is None and transform(bytes(length)) is not None, error)

    def flush(self, done: Done) -> None:
        done(self._error())

    def allocated(self, offset: int, length: int) -> tuple[bool, int]:
        return bool(offset & 512), min(length, 700)

    def settle(self, done: Done) -> None:
        raise AssertionError("nothing is aborted here")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(cdbs(), st.binary(max_size=2048)), min_size=1, max_size=8))
def test_a_failing_storage_gives_sense_and_nothing_else(steps: list[tuple[bytes, bytes]]) -> None:
    unit = LogicalUnit(Hostile(), serial="fuzz")  # type: ignore[arg-type]  # settle is not asked
    target = Target()
    target.add(0, unit)
    session = Session("one", target)
    for cdb, data in steps:
        if cdb[:2] == b"\x5f\x05":
            continue
        command = Command(session, cdb, data)
        unit.execute(command)
        check(command)
