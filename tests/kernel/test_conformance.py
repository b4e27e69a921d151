"""libiscsi's suite from outside on the guest's LIO with our TCMU behind it, and a replica.

The lists have what LIO answers itself or TCMU cannot carry, each with its reason; what concerns our
SCSI layer is that of ``tests/conformance``.
"""

from pathlib import Path
from typing import Final

import pytest

from benchmarks.processes import free_port
from tests.conformance.cu_text import deviations, expectations, totals
from tests.conformance.test_iscsi_test_cu import VOLUME_BYTES, suite
from tests.conformance.tools import tool
from tests.kernel import guest_tests, lab
from tests.kernel.inside.serve import READY, STOP

EXPECTED: Final = Path(__file__).parent / "expected"
FAMILIES: Final = {"SCSI": "scsi.txt", "iSCSI": "iscsi.txt"}
IQN: Final = "iqn.2026-11.org.example:lab"
SECONDS_MAX: Final = 600.0
"""For one family: an emulated kernel takes a while for what a suite takes seconds for."""

SERVED_SECONDS_MAX: Final = 1400
"""For the guest's job, both families in it."""

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(1800)]


def test_the_suite_ends_as_its_lists_expect_and_the_replica_is_equal(
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
        found = {
            family: suite(family, f"iscsi://127.0.0.1:{port}/{IQN}/0", seconds=SECONDS_MAX)
            for family in FAMILIES
        }
        (tmp_path / STOP).touch()
        results = guest.finish()
    assert results["2-serve"].rc == 0, results["2-serve"].explain()
    for family, list_name in FAMILIES.items():
        assert found[family], f"no test of {family} ran"
        wrong = deviations(found[family], expectations(EXPECTED / list_name))
        assert not wrong, (family, totals(found[family]), wrong)
