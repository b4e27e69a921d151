"""libiscsi's conformance suite on ``pratima serve`` with a replica, against ``expected/``.

    python -m tests.conformance.test_iscsi_test_cu URL     # the same on any target, as a table

A list has one line for each test that does not pass, with its reason: a test that fails and is not
listed fails here, and so does one that is listed and passes. Whatever the strangers wrote, zeroed,
compared and reserved, the replica must then be SYNCED and its volume equal to the primary's.
``python -m tests.conformance`` sets the table beside tgtd's.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.cu_text import (
    Outcome,
    deviations,
    expectations,
    outcomes,
    suite_table,
    totals,
)
from tests.conformance.tools import run, tool
from tests.integration.daemons.nodes import Pair, directory

EXPECTED = Path(__file__).parent / "expected"
FAMILIES = {"SCSI": "scsi.txt", "iSCSI": "iscsi.txt"}
VOLUME_BYTES = 256 << 20
"""Some tests write as much as a command of the greatest length takes, and look around it."""
SECONDS_MAX = 200.0


def suite(family: str, url: str, seconds: float = SECONDS_MAX) -> dict[str, Outcome]:
    """Run one family of tests; the tool's exit code says less than its text."""
    program = tool("iscsi-test-cu", "libiscsi-bin")
    ended = run(program, "-d", "-v", "-t", family, url, seconds=seconds, exit_codes=(0, 1))
    return outcomes(ended.stdout)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """A target and its replica, asynchronous, in step."""
    tool("iscsi-test-cu", "libiscsi-bin")
    with directory() as place, Pair(place, size=VOLUME_BYTES).in_step() as running:
        yield running


@pytest.mark.tools
@pytest.mark.parametrize("family", FAMILIES)
def test_the_suite_ends_as_its_list_expects_and_the_replica_is_equal(
    pair: Pair, family: str
) -> None:
    status = pair.primary.status()
    before = status.links[0].durable
    found = suite(family, f"iscsi://{status.portal}/{status.target}/0")
    assert found, "no test ran"
    expected = expectations(EXPECTED / FAMILIES[family])
    assert not deviations(found, expected), (totals(found), deviations(found, expected))
    pair.wait_equal()
    assert pair.primary.link().durable != before, "the suite wrote nothing that was mirrored"


def main() -> None:
    """Print totals, suites, and what did not pass, for the target whose URL is the argument."""
    for family in FAMILIES:
        found = suite(family, sys.argv[1])
        passed, failed, skipped = totals(found)
        print(f"{family}: {passed} passed, {failed} failed, {skipped} skipped of {len(found)}")
        print(suite_table({"": found}))
        for test, outcome in found.items():
            if outcome is not Outcome.PASSED:
                print(f"{test:50} {outcome.value}")


if __name__ == "__main__":
    main()
