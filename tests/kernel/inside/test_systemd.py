"""systemd runs the packaged units as they are: a target behind the kernel's, and its replica.

In a guest whose PID 1 is systemd, on what an administrator is told to install.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rtslib_fb import RTSRoot

from pratima_iscsi.control.config import TARGET_PREFIX
from tests.integration.daemons.nodes import in_step
from tests.kernel.guest_tests import CHECKOUT
from tests.kernel.inside import lio, rig
from tests.torture.daemons import wait_until

PACKAGING = CHECKOUT / "packaging" / "systemd"
UNITS = Path("/etc/systemd/system")
TARGET, REPLICA, RESTORE = "pratima@lab.service", "pratima-replica.service", "target.service"
STATES = Path("/var/lib/pratima")
STATE = STATES / "lab"
SECONDS = 120
HIDDEN = ("/home/", "/root/", "/tmp/")
"""What units with ProtectHome and PrivateTmp do not show to a daemon."""

CONFIGURATION = {
    "lab": f"""
        state = "{STATE}"
        front_end = "tcmu"
        [[group]]
        name = "lab"
        volume = [{{ path = "{STATE}/volume.img", size = "32MiB" }}]
        replica = [{{ address = "127.0.0.1:7010" }}]
    """,
    "replica": f"""
        state = "{STATES}/replica"
        [[group]]
        name = "lab"
        volume = [{{ path = "{STATES}/replica/volume.img" }}]
    """,
}
RESTORING = f"""
[Unit]
Requires=sys-kernel-config.mount
After=sys-kernel-config.mount network.target local-fs.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={sys.prefix}/bin/targetctl restore
ExecStop={sys.prefix}/bin/targetctl clear
"""
"""The unit of rtslib, but for where the program is."""


@pytest.fixture(scope="module", autouse=True)
def installed() -> Iterator[None]:
    """What docs/kernel.md and docs/operations.md tell an administrator to do."""
    for unit in PACKAGING.glob("*.service"):
        shutil.copy(unit, UNITS)
        show_programs(unit.name)
    (UNITS / RESTORE).write_text(RESTORING)
    for directory in ("target/pr", "target/alua", "rtslib-fb-target/backup", "pratima"):
        (Path("/etc") / directory).mkdir(parents=True, exist_ok=True)
    for name, text in CONFIGURATION.items():
        (Path("/etc/pratima") / f"{name}.toml").write_text(text)
    Path("/usr/bin/pratima").symlink_to(Path(sys.prefix) / "bin" / "pratima")
    rig.run("systemd-sysusers", str(PACKAGING / "pratima.sysusers"))
    rig.run("systemctl", "daemon-reload")
    yield
    print(rig.run("journalctl", "--no-pager", "--unit", "pratima*", check=False))


def show_programs(unit: str) -> None:
    """Let a unit see this checkout and its Python, which no package has installed."""
    programs = {str(CHECKOUT), sys.prefix, sys.base_prefix}
    hidden = [path for path in programs if path.startswith(HIDDEN)]
    if hidden:
        place = UNITS / f"{unit}.d"
        place.mkdir()
        shown = f"BindReadOnlyPaths={' '.join(hidden)}"
        (place / "programs.conf").write_text(f"[Service]\nProtectHome=tmpfs\n{shown}\n")


def show(unit: str, name: str) -> str:
    """What systemd says of a unit."""
    return rig.run("systemctl", "show", "--value", "--property", name, unit).strip()


def start(*units: str) -> None:
    """Start units; of ours that ends when they have said that they serve."""
    rig.run("systemctl", "start", *units)


def stop(*units: str) -> None:
    """Stop units, each cleanly."""
    rig.run("systemctl", "stop", *units)
    for unit in units:
        assert show(unit, "Result") == "success", rig.run("systemctl", "status", unit, check=False)
        assert show(unit, "ExecMainStatus") == "0"


def test_a_target_and_its_replica_serve_come_back_and_stop(tmp_path: Path) -> None:
    start(TARGET, REPLICA)
    for unit in (TARGET, REPLICA):
        status = Path(f"/proc/{show(unit, 'MainPID')}/status").read_text()
        assert "\nSeccomp:\t2\n" in status and "\nNoNewPrivs:\t1\n" in status
        assert "\nCapEff:\t0000000000000000\n" in status
    try:
        with lio.login(TARGET_PREFIX + "lab", rig.serials(STATE, 1)) as (disk,):
            rig.file_system_round(disk, tmp_path / "mount", os.urandom(4 * rig.MIB))
            rig.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", TARGET)
            wait_until(lambda: show(TARGET, "NRestarts") == "1", SECONDS, "it is started again")
            rig.drop_caches()
            rig.run("e2fsck", "-fn", str(disk))
        wait_until(lambda: in_step(rig.group_of(STATE)), SECONDS, "the replica has all")
    finally:
        stop(TARGET, REPLICA)
        lio.take_away(STATE)
    rig.run("cmp", str(STATE / "volume.img"), str(STATES / "replica" / "volume.img"))


def test_a_restore_of_lio_finds_a_handler_and_so_does_its_end() -> None:
    # Two jobs for systemd, one after the other: the second would not wait but for the units' order.
    start(TARGET, RESTORE)
    ready = int(show(TARGET, "ActiveEnterTimestampMonotonic"))
    assert ready <= int(show(RESTORE, "ExecMainStartTimestampMonotonic"))
    assert rig.group_of(STATE).portal
    stop(RESTORE, TARGET)
    cleared = int(show(RESTORE, "InactiveEnterTimestampMonotonic"))
    assert cleared <= int(show(TARGET, "ActiveExitTimestampMonotonic"))
    kernel = RTSRoot()
    assert not list(kernel.storage_objects) and not list(kernel.targets)
