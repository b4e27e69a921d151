"""A replicated disk of the kernel, written to by the oracle's workload, in a guest.

The scene is that of ``tests/torture``, with the kernel between the workload and us: its block
layer, an initiator of its own, its target, TCMU. One rule: the workload sees what an application
sees of a disk. An I/O error there is a failure, whatever was killed meanwhile.
"""

import asyncio
import contextlib
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from pratima_iscsi.control.client import ControlClient
from tests.kernel.inside import lio, rig
from tests.oracle.stamps import SECTOR_BYTES
from tests.torture.daemons import Primary, Replica, Status
from tests.torture.scene import VOLUME_BYTES, Scene
from tests.torture.workload import CommandFailed, Mix, Outcome, Workload

DEPTH: Final = 8
BLKDISCARD: Final = 0x1277
BLKZEROOUT: Final = 0x127F
SG_SCSI_RESET: Final = 0x2284
RESET_DEVICE: Final = 1
PATIENCE_SECONDS: Final = 180
"""Of the initiator with one command: an emulated machine is slow to start a handler."""


class DiskSession:
    """A block device as a ``workload.Session``: no page cache, one system call a command."""

    block_bytes = SECTOR_BYTES

    def __init__(self, disk: Path) -> None:
        self._file = os.open(disk, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        self.blocks = rig.disk_size(disk) // SECTOR_BYTES
        self._callers = ThreadPoolExecutor(DEPTH, "disk")

    async def _call(self, call: Callable[[], None]) -> Outcome:
        await asyncio.get_running_loop().run_in_executor(self._callers, call)
        return Outcome.GOOD

    async def write(self, lba: int, data: bytes) -> Outcome:
        """One write of the block layer."""

        def call() -> None:
            with mmap.mmap(-1, len(data)) as aligned:
                aligned.write(data)
                assert os.pwrite(self._file, aligned, lba * SECTOR_BYTES) == len(data)

        return await self._call(call)

    async def zero(self, lba: int, count: int, *, unmap: bool) -> Outcome:
        """A discard, or zeroes; the disk says that discarded blocks read as zeros."""
        span = struct.pack("=QQ", lba * SECTOR_BYTES, count * SECTOR_BYTES)
        request = BLKDISCARD if unmap else BLKZEROOUT
        return await self._call(lambda: _ioctl(self._file, request, span))

    async def compare_and_write(self, lba: int, expected: bytes, data: bytes) -> Outcome:
        """What no block device can do."""
        raise CommandFailed("the block layer has no COMPARE AND WRITE")

    async def close(self) -> None:
        """Wait for what is under way."""
        await asyncio.get_running_loop().run_in_executor(None, self._callers.shutdown)
        os.close(self._file)


def _ioctl(file: int, request: int, argument: bytes) -> None:
    fcntl.ioctl(file, request, argument)


class KernelPrimary(Primary):
    """``pratima serve`` as the handler of the scene's device."""

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it says that it serves."""
        rig.start_and_wait(self, 1, environment, super(Primary, self).start)

    def status(self) -> Status | None:
        """What it says of itself, asked in this process."""
        return msgspec.json.decode(msgspec.json.encode(rig.group_of(self.state)), type=Status)


class KernelScene(Scene):
    """One volume behind tcm_loop or an iSCSI login, and its replica."""

    def __init__(
        self,
        directory: Path,
        seed: int,
        options: Sequence[str] = (),
        *,
        required: bool = False,
        iscsi: bool = False,
        lio_setup: bool = False,
    ) -> None:
        """``lio_setup``: the daemon makes device and target itself."""
        super().__init__(directory, seed, required=required)
        setup = ("--command-timeout", str(PATIENCE_SECONDS)) if lio_setup else ("--no-lio-setup",)
        options = (*options, "--front-end", "tcmu", *setup)
        self.primary = KernelPrimary(directory, VOLUME_BYTES, self.replica.port, options)
        self.workload = Workload(
            self.recorder, self._connect, seed=seed, depth=DEPTH, mix=Mix(compares=0)
        )
        self._iscsi = iscsi
        self._lio_setup = lio_setup

    def keep_replica_in(self, directory: Path) -> None:
        """Let the replica have its state and volume elsewhere, with the smallest journal."""
        self.replica = Replica(directory, self.replica.port)
        self.replica.command += ["--journal-limit", "64MiB"]

    async def _connect(self) -> DiskSession:
        return DiskSession(self.disk)

    @contextlib.contextmanager
    def running(self) -> Iterator["KernelScene"]:
        """Start all, make the device and its disk."""
        with super().running(), contextlib.ExitStack() as stack:
            if self._lio_setup:
                (self.disk,) = stack.enter_context(self._own_target())
                self.wait(PATIENCE_SECONDS)
                yield self
                return
            made = stack.enter_context(rig.devices(self.primary.state, [VOLUME_BYTES]))
            if self._iscsi:
                stack.enter_context(rig.iscsi_target(made))
                (self.disk,) = stack.enter_context(rig.iscsi_login(made))
            else:
                (self.disk,) = stack.enter_context(rig.loopback(made))
            self.wait(PATIENCE_SECONDS)
            yield self

    @contextlib.contextmanager
    def _own_target(self) -> Iterator[list[Path]]:
        """The target that the daemon has made, logged in to; at the end it is taken away."""
        with ControlClient(self.primary.state) as client:
            (target,) = client.targets().targets
        try:
            with lio.login(target.iqn, [target.luns[0].serial], target.portals[0]) as disks:
                yield disks
        finally:
            lio.take_away(self.primary.state)

    def wait(self, seconds: int) -> None:
        """How long the initiator waits for one command before it begins to abort."""
        (self.sysfs / "timeout").write_text(str(seconds))

    @property
    def sysfs(self) -> Path:
        """What the initiator says of the disk."""
        return Path("/sys/block") / self.disk.name / "device"

    def reset(self) -> None:
        """A logical unit reset, asked for by the initiator's administrator."""
        with self.disk.open("rb") as file:
            fcntl.ioctl(file, SG_SCSI_RESET, struct.pack("=i", RESET_DEVICE))

    def expect_all_that_was_acknowledged(self) -> None:
        """Nothing failed, nothing acknowledged is lost, and the replica becomes equal."""
        self.workload.drain()
        self.workload.check()
        self.expect_client_view()
        self.wait_synced()
        self.expect_equal()
