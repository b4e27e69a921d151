"""The lab itself: what it misses it names; a guest that dies is reported with its last words."""

from pathlib import Path

import pytest

from tests.kernel import lab


def test_a_missing_program_is_named_by_its_package() -> None:
    programs = {"sh": "dash", "no-such-program-anywhere": "its-package"}
    assert lab.missing_packages(programs) == ["its-package"]


@pytest.mark.guest
@pytest.mark.timeout(1000)
def test_jobs_run_in_order_and_a_guest_that_dies_is_reported_with_its_console(
    tmp_path: Path, guest_possible: None
) -> None:
    with pytest.raises(lab.GuestFailed) as failed:
        lab.run_guest(
            tmp_path,
            {
                "1-first": "uname -r; touch /run/first",
                "2-second": "test -e /run/first || exit 1; echo wrong >&2; exit 7",
                "3-third": "echo on fire; echo here too >/dev/console; echo c >/proc/sysrq-trigger",
            },
        )
    assert (tmp_path / "1-first.log").read_text().endswith("-amd64\n")
    assert (tmp_path / "2-second.rc").read_text() == "7\n"
    assert (tmp_path / "2-second.log").read_text() == "wrong\n"
    message = str(failed.value)
    assert "undone: 3-third" in message
    assert "on fire" in message
    assert "here too" in message
    assert "wrong" not in message
