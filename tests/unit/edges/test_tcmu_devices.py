"""Devices on the loop, over simulated rings: attached, served, broken, lost, let go."""

import asyncio
import errno
import os
from collections.abc import Callable
from typing import ClassVar

import pytest

from pratima_iscsi.edges import tcmu_devices
from pratima_iscsi.edges.tcmu_devices import Device, ServedUnit, TcmuDevices
from pratima_iscsi.edges.uio import Places
from pratima_iscsi.limits import TCMU_COMMANDS_MAX
from pratima_iscsi.scsi.logical_unit import LogicalUnit
from pratima_iscsi.scsi.task import GOOD
from pratima_iscsi.tcmu.names import DeviceName
from tests.support.memory_storage import MemoryStorage
from tests.support.on_loop import on_loop
from tests.support.tcmu_kernel import Answer, Kernel
from tests.unit.tcmu.lab import BLOCKS, read_10, write_10

SERIAL = "5" * 32
NAME = DeviceName(0, "vol0", SERIAL)
TURNS = 200
SYNCHRONIZE = bytes([0x35]) + bytes(9)
LAIN_FOR_31_SECONDS = "device vol0: a command may have lain in its ring for 31 s"


class FakeDevice:
    """What ``UioDevice`` is to the loop, with a simulated kernel behind it."""

    failing: OSError | ValueError | None = None
    opened: ClassVar[list["FakeDevice"]] = []

    def __init__(self, number: int, name: DeviceName, places: Places) -> None:
        if FakeDevice.failing is not None:
            raise FakeDevice.failing
        self.name = name
        self.kernel = Kernel(ring_bytes=65536 - 128)
        self.area = self.kernel.view
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.blocked = True
        self.gone = False
        self.told = 0
        self.size = BLOCKS * 512
        self.command_seconds = 60
        FakeDevice.opened.append(self)

    def block(self) -> None:
        self.blocked = True

    def unblock(self) -> None:
        self.blocked = False

    def resize(self, size: int) -> None:
        self.size = size

    def take_event(self) -> None:
        if self.gone:
            raise OSError(errno.EIO, "gone")
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return

    def tell(self) -> None:
        self.told += 1
        self.kernel.collect()

    def close(self) -> None:
        os.close(self.fd)
        self.fd = -1
        self.area.release()

    def send(self, cdb: bytes, **data: int | bytes | None) -> int:
        number = self.kernel.send(cdb, **data)  # type: ignore[arg-type]
        os.eventfd_write(self.fd, 1)
        return number


class Bench:
    """The devices of one unit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, deferred: bool = False) -> None:
        FakeDevice.failing, FakeDevice.opened = None, []
        self.found = {3: NAME}
        monkeypatch.setattr(tcmu_devices, "UioDevice", FakeDevice)
        monkeypatch.setattr(tcmu_devices, "our_devices", lambda places: dict(self.found))
        self.storage = MemoryStorage(BLOCKS * 512, deferred=deferred)
        self.drained = 0
        self.reports: list[tuple[str, str, bool]] = []
        self.devices = TcmuDevices()
        unit = LogicalUnit(self.storage, serial=SERIAL)
        self.served = ServedUnit(unit, self._drain, lambda *report: self.reports.append(report))
        self.devices.serve(self.served)
        self.devices.scan()

    def _drain(self) -> None:
        self.drained += 1

    @property
    def file(self) -> FakeDevice:
        return FakeDevice.opened[-1]

    @property
    def device(self) -> Device:
        """The only one that is attached."""
        (device,) = self.devices.devices.values()
        return device

    async def answers(self, *numbers: int) -> list[Answer]:
        await until(lambda: all(number in self.file.kernel.answers for number in numbers))
        return [self.file.kernel.answers[number] for number in numbers]


async def until(predicate: Callable[[], bool]) -> None:
    for _ in range(TURNS):
        if predicate():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it does not come to be")


@on_loop
async def test_what_the_kernel_puts_in_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    assert not bench.file.blocked
    first = bench.file.send(write_10(0, 1), data=b"x" * 512)
    second = bench.file.send(read_10(0, 1), expect=512)
    written, read = await bench.answers(first, second)
    assert (written.status, read.data) == (GOOD, b"x" * 512)
    assert bench.file.told == 1, "one batch is told once"
    assert bench.drained == 1
    await bench.devices.close()


@on_loop
async def test_answers_that_come_later_are_published_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, deferred=True)
    numbers = [bench.file.send(read_10(lba, 1), expect=512) for lba in range(5)]
    await until(lambda: bench.storage.waiting == 5)
    bench.storage.complete()
    await bench.answers(*numbers)
    assert bench.file.told == 1
    await bench.devices.close()


@on_loop
async def test_a_device_that_the_kernel_removes_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, deferred=True)
    bench.file.send(read_10(0, 1), expect=512)
    await until(lambda: bench.storage.waiting == 1)
    bench.file.gone = True
    del bench.found[3]
    os.eventfd_write(bench.file.fd, 1)
    await until(lambda: not bench.devices.devices)
    bench.storage.complete()
    assert bench.file.fd == -1
    assert bench.reports[-1] == ("detached", "device vol0: the kernel has removed it", False)
    await bench.devices.close()


@on_loop
async def test_a_broken_ring_is_an_alarm_and_is_attached_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    broken = bench.file
    broken.kernel.head = 4
    os.eventfd_write(broken.fd, 1)
    await until(lambda: not bench.devices.devices)
    event, reason, alarm = bench.reports[-1]
    assert (event, alarm) == ("detached", True)
    assert "its ring is broken: the head is at 4" in reason
    bench.devices.scan()
    assert bench.file is not broken
    (answer,) = await bench.answers(bench.file.send(bytes(6)))
    assert answer.status == GOOD
    await bench.devices.close()


@on_loop
async def test_a_device_that_another_has_is_tried_again_and_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    await bench.devices.withdraw(SERIAL)
    FakeDevice.failing = OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    bench.reports.clear()
    bench.devices.serve(bench.served)
    for _ in range(12):
        bench.devices.scan()
    assert bench.reports == [
        ("not attached", "device vol0 cannot be attached: Device or resource busy", True)
    ]
    FakeDevice.failing = None
    bench.devices.scan()
    assert bench.reports[-1][0] == "attached"
    await bench.devices.close()


@on_loop
async def test_devices_that_cannot_be_looked_for_are_looked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No event of the kernel comes: it has told of the device already."""
    bench = Bench(monkeypatch)
    found, bench.found = bench.found, {}
    bench.devices.scan()
    assert not bench.devices.devices

    def fails(places: object) -> dict[int, DeviceName]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(tcmu_devices, "our_devices", fails)
        with pytest.raises(OSError):
            bench.devices.scan()
    bench.found = found
    await until(lambda: bool(bench.devices.devices))
    await bench.devices.close()


