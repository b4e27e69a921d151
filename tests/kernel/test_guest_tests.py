"""What a guest's pytest reports becomes what the host's test says; every test has its guest."""

from pathlib import Path

import pytest

from tests.kernel import guest_tests, lab, test_second_guest, test_systemd
from tests.kernel.test_inside import GROUPS

REPORT = """<?xml version="1.0"?><testsuites><testsuite tests="2">
<testcase name="test_one"/>{second}</testsuite></testsuites>"""
SKIPPED = '<testcase name="test_two"><skipped message="no such module"/></testcase>'


def results(rc: int = 0) -> dict[str, lab.JobResult]:
    return {
        "1-target": lab.JobResult(0, "", ""),
        "2-pytest": lab.JobResult(rc, "1 failed: it was wrong", "last words"),
    }


def test_a_failure_in_the_guest_is_a_failure_with_its_report_and_console(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"(?s)it was wrong.*last words"):
        guest_tests.judge(tmp_path, results(rc=1))


def test_what_a_guest_skipped_is_skipped_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / guest_tests.REPORT).write_text(REPORT.format(second=SKIPPED))
    with pytest.raises(pytest.skip.Exception, match=r"1 passed .* test_two: no such module"):
        guest_tests.judge(tmp_path, results())


def test_a_guest_that_ran_nothing_has_failed(tmp_path: Path) -> None:
    (tmp_path / guest_tests.REPORT).write_text("<testsuites><testsuite/></testsuites>")
    with pytest.raises(AssertionError):
        guest_tests.judge(tmp_path, results())


def test_a_guest_that_passed_all_passes(tmp_path: Path) -> None:
    (tmp_path / guest_tests.REPORT).write_text(REPORT.format(second=""))
    guest_tests.judge(tmp_path, results())


def test_every_file_of_tests_has_a_guest_to_run_in() -> None:
    guests = *GROUPS.values(), test_second_guest.TESTS, test_systemd.TESTS
    named = {argument.partition("::")[0] for tests in guests for argument in tests}
    assert named == {path.name for path in guest_tests.INSIDE.glob("test_*.py")}
