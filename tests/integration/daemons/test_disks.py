"""Disks that are full or fail, under either daemon; and block devices as volumes."""

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import pytest

from pratima_iscsi.edges.initiator import CommandError
from pratima_iscsi.replication.states import LinkState
from tests.integration.daemons.nodes import (
    BLOCK,
    MIB,
    SECTOR,
    WAIT_SECONDS,
    Load,
    Pair,
    Primary,
    Replica,
    pratima,
    same,
    wait_equal,
)
from tests.integration.daemons.test_outage import write_blocks
from tests.torture.daemons import wait_until
from tests.torture.faults import Shim, SyscallFault, build, compiler, happened


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    """The library that lets system calls fail."""
    found = compiler()
    if found is None:
        pytest.skip("no C compiler: apt-get install gcc libc6-dev")
    return build(tmp_path_factory.mktemp("shim"), found)


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A file system of ``size`` bytes of its own."""
    if os.geteuid():
        pytest.skip("mounting a small file system needs root")
    path = place / "small"
    path.mkdir()
    ran = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    if ran.returncode:
        pytest.skip(f"no mounts here: {ran.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], capture_output=True, timeout=30)


@pytest.mark.root
def test_a_full_disk_under_the_primarys_volume_is_a_sense_and_nothing_more(place: Path) -> None:
    with small_disk(place, 8 * MIB) as disk, Replica(place) as replica:
        primary = Primary(place, volumes=[disk / "thin.img"], size=64 * MIB, replicas=[replica])
        with primary:
            replica.launch()
            primary.start()
            primary.wait_synced(replica)
            draw = Random(1)
            written: dict[int, bytes] = {}
            with primary.login() as session:
                refused = None
                for number in range(64):
                    data = draw.randbytes(MIB // 2)
                    try:
                        session.write(number * 1024, data)
                    except CommandError as error:
                        refused = error.ticket.sense_triple
                        break
                    written[number] = data
                assert refused is not None and refused[0] != 0
                assert refused in ((0x7, 0x27, 0x07), (0x3, 0x0C, 0x00)), refused
                # What was written is there, and where there is room writes go on.
                for number, data in written.items():
                    assert session.read(number * 1024, 1024) == data
                session.write(0, b"r" * BLOCK)
                assert any(a.event == "write failed" for a in primary.status().alarms)
                # Room again: everything goes on.
                session.unmap([(1024, 8 * 1024)])
                session.write(20 * 1024, draw.randbytes(MIB // 2))
            wait_equal(primary, replica)


@pytest.mark.root
def test_a_full_disk_under_the_replica_is_waited_out(place: Path) -> None:
    with small_disk(place, 80 * MIB) as disk:
        ballast = disk / "ballast"
        replica = Replica(place, "--journal-limit", "64MiB", volumes=[disk / "copy.img"])
        primary = Primary(place, size=128 * MIB, replicas=[replica])
        with replica, primary:
            replica.launch()
            primary.start()
            primary.wait_synced(replica)
            ballast.write_bytes(bytes(disk_free(disk) - MIB))
            draw = Random(2)
            with primary.login(timeout=20) as session:
                for number in range(8):
                    session.write(number * 2048, draw.randbytes(MIB))
                link = primary.wait_link(lambda link: "room" in link.reason or link.lag.writes, "")
                replica.wait_status(lambda status: "room" in status.reason, "no room", primary)
                session.write(100_000, b"x" * BLOCK)
                ballast.unlink()
                wait_equal(primary, replica)
                assert link.state is not LinkState.FAILED
            assert replica.exit_code == 0


def disk_free(path: Path) -> int:
    """Bytes that are left."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


@pytest.mark.root
def test_a_full_disk_under_the_replicas_journal_is_said_and_mends(place: Path) -> None:
    with small_disk(place, 12 * MIB) as disk:
        replica = Replica(place)
        replica.state = disk / "state"
        replica.command[replica.command.index("--state") + 1] = str(replica.state)
        primary = Primary(place, size=8 * MIB, replicas=[replica])
        with replica, primary:
            replica.launch()
            primary.start()
            with primary.login() as session:
                session.write(0, b"x" * BLOCK)
            link = primary.wait_link(lambda link: "held" in link.reason, "held", replica)
            assert "journal" in link.reason and link.state is LinkState.RESYNCING
            assert "journal" in replica.status().reason
            assert primary.exit_code == replica.exit_code == 1
            assert "Traceback" not in replica.output()
            subprocess.run(
                ["mount", "-o", f"remount,size={200 * MIB}", str(disk)], check=True, timeout=30
            )
            wait_equal(primary, replica)
            assert replica.exit_code == 0


