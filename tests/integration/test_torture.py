"""Real daemons under load, killed, frozen, cut off: every image is a prefix of what was written.

TORTURE_CYCLES sets how often the replica is killed (default 20, some minutes with the rest;
1000 for a long run), TORTURE_SEED what is drawn. The daemons are processes, the load comes through
a real iSCSI login at depth 32, images are recovered by `pratima recover` and judged by the
black-box oracle.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.oracle.checker import check
from tests.oracle.recorder import History
from tests.torture.daemons import Status, wait_until
from tests.torture.proxy import Direction, Fault
from tests.torture.scene import BLOCK_BYTES, SYNC_SECONDS, Scene, Shot
from tests.torture.workload import Mix

CYCLES = int(os.environ.get("TORTURE_CYCLES", "20"))
SEED = int(os.environ.get("TORTURE_SEED", "1"))
LOG_LIMIT_BYTES = 4 << 20
pytestmark = pytest.mark.timeout(600 + 30 * CYCLES)


LINK_DELAY_SECONDS = 0.03


def slow_link(scene: Scene) -> None:
    """Records travel for a while, so that what is promised too early is missing at a kill."""
    assert scene.wire is not None
    scene.wire.data.paths[Direction.TO_SERVER].delay_seconds = LINK_DELAY_SECONDS


@pytest.fixture(autouse=True)
def says_its_seed() -> Iterator[None]:
    print(f"\nTORTURE_SEED={SEED} TORTURE_CYCLES={CYCLES}")
    yield


def test_replica_killed_and_frozen_at_random_always_recovers_a_prefix(tmp_path: Path) -> None:
    scene = Scene(tmp_path, SEED)
    with scene.running(), scene.workload.running() as workload:
        for _ in range(CYCLES):
            scene.work(100, 500)
            if scene.random.random() < 0.4:
                scene.expect_prefix(scene.shoot())
                scene.work(50, 100)
            scene.expect_prefix(scene.shoot_killed())
            if scene.random.random() < 0.5:
                scene.work(20, 400)
            scene.replica.start()
            if scene.random.random() < 0.6:
                scene.wait_synced()
        scene.wait_synced()
        scene.expect_equal()
        workload.check()
    print(scene.report())
    assert max(verdict.least for verdict in scene.verdicts) > 100


def test_sync_acknowledged_means_in_every_image_of_the_replica(tmp_path: Path) -> None:
    scene = Scene(tmp_path, SEED + 1, ["--mode", "sync"], required=True, wired=True)
    promised = 0
    with scene.running(), scene.workload.running() as workload:
        slow_link(scene)
        for _ in range(max(3, CYCLES // 5)):
            for take in (scene.shoot, scene.shoot_killed):
                scene.work(100, 300)
                shot = take()
                promised = max(promised, sum(op.required for op in shot.history.ops))
                scene.expect_prefix(shot)
                if not scene.replica.runs:
                    scene.replica.start()
                scene.wait_synced()
        scene.expect_equal()
        workload.check()
    print(scene.report(), f"{promised} were promised")
    assert promised > 100


def test_killed_primary_loses_nothing_acknowledged_and_the_replica_follows_it(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, SEED + 2, wired=True)
    with scene.running():
        slow_link(scene)
        for _ in range(max(3, CYCLES // 5)):
            with scene.workload.running() as workload:
                scene.work(300, 600)
                scene.expect_prefix(scene.shoot())
                scene.work(100, 300)
                scene.primary.kill()
                workload.wait_lost()
                assert not workload.failures
            scene.expect_client_view()
            scene.expect_prefix(scene.shoot())
            scene.primary.start()
            between = [scene.shoot() for _ in range(2)]
            scene.wait_caught_up()
            scene.rebase()
            base = scene.recorder.history()
            for shot in between:
                expect_old_or_new(shot, base)
            scene.expect_prefix(scene.shoot())
        with scene.workload.running() as workload:
            scene.work(200, 300)
            scene.expect_equal()
            workload.check()
    print(scene.report())


def expect_old_or_new(shot: Shot, base: History) -> None:
    """Between two epochs the replica stands in the old one, or exactly at the new one's base."""
    at_base = check(base, shot.image)
    verdict = check(shot.history, shot.image, shot.frozen.since, shot.frozen.by)
    assert at_base.ok or verdict.ok, f"not the new base, and of the old epoch {verdict}"


