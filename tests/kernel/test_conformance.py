"""libiscsi's suite from outside on the guest's LIO with our TCMU behind it, and a replica.

The list has what LIO answers itself and what TCMU cannot carry, each with its reason, and what our
device does not offer, as the portal's list has it.
"""

from pathlib import Path
from typing import Final

import pytest

from benchmarks.processes import free_port
from tests.conformance.cu_text import Outcome, deviations, expectations, totals
from tests.conformance.test_iscsi_test_cu import VOLUME_BYTES, suite
from tests.conformance.tools import run, tool
from tests.kernel import guest_tests, lab
from tests.kernel.inside.serve import READY, STOP

EXPECTED: Final = Path(__file__).parent / "expected.txt"
LEFT_OUT: Final = {"SCSI.Reserve6"}
"""Sessions are LIO's, and its answers here differ from run to run: a RESERVE(6) outlives the
logout of its session, sometimes until a reset. On the portal the suite passes."""
IQN: Final = "iqn.2026-11.org.example:lab"
SECONDS_MAX: Final = 180.0
"""For one suite."""

SERVED_SECONDS_MAX: Final = 1400
"""For the guest's job, all suites in it."""

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(1800)]


def suites() -> list[str]:
    """All of the tool's, one by one: an emulated kernel takes too long for a family at once."""
    listed = run(tool("iscsi-test-cu", "libiscsi-bin"), "--list", seconds=10.0).stdout.split()
    scsi = [line for line in listed if line.startswith("SCSI.") and line.count(".") == 1]
    return ["iSCSI", *(name for name in scsi if name not in LEFT_OUT)]


def test_the_suite_ends_as_its_list_expects_and_the_replica_is_equal(
    guest_possible: None, tmp_path: Path
) -> None:
    tool("iscsi-test-cu", "libiscsi-bin")
    port = free_port()
    machine = lab.Machine(
        memory="3G", network=True, forwards={port: 3260}, job_seconds_max=SERVED_SECONDS_MAX
    )
    jobs = guest_tests.target_jobs("2-serve", "-m", "tests.kernel.inside.serve", str(VOLUME_BYTES))
    with lab.Guest(tmp_path, jobs, machine) as guest:
        guest.wait_for(READY)
        url = f"iscsi://127.0.0.1:{port}/{IQN}/0"
        found: dict[str, Outcome] = {}
        for name in suites():
            ran = suite(name, url, seconds=SECONDS_MAX)
            assert ran, f"no test of {name} ran"
            found |= ran
        (tmp_path / STOP).touch()
        results = guest.finish()
    assert results["2-serve"].rc == 0, results["2-serve"].explain()
    wrong = deviations(found, expectations(EXPECTED))
    assert not wrong, (totals(found), wrong)
