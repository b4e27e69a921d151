"""The machine's plug is pulled under I/O; booted again, its volume holds all that was flushed."""

from pathlib import Path
from typing import Final

import pytest

from tests.kernel import guest_tests, lab
from tests.kernel.inside.crash import NOTED

DISK_BYTES: Final = 256 << 20
FLUSHED_MIN: Final = 200

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(2400)]


def test_what_was_flushed_outlives_the_machine(guest_possible: None, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    machine = lab.Machine(drives=(disk,), job_seconds_max=guest_tests.SECONDS_MAX)
    first, second = tmp_path / "first", tmp_path / "second"
    for share in (first, second):
        share.mkdir()
    with lab.Guest(first, jobs("write"), machine) as guest:
        noted = guest.wait_for(NOTED)
        guest.wait_until(lambda: noted.read_text().count("\n") >= FLUSHED_MIN, "enough is written")
        guest.kill()
    flushed = noted.read_text().rpartition("\n")[0]
    (second / NOTED).write_text(flushed + "\n")
    results = lab.run_guest(second, jobs("check"), machine)
    assert results["2-crash"].rc == 0, results["2-crash"].explain()
    assert f"{flushed.count(chr(10)) + 1} flushed writes are there" in results["2-crash"].log


def jobs(what: str) -> dict[str, str]:
    return guest_tests.target_jobs("2-crash", "-m", "tests.kernel.inside.crash", what)
