"""Boots a guest whose PID 1 is systemd, which loads, mounts and starts what the units ask for."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.kernel import guest_tests, lab

TESTS: Final = ("test_systemd.py",)
PROGRAMS = {"systemctl": "systemd", "systemd-sysusers": "systemd"}

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(2400)]


def test_systemd_runs_the_units(tests_possible: None, tmp_path: Path) -> None:
    if missing := lab.missing_packages(PROGRAMS):
        pytest.skip(f"apt-get install {' '.join(missing)}")
    # The kernel's target is not made before: its modules and configfs are for systemd to get.
    initiator = {"1-target": (lab.GUEST / "iscsid.sh").read_text()}
    jobs = guest_tests.jobs(TESTS) | initiator
    machine = replace(guest_tests.MACHINE, systemd=True)
    guest_tests.judge(tmp_path, lab.run_guest(tmp_path, jobs, machine))
