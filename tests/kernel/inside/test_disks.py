"""Disks that fail or lose power under the volumes, with a real initiator above them."""

import os
from pathlib import Path

import pytest

from tests.kernel.inside import mapped, rig
from tests.kernel.inside.scene import KernelScene
from tests.oracle.checker import check
from tests.oracle.stamps import read_image
from tests.torture.daemons import recover

MIB = rig.MIB
SIZE = 16 * MIB
MARKS = 4


def write(disk: Path, offset: int, data: bytes) -> None:
    """Write and flush; OSError when either fails."""
    file = os.open(disk, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(file, data, offset)
        os.fsync(file)
    finally:
        os.close(file)


def test_a_disk_that_fails_its_flush_takes_no_more_writes_and_loses_nothing_flushed(
    tmp_path: Path,
) -> None:
    kept, lost, after = (os.urandom(MIB) for _ in range(3))
    with (
        mapped.looped(tmp_path / "disk", SIZE) as loop,
        mapped.failing("sick", loop) as sick,
        rig.Handler(tmp_path, [SIZE], volumes=[sick.path]) as handler,
    ):
        handler.start()
        with rig.devices(handler.state, [SIZE]) as made, rig.loopback(made) as (disk,):
            write(disk, 0, kept)
            sick.fail()
            with pytest.raises(OSError, match="Input/output error"):
                write(disk, 4 * MIB, lost)
            sick.heal()
            with pytest.raises(OSError, match="Input/output error"):
                write(disk, 8 * MIB, after)
            assert handler.group().volumes[0].failed
            rig.drop_caches()
            with disk.open("rb") as file:
                assert file.read(MIB) == kept

            handler.stop()
            handler.start()
            rig.wait_attached(handler.state, 1)
            write(disk, 8 * MIB, after)
            rig.drop_caches()
            with disk.open("rb") as file:
                assert file.read(MIB) == kept
                file.seek(8 * MIB)
                assert file.read(MIB) == after


def test_a_power_cut_of_the_replica_leaves_a_prefix_with_all_that_sync_mode_promised(
    tmp_path: Path,
) -> None:
    replica_bytes, log_bytes = 192 * MIB, 768 * MIB
    run = tmp_path / "scene"
    run.mkdir()
    with (
        mapped.looped(tmp_path / "disk", replica_bytes) as disk,
        mapped.looped(tmp_path / "log", log_bytes) as log,
    ):
        scene = KernelScene(run, 23, ("--mode", "sync", "--sync-timeout", "10"), required=True)
        shots = []
        with mapped.logged("logged", disk, log) as device:
            rig.run("mkfs.ext4", "-q", "-F", str(device))
            with mapped.mounted(device, tmp_path / "mount") as place:
                scene.keep_replica_in(place)
                with scene.running(), scene.workload.running():
                    for number in range(MARKS):
                        scene.workload.work(60, until=40)
                        since = scene.recorder.now()
                        mapped.mark("logged", f"shot{number}")
                        shots.append((f"shot{number}", since, scene.recorder.now()))
                    scene.workload.drain()
                    scene.workload.check()
        history = scene.recorder.history()
        assert any(op.required for op in history.ops)
        for name, since, by in shots:
            image = tmp_path / name
            mapped.replay(log, name, image, replica_bytes)
            with (
                mapped.looped(image, replica_bytes) as cut,
                mapped.mounted(cut, tmp_path / "cut") as place,
            ):
                recovery = recover(place / "replica-state", place / "replica.img")
                assert recovery.consistent, recovery.said
                shown = read_image(
                    [place / "replica.img"], scene.recorder.run, scene.recorder.sectors
                )
            verdict = check(history, shown, since, by)
            assert verdict.ok, (name, verdict)
            image.unlink()
