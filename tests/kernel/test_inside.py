"""Boots a guest for each group of tests of ``inside/``, and says what they said."""

from pathlib import Path
from typing import Final

import pytest

from tests.kernel import guest_tests, lab

PROGRAMS: Final = lab.PROGRAMS | {
    "iscsid": "open-iscsi",
    "iscsiadm": "open-iscsi",
    "mkfs.ext4": "e2fsprogs",
    "resize2fs": "e2fsprogs",
    "dmsetup": "dmsetup",
    "modprobe": "kmod",
    "fio": "fio",
    "tc": "iproute2",
}
GROUPS: Final = {
    "lab": ("test_lab.py",),
    "lio": ("test_lio.py",),
    "page": ("test_page.py",),
    "lio-faults": ("test_lio_faults.py",),
    "tcmu": ("test_tcmu.py",),
    "killed": ("test_killed.py",),
    "many": ("test_many.py",),
    "disks": ("test_disks.py",),
    "task-management": ("test_task_management.py",),
    "growth": ("test_growth.py",),
}
"""Tests that share a guest: a boot costs ten seconds, and a kernel that dies takes all with it."""

# Longer than the guest's own limits, so that it is the lab that says what hung.
pytestmark = [pytest.mark.kernel, pytest.mark.timeout(1000)]


@pytest.mark.parametrize("group", GROUPS)
def test_inside(group: str, guest_possible: None, tmp_path: Path) -> None:
    missing = lab.missing_packages(PROGRAMS)
    if missing:
        pytest.skip(f"apt-get install {' '.join(missing)}")
    guest_tests.run(tmp_path, GROUPS[group])
