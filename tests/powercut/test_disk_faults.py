"""EIO and ENOSPC at the nth operation of a disk, once and for good: no silent success.

Whatever the store said it did must be there when it is opened again, after a kill or a power cut,
on a disk that works; what it could not do must have been said, as an OSError.
"""

import errno
from random import Random

import pytest

from tests.powercut.workload import Workload, dead, open_store, verify_image
from tests.simulation.disk import MUTATING

READS_TOO = MUTATING | {"pread"}


def run_until_failure(workload: Workload, rng: Random, error: int, *, for_good: bool) -> bool:
    """Arm a failure and run into it; whether anything was raised."""
    workload.run(rng.randrange(5, 40))
    faults = workload.disk.faults
    before = faults.failed
    faults.fail(rng.randrange(60), error, for_good=for_good, kinds=READS_TOO)
    raised = False
    for _ in range(200):
        try:
            workload.step()
        except OSError:
            raised = True
        if faults.failed > before and rng.random() < 0.3:
            break
    assert faults.failed > before
    return raised


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("seed", range(25))
def test_a_failing_disk_is_never_a_silent_success(seed: int, error: int, for_good: bool) -> None:
    rng = Random(f"faults {seed} {error} {for_good}")
    workload = Workload(f"faults {seed}")
    assert run_until_failure(workload, rng, error, for_good=for_good)
    verify_image(workload.image(rng.random() < 0.6, "failed"), rng)


_SIZE_LOST = (105, 347)
"""A volume grew, the sync after it failed, and a power cut came when it had been tried again."""


@pytest.mark.parametrize("seed", [*range(40), *_SIZE_LOST])
def test_a_recovery_that_fails_on_the_way_can_be_tried_again(seed: int) -> None:
    rng = Random(f"failing recovery {seed}")
    workload = Workload(f"failing recovery {seed}")
    workload.run(40)
    for _ in range(4):
        image = workload.image(rng.random() < 0.7, "before the recovery")
        image.disk.faults.fail(rng.randrange(50), for_good=rng.random() < 0.5, kinds=READS_TOO)
        try:
            open_store(image.disk).close()
        except OSError:
            assert image.disk.faults.failed
        image.disk.faults.heal()
        if rng.random() < 0.5:
            image.disk = dead(image.disk, rng, rng.random() < 0.6)
        verify_image(image, rng)


@pytest.mark.parametrize("seed", range(20))
def test_a_full_disk_takes_no_more_and_loses_nothing(seed: int) -> None:
    rng = Random(f"full {seed}")
    workload = Workload(f"full {seed}")
    workload.run(20)
    faults = workload.disk.faults
    faults.capacity_bytes -= workload.disk.free_bytes() - rng.randrange(100_000)
    refused = 0
    for _ in range(120):
        try:
            workload.step()
        except OSError as error:
            refused += error.errno in {errno.ENOSPC, errno.EIO}
    image = workload.image(rng.random() < 0.5, "full")
    image.disk.faults.capacity_bytes = 1 << 50
    verify_image(image, rng)
