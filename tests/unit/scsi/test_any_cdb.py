"""Whatever CDB and data arrive, in whatever order and with whatever failures and aborts: every
task ends exactly once, legally, and nothing is written outside the volume.

One generator, two drivers: Hypothesis, which shrinks what it finds, and seeds, for long runs.
"""

import errno
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pratima_iscsi.operations import Buffer, Done, ReadDone, Transform, UpdateDone
from pratima_iscsi.scsi.logical_unit import LogicalUnit
from pratima_iscsi.scsi.opcodes import COMMANDS
from pratima_iscsi.scsi.sense import SenseKey
from pratima_iscsi.scsi.target import Target
from pratima_iscsi.scsi.task import (
    CHECK_CONDITION,
    COMPARE_AND_WRITE,
    GOOD,
    RESERVATION_CONFLICT,
    data_out_length,
)
from tests.support.memory_storage import MemoryStorage
from tests.unit.scsi.lab import Command, Session

WHOLE_BLOCKS = 64 * 512
SIZE = WHOLE_BLOCKS + 100
"""No whole number of blocks: the rest is never touched."""
KEYS = frozenset(int(key) for key in SenseKey) - {0}
READERS = frozenset({0x08, 0x28, 0x88, 0xA8})
PERSISTENT_RESERVE_OUT, UNMAP, MODE_SELECT_6 = 0x5F, 0x42, 0x15

LBAS = (0, 0, 0, 1, 7, 8, 16, 62, 63, 64, 65, 1 << 31, (1 << 32) - 1, (1 << 64) - 1)
COUNTS = (0, 1, 1, 1, 2, 3, 8, 8, 64, 65, 255, 256, 4097, (1 << 32) - 1)
FLAGS = (0, 0, 0, 0, 0x01, 0x02, 0x04, 0x06, 0x08, 0x10, 0x18, 0x20, 0xFF)
BYTES = (0, 0, 1, 2, 3, 0x08, 0x0A, 0x10, 0x3F, 0x83, 0xB0, 0xFF)
EVENTS = ("",) * 10 + ("complete", "complete", "abort", "reset", "fail", "mend", "mend", "measure")
FITS = ("exact",) * 6 + ("short", "long", "none")
LENGTH_FIELDS = {10: (7, 2), 12: (6, 4), 16: (10, 4)}


class Guarded(MemoryStorage):
    """Notes whether a call goes past the last whole block, or asks for nothing."""

    def _called(self, operation: str, offset: int, length: int, fua: bool) -> None:
        assert offset + length <= WHOLE_BLOCKS
        assert operation == "flush" or length > 0
        super()._called(operation, offset, length, fua)


@dataclass(frozen=True)
class Step:
    """A command, who sends it, and what happens after it."""

    cdb: bytes
    data: bytes
    session: int
    absent: bool
    event: str


def draw_cdb(rng: random.Random) -> bytes:
    """Anything of 0 to 260 bytes; or one of our commands, its fields mostly sensible."""
    if rng.randrange(8) == 0:
        return bytes(rng.randrange(256) for _ in range(rng.choice((0, 1, 5, 6, 10, 16, 260))))
    command = rng.choice(COMMANDS)
    cdb = bytearray(command.length)
    if command.service_action is None and command.usage[2:6] == b"\xff" * 4:
        width = 8 if command.length == 16 else 4
        cdb[2 : 2 + width] = rng.choice(LBAS).to_bytes(8, "big")[-width:]
        first, width = LENGTH_FIELDS[command.length]
        cdb[first : first + width] = rng.choice(COUNTS).to_bytes(4, "big")[-width:]
        cdb[1] = rng.choice(FLAGS)
    else:
        cdb[1:] = bytes(rng.choice(BYTES) if mask else 0 for mask in command.usage[1:])
    cdb[0] = command.opcode
    if command.service_action is not None:
        cdb[1] = command.service_action
    if command.name == "GET LBA STATUS":
        cdb[2:10] = rng.choice(LBAS).to_bytes(8, "big")
    elif command.opcode == COMPARE_AND_WRITE:
        cdb[13] = rng.randrange(10)
    elif command.opcode == PERSISTENT_RESERVE_OUT:
        cdb[2] = rng.choice((0, 1, 3, 5, 6, 7, 8, 0x11))
        cdb[5:9] = (24).to_bytes(4, "big")
    elif command.opcode == UNMAP:
        cdb[1], cdb[7], cdb[8] = cdb[1] & 1, 0, 40
    elif command.opcode == MODE_SELECT_6 and rng.randrange(2):
        cdb[1:5] = bytes((0x10, 0, 0, 16))
    if rng.randrange(16) == 0:
        return bytes(cdb[: rng.randrange(command.length)])
    return bytes(cdb).ljust(rng.choice((0, 16, 260)), b"\xff")


