"""libiscsi's conformance suite on the portal, against the lists in ``expected/``.

    python -m tests.conformance.test_iscsi_test_cu URL     # the same on any target, as a table

A list has one line for each test that does not pass, with its reason: a test that fails and is not
listed fails here, and so does one that is listed and passes.
"""

import sys
from pathlib import Path

import pytest

from tests.conformance.cu_text import Outcome, deviations, expectations, outcomes, totals
from tests.conformance.tools import run, tool
from tests.support.memory_storage import MemoryStorage
from tests.support.portal_thread import served
from tests.unit.iscsi.pair import TARGET, Lab

EXPECTED = Path(__file__).parent / "expected"
FAMILIES = {"SCSI": "scsi.txt", "iSCSI": "iscsi.txt"}
VOLUME_BYTES = 256 << 20
"""Some tests write as much as a command of the greatest length takes, and look around it."""
SECONDS_MAX = 200.0


def suite(family: str, url: str) -> dict[str, Outcome]:
    """Run one family of tests; the tool's exit code says less than its text."""
    program = tool("iscsi-test-cu", "libiscsi-bin")
    ended = run(program, "-d", "-v", "-t", family, url, seconds=SECONDS_MAX, exit_codes=(0, 1))
    return outcomes(ended.stdout)


@pytest.mark.tools
@pytest.mark.parametrize("family", FAMILIES)
def test_the_suite_ends_as_its_list_expects(family: str) -> None:
    lab = Lab(MemoryStorage(VOLUME_BYTES))
    with served(lab.directory) as portal:
        found = suite(family, f"iscsi://{portal.host}:{portal.port}/{TARGET}/0")
    assert found, "no test ran"
    expected = expectations(EXPECTED / FAMILIES[family])
    assert not deviations(found, expected), (totals(found), deviations(found, expected))


def main() -> None:
    """Print totals and what did not pass, for the target whose URL is the argument."""
    for family in FAMILIES:
        found = suite(family, sys.argv[1])
        passed, failed, skipped = totals(found)
        print(f"{family}: {passed} passed, {failed} failed, {skipped} skipped of {len(found)}")
        for test, outcome in found.items():
            if outcome is not Outcome.PASSED:
                print(f"{test:50} {outcome.value}")


if __name__ == "__main__":
    main()
