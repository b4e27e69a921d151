"""Volumes that grow while they are used: ``pratima resize``, both sides, what initiators see."""

import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from pratima_iscsi.edges.initiator import CommandError, Initiator
from tests.conformance.tools import run, tool
from tests.integration.daemons.nodes import (
    BLOCK,
    MIB,
    SECTOR,
    Load,
    Pair,
    Primary,
    Ran,
    Replica,
    pratima,
    wait_equal,
)
from tests.integration.daemons.test_outage import down

SIZE = 32 * MIB
NEW = 48 * MIB
CAPACITY_DATA_HAS_CHANGED = (0x6, 0x2A, 0x09)


class LoopDevice:
    """A loop device that an operator extends, as lvextend would; it has what its file had."""

    def __init__(self, backing: Path) -> None:
        self._backing = backing
        backing.touch()
        os.truncate(backing, SIZE)
        command = ["losetup", "--find", "--show", str(backing)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            pytest.skip(f"losetup: {made.stderr.strip()}")
        self.path = Path(made.stdout.strip())

    def extend(self, size: int, garbage: bytes) -> None:
        with self._backing.open("ab") as file:
            file.write((garbage * size)[: size - file.tell()])
        subprocess.run(["losetup", "--set-capacity", str(self.path)], check=True)

    def detach(self) -> None:
        subprocess.run(["losetup", "--detach", str(self.path)], check=True)


def resize(primary: Primary, *options: str) -> Ran:
    return pratima("resize", "--state", str(primary.state), *options)


def grow(primary: Primary, *options: str) -> str:
    ran = resize(primary, *options)
    assert ran.returncode == 0, ran
    return ran.stdout


def blocks_seen(session: Initiator) -> int:
    """The capacity in sectors, once the unit attention that must come first was taken."""
    with pytest.raises(CommandError) as told:
        session.read(0, 1)
    assert told.value.ticket.sense_triple == CAPACITY_DATA_HAS_CHANGED
    blocks, _ = session.read_capacity()
    return blocks


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_a_volume_grows_under_load_at_both_ends_and_every_session_is_told(
    place: Path, mode: str
) -> None:
    pair = Pair(place, "--mode", mode, size=SIZE)
    with pair.in_step(), pair.primary.login() as one, pair.primary.login() as other:
        one.write(0, b"1" * BLOCK)
        assert other.read_capacity()[0] == SIZE // SECTOR
        assert f"{NEW} bytes now" in grow(pair.primary, "default", "--size", "48MiB")
        assert pair.primary.status().volumes[0].size == NEW
        for session in (one, other):
            assert blocks_seen(session) == NEW // SECTOR
        other.write(NEW // SECTOR - 8, b"2" * BLOCK)
        assert one.read(NEW // SECTOR - 16, 16) == bytes(BLOCK) + b"2" * BLOCK
        pair.wait_equal()
        assert pair.replica.status().volumes[0].size == NEW == pair.replica.volume.stat().st_size
        assert pair.primary.link().resync.blocks_total == SIZE // BLOCK, "no second resync ran"
        assert "already" in grow(pair.primary, "--size", "48MiB")


@pytest.mark.tools
def test_libiscsi_and_qemu_see_the_new_size(place: Path) -> None:
    capacity = tool("iscsi-readcapacity16", "libiscsi-bin")
    image = tool("qemu-img", "qemu-utils qemu-block-extra")
    with Primary(place, size=SIZE) as primary:
        primary.start()
        status = primary.status()
        url = f"iscsi://{status.portal}/{status.target}/0"
        assert f"Total size:{SIZE}" in run(capacity, url).stdout
        grow(primary, "--size", str(NEW))
        assert f"Total size:{NEW}" in run(capacity, url).stdout
        assert f'"virtual-size": {NEW}' in run(image, "info", "--output=json", url).stdout


def test_a_grown_volume_keeps_its_size_over_every_kind_of_end(place: Path) -> None:
    pair = Pair(place, size=SIZE)
    with pair.in_step():
        with Load(pair.primary, seed=1) as load:
            load.wait(50)
            grow(pair.primary, "--size", str(NEW))
            pair.primary.kill()
        pair.primary.start()
        pair.primary.wait_synced(pair.replica)
        pair.replica.kill()
        pair.replica.start()
        pair.primary.finish()
        pair.primary.start()  # with --size 32MiB still on its command line
        with pair.primary.login() as session:
            assert session.read_capacity()[0] == NEW // SECTOR
            session.write(NEW // SECTOR - 8, b"e" * BLOCK)
        pair.wait_equal()
    ran = pratima("recover", "--state", str(pair.replica.state))
    assert ran.returncode == 0, ran


def test_what_cannot_grow_is_refused_by_name_and_nothing_changes(place: Path) -> None:
    pair = Pair(place, size=SIZE)
    with pair.in_step(), pair.primary.login() as session:
        for options, says in (
            (["--size", "16MiB"], "never shrinks"),
            (["--size", str(SIZE + 1)], "no whole number of 512-byte blocks"),
            (["--size", "17TiB"], "of one volume"),
            ([], "say how large with --size"),
            (["--size", "48MiB", "--volume", "none"], "no volume 'none'"),
            (["none", "--size", "48MiB"], "no group 'none'"),
        ):
            ran = resize(pair.primary, *options)
            assert ran.returncode == 2 and says in ran.stderr and "next:" in ran.stderr, ran
        ran = pratima("resize", "--state", str(pair.replica.state), "--size", "48MiB")
        assert ran.returncode == 2 and "its primary decides" in ran.stderr
        assert pair.primary.volume.stat().st_size == SIZE
        assert session.read_capacity()[0] == SIZE // SECTOR


def test_a_replica_away_is_brought_back_first_or_grows_later(place: Path) -> None:
    pair = Pair(place, size=SIZE)
    with pair.in_step(), pair.primary.login() as session:
        pair.replica.finish()
        down(pair.primary)
        ran = resize(pair.primary, "--size", "48MiB")
        assert ran.returncode == 2 and "--replicas-later" in ran.stderr, ran
        assert pair.primary.volume.stat().st_size == SIZE
        grow(pair.primary, "--size", "48MiB", "--replicas-later")
        assert blocks_seen(session) == NEW // SECTOR
        session.write(NEW // SECTOR - 8, b"f" * BLOCK)
        pair.bring_back()
        pair.wait_equal()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be no root")
def test_a_replica_without_room_is_named_and_the_primary_stays_as_it_was(place: Path) -> None:
    pair = Pair(place, size=SIZE)
    with pair.replica, pair.primary:
        # RLIMIT_FSIZE stands for a file system that cannot hold so long a file.
        pair.replica.command = ["prlimit", f"--fsize={64 * MIB}", *pair.replica.command]
        pair.replica.launch()
        pair.primary.start()
        pair.primary.wait_synced(pair.replica)
        ran = resize(pair.primary, "--size", "100MiB")
        assert ran.returncode == 2 and "has no room" in ran.stderr, ran
        assert pair.primary.volume.stat().st_size == SIZE
        grow(pair.primary, "--size", "48MiB")
        wait_equal(pair.primary, pair.replica)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("losetup"), reason="needs root, losetup")
def test_a_device_grows_after_it_was_extended_at_both_ends(place: Path) -> None:
    with ExitStack() as stack:
        here, there = (LoopDevice(place / name) for name in ("here", "there"))
        stack.callback(here.detach)
        stack.callback(there.detach)
        replica = stack.enter_context(Replica(place, volumes=[there.path]))
        primary = stack.enter_context(
            Primary(place, volumes=[here.path], size=None, replicas=[replica])
        )
        replica.launch()
        primary.start()
        primary.wait_synced(replica)
        assert "already" in grow(primary)
        here.extend(NEW, b"garbage")
        ran = resize(primary)
        assert ran.returncode == 2 and "has no room" in ran.stderr, ran
        there.extend(NEW, b"other garbage")
        with primary.login() as session:
            assert f"{NEW} bytes now" in grow(primary)
            assert blocks_seen(session) == NEW // SECTOR
        wait_equal(primary, replica)
        total = primary.link().resync.blocks_total
        assert total == (NEW - SIZE) // BLOCK, "what it grew by was brought over"
