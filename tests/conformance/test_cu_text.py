"""The parser of iscsi-test-cu's text, on text of its own."""

from pathlib import Path

import pytest

from tests.conformance.cu_text import Outcome, deviations, expectations, outcomes, totals

TEXT = """
Suite: Read10
  Test: Simple ...passed
  Test: Async ...    [SKIPPED] READ10 is not implemented.
    [SKIPPED] again
passed
  Test: Dies ...    [FAILED] READ10 command failed
FAILED
    1. test_read10.c:71  - CU_ASSERT_EQUAL(_r,0)
Suite: Write10
  Test: Simple ...    some words
passed    [FAILED] words of what cleans up
  Test: Hangs ...
"""


def test_a_skip_is_no_pass_and_a_test_without_an_end_has_failed() -> None:
    assert outcomes(TEXT) == {
        "Read10.Simple": Outcome.PASSED,
        "Read10.Async": Outcome.SKIPPED,
        "Read10.Dies": Outcome.FAILED,
        "Write10.Simple": Outcome.PASSED,
        "Write10.Hangs": Outcome.FAILED,
    }
    assert totals(outcomes(TEXT)) == (2, 2, 1)


def test_every_difference_is_told(tmp_path: Path) -> None:
    (tmp_path / "list").write_text(
        "# why\nRead10.Async skip not offered\nWrite10.Simple fail it does\n"
        "Read10.Dies fail known\nGone.Test skip not there\n"
    )
    assert deviations(outcomes(TEXT), expectations(tmp_path / "list")) == [
        "Gone.Test: expected skip, not run",
        "Write10.Hangs: fail, expected pass",
        "Write10.Simple: pass, expected fail",
    ]


@pytest.mark.parametrize("line", ["A.B skip", "A.B", "A.B maybe why", "A.B skip x\nA.B skip y"])
def test_an_expectation_has_an_outcome_and_a_reason(tmp_path: Path, line: str) -> None:
    (tmp_path / "list").write_text(line + "\n")
    with pytest.raises(ValueError):
        expectations(tmp_path / "list")