def draw_data(rng: random.Random, cdb: bytes, block_size: int) -> bytes:
    """Data-out: parameter lists that mean something where that is known, else a pattern."""
    length = min(data_out_length(cdb, block_size), 1 << 20)
    opcode = cdb[0] if cdb else 0
    if opcode == PERSISTENT_RESERVE_OUT:
        pattern = bytes(7) + bytes((rng.randrange(3),)) + bytes(7) + bytes((rng.randrange(3),))
        pattern += bytes(8)
    elif opcode == UNMAP:
        pattern = bytes((0, 38, 0, 32, 0, 0, 0, 0))
        for _ in range(2):
            count = rng.choice((0, 1, 8, 65))
            pattern += rng.choice(LBAS[:7]).to_bytes(8, "big") + count.to_bytes(4, "big") + bytes(4)
    elif opcode == MODE_SELECT_6:
        swp = rng.choice((0, 8))
        pattern = bytes((0, 0, 0, 0, 0x0A, 10, 2, 0x10, swp, 0x40, 0, 0, 0xFF, 0xFF, 0, 0))
    else:
        pattern = rng.choice((b"\0", b"\0", b"a", b"b", b"abc"))
    length += {"exact": 0, "short": -1, "long": 7, "none": -length}[rng.choice(FITS)]
    return (pattern * (length // len(pattern) + 1))[: max(length, 0)]


def draw_step(rng: random.Random, block_size: int) -> Step:
    cdb = draw_cdb(rng)
    return Step(
        cdb,
        draw_data(rng, cdb, block_size),
        rng.randrange(2),
        rng.randrange(32) == 0,
        rng.choice(EVENTS),
    )


def check(command: Command) -> None:
    assert command.ended == 1
    if command.status == CHECK_CONDITION:
        assert len(command.sense) == 18
        assert command.sense[0] in (0x70, 0xF0)
        assert command.sense[2] in KEYS
        assert len(command.data_in) == 0
    else:
        assert command.status in (GOOD, RESERVATION_CONFLICT)
        assert command.sense == b""
        assert command.status == GOOD or len(command.data_in) == 0
    if len(command.cdb) and command.cdb[0] in READERS:
        assert len(command.data_in) % 512 == 0


class Run:
    """A unit, two sessions, and everything they did."""

    def __init__(self, rng: random.Random) -> None:
        self.block_size = rng.choice((512, 4096))
        self.storage = Guarded(
            SIZE,
            thin=rng.random() < 0.7,
            transfer_bytes_max=rng.choice((4096, 16 * 4096)),
            deferred=rng.random() < 0.5,
        )
        self.unit = LogicalUnit(self.storage, serial="fuzz", block_size=self.block_size)
        self.target = Target()
        self.target.add(0, self.unit)
        self.sessions = [Session("one", self.target), Session("two", self.target)]
        for session in self.sessions:
            self.target.attach(session)
            self.unit.attentions.take(session)
        self.commands: list[Command] = []
        self.asked = 0
        self.told = 0

    def step(self, step: Step) -> None:
        data = bytearray(step.data)
        command = Command(self.sessions[step.session], step.cdb, memoryview(data))
        command.nexus.commands.append(command)  # type: ignore[attr-defined]
        self.commands.append(command)
        (self.target.unit(1 << 48) if step.absent else self.unit).execute(command)
        data[:] = b"\xa5" * len(data)  # the front end reuses its buffer
        if step.event == "complete":
            self.storage.complete(2)
        elif step.event == "abort":
            self.asked += 1
            self.unit.abort_task(command, self._settled)
        elif step.event == "reset":
            self.asked += 1
            self.unit.reset(command.nexus, self._settled)
            self.unit.attentions.pending.clear()
        elif step.event in ("fail", "mend"):
            failing = step.event == "fail"
            self.storage.failure = OSError(errno.EIO, "made to fail") if failing else None
        elif step.event == "measure":
            self.unit.capacity_changed()

    def _settled(self) -> None:
        self.told += 1

    def finish(self) -> None:
        self.storage.complete()
        for command in self.commands:
            check(command)
        assert self.told == self.asked
        assert not any(self.storage.data[WHOLE_BLOCKS:])


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 12))
def test_any_cdb_ends_once_and_legally(rng: random.Random, steps: int) -> None:
    run = Run(rng)
    for _ in range(steps):
        run.step(draw_step(rng, run.block_size))
    run.finish()


@pytest.mark.parametrize("seed", range(60))
def test_a_long_run_of_any_cdbs(seed: int) -> None:
    rng = random.Random(seed)
    run = Run(rng)
    for _ in range(250):
        run.step(draw_step(rng, run.block_size))
    run.finish()
    assert any(command.status == GOOD for command in run.commands)


class Failing:
    """A storage that calls back at once and fails every other call."""

    size = SIZE
    transfer_bytes_max = 65536
    thin = True

    def __init__(self) -> None:
        self.count = 0

    def _error(self) -> OSError | None:
        self.count += 1
        return OSError(errno.ENOSPC, "full") if self.count % 2 else None

    def read(
        self, offset: int, length: int, done: ReadDone, room: memoryview | None = None
    ) -> None:
        error = self._error()
        done(None if error else memoryview(bytes(length)), error)

    def write(self, offset: int, data: Buffer, fua: bool, done: Done, lent: bool = False) -> None:
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

    def settle(self, done: object) -> None:
        assert callable(done)
        done()


@pytest.mark.parametrize("seed", range(10))
def test_a_failing_storage_gives_sense_and_nothing_else(seed: int) -> None:
    rng = random.Random(seed)
    unit = LogicalUnit(Failing(), serial="fuzz")
    target = Target()
    target.add(0, unit)
    session = Session("one", target)
    for _ in range(200):
        cdb = draw_cdb(rng)
        command = Command(session, cdb, draw_data(rng, cdb, 512))
        unit.execute(command)
        check(command)
