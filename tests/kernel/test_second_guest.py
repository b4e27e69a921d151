"""Boots two guests with a cable between them: one is a target, the other has its replica."""

from dataclasses import replace
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Final

import pytest

from tests.kernel import guest_tests, lab
from tests.kernel.inside.second import NAME

TESTS: Final = ("test_second_guest.py",)
FIRST: Final = IPv4Interface("10.77.0.1/24")
SECOND: Final = IPv4Interface("10.77.0.2/24")

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(2400)]


def test_a_second_guest_is_the_replica(tests_possible: None, tmp_path: Path) -> None:
    shares = tmp_path, tmp_path / NAME
    shares[1].mkdir()
    sockets = tmp_path / "cable-1", tmp_path / "cable-2"
    first, second = (
        replace(guest_tests.MACHINE, cable=lab.Cable(*ends, address))
        for ends, address in ((sockets, FIRST), (sockets[::-1], SECOND))
    )
    jobs = guest_tests.python_job(NAME, "-m", "tests.kernel.inside.second", str(SECOND))
    with lab.Guest(shares[1], jobs, second) as other:
        results = lab.run_guest(shares[0], guest_tests.jobs(TESTS), first)
        for log in shares[1].glob("*.log"):
            print(log.read_text())
        guest_tests.judge(shares[0], results)
        told = other.finish()[NAME]
    assert told.rc == 0, told.explain()
