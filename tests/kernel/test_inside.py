"""Boots a guest for each group of tests of ``inside/``, and says what they said."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.kernel import guest_tests, lab

GROUPS: Final = {
    "lab": ("test_lab.py",),
    "lio": ("test_lio.py", "test_page.py"),
    "lio-faults": ("test_lio_faults.py",),
    "tcmu": ("test_tcmu.py",),
    "killed": ("test_killed.py",),
    "many": ("test_many.py",),
    "disks": ("test_disks.py",),
    "task-management": ("test_task_management.py",),
    "growth": ("test_growth.py",),
    "targetcli": ("test_targetcli.py",),
}
"""Tests that share a guest: a boot costs ten seconds, and a kernel that dies takes all with it."""

# Longer than the guest's own limits, so that it is the lab that says what hung.
pytestmark = [pytest.mark.kernel, pytest.mark.timeout(2400)]


GUESTS_AT_ONCE: Final = min(2, os.cpu_count() or 1)
"""A guest keeps about one processor busy, whatever it has itself."""


@dataclass(frozen=True, slots=True)
class Booted:
    """A guest that runs, or will when there is room."""

    share: Path
    results: Future[dict[str, lab.JobResult]]


@pytest.fixture(scope="module")
def guests(
    request: pytest.FixtureRequest, tests_possible: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Booted]]:
    """The guests of all groups that were asked for, as many at once as the machine bears."""
    ours = [item for item in request.session.items if item.nodeid.startswith(request.node.nodeid)]
    chosen = [item.callspec.params["group"] for item in ours if isinstance(item, pytest.Function)]
    work = {group: guest_tests.jobs(GROUPS[group]) for group in chosen}
    with ThreadPoolExecutor(GUESTS_AT_ONCE, "guest") as pool:
        booted = {}
        for group, jobs in work.items():
            share = tmp_path_factory.mktemp(f"guest-{group}")
            results = pool.submit(lab.run_guest, share, jobs, guest_tests.MACHINE)
            booted[group] = Booted(share, results)
        yield booted
        pool.shutdown(wait=False, cancel_futures=True)


@pytest.mark.parametrize("group", GROUPS)
def test_inside(group: str, guests: Mapping[str, Booted]) -> None:
    guest_tests.judge(guests[group].share, guests[group].results.result())
