"""What every test that boots a guest asks for first."""

import pytest

from tests.kernel import image, lab


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
