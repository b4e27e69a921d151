"""A daemon that sets LIO up itself, and the initiator that uses it: what tests of it build from."""

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pratima_iscsi.control.config import TARGET_PREFIX
from pratima_iscsi.edges.lio import Lio
from pratima_iscsi.edges.lio_state import PLUGIN, Kernel
from pratima_iscsi.edges.lio_steps import DeleteBackstore, DeleteTarget
from pratima_iscsi.engine.kernel_setup import device_prefix
from tests.integration.daemons.nodes import Ran, Served
from tests.kernel.inside import rig

PORT: Final = 3260
PORTAL: Final = f"127.0.0.1:{PORT}"


class LioServed(Served):
    """``pratima serve`` with the kernel's target, and ``pratima target``."""

    def __init__(self, place: Path, *options: str) -> None:
        super().__init__(place, "--front-end", "tcmu", *options, portal=PORT)

    def make(self, name: str, *options: str) -> str:
        """Make a target, which must do; its IQN."""
        made: Ran = self.create(name, *options)
        assert made.returncode == 0, f"{made.stderr}\n{self.output()}\n{rig.kernel_log()[-3000:]}"
        return TARGET_PREFIX + name

    def kernel(self) -> Kernel:
        """LIO as it is, seen by this daemon."""
        node = (self.state / "node").read_bytes()
        return Lio(device_prefix(node)).read()

    def changes(self) -> list[str]:
        """What it says to have changed in LIO, in all its lives."""
        mark = "kernel: "
        return [
            line.partition(mark)[2] for line in self.log.read_text().splitlines() if mark in line
        ]

    def serial(self, name: str, lun: int = 0) -> str:
        """The serial of one unit."""
        return self.targets()[name].luns[lun].serial


def iscsiadm(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run iscsiadm; its exit code and what it said."""
    return subprocess.run(
        ["iscsiadm", *words], capture_output=True, text=True, timeout=120, check=False
    )


def discovered(portal: str = PORTAL) -> list[str]:
    """Names that a discovery shows."""
    found = iscsiadm("-m", "discovery", "-t", "sendtargets", "-p", portal)
    return [line.split()[1] for line in found.stdout.splitlines()]


def set_node(iqn: str, **values: str) -> None:
    """Set values of a node's record, double underscores for dots."""
    for name, value in values.items():
        key = name.replace("__", ".")
        ended = iscsiadm("-m", "node", "-T", iqn, "-o", "update", "-n", key, "-v", value)
        assert ended.returncode == 0, ended.stderr


def node_login(iqn: str) -> int:
    """Log in; iscsiadm's exit code."""
    return iscsiadm("-m", "node", "-T", iqn, "--login").returncode


def logout(iqn: str) -> None:
    """Log out, and forget the node."""
    iscsiadm("-m", "node", "-T", iqn, "--logout")
    iscsiadm("-m", "node", "-T", iqn, "-o", "delete")


@contextlib.contextmanager
def login(iqn: str, serials: Sequence[str], portal: str = PORTAL) -> Iterator[list[Path]]:
    """Discovered and logged in: the disks with these serials."""
    assert iqn in discovered(portal)
    assert node_login(iqn) == 0
    try:
        yield [rig.disk_with_serial(serial) for serial in serials]
    finally:
        logout(iqn)


def take_away(state: Path) -> None:
    """Remove from the kernel what the daemon of a state directory has made."""
    steps = Lio(device_prefix((state / "node").read_bytes()))
    found = steps.read()
    ours = {f"{PLUGIN}/{name}" for name in found.backstores}
    for target in found.targets.values():
        if ours.intersection(target.luns.values()):
            steps.carry_out(DeleteTarget("", target.iqn))
    for name in found.backstores:
        steps.carry_out(DeleteBackstore("", name))
