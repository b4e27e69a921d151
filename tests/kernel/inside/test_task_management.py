"""Aborts and resets under I/O: what they end the initiator sends again, and no write is a ghost."""

import mmap
import os
from pathlib import Path

import pytest

from tests.kernel.inside import rig
from tests.kernel.inside.scene import KernelScene
from tests.torture.daemons import wait_until

TIMEOUT_SECONDS = 2
GIVEN_UP_SECONDS = 4
SIZE = 16 * rig.MIB
BLOCK_BYTES = 4096
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


def direct(disk: Path, content: bytes | None = None) -> bytes:
    """Write the first block, or read it, past the page cache."""
    file = os.open(disk, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, BLOCK_BYTES) as aligned:
            if content is None:
                assert os.preadv(file, [aligned], 0) == BLOCK_BYTES
                return aligned[:]
            aligned.write(content)
            os.pwrite(file, aligned, 0)
            return content
    finally:
        os.close(file)


def test_what_the_kernel_gave_up_while_the_handler_was_frozen_is_never_executed(
    tmp_path: Path,
) -> None:
    kept, given_up = b"kept" * 1024, b"gone" * 1024
    with rig.Handler(tmp_path, [SIZE]) as handler:
        handler.start()
        with (
            rig.devices(handler.state, [SIZE], command_seconds=GIVEN_UP_SECONDS) as made,
            rig.loopback(made) as (disk,),
        ):
            direct(disk, kept)
            with handler.frozen(), pytest.raises(OSError, match="Input/output error"):
                direct(disk, given_up)
            rig.until(lambda: "lain in its ring" in handler.output(), 60, "the handler has noticed")
            rig.wait_attached(handler.state, 1)
            assert direct(disk) == kept
            with handler.volumes[0].open("rb") as file:
                assert file.read(BLOCK_BYTES) == kept
