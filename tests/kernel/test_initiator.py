"""Debian's own kernel as the initiator of the portal: what Linux makes of the disk we serve.

One guest is booted for all tests here. It uses two portals on the host, one open and one that asks
for CHAP, in the same way (``guest/initiator.sh``); the tests then look at what it left, and at the
volumes themselves, where the page cache of no guest can hide what never arrived.
"""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.tgtd import Chap, Portal
from tests.kernel import lab
from tests.kernel.portal import served

MIB = 1 << 20
DATA_BYTES = 20 * MIB
VOLUME_BYTES = 128 * MIB
CHECK_SECONDS_MAX = 60
PROGRAMS = lab.PROGRAMS | {
    "iscsid": "open-iscsi",
    "iscsiadm": "open-iscsi",
    "mkfs.ext4": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "modprobe": "kmod",
}
ACCOUNT = Chap(user="lab", secret="correct-horse-1")
AUTHORIZATION_FAILURE = "24"
"""iscsiadm's ISCSI_ERR_LOGIN_AUTH_FAILED."""
GUEST = Path(__file__).parent / "guest"


@dataclass(frozen=True, slots=True)
class Session:
    """What the guest did with one portal."""

    target: str
    volume: Path
    job: lab.JobResult
    left: Path
    """The files that the job left."""
    data_sha256: str

    def said(self, name: str) -> str:
        return (self.left / name).read_text().strip()

    def limit(self, name: str) -> str:
        """A value that the kernel derived from our VPD pages, by its name under /sys/block."""
        limits = dict(line.split(" ", 1) for line in self.said("limits").splitlines())
        return limits[name]


@pytest.fixture(scope="module")
def sessions(
    guest_possible: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Session]]:
    missing = lab.missing_packages(PROGRAMS)
    if missing:
        pytest.skip(f"apt-get install {' '.join(missing)}")
    directory = tmp_path_factory.mktemp("initiator")
    share = directory / "share"
    share.mkdir()
    data = os.urandom(DATA_BYTES)
    (share / "data").write_bytes(data)

    accounts: dict[str, Chap | None] = {"open": None, "chap": ACCOUNT}
    jobs = {"1-iscsid": (GUEST / "iscsid.sh").read_text()}
    portals: dict[str, Portal] = {}
    with ExitStack() as stack:
        for name, account in accounts.items():
            volume = directory / name
            with volume.open("wb") as file:
                file.truncate(VOLUME_BYTES)
            portals[name] = stack.enter_context(served(volume, chap=account))
            jobs[f"2-{name}"] = _initiator(name, portals[name], account)
        results = lab.run_guest(share, jobs, lab.Machine(network=True))
    assert results["1-iscsid"].rc == 0, results["1-iscsid"].explain()
    yield {
        name: Session(
            target=portals[name].target,
            volume=directory / name,
            job=results[f"2-{name}"],
            left=share / name,
            data_sha256=hashlib.sha256(data).hexdigest(),
        )
        for name in accounts
    }


@pytest.fixture(params=["open", "chap"])
def session(request: pytest.FixtureRequest, sessions: dict[str, Session]) -> Session:
    name: str = request.param
    return sessions[name]


def _initiator(name: str, portal: Portal, account: Chap | None) -> str:
    """The job for one portal: the script, told where to go."""
    told = {
        "OUT": f"/lab/{name}",
        "PORTAL": f"{lab.HOST_ADDRESS}:{portal.port}",
        "TARGET": portal.target,
        "USER_NAME": account.user if account else "",
        "SECRET": account.secret if account else "",
        # What needs no second proof is left out of the second portal's turn: it is seconds.
        "AGAIN": "" if account else "yes",
    }
    lines = [f"{key}='{value}'" for key, value in told.items()]
    return "\n".join([*lines, (GUEST / "initiator.sh").read_text()])


def _check(*command: str) -> None:
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=CHECK_SECONDS_MAX, check=False
    )
    assert ended.returncode == 0, f"{' '.join(command)}: {ended.stdout}{ended.stderr}"


# Longer than the guest's own limits, so that it is the lab that says what hung.
pytestmark = [pytest.mark.guest, pytest.mark.timeout(1000)]


def test_linux_logs_in_formats_mounts_checks_and_logs_out(session: Session) -> None:
    assert session.job.rc == 0, session.job.explain()


def test_discovery_names_the_target(session: Session) -> None:
    assert session.said("discovered").split()[1:] == [session.target]


def test_what_was_written_reads_back_after_a_new_mount(sessions: dict[str, Session]) -> None:
    session = sessions["open"]
    assert session.said("sha256") == session.data_sha256, session.job.explain()


def test_the_file_system_is_whole_on_the_volume_itself(session: Session, tmp_path: Path) -> None:
    _check("e2fsck", "-fn", str(session.volume))
    copy = tmp_path / "data"
    _check("debugfs", "-R", f"dump /data {copy}", str(session.volume))
    assert hashlib.sha256(copy.read_bytes()).hexdigest() == session.data_sha256


def test_linux_sees_a_disk_with_a_cache_to_flush_and_blocks_to_discard(session: Session) -> None:
    assert int(session.limit("size")) * 512 == VOLUME_BYTES
    assert session.limit("ro") == "0"
    assert session.limit("queue/physical_block_size") == "4096"
    assert session.limit("queue/write_cache") == "write back"
    assert int(session.limit("queue/discard_max_bytes")) > 0


def test_trimming_the_file_system_gives_blocks_back(sessions: dict[str, Session]) -> None:
    session = sessions["open"]
    assert "/mnt/lab: 0 B" not in session.said("trimmed")
    allocated = session.volume.stat().st_blocks * 512
    assert DATA_BYTES <= allocated < 2 * DATA_BYTES


def test_who_does_not_know_the_secret_is_refused(sessions: dict[str, Session]) -> None:
    session = sessions["chap"]
    assert session.said("rc-without-secret") == AUTHORIZATION_FAILURE
    assert session.said("rc-wrong-secret") == AUTHORIZATION_FAILURE
