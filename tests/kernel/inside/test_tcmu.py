"""The kernel's TCMU with our handler: disks format, mount, write and check; replicas are equal."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.inside import rig
from tests.torture.daemons import Replica, pratima

SIZE = 128 * rig.MIB
DATA_BYTES = 20 * rig.MIB


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[rig.Handler, Replica, rig.Devices]]:
    with Replica(tmp_path) as replica:
        replica.start()
        options = ("--replica", f"127.0.0.1:{replica.port}")
        with rig.Handler(tmp_path, [SIZE], options) as handler:
            handler.start()
            with rig.devices(handler.state, [SIZE]) as made:
                yield handler, replica, made


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expect_a_file_system_and_an_equal_replica(
    handler: rig.Handler, replica: Replica, disk: Path, mount: Path
) -> None:
    data = os.urandom(DATA_BYTES)
    rig.file_system_round(disk, mount, data)
    rig.drop_caches()
    rig.run("mount", str(disk), str(mount))
    try:
        assert (mount / "data").read_bytes() == data
        (mount / "data").unlink()
        os.sync()
        rig.run("fstrim", "-v", str(mount))
    finally:
        rig.run("umount", str(mount))
    rig.run("e2fsck", "-fn", str(disk))

    handler.wait_caught_up()
    replica.stop()
    assert digest(handler.volumes[0]) == digest(replica.volume)


def test_a_loopback_disk_formats_mounts_writes_and_checks(
    pair: tuple[rig.Handler, Replica, rig.Devices], tmp_path: Path
) -> None:
    handler, replica, made = pair
    with rig.loopback(made) as (disk,):
        assert rig.disk_size(disk) == SIZE
        limits = Path("/sys/block") / disk.name / "queue"
        assert (limits / "write_cache").read_text().strip() == "write back"
        assert int((limits / "discard_max_bytes").read_text()) > 0
        assert int((limits / "max_sectors_kb").read_text()) == 1024
        expect_a_file_system_and_an_equal_replica(handler, replica, disk, tmp_path / "mount")


def test_an_iscsi_disk_formats_mounts_writes_and_checks(
    pair: tuple[rig.Handler, Replica, rig.Devices], tmp_path: Path
) -> None:
    handler, replica, made = pair
    with rig.iscsi_target(made), rig.iscsi_login(made) as (disk,):
        expect_a_file_system_and_an_equal_replica(handler, replica, disk, tmp_path / "mount")


def test_status_says_which_front_end_and_why(
    pair: tuple[rig.Handler, Replica, rig.Devices],
) -> None:
    handler, _, _ = pair
    assert handler.group().front_end == "tcmu (as asked for)"
    assert handler.group().portal == "the kernel, devices vol0"


def test_a_volume_that_grows_under_a_mounted_file_system_is_larger_everywhere(
    pair: tuple[rig.Handler, Replica, rig.Devices], tmp_path: Path
) -> None:
    handler, replica, made = pair
    data = os.urandom(DATA_BYTES)
    with rig.iscsi_target(made), rig.iscsi_login(made) as (disk,):
        rig.run("mkfs.ext4", "-q", "-F", str(disk))
        mount = tmp_path / "mount"
        mount.mkdir()
        rig.run("mount", str(disk), str(mount))
        try:
            (mount / "before").write_bytes(data)
            said = pratima("resize", "--state", str(handler.state), "--size", str(2 * SIZE))
            assert said.returncode == 0, said.stderr
            device = Path("/sys/block") / disk.name / "device"
            (device / "rescan").write_text("1")
            rig.until(lambda: rig.disk_size(disk) == 2 * SIZE, 60, "the disk is larger")
            (known,) = made.objects
            rig.until(lambda: known.size == 2 * SIZE, 60, "the kernel's device is larger")
            rig.run("resize2fs", str(disk))
            (mount / "after").write_bytes(data)
        finally:
            rig.run("umount", str(mount))
        rig.run("e2fsck", "-fn", str(disk))
    handler.wait_caught_up()
    replica.stop()
    assert handler.volumes[0].stat().st_size == 2 * SIZE
    assert digest(handler.volumes[0]) == digest(replica.volume)
