"""Linux as initiator of a volume that grows: told, rescanned, the file system grown, checked."""

import os
from pathlib import Path

from tests.kernel.inside import rig
from tests.torture.daemons import PRATIMA, Daemon, Replica, wait_until

SIZE = 64 * rig.MIB
NEW = 96 * rig.MIB
PORTAL = "127.0.0.1:3262"


def test_linux_sees_a_grown_volume_after_a_rescan_and_grows_its_file_system(tmp_path: Path) -> None:
    state, volume = tmp_path / "state", tmp_path / "disk.img"
    with Replica(tmp_path) as replica:
        replica.start()
        command = [*PRATIMA, "serve", "--state", str(state), "--front-end", "portal"]
        command += ["--portal", PORTAL, "--iqn", rig.IQN, "--volume", str(volume)]
        command += ["--size", str(SIZE), "--replica", f"127.0.0.1:{replica.port}"]
        with Daemon("primary", tmp_path, command) as primary:
            primary.start()
            wait_until(lambda: "target: " in primary.output(), rig.START_SECONDS, "served")
            wait_until(lambda: in_step(state), rig.CAUGHT_UP_SECONDS, "in step", [primary])
            serial = rig.serials(state, 1)[0]
            rig.run("iscsiadm", "-m", "node", "-o", "new", "-T", rig.IQN, "-p", PORTAL)
            rig.run("iscsiadm", "-m", "node", "-T", rig.IQN, "-p", PORTAL, "--login")
            try:
                grow_and_use(rig.disk_with_serial(serial), state, tmp_path / "mnt")
            finally:
                rig.run("iscsiadm", "-m", "node", "-T", rig.IQN, "-p", PORTAL, "--logout")
                rig.run("iscsiadm", "-m", "node", "-T", rig.IQN, "-p", PORTAL, "-o", "delete")
            wait_until(lambda: in_step(state), rig.CAUGHT_UP_SECONDS, "in step", [primary])
            assert primary.stop() == 0, primary.output()
        replica.stop()
        rig.run("cmp", str(volume), str(replica.volume))
        rig.run("e2fsck", "-fn", str(volume))


def in_step(state: Path) -> bool:
    return all(
        link.state is rig.LinkState.SYNCED and not link.lag.writes
        for link in rig.group_of(state).links
    )


def grow_and_use(disk: Path, state: Path, mount: Path) -> None:
    """A mounted file system grows with its disk, and takes what it had no room for."""
    assert rig.disk_size(disk) == SIZE
    rig.run("mkfs.ext4", "-q", "-F", str(disk))
    mount.mkdir()
    rig.run("mount", str(disk), str(mount))
    try:
        (mount / "before").write_bytes(os.urandom(8 * rig.MIB))
        rig.run(*PRATIMA, "resize", "--state", str(state), "--size", str(NEW))
        rig.run("iscsiadm", "-m", "session", "-R")
        wait_until(lambda: rig.disk_size(disk) == NEW, rig.DISK_SECONDS, "the new size is seen")
        rig.run("resize2fs", str(disk))
        (mount / "after").write_bytes(os.urandom(70 * rig.MIB))
    finally:
        rig.run("umount", str(mount))
    rig.run("e2fsck", "-fn", str(disk))
    assert "capacity" in rig.kernel_log().lower() or "Parameters changed" in rig.kernel_log()