@on_loop
async def test_a_device_whose_files_make_no_sense_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    await bench.devices.withdraw(SERIAL)
    FakeDevice.failing = ValueError("cannot mmap an empty file")
    bench.devices.serve(bench.served)
    bench.devices.scan()
    assert not bench.devices.devices
    FakeDevice.failing = None
    await until(lambda: bool(bench.devices.devices))
    await bench.devices.close()


@on_loop
async def test_a_stop_blocks_the_device_and_waits_for_what_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, deferred=True)
    number = bench.file.send(write_10(0, 1), data=b"y" * 512)
    await until(lambda: bench.storage.waiting == 1)
    closing = asyncio.create_task(bench.devices.close())
    await until(lambda: bench.file.blocked)
    assert not closing.done()
    bench.storage.complete()
    await closing
    assert bench.file.kernel.answers[number].status == GOOD
    assert bench.file.fd == -1


@on_loop
async def test_the_kernel_is_told_of_a_size_that_is_not_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    assert [event for event, _, _ in bench.reports] == ["attached"]
    bench.storage.grow(2 * BLOCKS * 512)
    bench.served.unit.capacity_changed()
    bench.devices.scan()
    assert bench.file.size == 2 * BLOCKS * 512
    assert bench.reports[-1][0] == "resized"
    await bench.devices.close()


class Clock:
    """Each look at it is 20 µs later; at some of them a command comes into the ring."""

    def __init__(self, kernel: Kernel, sends: set[int]) -> None:
        self.kernel = kernel
        self.looks = 0
        self.sends = sends

    def __call__(self) -> float:
        self.looks += 1
        if self.looks in self.sends:
            self.kernel.send(bytes(6))
        return self.looks * 0.00002


@pytest.fixture
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcmu_devices.os, "sched_getaffinity", lambda pid: {0, 1})


def with_a_command(monkeypatch: pytest.MonkeyPatch) -> tuple[Bench, Device]:
    """An attached device with one command in its ring."""
    bench = Bench(monkeypatch)
    bench.file.kernel.send(bytes(6))
    return bench, bench.device


def look_for_milliseconds(device: Device) -> None:
    """Let its pauses be such that looking through 2 ms of the next one seems worth it."""
    device._polling._looked, device._polling._slept = 0.001, 0.004


@on_loop
async def test_a_ring_that_fills_again_at_once_is_served_without_being_woken(
    monkeypatch: pytest.MonkeyPatch, two_processors: None
) -> None:
    bench, device = with_a_command(monkeypatch)
    kernel = bench.file.kernel
    clock = Clock(kernel, {4, 8})
    monkeypatch.setattr(tcmu_devices.time, "monotonic", clock)
    device._turn()
    assert len(kernel.answers) == 3
    assert clock.looks > 8 and not kernel.commands, "it was looked at after the last of them, too"
    monkeypatch.undo()
    await bench.devices.close()


