"""Disks that fail, and disks that remember each write: device-mapper over loop devices.

One rule: a mapped device is removed at the end whatever happened, or the loop device under it, and
the file under that, could not be.
"""

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.kernel.inside import rig

SECTOR_BYTES: Final = 512

LOG_SUPER = struct.Struct("<QQQI")
"""magic, version, entries, bytes of a sector (linux/drivers/md/dm-log-writes.c)"""
LOG_MAGIC: Final = 0x6A736677736872
LOG_ENTRY = struct.Struct("<QQQQ")
"""first sector, sectors, flags, bytes of a mark's name, which follows"""
DISCARD: Final = 4
MARK: Final = 8


@contextlib.contextmanager
def looped(file: Path, size: int) -> Iterator[Path]:
    """A loop device over a sparse file of that size."""
    with file.open("ab") as made:
        made.truncate(size)
    device = rig.run("losetup", "--find", "--show", str(file)).strip()
    try:
        yield Path(device)
    finally:
        rig.run("losetup", "--detach", device)


def _create(name: str, table: str) -> None:
    """Make a mapped device, and its node: no udev does that here."""
    rig.run("dmsetup", "create", name, "--noudevsync", "--noudevrules", "--table", table)
    rig.run("dmsetup", "mknodes", name)


class Failing:
    """A mapped device that can be made to fail every request, and be healed."""

    def __init__(self, name: str, under: Path) -> None:
        self.name = name
        self.path = Path("/dev/mapper") / name
        self._sectors = rig.disk_size(under) // SECTOR_BYTES
        self._good = f"0 {self._sectors} linear {under} 0"

    def _load(self, table: str) -> None:
        rig.run("dmsetup", "suspend", "--noflush", "--nolockfs", self.name)
        rig.run("dmsetup", "load", self.name, "--table", table)
        rig.run("dmsetup", "resume", self.name)

    def fail(self) -> None:
        """From now on each read and write ends in an error."""
        self._load(f"0 {self._sectors} flakey {self._good.split()[3]} 0 0 3600")

    def heal(self) -> None:
        """From now on the disk works."""
        self._load(self._good)

    def make(self) -> None:
        """Make it, healthy."""
        _create(self.name, self._good)


@contextlib.contextmanager
def failing(name: str, under: Path) -> Iterator[Failing]:
    """A device that works until it is made to fail."""
    device = Failing(name, under)
    device.make()
    try:
        yield device
    finally:
        rig.run("dmsetup", "remove", "--retry", name)


@contextlib.contextmanager
def logged(name: str, under: Path, log: Path) -> Iterator[Path]:
    """A device whose writes are remembered in ``log`` as they become durable."""
    sectors = rig.disk_size(under) // SECTOR_BYTES
    _create(name, f"0 {sectors} log-writes {under} {log}")
    try:
        yield Path("/dev/mapper") / name
    finally:
        rig.run("dmsetup", "remove", "--retry", name)


def mark(name: str, text: str) -> None:
    """Remember this instant in a logged device's log."""
    rig.run("dmsetup", "message", name, "0", "mark", text)


@contextlib.contextmanager
def mounted(device: Path, place: Path) -> Iterator[Path]:
    """A file system, while it is needed."""
    place.mkdir(exist_ok=True)
    rig.run("mount", str(device), str(place))
    try:
        yield place
    finally:
        rig.run("umount", str(place))


@dataclass(frozen=True, slots=True)
class LoggedWrite:
    """One entry of a log; ``data`` empty for a discard, ``name`` for a mark only."""

    offset: int
    length: int
    data: bytes = b""
    name: str = ""


def read_log(log: Path) -> Iterator[LoggedWrite]:
    """What a logged device was written, in its order, and its marks."""
    with log.open("rb") as file:
        magic, version, entries, sector = LOG_SUPER.unpack(file.read(LOG_SUPER.size))
        assert (magic, version) == (LOG_MAGIC, 1), "this is no log of dm-log-writes"
        file.seek(sector)
        for _ in range(entries):
            head = file.read(sector)
            first, count, flags, name_bytes = LOG_ENTRY.unpack_from(head)
            offset, length = first * sector, count * sector
            if flags & MARK:
                name = head[LOG_ENTRY.size : LOG_ENTRY.size + name_bytes].decode()
                yield LoggedWrite(0, 0, name=name.rstrip("\0"))
            elif flags & DISCARD:
                yield LoggedWrite(offset, length)
            else:
                yield LoggedWrite(offset, length, file.read(length))


def replay(log: Path, until: str, image: Path, size: int) -> None:
    """What the disk held durably at a mark: as a power cut at that instant would have left it."""
    with image.open("wb") as file:
        file.truncate(size)
        for write in read_log(log):
            if write.name == until:
                return
            if write.data:
                os.pwrite(file.fileno(), write.data, write.offset)
            elif write.length:
                os.pwrite(file.fileno(), bytes(write.length), write.offset)
    raise AssertionError(f"the log has no mark {until}")
