"""Runs tests of ``inside/`` in a guest: pytest as its job, from this checkout and this environment.

One rule: what a guest says is what the host's test says. A failure there fails here with pytest's
own report and the console; what was skipped there is a skip here, with its reasons; a guest that
ran no test at all has failed.
"""

import compileall
import os
import shlex
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.kernel import lab

MARK: Final = "PRATIMA_GUEST"
"""In the environment of a guest's pytest: tests of ``inside/`` are collected there only."""
CHECKOUT: Final = Path(__file__).parents[2]
INSIDE: Final = Path(__file__).parent / "inside"
TARGET_SCRIPT: Final = Path(__file__).parent / "guest" / "target.sh"
REPORT: Final = "report.xml"
SECONDS_MAX: Final = 900
"""How long one guest's tests may take in all."""

PROGRAMS: Final = lab.PROGRAMS | {
    "iscsid": "open-iscsi",
    "iscsiadm": "open-iscsi",
    "mkfs.ext4": "e2fsprogs",
    "resize2fs": "e2fsprogs",
    "dmsetup": "dmsetup",
    "modprobe": "kmod",
    "fio": "fio",
    "tc": "iproute2",
}
"""What tests in guests run, and the package that has it."""
MACHINE: Final = lab.Machine(memory="2G", job_seconds_max=SECONDS_MAX)
"""What a guest of tests is."""
WHERE: Final = ("PYTHONPATH", "PYTHONSAFEPATH")
"""What says where the package is: in a guest as here, so that it runs what is compiled here."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A test that a guest did not run."""

    name: str
    reason: str


def jobs(tests: Sequence[str]) -> dict[str, str]:
    """The jobs that make a guest a target and run ``tests``, pytest's arguments below INSIDE."""
    return target_jobs(
        "2-pytest",
        *("-m", "pytest", "-p", "no:cacheprovider", "-v", "--durations=0", "-m", ""),
        f"--junitxml=/lab/{REPORT}",
        *(str(INSIDE / test) for test in tests),
    )


def target_jobs(name: str, *arguments: str) -> dict[str, str]:
    """The jobs that make a guest a target and run Python in it."""
    return {"1-target": TARGET_SCRIPT.read_text(), **python_job(name, *arguments)}


def python_job(name: str, *arguments: str) -> dict[str, str]:
    """The job that runs Python in a guest, from this checkout."""
    # What the host has compiled a guest need not, each time that a program starts.
    for package in ("pratima_iscsi", "targetcli-ext/pratima_targetcli", "tests"):
        compileall.compile_dir(CHECKOUT / package, quiet=1)
    handed_on = [f"{name}={shlex.quote(os.environ[name])}" for name in WHERE if name in os.environ]
    lines = [
        f"export {MARK}=1 PYTHONDONTWRITEBYTECODE=1 {' '.join(handed_on)}",
        f"cd {shlex.quote(str(CHECKOUT))}",
        f"exec {shlex.join([sys.executable, *arguments])}",
    ]
    return {name: "\n".join(lines) + "\n"}


def judge(share: Path, results: Mapping[str, lab.JobResult]) -> None:
    """Fail or skip as the guest's tests did."""
    assert results["1-target"].rc == 0, results["1-target"].explain()
    ran = results["2-pytest"]
    assert ran.rc == 0, ran.explain()
    print(ran.log)
    passed, skipped = outcome((share / REPORT).read_text())
    if skipped:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in skipped)
        pytest.skip(f"{passed} passed in the guest, {len(skipped)} skipped: {reasons}")
    assert passed, ran.explain()


def outcome(report: str) -> tuple[int, list[Skipped]]:
    """How many tests of a JUnit report have passed, and which were skipped; none has failed."""
    cases = list(ElementTree.fromstring(report).iter("testcase"))
    skipped = [
        Skipped(case.get("name", ""), mark.get("message", ""))
        for case in cases
        for mark in case.iter("skipped")
    ]
    return len(cases) - len(skipped), skipped
