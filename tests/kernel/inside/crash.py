"""`python -m tests.kernel.inside.crash write|check`: one machine before and after its power cut.

``write`` serves a volume on the machine's own disk over the kernel's iSCSI, set up by the daemon,
and writes blocks, each flushed, for as long as it lives; what was flushed it notes outside of the
machine. ``check``, on the same disk after a reboot, starts the same daemon, which brings back what
the kernel has forgotten, and reads what was noted.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pratima_iscsi.control.config import TARGET_PREFIX
from pratima_iscsi.control.sections import DEFAULT_GROUP
from tests.kernel.inside import lio, mapped, rig

SHARE: Final = Path("/lab")
NOTED: Final = "flushed"
DISK: Final = Path("/dev/vda")
SIZE: Final = 32 * rig.MIB
BLOCK_BYTES: Final = 4096
BLOCKS: Final = SIZE // BLOCK_BYTES


def content(number: int) -> bytes:
    """What the ``number``-th write writes."""
    return f"write {number} ".encode().ljust(32) * (BLOCK_BYTES // 32)


def place(number: int) -> int:
    """Where it writes: every block once, in a scattered order."""
    return number * 2731 % BLOCKS * BLOCK_BYTES


@contextmanager
def served() -> Iterator[Path]:
    """The volume on the machine's disk, as a disk of its own initiator."""
    rig.run("modprobe", "virtio_blk")
    rig.until(DISK.exists, rig.DISK_SECONDS, "the disk is there")
    if not rig.run("blkid", str(DISK), check=False):
        rig.run("mkfs.ext4", "-q", "-F", str(DISK))
    with (
        mapped.mounted(DISK, Path("/mnt/own")) as directory,
        rig.Handler(directory, [SIZE], lio_setup=True) as own,
    ):
        own.start()
        with lio.login(TARGET_PREFIX + DEFAULT_GROUP, rig.serials(own.state, 1)) as (disk,):
            yield disk


def write() -> None:
    """Write until the plug is pulled."""
    with served() as disk, (SHARE / NOTED).open("ab", buffering=0) as noted:
        file = os.open(disk, os.O_WRONLY | os.O_CLOEXEC)
        for number in range(BLOCKS):
            os.pwrite(file, content(number), place(number))
            os.fsync(file)
            noted.write(f"{number}\n".encode())
    raise AssertionError("nobody has pulled the plug")


def check() -> None:
    """Everything noted is there; what was not is as it was or whole."""
    noted = {int(line) for line in (SHARE / NOTED).read_text().split()}
    with served() as disk, disk.open("rb") as file:
        for number in range(BLOCKS):
            file.seek(place(number))
            found = file.read(BLOCK_BYTES)
            assert found == content(number) or (number not in noted and not any(found)), number
    print(f"{len(noted)} flushed writes are there")


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]]()
