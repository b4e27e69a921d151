"""Recorded load through a real login at depth 32, on a target with a plain file and no replica.

It proves the initiator of the scenarios, and that the portal itself loses and tears nothing.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oracle.checker import check
from tests.oracle.client_view import lost
from tests.oracle.recorder import OpKind, Recorder
from tests.oracle.stamps import SECTOR_BYTES, read_image
from tests.torture.daemons import Daemon, free_ports, listening, wait_until
from tests.torture.login import login
from tests.torture.workload import Workload

VOLUME_BYTES = 8 << 20
SECTORS = VOLUME_BYTES // SECTOR_BYTES
RUN = 4711
START_SECONDS = 30.0


class Target:
    def __init__(self, directory: Path) -> None:
        self.volume = directory / "volume.img"
        self.port = free_ports()
        command = [sys.executable, "-m", "tests.support.memory_target", "--port", str(self.port)]
        self.daemon = Daemon(
            "target",
            directory,
            [*command, "--file", str(self.volume), "--size", str(VOLUME_BYTES)],
        )

    def start(self) -> None:
        self.daemon.start()
        wait_until(lambda: listening(self.port), START_SECONDS, "it listens", [self.daemon])


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    target = Target(tmp_path)
    with target.daemon:
        target.start()
        yield target


def test_volume_is_all_that_was_acknowledged_whatever_overlapped(
    target: Target, tmp_path: Path
) -> None:
    with Recorder(tmp_path, RUN, [SECTORS]) as recorder:
        workload = Workload(recorder, lambda: login(target.port), seed=1)
        with workload.running():
            workload.work(1500, until=1000)
            workload.drain()
            workload.check()
        history = recorder.history()
        assert {op.kind for op in history.ops} == set(OpKind)
        assert all(op.acknowledged < recorder.now() for op in history.ops)
        image = read_image([target.volume], RUN, [SECTORS])
        verdict = check(history, image)
        assert verdict.ok, verdict.reason
        assert verdict.most == len(history.ops)
        assert not lost(history, image)


def test_killed_target_has_lost_nothing_that_was_acknowledged(
    target: Target, tmp_path: Path
) -> None:
    with Recorder(tmp_path, RUN, [SECTORS]) as recorder:
        workload = Workload(recorder, lambda: login(target.port), seed=2)
        for life in range(2):
            with workload.running():
                workload.work(3000, until=500)
                target.daemon.kill()
                workload.wait_lost()
                assert not workload.failures
            image = read_image([target.volume], RUN, [SECTORS])
            assert not lost(recorder.history(), image)
            assert workload.acknowledged < len(recorder.history().ops), life
            target.start()
