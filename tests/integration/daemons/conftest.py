"""What the tests of the daemons share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.daemons import nodes


@pytest.fixture
def place() -> Iterator[Path]:
    """A fresh directory for a test's volumes and state, in memory where there is one."""
    with nodes.directory() as path:
        yield path
