"""Ctrl-C while a command is still coming up: exit code 130 and not a word."""

import configparser
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = """
import os, signal, sys
wanted = sys.argv.pop(1)

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from pratima_iscsi.__main__ import main
main()
"""
"""Interrupts itself at the moment when a module is looked for, before any of it has run."""


def interrupted(module: str, *words: str, ignored: bool = False) -> tuple[int, str]:
    """Exit code and what was said, of a command that is interrupted there."""
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, module, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None,  # type: ignore[func-returns-value,misc,arg-type]
    )
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("status", "pratima_iscsi.cli"),
        ("status", "click"),
        ("status", "pratima_iscsi.cli.status"),
        ("status", "msgspec"),
        ("monitor", "pratima_iscsi.monitor"),
        ("serve", "zmq"),
        ("serve", "pratima_iscsi.target_daemon"),
        ("serve", "pratima_iscsi.engine.service_manager"),
        ("replica", "pratima_iscsi.replica_daemon"),
        ("replica", "uvloop"),
    ],
)
def test_a_command_that_is_still_being_imported_ends_quietly(
    tmp_path: Path, command: str, module: str
) -> None:
    volume = () if command in ("status", "monitor") else ("--volume", str(tmp_path / "v"))
    options = (command, "--state", str(tmp_path / "s"), *volume)
    assert interrupted(module, *options) == (130, "")


def test_an_interrupt_that_was_ignored_from_outside_stays_so() -> None:
    code, said = interrupted("click", "--version", ignored=True)
    assert code == 0 and said.startswith("pratima ")


def test_the_installed_command_begins_where_this_is_held() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    scripts = setup["options.entry_points"]["console_scripts"]
    assert scripts.split() == ["pratima", "=", "pratima_iscsi.__main__:main"]