def test_outage_that_overflows_the_log_resyncs_only_what_was_written(tmp_path: Path) -> None:
    scene = Scene(tmp_path, SEED + 3, ["--log-limit", "4MiB"], mix=Mix(hot=0.8))
    with scene.running(), scene.workload.running() as workload:
        scene.work(200, 300)
        workload.drain()
        scene.wait_caught_up()
        scene.expect_prefix(scene.shoot_killed())
        outage = scene.recorder.now()
        write_more_than(scene, 2 * LOG_LIMIT_BYTES)
        workload.drain()
        behind = scene.primary.wait_status(
            lambda status: status.links[0].bwt_blocks > 0, SYNC_SECONDS, "an overflow"
        )
        assert behind.links[0].lag.bytes <= LOG_LIMIT_BYTES
        touched = scene.touched_blocks(outage)
        assert behind.links[0].bwt_blocks <= touched
        scene.replica.start()
        done = scene.wait_caught_up()
        assert done.links[0].bwt_blocks == 0
        assert done.links[0].resync is not None
        assert 0 < done.links[0].resync.bytes_sent <= 1.1 * touched * BLOCK_BYTES
        scene.expect_equal()
        workload.check()
    print(scene.report())


def test_resync_under_load_keeps_the_old_point_until_it_ends(tmp_path: Path) -> None:
    scene = Scene(tmp_path, SEED + 4, ["--log-limit", "4MiB"], wired=True, mix=Mix(hot=0.2))
    wire = scene.wire
    assert wire is not None
    during = 0
    with scene.running(), scene.workload.running() as workload:
        scene.work(300, 500)
        scene.replica.kill()
        write_more_than(scene, 3 * LOG_LIMIT_BYTES)
        wire.data.paths[Direction.TO_SERVER].rate_bytes = 1 << 20  # so that there is time to look
        scene.replica.start()
        for kill in (False, True, False):
            scene.primary.wait_status(resyncing, SYNC_SECONDS, "RESYNCING", [scene.replica])
            scene.work(2, 10)
            shot = scene.shoot_killed() if kill else scene.shoot()
            status = scene.primary.status()
            during += kill or (status is not None and resyncing(status))
            scene.expect_prefix(shot)
            if kill:
                scene.replica.start()
        wire.heal()
        scene.wait_synced()
        scene.expect_equal()
        workload.check()
    print(scene.report(), f"{during} of them during the resync")
    assert during >= 2


def resyncing(status: Status) -> bool:
    return status.links[0].state == "RESYNCING"


def write_more_than(scene: Scene, count: int) -> None:
    """Write at least ``count`` bytes."""
    target = scene.workload.bytes_written + count
    while scene.workload.bytes_written < target:
        scene.workload.work(100, until=50)


def trickle(scene: Scene, until: Callable[[], bool], what: str) -> None:
    """Write a little again and again until something has happened to what is sent."""

    def happened() -> bool:
        scene.workload.grant(2)
        return until()

    wait_until(happened, SYNC_SECONDS, what, [scene.primary, scene.replica])


def test_broken_connections_never_change_what_the_replica_holds(tmp_path: Path) -> None:
    scene = Scene(tmp_path, SEED + 5, wired=True)
    wire = scene.wire
    assert wire is not None
    faults = [(wire.data, Direction.TO_SERVER, fault) for fault in Fault]
    faults += [(wire.control, direction, fault) for fault in Fault for direction in Direction]
    broken = 0
    with scene.running(), scene.workload.running() as workload:
        for _ in range(max(6, CYCLES // 2)):
            proxy, direction, fault = scene.random.choice(faults)
            expected = len(proxy.done) + 1
            scene.work(50, 200)
            proxy.inject(direction, fault, skip=scene.random.randrange(2))
            trickle(scene, lambda: len(proxy.done) >= expected, fault.value)  # noqa: B023
            broken += 1
            if scene.random.random() < 0.3:
                scene.expect_prefix(scene.shoot())
        scene.wait_synced()
        for proxy in wire.both:
            direction = scene.random.choice(list(Direction))
            proxy.hold(direction)
            scene.work(50, 200)
            scene.expect_prefix(scene.shoot())
            proxy.release(direction)
            proxy.paths[Direction.TO_SERVER].blackhole = True
            trickle(scene, lambda: proxy.holed, "something lost")  # noqa: B023
            scene.expect_prefix(scene.shoot())
            wire.heal()
            scene.wait_synced()
        scene.expect_equal()
        workload.check()
    print(scene.report(), f"{broken} faults")
