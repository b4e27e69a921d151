"""The system's own iSCSI programs, run with a limit of time; a missing one skips, aloud."""

import shutil
import subprocess

import pytest

SECONDS_MAX = 60.0


def tool(name: str, package: str) -> str:
    """The program's path; skips the test with what to install where it is missing."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is missing: apt install {package}")
    return path


def run(
    *command: str, seconds: float = SECONDS_MAX, exit_codes: tuple[int, ...] = (0,)
) -> subprocess.CompletedProcess[str]:
    """Run to the end; the test fails on another exit code or when it takes too long."""
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, check=False, errors="replace"
    )
    said = f"{' '.join(command)}\n{ended.stdout}\n{ended.stderr}"
    assert ended.returncode in exit_codes, said
    return ended


def package_version(package: str) -> str:
    """The upstream version of an installed Debian package; "?" where that cannot be told."""
    query = shutil.which("dpkg-query")
    if query is None:
        return "?"
    command = (query, "-W", "-f", "${Version}", package)
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )
    return ended.stdout.rpartition(":")[2].partition("-")[0] or "?"
