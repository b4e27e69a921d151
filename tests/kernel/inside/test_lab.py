"""The guest has what the other tests need of a kernel."""

from pathlib import Path

import pytest
from rtslib_fb import RTSRoot


@pytest.mark.parametrize("module", ["target_core_user", "tcm_loop", "iscsi_target_mod", "uio"])
def test_the_kernel_has_the_target_and_its_front_ends(module: str) -> None:
    assert (Path("/sys/module") / module).is_dir()


def test_the_library_sees_an_empty_target() -> None:
    root = RTSRoot()
    assert not list(root.storage_objects)
    assert not list(root.targets)
