"""Stories of writes that wait for a replica: degrade, return, block, flush."""

from pratima_iscsi import limits
from pratima_iscsi.replication.source_state import StopKind
from pratima_iscsi.replication.states import Connection, LinkState, Mode
from tests.scenarios.scene import Scene
from tests.simulation.setup import KIB


def test_a_write_that_waits_too_long_degrades_the_link_once_that_is_on_disk() -> None:
    scene = Scene(Mode.SYNC, sync_timeout=1.0).synced()
    assert not scene.pair.marked
    scene.network.partition()
    began = scene.world.now
    scene.wait(scene.write(3))
    assert scene.pair.marked and scene.link.degraded
    assert scene.world.now - began >= 1.0
    later = scene.world.now
    scene.wait(scene.write(4))
    assert scene.world.now - later < 0.1, "a degraded link is not waited for"


def test_a_degraded_link_returns_by_itself_after_it_was_steady() -> None:
    scene = Scene(Mode.SYNC, sync_timeout=0.5).synced()
    scene.network.partition()
    scene.wait(scene.write(3))
    scene.network.heal()
    scene.until(lambda: scene.state is LinkState.SYNCED)
    back = scene.world.now
    scene.until(lambda: not scene.link.degraded)
    assert scene.world.now - back >= 9.0
    assert not scene.pair.marked
    scene.converge()


def test_a_degraded_link_must_have_been_steady_after_a_restart_of_the_primary_too() -> None:
    scene = Scene(Mode.SYNC, sync_timeout=0.5).synced()
    scene.network.partition()
    scene.wait(scene.write(3))
    scene.source.crash(power=False)
    scene.network.heal()
    scene.start_source(StopKind.CRASHED)
    scene.until(lambda: scene.state is LinkState.SYNCED)
    back = scene.world.now
    scene.until(lambda: not scene.link.degraded)
    assert scene.world.now - back >= 9.0
    scene.converge()


def test_a_session_lost_while_the_mark_is_being_erased_keeps_writes_waiting() -> None:
    scene = Scene(Mode.SYNC, sync_timeout=1.0)
    scene.begin()
    scene.write(1)
    scene.until(lambda: scene.link.degradation.marking)
    scene.network.partition()
    scene.link.lose("cut at a bad moment", scene.world.now)
    operation = scene.write(5)
    scene.rest(0.1)
    assert operation not in scene.done
    scene.wait(operation)
    assert scene.pair.marked


def test_under_block_a_write_stays_pending_and_completes_with_the_replica() -> None:
    scene = Scene(Mode.SYNC, sync_timeout=0.5, block=True).synced()
    scene.network.partition()
    operation = scene.write(3)
    scene.rest(30.0)
    assert operation not in scene.done and not scene.link.degraded
    assert scene.source.backstore.waiting_for_replica() == 1
    scene.network.heal()
    scene.wait(operation)
    scene.converge()


def test_a_full_log_under_block_holds_writes_and_drops_none() -> None:
    scene = Scene(Mode.SYNC, blocks=64, log_bytes=64 * KIB, block=True).synced()
    scene.network.partition()
    operations = [scene.write(at, 4) for at in range(0, 64, 4)]
    scene.rest(5.0)
    assert not scene.done and scene.link.overflows == 0
    scene.network.heal()
    scene.until(lambda: len(scene.done) == len(operations))
    scene.converge()


def test_semi_sync_completes_when_received_and_flush_when_durable() -> None:
    scene = Scene(Mode.SEMI_SYNC, sync_timeout=5.0).synced()
    scene.wait(scene.write(1))
    scene.wait(scene.write(2, fua=True))
    assert scene.replica.shadow.position.sequence >= 2
    scene.write(3)
    flush = scene.wait(scene.flush())
    assert scene.replica.shadow.position.sequence >= flush.sequence >= 3
    scene.converge()


def test_writes_go_at_once_until_several_frames_are_under_way_and_then_share_one() -> None:
    scene = Scene(Mode.SYNC, sync_timeout=5.0).synced()
    scene.wait(scene.write(0))
    before = scene.link.queue.next_n - 1
    scene.replica.pause(0.5)
    alone = limits.FRAMES_EAGER_MAX
    operations = [scene.write(block) for block in range(alone + 8)]
    scene.rest(1.1 * limits.COALESCE_SECONDS)
    last = [n - before for n, _, _ in scene.link.window.frames]
    assert last == [*range(1, alone + 1), alone + 8]
    for operation in operations:
        scene.wait(operation)
    scene.converge()


def test_a_silent_peer_that_comes_back_resumes_the_same_session() -> None:
    scene = Scene().synced()
    session = scene.link.session
    scene.replica.pause(6.0)
    scene.write(1)
    scene.until(lambda: scene.link.connection is Connection.SILENT)
    assert scene.state is LinkState.CONNECTING
    scene.until(lambda: scene.link.connection is Connection.OPEN)
    assert scene.link.session == session
    scene.until(scene.converged)
    scene.converge()


def test_a_slow_asynchronous_replica_neither_holds_nor_trims_a_synchronous_one() -> None:
    scene = Scene(Mode.SYNC, Mode.ASYNC, blocks=64, log_bytes=64 * KIB, sync_timeout=2.0).synced()
    slow = scene.pairs[1]
    slow.network.partition()
    for at in range(0, 64, 2):
        scene.wait(scene.write(at, 2))
    assert scene.pairs[0].link.state is LinkState.SYNCED and not scene.pairs[0].link.degraded
    assert slow.link.overflows == 1
    slow.network.heal()
    scene.until(scene.converged)
    scene.converge()


def test_disabling_a_synchronous_link_lets_writes_go_and_leaves_the_mark() -> None:
    scene = Scene(Mode.SYNC, sync_timeout=5.0).synced()
    scene.network.partition()
    operation = scene.write(1)
    scene.rest(0.1)
    scene.source.later(0.0, lambda: scene.source.backstore.disable(0, scene.world.now))
    scene.wait(operation)
    assert scene.pair.marked and scene.state is LinkState.DISABLED
    scene.network.heal()
    scene.wait(scene.write(2))
    scene.source.later(0.0, lambda: scene.source.backstore.enable(0, scene.world.now))
    scene.until(scene.converged)
    scene.converge()


def test_a_disabled_link_stays_disabled_over_a_crash() -> None:
    scene = Scene(Mode.ASYNC).synced()
    scene.write(1)
    scene.until(scene.converged)
    scene.source.later(0.0, lambda: scene.source.backstore.disable(0, scene.world.now))
    scene.rest()
    scene.source.stop()
    scene.until(lambda: not scene.source.alive)
    scene.start_source(StopKind.CLEAN)
    scene.wait(scene.write(2))
    scene.source.crash(power=False)
    scene.start_source(StopKind.CRASHED)
    assert scene.state is LinkState.DISABLED


def test_a_killed_link_folds_its_queue_into_the_table_and_comes_back() -> None:
    scene = Scene().synced()
    scene.network.partition()
    for at in range(8):
        scene.write(at)
    scene.rest(0.1)
    assert len(scene.link.queue)
    scene.source.later(0.0, lambda: scene.source.backstore.kill(0, scene.world.now))
    scene.rest(0.0)
    scene.until(lambda: not len(scene.link.queue))
    assert all((0, at) in scene.link.table for at in range(8))
    scene.network.heal()
    scene.until(scene.converged)
    scene.converge()
