"""Handlers and replicas are killed under a real initiator's I/O: it sees a pause and no error.

Judged by the oracle: nothing acknowledged is lost, every image of the replica is a prefix.
"""

from pathlib import Path

import pytest

from tests.kernel.inside import rig
from tests.kernel.inside.scene import KernelScene


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_a_killed_handler_is_a_pause(mode: str, tmp_path: Path) -> None:
    scene = KernelScene(
        tmp_path, 7, ("--mode", mode), required=mode == "sync", iscsi=mode == "sync"
    )
    with scene.running(), scene.workload.running():
        scene.workload.work(200, until=150)
        scene.expect_prefix(scene.shoot())
        for _ in range(2):
            scene.workload.grant(200)
            scene.primary.kill()
            scene.workload.promised = False
            scene.primary.start()
            rig.wait_attached(scene.primary.state, 1)
            scene.workload.work(50, until=50)
        scene.expect_all_that_was_acknowledged()


def test_a_killed_replica_costs_nothing_and_recovers_a_prefix(tmp_path: Path) -> None:
    scene = KernelScene(tmp_path, 11, ("--mode", "sync", "--sync-timeout", "2"), required=True)
    with scene.running(), scene.workload.running():
        for _ in range(2):
            scene.workload.work(150, until=100)
            scene.workload.grant(100)
            scene.expect_prefix(scene.shoot_killed())
            scene.replica.start()
            scene.workload.work(50, until=50)
            scene.wait_synced()
        scene.expect_all_that_was_acknowledged()


def test_a_clean_stop_is_a_pause_and_leaves_a_clean_state(tmp_path: Path) -> None:
    scene = KernelScene(tmp_path, 13)
    with scene.running(), scene.workload.running():
        scene.workload.work(200, until=100)
        assert scene.primary.stop() == 0, scene.primary.output()
        scene.primary.start()
        assert "unclean start" not in scene.primary.output()
        rig.wait_attached(scene.primary.state, 1)
        scene.workload.work(50, until=50)
        scene.expect_all_that_was_acknowledged()
