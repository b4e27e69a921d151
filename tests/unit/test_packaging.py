"""The systemd units: valid, in the right order, and no daemon is given more than it needs."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pratima_iscsi.cli.replica import command as replica_command
from pratima_iscsi.cli.serve import command as serve_command
from pratima_iscsi.limits import GROUPS_MAX, PORTAL_CONNECTIONS_MAX

ROOT = Path(__file__).parents[2]
SYSTEMD = ROOT / "packaging" / "systemd"
UNITS = sorted(SYSTEMD.glob("*.service"))
EXPOSURE_MAX = {
    "pratima@.service": 25,
    "pratima-portal@.service": 20,
    "pratima-replica.service": 20,
}
"""Tenths of what `systemd-analyze security` may say."""
SECONDS_MAX = 60.0

units = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    """`systemd-analyze`; skips where it is missing or too old for files that are not installed."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is missing: apt install systemd")
    version = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=SECONDS_MAX, check=True
    )
    number = re.match(r"systemd (\d+)", version.stdout)
    if number is None or int(number[1]) < 250:
        pytest.skip("this systemd-analyze knows no --offline: systemd 250 or later")
    return subprocess.run(
        [program, *words], capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )


def settings(unit: Path) -> dict[tuple[str, str], list[str]]:
    """Every value of every key, by section and key."""
    found: dict[tuple[str, str], list[str]] = {}
    section = ""
    for line in unit.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault((section, key), []).append(value)
    return found


def test_each_unit_has_its_limit() -> None:
    assert [unit.name for unit in UNITS] == sorted(EXPOSURE_MAX)


@units
def test_a_unit_is_valid(unit: Path, tmp_path: Path) -> None:
    here = tmp_path / unit.name.replace("@", "@db")
    program = Path(sys.executable).with_name("pratima")
    here.write_text(unit.read_text().replace("/usr/bin/pratima", str(program)))
    ran = analyze("verify", "--man=no", "--recursive-errors=no", str(here))
    assert ran.returncode == 0 and not ran.stderr, ran.stderr


@units
def test_a_unit_exposes_no_more_than_it_may(unit: Path) -> None:
    limit = EXPOSURE_MAX[unit.name]
    ran = analyze("security", "--offline=true", "--no-pager", f"--threshold={limit}", str(unit))
    assert ran.returncode == 0, ran.stdout[-200:] + ran.stderr


@units
def test_a_unit_waits_for_ready_and_is_watched(unit: Path) -> None:
    found = settings(unit)
    assert found["Service", "Type"] == ["notify"]
    assert ("Service", "WatchdogSec") in found and ("Service", "MemoryMax") in found
    assert int(found["Service", "LimitNOFILE"][0]) >= 12 * GROUPS_MAX + PORTAL_CONNECTIONS_MAX
    assert found["Service", "UMask"] == ["0077"]
    assert found["Service", "CapabilityBoundingSet"] == [""]


def test_the_kernels_unit_stands_before_whoever_restores_its_configuration() -> None:
    found = settings(SYSTEMD / "pratima@.service")
    before = " ".join(found["Unit", "Before"]).split()
    after = " ".join(found["Unit", "After"]).split()
    assert {"target.service", "rtslib-fb-targetctl.service"} <= set(before)
    assert {"sys-kernel-config.mount", "modprobe@target_core_user.service"} <= set(after)


@units
def test_a_unit_starts_what_the_command_line_knows(unit: Path) -> None:
    ((words,),) = (value for key, value in settings(unit).items() if key[1] == "ExecStart")
    program, verb, *options = words.split()
    command = {"serve": serve_command, "replica": replica_command}[verb]
    known = {name for parameter in command.params for name in parameter.opts}
    assert program == "/usr/bin/pratima"
    assert {option for option in options if option.startswith("-")} <= known


def test_the_units_share_their_hardening() -> None:
    portal, replica = (
        configparser.ConfigParser(strict=False, interpolation=None),
        configparser.ConfigParser(strict=False, interpolation=None),
    )
    portal.read(SYSTEMD / "pratima-portal@.service")
    replica.read(SYSTEMD / "pratima-replica.service")
    own = {"execstart", "statedirectory"}
    assert {k: v for k, v in portal["Service"].items() if k not in own} == {
        k: v for k, v in replica["Service"].items() if k not in own
    }
