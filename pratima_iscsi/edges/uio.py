"""One TCMU device's file: found in sysfs, taken for ourselves, mapped, told of answers.

The kernel gives each device a ``/dev/uioN`` that one process may have open, and in configfs the
switches to block it and to reset its ring. One rule: what an earlier process left in the ring is
never executed. It is reset before we look at it, initiators send again what it held, and what they
sent since then is not overtaken by something older.
"""

import errno
import mmap
import os
import platform
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pratima_iscsi.tcmu.names import DeviceName, parse_uio_name
from pratima_iscsi.tcmu.ring import no_barrier

EVENT_BYTES: Final = 4
TOLD: Final = bytes(EVENT_BYTES)
"""What is written to tell the kernel of answers; it does not look at the value."""
ORDERED_MACHINES: Final = frozenset({"x86_64", "i386", "i486", "i586", "i686"})
"""Their loads stay in order, and so do their stores."""
INITIATORS_RETRY: Final = "1"
"""Written to ``reset_ring``: commands in it end in BUSY."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the kernel shows its devices."""

    sysfs: Path = Path("/sys/class/uio")
    devices: Path = Path("/dev")
    configfs: Path = Path("/sys/kernel/config/target/core")


def our_devices(places: Places) -> dict[int, DeviceName]:
    """The TCMU devices that are ours, by their number; those that vanish meanwhile are left out."""
    found = {}
    try:
        names = os.listdir(places.sysfs)
    except FileNotFoundError:
        return {}
    for entry in names:
        number = entry.removeprefix("uio")
        if number == entry or not number.isdecimal():
            continue
        try:
            name = parse_uio_name((places.sysfs / entry / "name").read_text())
        except (OSError, UnicodeDecodeError):
            continue
        if name is not None:
            found[int(number)] = name
    return found


def memory_barrier() -> Callable[[], None]:
    """What keeps loads and stores on both sides of it apart, on this machine."""
    if platform.machine() in ORDERED_MACHINES:
        return no_barrier
    lock = threading.Lock()

    def barrier() -> None:
        with lock:
            pass

    return barrier


class UioDevice:
    """An open device: ``area`` is its mapping, ``fd`` readable when the ring has something new."""

    def __init__(self, number: int, name: DeviceName, places: Places) -> None:
        """Take the device, blocked and with an empty ring. Raises OSError: EBUSY where another
        process has it, EINVAL and the like where the kernel is still setting it up."""
        self.name = name
        self._control = places.configfs / f"user_{name.hba}" / name.name
        with ExitStack() as opened:
            flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
            self.fd = os.open(places.devices / f"uio{number}", flags)
            opened.callback(os.close, self.fd)
            self.block()
            opened.callback(self._unblock_if_there)
            self._control_write("action/reset_ring", INITIATORS_RETRY)
            size = int((places.sysfs / f"uio{number}" / "maps/map0/size").read_text(), 16)
            self._mapping = mmap.mmap(self.fd, size, mmap.MAP_SHARED)
            self.area = memoryview(self._mapping)
            opened.pop_all()

    def _control_write(self, attribute: str, value: str) -> None:
        descriptor = os.open(self._control / attribute, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)

    def block(self) -> None:
        """From now on the kernel answers new commands with BUSY."""
        self._control_write("action/block_dev", "1")

    def unblock(self) -> None:
        """Let commands come."""
        self._control_write("action/block_dev", "0")

    def _unblock_if_there(self) -> None:
        with suppress(OSError):
            self.unblock()

    @property
    def command_seconds(self) -> int:
        """After how long the kernel ends a command that was not answered. Raises OSError."""
        return int((self._control / "attrib/cmd_time_out").read_text())

    @property
    def size(self) -> int:
        """Bytes of the device as the kernel has them. Raises OSError."""
        return int((self._control / "attrib/dev_size").read_text())

    def resize(self, size: int) -> None:
        """Tell the kernel the device's new size in bytes. Raises OSError.

        Refused where the kernel would ask a handler and wait for its answer: that would be us.
        """
        if int((self._control / "attrib/nl_reply_supported").read_text()) >= 0:
            raise OSError(errno.EDEADLK, "the device was made without nl_reply_supported=-1")
        self._control_write("attrib/dev_size", str(size))

    def take_event(self) -> None:
        """Make ``fd`` unreadable until there is something new. OSError: the device is gone."""
        try:
            os.read(self.fd, EVENT_BYTES)
        except (BlockingIOError, InterruptedError):
            return

    def tell(self) -> None:
        """The kernel is to look at the tail. OSError: the device is gone."""
        os.write(self.fd, TOLD)

    def close(self) -> None:
        """Let the device go, unblocked: commands wait in its ring for the next to take it."""
        self.area.release()
        with suppress(BufferError):  # a task that failed holds a piece of it, and soon lets go
            self._mapping.close()
        os.close(self.fd)
        self._unblock_if_there()
