"""tgtd, the userspace target in C that this project is measured against.

One rule: it runs as anybody would run it, with its file back end's defaults; only its listener,
its control socket and its processor are chosen.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import MeasurementFailed, Pinned, free_port, wait_for

TARGET_NAME: Final = "iqn.2026-11.org.example:tgtd"
CONTROL_PORT: Final = 0
"""tgtd tells its instances apart by this number; the socket's directory is ours, so any serves."""
TGTADM_SECONDS_MAX: Final = 20.0
READY_SECONDS_MAX: Final = 20.0


@dataclass(frozen=True, slots=True)
class Chap:
    """What an initiator must know to log in."""

    user: str
    secret: str


@dataclass(frozen=True, slots=True)
class Portal:
    """A target that answers: where, under which name, and the process that serves it."""

    port: int
    target: str
    pid: int

    @property
    def url(self) -> str:
        """LUN 1, as libiscsi writes it: tgtd keeps LUN 0 for its controller."""
        return f"iscsi://127.0.0.1:{self.port}/{self.target}/1"


def missing_packages() -> list[str]:
    """The package to install where this machine has no tgtd."""
    return [] if shutil.which("tgtd") and shutil.which("tgtadm") else ["tgt"]


@contextmanager
def tgtd(volume: Path, *, cpu: int | None = None, chap: Chap | None = None) -> Iterator[Portal]:
    """Serve ``volume`` on a free port of the loopback until the block ends."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tgtd-") as directory:
        # The socket's place is an option of tgt's environment, so no root is asked for.
        environment = {**os.environ, "TGT_IPC_SOCKET": f"{directory}/control"}
        command = ["tgtd", "-f", "--iscsi", f"portal=127.0.0.1:{port}", "-C", str(CONTROL_PORT)]
        with Pinned(command, cpu=cpu, log=Path(directory) / "log", environment=environment) as run:

            def admin(*words: str) -> bool:
                ended = subprocess.run(
                    ["tgtadm", "-C", str(CONTROL_PORT), "--lld", "iscsi", *words],
                    env=environment,
                    capture_output=True,
                    check=False,
                    timeout=TGTADM_SECONDS_MAX,
                )
                return ended.returncode == 0

            wait_for(
                lambda: admin("--op", "show", "--mode", "sys"), READY_SECONDS_MAX, [run], "tgtd"
            )
            target = ("--tid", "1")
            steps = [
                ("--op", "new", "--mode", "target", *target, "-T", TARGET_NAME),
                ("--op", "new", "--mode", "logicalunit", *target, "--lun", "1", "-b", str(volume)),
                ("--op", "bind", "--mode", "target", *target, "-I", "ALL"),
            ]
            if chap is not None:
                account = ("--mode", "account", "--user", chap.user)
                steps += [
                    ("--op", "new", *account, "--password", chap.secret),
                    ("--op", "bind", *account, *target),
                ]
            for step in steps:
                if not admin(*step):
                    raise MeasurementFailed(f"tgtadm refused {' '.join(step)}: {run.said()}")
            try:
                yield Portal(port=port, target=TARGET_NAME, pid=run.pid)
            finally:
                run.kill()  # asked to end while it has a target, tgtd does not
