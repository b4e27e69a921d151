"""Power cuts and kills around every change of the disk: what recovery shows is an exact prefix.

``PRATIMA_POWERCUT_IMAGES`` says how many images the random part makes (500; 10,000 in a long run).
"""

import os
from random import Random

import pytest

from tests.powercut.workload import Image, Workload, verify_image

IMAGES = int(os.environ.get("PRATIMA_POWERCUT_IMAGES", "500"))
IMAGES_PER_SEED = 25
STEPS = 60


class Camera:
    """Takes images of a workload's disk before its operations."""

    def __init__(self, seed: object) -> None:
        self.rng = Random(f"cuts {seed}")
        self.images: list[Image] = []
        self.operations = 0
        self.workload: Workload | None = None

    def at_random(self, operation: str) -> None:
        """A reservoir: each operation of the run is as likely as any other to be the cut."""
        if operation.startswith("pread") or self.workload is None:
            return
        self.operations += 1
        slot = len(self.images)
        if slot == IMAGES_PER_SEED:
            slot = self.rng.randrange(self.operations)
        if slot < IMAGES_PER_SEED:
            image = self.workload.image(self.rng.random() < 0.85, operation)
            self.images[slot : slot + 1] = [image]

    def at_each(self, operation: str) -> None:
        """A kill and two power cuts before each operation."""
        if operation.startswith("pread") or self.workload is None:
            return
        self.operations += 1
        self.images += [self.workload.image(cut, operation) for cut in (False, True, True)]

    def develop(self) -> None:
        """Recover every image and compare."""
        for image in self.images:
            verify_image(image, self.rng)


@pytest.mark.parametrize("seed", range(IMAGES // IMAGES_PER_SEED))
def test_recovery_shows_an_exact_prefix_that_holds_all_that_was_promised(seed: int) -> None:
    camera = Camera(seed)
    camera.workload = workload = Workload(seed, camera.at_random)
    workload.run(STEPS, restarts=0.03)
    workload.disk.faults.before = None
    workload.finish()
    camera.develop()


def test_a_cut_before_each_single_operation_of_a_run() -> None:
    camera = Camera("each")
    camera.workload = workload = Workload(2024, camera.at_each)
    workload.run(40)
    camera.develop()
    assert camera.operations > 100


@pytest.mark.parametrize("seed", range(12))
def test_a_replica_that_dies_all_the_time_goes_on_from_where_it_was(seed: int) -> None:
    workload = Workload(f"dying {seed}")
    workload.run(150, restarts=0.15)
    workload.finish()
