"""Whether this machine's kernel can serve us: TCMU and configfs are there, and we may use them.

One rule: looking changes nothing. Modules are loaded and configfs is mounted only for an operator
who asked for the kernel by name.
"""

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Final

MODULE: Final = "target_core_user"
CONFIGFS: Final = Path("/sys/kernel/config")
COMMAND_SECONDS_MAX: Final = 30


def why_not(root: Path = Path("/")) -> str:
    """Why the kernel cannot serve us as it is now; empty: it can."""
    if os.geteuid() != 0:
        return "not root"
    if not (root / "sys/module" / MODULE).is_dir():
        return f"the kernel has no {MODULE} loaded"
    if not (root / CONFIGFS.relative_to("/") / "target").is_dir():
        return f"there is no target in {CONFIGFS}: configfs is not mounted"
    return ""


def make_ready() -> str:
    """Load what is needed and mount configfs; why that did not help, empty: it did."""
    if os.geteuid() != 0:
        return why_not()
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        _run("modprobe", "-a", "configfs", MODULE)
    if not os.path.ismount(CONFIGFS):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            _run("mount", "-t", "configfs", "configfs", str(CONFIGFS))
    return why_not()


def _run(*command: str) -> None:
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    subprocess.run(
        command,
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=COMMAND_SECONDS_MAX,
        env={**os.environ, "PATH": path},
    )
