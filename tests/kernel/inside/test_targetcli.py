"""Stock targetcli 3.x with Pratima in its tree, on a kernel that has LIO."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pratima_iscsi.control.client import ControlClient
from pratima_iscsi.errors import OperatorError
from tests.kernel.inside import rig
from tests.torture.daemons import PRATIMA, Daemon, wait_until

IQN = "iqn.2026-01.io.github.pratima:db"
PORTAL = "127.0.0.1:3260"
LOOPBACK = "naa.5001405000000001"
BACKSTORE = "/backstores/user:pratima"
SIZE = 64 * rig.MIB


class Served(Daemon):
    """``pratima serve`` for the kernel, and ``pratima-targetcli`` beside it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.state = place / "p"
        words = ["serve", "--state", str(self.state), "--front-end", "tcmu"]
        super().__init__("primary", place, [*PRATIMA, *words, "--portal", PORTAL])

    def answers(self) -> bool:
        """Whether its control socket does."""
        try:
            with ControlClient(self.state) as client:
                return bool(client.status().pid)
        except OperatorError:
            return False

    def targetcli(self, *words: str, lines: str = "") -> subprocess.CompletedProcess[str]:
        """The program with a line, or with a session's ``lines``."""
        program = [sys.executable, "-X", "faulthandler", "-m", "pratima_targetcli"]
        # A program that hangs says where before it is ended.
        return subprocess.run(
            [
                *("timeout", "-s", "ABRT", str(rig.COMMAND_SECONDS)),
                *program,
                *("--state", str(self.state)),
                *words,
            ],
            input=lines,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * rig.COMMAND_SECONDS,
            env={**os.environ, "TARGETCLI_HOME": str(self.place / "home")},
        )

    def said(self, *words: str, lines: str = "") -> str:
        """What it says; it must do."""
        done = self.targetcli(*words, lines=lines)
        assert done.returncode == 0, f"{done.stdout}\n{self.output()}\n{rig.kernel_log()[-3000:]}"
        return done.stdout


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as served:
        served.start()
        wait_until(served.answers, rig.START_SECONDS, "the daemon answers", [served])
        yield served


@contextlib.contextmanager
def logged_in(serial: str) -> Iterator[Path]:
    """The disk of the daemon's own target."""
    rig.run("iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", PORTAL)
    rig.run("iscsiadm", "-m", "node", "-T", IQN, "-p", PORTAL, "--login")
    try:
        yield rig.disk_with_serial(serial)
    finally:
        rig.run("iscsiadm", "-m", "node", "-T", IQN, "-p", PORTAL, "--logout")
        rig.run("iscsiadm", "-m", "node", "-T", IQN, "-p", PORTAL, "-o", "delete")


def test_a_volume_is_made_exported_used_and_taken_away(served: Served) -> None:
    made = served.said(BACKSTORE, "create", "db", str(served.place / "db.img"), "64MiB")
    assert f"target {IQN} of group db is served" in made
    shown = served.said("/pratima", "ls")
    assert "primary, 1 volume of 64 MiB, 0 sessions" in shown and "1 daemon" in shown

    with ControlClient(served.state) as client:
        (target,) = client.targets().targets
    serial = target.luns[0].serial
    shown = served.said(
        lines=f"""ls
            {BACKSTORE}/db.lun0 info
            {BACKSTORE}/db.lun0 get attribute cmd_time_out
            /loopback create {LOOPBACK}
            /loopback/{LOOPBACK}/luns create {BACKSTORE}/db.lun0
            exit
        """
    )
    assert "served by the kernel" in shown and f"o- {IQN} " in shown, shown
    assert f"serial: {serial}" in shown and "cmd_time_out=60" in shown, shown
    assert "Created LUN 0" in shown and "standalone" not in shown, shown

    with logged_in(serial) as disk:
        assert rig.disk_size(disk) == SIZE
        rig.file_system_round(disk, served.place / "mount", os.urandom(4 * rig.MIB))

    shown = served.said(
        lines=f"""/loopback delete {LOOPBACK}
            {BACKSTORE} delete db
            ls
            exit
        """
    )
    assert "is deleted; its volumes and its state" in shown, shown
    assert "0 volumes, served by the kernel" in shown and IQN not in shown.split("o- /")[1], shown
    assert (served.place / "db.img").stat().st_size == SIZE


def test_a_create_that_fails_says_its_cause(served: Served) -> None:
    failed = served.targetcli(BACKSTORE, "create", "db", str(served.place / "missing.img"))
    assert failed.returncode == 1
    assert "missing.img does not exist; correct the path" in failed.stdout
