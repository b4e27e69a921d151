"""The kernel's devices that are ours, served on the loop: found, attached, driven, let go.

Each wake-up of a device does, in this order: execute all that its ring holds, ``drained`` (which
submits what the commands asked of the volumes), publish all answers, and tell the kernel once. One
rule: a device that cannot be attached, or breaks, costs the others nothing; it is tried again.

A process that stood still for long (it was stopped, or a disk held it) may find commands in a ring
of which the kernel has told initiators meanwhile that they failed. So the clock is read after a
ring was looked at and before anything of it is executed, and a ring with such commands is reset. A
stop at any instruction is noticed: either what came during it was not seen, or the clock tells.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pratima_iscsi.edges.kernel_events import KernelEvents
from pratima_iscsi.edges.uio import Places, UioDevice, memory_barrier, our_devices
from pratima_iscsi.errors import StateError
from pratima_iscsi.limits import (
    TCMU_DRAIN_SECONDS,
    TCMU_LOOK_SECONDS,
    TCMU_RETRY_SECONDS_MIN,
    TCMU_ROUNDS_MAX,
    TCMU_SCAN_SECONDS,
)
from pratima_iscsi.scsi.logical_unit import LogicalUnit
from pratima_iscsi.tcmu.names import DeviceName
from pratima_iscsi.tcmu.polling import Polling
from pratima_iscsi.tcmu.ring import Ring, RingError
from pratima_iscsi.tcmu.session import Session

LOG: Final = logging.getLogger(__name__)

Report = Callable[[str, str, bool], None]
"""Told of a change at a unit: the event, its reason, whether somebody should know."""


@dataclass(frozen=True, slots=True)
class ServedUnit:
    """A unit that a device may name; ``drained`` submits what its commands have collected."""

    unit: LogicalUnit
    drained: Callable[[], None]
    report: Report


class TcmuDevices:
    """All devices of this process. Every method is called on the loop."""

    def __init__(self, places: Places | None = None) -> None:
        self.places = places or Places()
        self.devices: dict[int, Device] = {}
        """Those that are attached, by number."""
        self._units: dict[str, ServedUnit] = {}
        self._loop = asyncio.get_running_loop()
        self._events: KernelEvents | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._retry_seconds = TCMU_RETRY_SECONDS_MIN
        self._closed = False
        self._complained: dict[int, str] = {}
        """What was last said of a device that could not be attached."""

    def open(self) -> None:
        """Begin to look for devices. Raises StateError where the kernel has no TCMU."""
        try:
            self._events = KernelEvents()
        except OSError as error:
            raise StateError(
                f"the kernel's devices cannot be watched: {error.strerror or error}",
                "run as root, and load target_core_user (modprobe target_core_user)",
            ) from None
        for one in self._events.sockets:
            self._loop.add_reader(one, self._told)
        self.scan()

    def serve(self, served: ServedUnit) -> None:
        """From now on attach devices that name this unit."""
        self._units[served.unit.serial] = served
        if self._events is not None:
            self.scan()

    async def withdraw(self, serial: str) -> None:
        """Serve a unit no more: its devices are let go when what is under way has ended."""
        served = self._units.pop(serial, None)
        if served is not None:
            await self._stop([d for d in self.devices.values() if d.served is served])

    async def close(self) -> None:
        """Let all devices go, for good."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._events is not None:
            for one in self._events.sockets:
                self._loop.remove_reader(one)
            self._events.close()
            self._events = None
        self._units.clear()
        await self._stop(list(self.devices.values()))

    async def _stop(self, devices: "list[Device]") -> None:
        await asyncio.gather(*(device.stop() for device in devices))
        for device in devices:
            self.devices.pop(device.number, None)

    def of_unit(self, serial: str) -> "list[Device]":
        """The attached devices of a unit."""
        return [d for d in self.devices.values() if d.served.unit.serial == serial]

    # --- looking for devices ---------------------------------------------------------------------

    def _told(self) -> None:
        if self._events is not None and self._events.take():
            self._retry_seconds = TCMU_RETRY_SECONDS_MIN
            self.scan()

    def scan(self) -> None:
        """Attach what is there and wanted, let go what is not there any more, come again."""
        if self._closed:
            return
        missing = True
        try:
            missing = self._scan()
        finally:
            self._again(missing)

    def _scan(self) -> bool:
        """Whether a device could not be attached."""
        for device in list(self.devices.values()):
            device.look()
        found = our_devices(self.places)
        for number, device in list(self.devices.items()):
            if found.get(number) != device.name:
                self.lost(device, "the kernel has removed it")
        missing = False
        for number, name in found.items():
            served = self._units.get(name.serial)
            if served is None:
                self._complain(number, f"device {name.name} wants a unit that is not served here")
            elif number not in self.devices:
                missing |= not self._attach(number, name, served)
        for number in self._complained.keys() - found.keys():
            del self._complained[number]
        for device in self.devices.values():
            device.follow_size()
        return missing

    def _again(self, soon: bool) -> None:
        """Come again: soon where a device could not be attached, else now and then.

        The kernel shows a device a moment before it lets it be attached.
        """
        if self._timer is not None:
            self._timer.cancel()
        wait = TCMU_SCAN_SECONDS
        if soon:
            wait = self._retry_seconds
            self._retry_seconds = min(2 * wait, TCMU_SCAN_SECONDS)
        self._timer = self._loop.call_later(wait, self.scan)

    def _attach(self, number: int, name: DeviceName, served: ServedUnit) -> bool:
        try:
            self.devices[number] = Device(self, number, name, served)
        except (OSError, RingError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            busy = isinstance(error, OSError) and self._retry_seconds >= TCMU_SCAN_SECONDS
            self._complain(number, f"device {name.name} cannot be attached: {reason}", served, busy)
            return False
        self._complained.pop(number, None)
        served.report("attached", f"device {name.name} of the kernel (uio{number})", False)
        return True

    def _complain(
        self, number: int, problem: str, served: ServedUnit | None = None, alarm: bool = False
    ) -> None:
        if self._complained.get(number) == f"{problem}{alarm}":
            return
        self._complained[number] = f"{problem}{alarm}"
        if served is not None and alarm:
            served.report("not attached", problem, True)
        else:
            LOG.info("uio%d: %s", number, problem)

    def lost(self, device: "Device", reason: str, *, alarm: bool = False) -> None:
        """A device is gone, or given up; what it had under way is answered to nobody."""
        if self.devices.get(device.number) is device:
            del self.devices[device.number]
            device.close()
            device.served.report("detached", f"device {device.name.name}: {reason}", alarm)


class Device:
    """One attached device: its file, its ring's session, and when to look at it again."""

    def __init__(
        self, devices: TcmuDevices, number: int, name: DeviceName, served: ServedUnit
    ) -> None:
        """Take the device and let its commands come. Raises OSError or RingError."""
        self.number = number
        self.name = name
        self.served = served
        self._devices = devices
        self._loop = asyncio.get_running_loop()
        self._turning = False
        self._turn_due = False
        self._polling = Polling(len(os.sched_getaffinity(0)) > 1)
        self._pause_began = 0.0
        """When the ring was emptied that has stayed empty since; 0 while there is no pause."""
        self._look_until = 0.0
        """Until when the ring is looked at in this pause; 0 when the kernel is to wake us."""
        self._look_due = False
        self._idle: asyncio.Event | None = None
        """Of a device that is being stopped: set when nothing is left to do."""
        self._size_told = 0
        """The unit's size that the kernel was last compared with."""
        self._file = UioDevice(number, name, devices.places)
        with contextlib.ExitStack() as opened:
            opened.callback(self._file.close)
            self.ring = Ring(self._file.area, memory_barrier())
            self.ring.look(time.monotonic())
            self.session = Session(self.ring, served.unit, self._wake)
            opened.callback(self.session.close)
            self._file.unblock()
            opened.pop_all()
        self._loop.add_reader(self._file.fd, self._readable)

    @property
    def patience(self) -> float:
        """For how many seconds a command may lie in the ring and still be executed: for half of the
        time that the kernel gives it now, and none where that cannot be told."""
        try:
            return self._file.command_seconds / 2
        except (OSError, ValueError):
            return 0.0

    # --- the wheel -------------------------------------------------------------------------------

    def look(self) -> bool:
        """See what the ring holds; whether it may be executed. Else the device was let go, and is
        attached again with a fresh ring."""
        ring = self.ring
        try:
            ring.look(time.monotonic())
        except RingError as error:
            self._broken(error)
            return False
        if not ring.seen or not self.session.has_room:
            return True
        age = time.monotonic() - ring.since
        if age <= TCMU_SCAN_SECONDS or age <= self.patience:
            return True
        self._devices.lost(self, f"a command may have lain in its ring for {age:.0f} s", alarm=True)
        self._loop.call_soon(self._devices.scan)
        return False

    def _readable(self) -> None:
        try:
            self._file.take_event()
        except OSError:
            self._devices.lost(self, "the kernel has removed it")
            return
        self._turn()

    def _wake(self) -> None:
        """An answer came: in a turn it goes with the others, else a turn is due."""
        if not self._turning and not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._due)

    def _due(self) -> None:
        self._turn_due = False
        self._turn()

    def _turn(self) -> None:
        """Serve all that is there and answer it, round after round while more comes."""
        if self.session.closed:
            return
        session, ring, drained = self.session, self.ring, self.served.drained
        self._turning = True
        try:
            for _ in range(TCMU_ROUNDS_MAX):
                if self._pause_began and ring.waiting:
                    self._pause_ends()
                if not self.look():
                    break
                served = session.serve()
                if served:
                    drained()
                told = self._publish()
                if not (served or told) or not (ring.waiting or self._more_comes()):
                    break
            else:
                self._turn_due = True
                self._loop.call_soon(self._due)  # the others have their turn, too
        except RingError as error:
            self._broken(error)
        except OSError:
            self._devices.lost(self, "the kernel has removed it")
        except BaseException:
            # A bug of ours. What it left half done must not be served again.
            self._devices.lost(self, "internal error", alarm=True)
            raise
        finally:
            self._turning = False
        if self._idle is not None and not session.closed and not self.busy:
            self._idle.set()

    @property
    def busy(self) -> bool:
        """Whether commands are under way or wait in the ring."""
        return bool(self.session.commands) or self.ring.waiting

    def _publish(self) -> bool:
        """Whether there was anything to tell the kernel of."""
        if not self.ring.unpublished:
            return False
        self.ring.publish()
        self._file.tell()
        return True

    def _more_comes(self) -> bool:
        """The ring is empty: a pause begins. Whether it is over within one look.

        While commands are under way elsewhere the loop has better to do.
        """
        if self.session.commands:
            return False
        now = self._pause_began = time.monotonic()
        patience = self._polling.patience()
        if not patience:
            return False
        self._look_until = now + patience
        return self._look(now)

    def _look(self, now: float) -> bool:
        """Look at the ring for a moment, and see to it that it is looked at again after the loop
        has done what else there is; whether more has come."""
        ring = self.ring
        until = min(self._look_until, now + TCMU_LOOK_SECONDS)
        while not ring.waiting:
            if time.monotonic() < until:
                continue
            if until >= self._look_until:
                self._look_until = 0.0
            elif not self._look_due:
                self._look_due = True
                self._loop.call_soon(self._look_again)
            return False
        return True

    def _look_again(self) -> None:
        self._look_due = False
        if self._look_until and not self.session.closed and self._look(time.monotonic()):
            self._turn()

    def _pause_ends(self) -> None:
        self._polling.ended(time.monotonic() - self._pause_began)
        self._pause_began = self._look_until = 0.0

    # --- the end ---------------------------------------------------------------------------------

    def _broken(self, error: RingError) -> None:
        self._devices.lost(self, f"its ring is broken: {error}", alarm=True)

    async def stop(self) -> None:
        """Let no more in, wait a while for what is under way, let the device go."""
        self._idle = asyncio.Event()
        with contextlib.suppress(OSError):
            self._file.block()
        self._due()
        try:
            await asyncio.wait_for(self._idle.wait(), TCMU_DRAIN_SECONDS)
        except TimeoutError:
            LOG.info("%s: %d commands are left", self.name.name, len(self.session.commands))
        self.close()

    def close(self) -> None:
        """Let the device go now."""
        if self.session.closed:
            return
        self._loop.remove_reader(self._file.fd)
        self.session.close()
        self._file.close()
        if self._idle is not None:
            self._idle.set()

    def follow_size(self) -> None:
        """Tell the kernel where the unit is not as large as the kernel has it.

        It keeps the size for people who look; initiators ask the unit.
        """
        size = self.served.unit.blocks << self.served.unit.block_shift
        if size == self._size_told:
            return
        self._size_told = size
        try:
            before = self._file.size
            if before != size:
                self._file.resize(size)
                self.served.report("resized", f"device {self.name.name}: {before} to {size}", False)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self.served.report("not resized", f"device {self.name.name}: {reason}", False)
