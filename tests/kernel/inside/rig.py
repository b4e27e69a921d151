"""What tests in a guest build from: our daemon as the kernel's handler, devices, LUNs, disks.

Devices and targets are made with rtslib itself, with the settings that the documentation names. One
rule: what is made here is taken away at the end, also after a failure; a kernel that a test leaves
in disorder would fool the next.
"""

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from rtslib_fb import (
    LUN,
    TPG,
    FabricModule,
    NetworkPortal,
    RTSRoot,
    Target,
    UserBackedStorageObject,
)

from pratima_iscsi.control.client import ControlClient
from pratima_iscsi.control.status import GroupStatus
from pratima_iscsi.replication.states import LinkState
from pratima_iscsi.scsi.device import unit_serial
from pratima_iscsi.tcmu.names import device_config
from tests.torture.daemons import PRATIMA, START_SECONDS, Daemon, wait_until

MIB: Final = 1 << 20
IQN: Final = "iqn.2026-11.org.example:lab"
LOOP_WWN: Final = "naa.5001405{:09x}"
INITIATOR: Final = "iqn.2026-11.org.example:lab"
COMMAND_SECONDS: Final = 120
DISK_SECONDS: Final = 60.0
CAUGHT_UP_SECONDS: Final = 90.0
COMMAND_TIMEOUT_SECONDS: Final = 180
"""The kernel's patience with a handler, longer than anybody's: an emulated machine is slow."""

BLKGETSIZE64: Final = 0x80081272

T = TypeVar("T")


def run(*command: str, check: bool = True) -> str:
    """Run a program to its end; what it printed."""
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    if check and ended.returncode:
        raise AssertionError(
            f"{' '.join(command)} ended with {ended.returncode}: {ended.stdout}{ended.stderr}"
        )
    return ended.stdout + ended.stderr


