"""How many descriptors a process has, and which connections it has some for."""

import errno
import subprocess
import sys

import pytest

from pratima_iscsi.edges.descriptors import Descriptors, descriptor_limit, first_of_the_last
from pratima_iscsi.limits import DESCRIPTORS_KEPT
from tests.support.on_loop import on_loop

RAISED = """
import resource
from pratima_iscsi.engine.process import run_loop
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
async def main():
    return 0 if resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard) else 1
raise SystemExit(run_loop(main))
"""

FULL = """
import asyncio, contextlib, os, resource
from pratima_iscsi.edges import descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
descriptors.ACCEPT_PAUSE_SECONDS = 0.01
async def main():
    told = []
    ours = descriptors.Descriptors(told.append)
    taken = []
    assert not ours.lacking() and ours.room_for(200) and not ours.room_for(224)
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.dup(0))
    ours.ran_out(ours.lacking())
    accepted = os.dup(0)  # there is room for one
    assert ours.lacking() and not ours.lets_in(accepted)
    os.close(accepted)
    assert not ours.lacking()
    ours.watch()
    while not ours.lacking():  # until the spare one is held again
        await asyncio.sleep(0)
    assert not ours.lets_in(taken[-1]) and not ours.room_for(0)
    for one in taken:
        os.close(one)
    accepted = os.dup(0)
    assert ours.lets_in(accepted)
    assert len(told) == 1 and "of 256 descriptors" in told[0], told
    ours.close()
asyncio.run(main())
"""


def ran(program: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert not ended.returncode, ended.stderr


def test_a_daemon_begins_with_all_the_descriptors_that_it_may_have() -> None:
    ran(RAISED)


def test_a_process_that_is_full_makes_room_for_one_connection_to_be_shut() -> None:
    ran(FULL)


@pytest.mark.parametrize(
    ("limit", "first"), [(64, 56), (256, 224), (1024, 1024 - DESCRIPTORS_KEPT), (1 << 20, 1048512)]
)
def test_the_last_descriptors_are_a_few_and_of_few_an_eighth(limit: int, first: int) -> None:
    assert first_of_the_last(limit) == first


@on_loop
async def test_too_few_are_told_once_until_there_are_enough_again() -> None:
    told: list[str] = []
    ours = Descriptors(told.append)
    last = descriptor_limit() - 1
    assert not ours.lets_in(last) and not ours.lets_in(last)
    assert len(told) == 1 and "LimitNOFILE" in told[0]
    assert ours.lets_in(0)
    assert not ours.lets_in(last)
    assert len(told) == 2
    ours.close()


@on_loop
async def test_what_else_is_lacking_is_named() -> None:
    told: list[str] = []
    ours = Descriptors(told.append)
    ours.ran_out(errno.ENFILE)
    assert len(told) == 1 and "in system: see to the machine's memory" in told[0]
    ours.close()