@on_loop
async def test_between_two_looks_the_loop_does_what_else_there_is(
    monkeypatch: pytest.MonkeyPatch, two_processors: None
) -> None:
    bench, device = with_a_command(monkeypatch)
    kernel = bench.file.kernel
    clock = Clock(kernel, {80})
    look_for_milliseconds(device)
    monkeypatch.setattr(tcmu_devices.time, "monotonic", clock)
    device._turn()
    looks, answered = [clock.looks], [len(kernel.answers)]
    while answered[-1] < 2 and len(looks) < TURNS:
        await asyncio.sleep(0)
        looks.append(clock.looks)
        answered.append(len(kernel.answers))
    monkeypatch.undo()
    assert answered[-1] == 2
    assert answered.count(1) >= 2, "the loop turned meanwhile"
    await bench.devices.close()


@on_loop
async def test_a_device_that_is_let_go_is_not_looked_at_any_more(
    monkeypatch: pytest.MonkeyPatch, two_processors: None
) -> None:
    bench, device = with_a_command(monkeypatch)
    look_for_milliseconds(device)
    device._turn()
    assert device._look_due
    await bench.devices.close()
    await asyncio.sleep(0)
    assert not device._look_due


@on_loop
async def test_a_device_that_vanishes_as_it_is_attached_leaves_no_nexus_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    await bench.devices.withdraw(SERIAL)
    assert not list(bench.served.unit.attentions)

    def vanished(device: FakeDevice) -> None:
        raise OSError(errno.ENODEV, "gone")

    monkeypatch.setattr(FakeDevice, "unblock", vanished)
    bench.devices.serve(bench.served)
    bench.devices.scan()
    assert bench.file.fd == -1
    assert not list(bench.served.unit.attentions)
    await bench.devices.close()


@on_loop
async def test_what_lay_in_the_ring_while_the_process_stood_still_is_not_executed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    stale = bench.file
    stale.send(write_10(0, 1), data=b"z" * 512)
    bench.device.ring._looked -= 31
    await until(lambda: bench.file is not stale)
    assert not bench.storage.calls
    assert ("detached", LAIN_FOR_31_SECONDS, True) in bench.reports
    (answer,) = await bench.answers(bench.file.send(bytes(6)))
    assert answer.status == GOOD
    await bench.devices.close()


@on_loop
async def test_a_stop_while_the_ring_is_looked_at_is_noticed_before_anything_is_executed(
    monkeypatch: pytest.MonkeyPatch, two_processors: None
) -> None:
    bench, device = with_a_command(monkeypatch)
    stale = bench.file
    look_for_milliseconds(device)
    clock = Clock(stale.kernel, set())
    sent_at = 10

    def stopped() -> float:
        now = clock()
        if clock.looks == sent_at:
            stale.kernel.send(write_10(0, 1), data=b"z" * 512)
        return now + 31 * (clock.looks > sent_at)

    monkeypatch.setattr(tcmu_devices.time, "monotonic", stopped)
    device.ring.look(clock())
    device._turn()
    monkeypatch.undo()
    assert len(stale.kernel.answers) == 1, "the command before the stop"
    assert not bench.storage.calls
    assert ("detached", LAIN_FOR_31_SECONDS, True) in bench.reports
    await bench.devices.close()


@on_loop
async def test_a_ring_that_lay_empty_while_the_process_stood_still_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    bench.device.ring._looked -= 31
    bench.devices.scan()
    (answer,) = await bench.answers(bench.file.send(bytes(6)))
    assert answer.status == GOOD
    assert [event for event, _, _ in bench.reports] == ["attached"]
    await bench.devices.close()


@on_loop
async def test_what_waits_for_a_slow_volume_for_too_long_is_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, deferred=True)
    slow = bench.file
    for _ in range(TCMU_COMMANDS_MAX + 1):
        slow.send(SYNCHRONIZE)
    await until(lambda: bench.storage.waiting == TCMU_COMMANDS_MAX)
    bench.device.ring.since -= 31
    bench.devices.scan()
    assert bench.file is slow, "nothing can be executed now"
    bench.storage.complete(1)
    await until(lambda: bench.file is not slow)
    assert ("detached", LAIN_FOR_31_SECONDS, True) in bench.reports
    bench.storage.complete()
    await bench.devices.close()


@on_loop
async def test_a_device_for_no_unit_of_ours_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    bench.found[4] = DeviceName(0, "foreign", "6" * 32)
    bench.devices.scan()
    assert list(bench.devices.devices) == [3]
    await bench.devices.close()