class Handler(Daemon):
    """``pratima serve`` as the handler of the kernel's devices."""

    def __init__(
        self,
        directory: Path,
        sizes: Sequence[int],
        options: Sequence[str] = (),
        volumes: Sequence[Path] | None = None,
        *,
        lio_setup: bool = False,
    ) -> None:
        self.state = directory / "primary-state"
        self.volumes = list(volumes or (directory / f"volume{i}.img" for i in range(len(sizes))))
        command = [*PRATIMA, "serve", "--state", str(self.state), "--front-end", "tcmu"]
        if not lio_setup:
            command.append("--no-lio-setup")
        for volume in self.volumes:
            command += ["--volume", str(volume)]
        for size in sizes if volumes is None else ():
            command += ["--size", str(size)]
        super().__init__("primary", directory, [*command, *options])

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it says that it serves."""
        start_and_wait(self, len(self.volumes), environment, super().start)

    def group(self) -> GroupStatus:
        """What it says of its group."""
        return group_of(self.state)

    def wait_caught_up(self) -> None:
        """Until its replicas have confirmed everything."""

        def caught_up() -> bool:
            links = self.group().links
            return all(x.state is LinkState.SYNCED and not x.lag.writes for x in links)

        wait_until(caught_up, CAUGHT_UP_SECONDS, "the replica has all", [self])


def start_and_wait(
    daemon: Daemon,
    volumes: int,
    environment: Mapping[str, str] | None,
    start: Callable[[Mapping[str, str] | None], None],
) -> None:
    """Start a handler and wait until it says once more that it serves its volumes."""

    def said() -> int:
        return daemon.log.read_text().count("target: ") if daemon.log.exists() else 0

    before = said()
    start(environment)
    wait_until(lambda: said() >= before + volumes, START_SECONDS, "the handler serves", [daemon])


def group_of(state: Path) -> GroupStatus:
    """What a daemon says of its only group, asked in this process: a command line costs seconds."""
    with ControlClient(state) as client:
        (group,) = client.status().groups
    return group


class Units(Protocol):
    """Backstores of the kernel that get a LUN each."""

    @property
    def objects(self) -> Sequence[Any]:
        """In the order of their LUNs."""


class Devices:
    """TCMU devices in the kernel, one for each unit of a handler."""

    def __init__(
        self, serials: Sequence[str], sizes: Sequence[int], prefix: str, command_seconds: int
    ) -> None:
        RTSRoot()
        self.objects = [
            make_device(f"{prefix}{number}", serial, size, command_seconds)
            for number, (serial, size) in enumerate(zip(serials, sizes, strict=True))
        ]

    def delete(self) -> None:
        """Take them away, with every LUN of theirs."""
        for one in self.objects:
            one.delete()


def make_device(
    name: str, serial: str, size: int, command_seconds: int = COMMAND_TIMEOUT_SECONDS
) -> UserBackedStorageObject:
    """One TCMU device of ours."""
    device = UserBackedStorageObject(
        name,
        config=device_config(serial),
        size=size,
        wwn=serial,
        hw_max_sectors=2048,
        control="nl_reply_supported=-1,hw_block_size=512,max_data_area_mb=64",
    )
    device.set_attribute("cmd_time_out", command_seconds)
    device.set_attribute("tmr_notification", 1)
    return device


@contextlib.contextmanager
def devices(
    state: Path,
    sizes: Sequence[int],
    prefix: str = "vol",
    command_seconds: int = COMMAND_TIMEOUT_SECONDS,
) -> Iterator[Devices]:
    """Devices for the units of the handler that runs on ``state``; at the end they are gone."""
    made = Devices(serials(state, len(sizes)), sizes, prefix, command_seconds)
    try:
        wait_attached(state, len(sizes), prefix)
        yield made
    finally:
        made.delete()


def serials(state: Path, count: int) -> list[str]:
    """The serials of the first units of the handler that runs on ``state``."""
    group = bytes.fromhex(group_of(state).group_id)
    return [unit_serial(group, index) for index in range(count)]


def wait_attached(state: Path, count: int, prefix: str = "vol") -> None:
    """Until a handler has that many devices."""
    wait_until(
        lambda: group_of(state).portal.count(prefix) >= count,
        DISK_SECONDS,
        f"{count} devices are attached",
    )


@contextlib.contextmanager
def loopback(made: Units) -> Iterator[list[Path]]:
    """The devices as disks of this machine through tcm_loop, in their order."""
    target = Target(FabricModule("loopback"), LOOP_WWN.format(1))
    try:
        tpg = TPG(target, 1)
        found = []
        for number, device in enumerate(made.objects):
            LUN(tpg, number, device)
            found.append(disk_with_serial(device.wwn))
        yield found
    finally:
        target.delete()


@contextlib.contextmanager
def iscsi_target(made: Units, port: int = 3260, address: str = "127.0.0.1") -> Iterator[Target]:
    """One iSCSI target of the kernel for all the devices, open to anybody."""
    target = Target(FabricModule("iscsi"), IQN)
    try:
        tpg = TPG(target, 1)
        for name, value in {
            "authentication": 0,
            "generate_node_acls": 1,
            "demo_mode_write_protect": 0,
            "cache_dynamic_acls": 1,
            "default_cmdsn_depth": 128,
        }.items():
            tpg.set_attribute(name, value)
        for number, device in enumerate(made.objects):
            LUN(tpg, number, device)
        NetworkPortal(tpg, address, port)
        tpg.enable = True
        yield target
    finally:
        target.delete()


@contextlib.contextmanager
def iscsi_login(made: Units) -> Iterator[list[Path]]:
    """The devices as disks of this machine through an iSCSI login on loopback."""
    portal = "127.0.0.1:3260"
    run("iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", portal)
    run("iscsiadm", "-m", "node", "-T", IQN, "-p", portal, "--login")
    try:
        yield [disk_with_serial(device.wwn) for device in made.objects]
    finally:
        run("iscsiadm", "-m", "node", "-T", IQN, "-p", portal, "--logout", check=False)
        run("iscsiadm", "-m", "node", "-T", IQN, "-p", portal, "-o", "delete", check=False)


def disk_with_serial(serial: str) -> Path:
    """The disk whose VPD page 80h says this serial, when it has appeared and can be opened."""

    def found() -> Path | None:
        for disk in Path("/sys/block").glob("sd*"):
            with contextlib.suppress(OSError):
                if serial.encode() in (disk / "device/vpd_pg80").read_bytes():
                    os.close(os.open(Path("/dev") / disk.name, os.O_RDONLY | os.O_CLOEXEC))
                    return Path("/dev") / disk.name
        return None

    return wait_until(found, DISK_SECONDS, f"a disk with serial {serial}")


def disk_size(disk: Path) -> int:
    """Bytes of a block device."""
    descriptor = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
    try:
        answer = fcntl.ioctl(descriptor, BLKGETSIZE64, bytes(8))
        return int.from_bytes(answer, "little")
    finally:
        os.close(descriptor)


def kernel_log() -> str:
    """What the kernel has said."""
    return run("dmesg")


def until(predicate: Callable[[], T | None], seconds: float, what: str) -> T:
    """See ``wait_until``."""
    return wait_until(predicate, seconds, what)


def file_system_round(disk: Path, mount: Path, data: bytes) -> None:
    """Format, mount, write, unmount, check."""
    run("mkfs.ext4", "-q", "-F", str(disk))
    mount.mkdir(exist_ok=True)
    run("mount", str(disk), str(mount))
    try:
        (mount / "data").write_bytes(data)
    finally:
        run("umount", str(mount))
    run("e2fsck", "-fn", str(disk))


def drop_caches() -> None:
    """What is read next comes from the disks."""
    Path("/proc/sys/vm/drop_caches").write_text("3")