@pytest.mark.root
def test_a_full_disk_under_the_primarys_state_is_an_error_until_there_is_room(place: Path) -> None:
    with small_disk(place, 16 * MIB) as disk:
        primary = Primary(place, size=8 * MIB)
        primary.state = disk / "state"
        primary.command[primary.command.index("--state") + 1] = str(primary.state)
        with primary:
            primary.start()
            (disk / "ballast").write_bytes(bytes(disk_free(disk)))
            with primary.login() as session:
                # The generation of the first write cannot be stored: an error, no hanging.
                with pytest.raises(CommandError):
                    session.write(0, b"x" * BLOCK)
                assert session.read(0, 8) == bytes(BLOCK)
                assert any(a.event == "state failed" for a in primary.status().alarms)
                assert "state directory cannot be written" in primary.status().failed
                assert primary.exit_code == 2
                ran = pratima("disable", "--forget-table", "--state", str(primary.state))
                assert ran.returncode == 2 and "no replica" in ran.stderr
                (disk / "ballast").unlink()
                session.write(0, b"y" * BLOCK)
                assert session.read(0, 8) == b"y" * BLOCK
                assert primary.exit_code == 0
            (disk / "ballast").write_bytes(bytes(disk_free(disk)))
            assert primary.stop() == 1 and primary.said("unclean stop"), primary.output()
            (disk / "ballast").unlink()
            primary.start()
            with primary.login() as session:
                assert session.read(0, 8) == b"y" * BLOCK
            primary.finish()


def test_a_failing_write_of_the_primarys_volume_is_a_sense_and_the_replica_stays_right(
    place: Path, shim: Shim
) -> None:
    pair = Pair(place)
    environment = shim.environment(
        [SyscallFault("write", 20, "EIO", "primary.img")], place / "faults"
    )
    with pair.replica, pair.primary:
        pair.replica.start()
        pair.primary.start(environment)
        pair.primary.wait_synced(pair.replica)
        draw = Random(3)
        failed = 0
        with pair.primary.login() as session:
            for number in range(40):
                try:
                    session.write(number * 8, draw.randbytes(BLOCK))
                except CommandError as error:
                    failed += 1
                    assert error.ticket.sense_triple[0] in (0x3, 0x4), error
        assert failed == 1 and happened(environment)
        assert any(a.event == "write failed" for a in pair.primary.status().alarms)
        pair.wait_equal()


def test_a_failing_fdatasync_of_the_primary_fails_the_volume_and_not_the_process(
    place: Path, shim: Shim
) -> None:
    pair = Pair(place)
    with pair.primary.volume.open("wb") as file:
        file.truncate(32 * MIB)  # so that the first sync is that of the FLUSH
    environment = shim.environment(
        [SyscallFault("sync", 1, "EIO", "primary.img")], place / "faults"
    )
    with pair.replica, pair.primary:
        pair.replica.start()
        pair.primary.start(environment)
        pair.primary.wait_synced(pair.replica)
        with pair.primary.login() as session:
            session.write(0, b"a" * BLOCK)
            with pytest.raises(CommandError):
                session.flush()
            assert happened(environment)
            with pytest.raises(CommandError):
                session.write(8, b"b" * BLOCK)
            with pytest.raises(CommandError):
                session.flush()
            assert session.read(0, 8) == b"a" * BLOCK
            status = pair.primary.status()
            assert status.volumes[0].failed
            assert pair.primary.exit_code == 2
        assert pair.primary.stop() == 1, "no clean stop"
        pair.primary.start()
        pair.primary.wait_said("unclean start")
        pair.wait_equal()


