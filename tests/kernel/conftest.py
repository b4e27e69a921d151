"""What every test that boots a guest asks for first."""

import os

import pytest

from tests.kernel import guest_tests, image, lab

collect_ignore = [] if guest_tests.MARK in os.environ else ["inside"]
"""Those tests run in a guest, which says so in its environment, and nowhere else."""


@pytest.fixture(scope="session")
def guest_possible() -> None:
    """Skips, naming the packages or the cause, where this machine cannot boot a guest."""
    missing = lab.missing_packages()
    if missing:
        pytest.skip(f"apt-get install {' '.join(missing)}")
    try:
        image.kernel()
    except image.LabUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tests_possible(guest_possible: None) -> None:
    """Skips, naming the packages, where a guest would miss a program that its tests run."""
    missing = lab.missing_packages(guest_tests.PROGRAMS)
    if missing:
        pytest.skip(f"apt-get install {' '.join(missing)}")
