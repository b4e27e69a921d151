"""The lab itself: what it misses it names; a guest that dies is reported with its last words."""

import shlex
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel import lab


def test_a_missing_program_is_named_by_its_package() -> None:
    programs = {"sh": "dash", "no-such-program-anywhere": "its-package"}
    assert lab.missing_packages(programs) == ["its-package"]


HANGS = "exec sleep 1000"
Boots = Callable[[str], None]


@pytest.fixture
def boots(monkeypatch: pytest.MonkeyPatch) -> Boots:
    """Says what each boot does, in shell, in the place of QEMU."""
    scripts: list[str] = []
    monkeypatch.setattr(lab.image, "kernel", lambda: None)
    monkeypatch.setattr(lab, "_qemu", lambda *_: ["sh", "-c", scripts.pop(0)])
    monkeypatch.setattr(lab, "BOOT_SECONDS_MAX", 0.2)
    return scripts.append


def done(share: Path, rc: int) -> str:
    return f"cd {shlex.quote(str(share))}; echo {rc} >job.rc; echo done >job.log"


def test_a_kernel_that_did_not_come_up_is_booted_once_more_and_a_warning_says_so(
    tmp_path: Path, boots: Boots
) -> None:
    boots(HANGS)
    boots(done(tmp_path, 0))
    with pytest.warns(lab.NeverUpWarning, match="its console is empty"):
        results = lab.run_guest(tmp_path, {"job": "true"})
    assert (results["job"].rc, results["job"].log) == (0, "done\n")


def test_a_kernel_that_does_not_come_up_twice_is_a_failure(tmp_path: Path, boots: Boots) -> None:
    boots(HANGS)
    boots(HANGS)
    with (
        pytest.warns(lab.NeverUpWarning),
        pytest.raises(lab.GuestFailed, match=r"QEMU was killed .* undone: job"),
    ):
        lab.run_guest(tmp_path, {"job": "true"}, lab.Machine(job_seconds_max=0))


def test_a_guest_that_is_up_has_the_time_of_its_jobs_and_is_not_booted_again(
    tmp_path: Path, boots: Boots
) -> None:
    (tmp_path / lab.UP).touch()
    boots(f"sleep 0.6; {done(tmp_path, 3)}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lab.run_guest(tmp_path, {"job": "exit 3"})["job"].rc == 3


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