@pytest.mark.parametrize("call", [pytest.param("write", marks=pytest.mark.long), "sync"])
def test_a_failing_journal_is_said_and_the_primary_goes_on(
    place: Path, shim: Shim, call: str
) -> None:
    pair = Pair(place, "--mode", "sync", "--sync-timeout", "0.5")
    environment = shim.environment(
        [SyscallFault(call, 12, "EIO", "journal.", onwards=True)], place / "faults"
    )
    with pair.replica, pair.primary:
        pair.replica.start(environment)
        pair.primary.start()
        with pair.primary.login() as session:
            for number in itertools.cycle(range(40)):
                session.write(number * 8, Random(number).randbytes(BLOCK))
                if happened(environment):
                    break
            link = pair.primary.wait_link(lambda link: link.state is LinkState.FAILED, "FAILED")
            assert "journal" in link.reason
            assert pair.primary.exit_code == 2
            assert pair.replica.exit_code == 2
            session.write(0, b"on" * 2048)
        pair.replica.stop()
        pair.replica.start()
        pair.primary.wait_link(lambda link: link.state is LinkState.SYNCED, "SYNCED", pair.replica)
        wait_until(lambda: same(pair.primary.volume, pair.replica.volume), WAIT_SECONDS, "equal")


def test_a_failing_volume_of_the_replica_is_said_and_mended_by_a_restart(
    place: Path, shim: Shim
) -> None:
    pair = Pair(place)
    environment = shim.environment(
        [SyscallFault("write", 10, "EIO", "replica.img", onwards=True)], place / "faults"
    )
    with pair.replica, pair.primary:
        pair.replica.start(environment)
        pair.primary.start()
        with pair.primary.login() as session:
            write_blocks(session, list(range(0, 200, 2)), Random(5))
            pair.replica.wait_status(lambda status: status.failed, "failed", pair.primary)
            write_blocks(session, list(range(300)), Random(6))
        assert "volume" in pair.replica.status().failed
        assert pair.replica.exit_code == 2
        pair.replica.stop()
        pair.replica.start()
        pair.wait_equal()


# --- block devices --------------------------------------------------------------------------------


@contextmanager
def loop_device(path: Path, size: int) -> Iterator[Path]:
    """A loop device on a sparse file."""
    with path.open("wb") as file:
        file.truncate(size)
    try:
        ran = subprocess.run(
            ["losetup", "-f", "--show", str(path)], capture_output=True, text=True, timeout=30
        )
    except OSError as error:
        pytest.skip(f"losetup: {error}")
    if ran.returncode:
        pytest.skip(f"no loop devices here: {ran.stderr.strip()}")
    device = Path(ran.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", str(device)], capture_output=True, timeout=30)


@pytest.mark.root
def test_block_devices_on_both_sides_follow_unmap_and_write_same(place: Path) -> None:
    if os.geteuid():
        pytest.skip("loop devices need root")
    size = 24 * MIB
    with ExitStack() as stack:
        mine = stack.enter_context(loop_device(place / "mine", size))
        copy = stack.enter_context(loop_device(place / "copy", size))
        mine.write_bytes(Random(7).randbytes(3 * MIB))
        replica = Replica(place, volumes=[copy])
        primary = Primary(place, volumes=[mine], size=None, replicas=[replica])
        with replica, primary:
            replica.launch()
            primary.start()
            primary.wait_synced(replica)
            draw = Random(8)
            with primary.login() as session:
                assert session.read_capacity() == (size // SECTOR, SECTOR)
                session.write(4096, draw.randbytes(4 * MIB))
                session.unmap([(4100, 999), (64, 8), (8000, 1)])
                session.write_same(20_000, 2049, draw.randbytes(SECTOR))
                session.write_same(4500, 64, bytes(SECTOR), unmap=True)
                session.flush()
                assert session.read(4100, 999) == bytes(999 * SECTOR)
            with Load(primary, sectors_max=32) as load:
                load.wait(100)
            load.check()
            wait_equal(primary, replica)
            # A device in use is refused, and so is a file in its place of another size.
            second = Primary(place, name="second", volumes=[mine], size=None)
            with second:
                second.launch()
                assert second.wait() == 2 and "in use" in second.output()
            replica.kill()
            ran = pratima("recover", "--state", str(replica.state))
            assert ran.returncode == 0, ran
            assert same(mine, copy)
            primary.finish()
