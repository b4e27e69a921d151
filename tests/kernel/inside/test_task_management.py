"""Aborts and resets under I/O: what they end the initiator sends again, and no write is a ghost."""

from pathlib import Path

from tests.kernel.inside.scene import KernelScene
from tests.torture.daemons import wait_until

TIMEOUT_SECONDS = 2
FROZEN_SECONDS_MAX = 120


def test_a_logical_unit_reset_under_io_is_a_pause(tmp_path: Path) -> None:
    scene = KernelScene(tmp_path, 17)
    with scene.running(), scene.workload.running():
        for _ in range(5):
            scene.workload.work(100, until=50)
            scene.workload.grant(100)
            scene.reset()
        scene.workload.work(50, until=50)
        scene.expect_all_that_was_acknowledged()


def test_commands_that_time_out_at_a_frozen_handler_are_aborted_and_sent_again(
    tmp_path: Path,
) -> None:
    scene = KernelScene(tmp_path, 19)
    with scene.running(), scene.workload.running():
        scene.workload.work(100, until=100)
        counter = scene.sysfs / "iotmo_cnt"
        before = int(counter.read_text(), 16)
        scene.wait(TIMEOUT_SECONDS)
        with scene.primary.frozen():
            scene.workload.grant(50)
            wait_until(
                lambda: int(counter.read_text(), 16) > before,
                FROZEN_SECONDS_MAX,
                "a command has timed out",
            )
        scene.wait(180)
        scene.workload.work(100, until=100)
        scene.expect_all_that_was_acknowledged()
