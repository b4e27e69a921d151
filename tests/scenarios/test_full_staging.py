"""Stories of a replica without room to stage: what waits, what goes on, what is never lost."""

from dataclasses import replace

from pratima_iscsi.edges.staging import SLOT_BYTES
from pratima_iscsi.replication.source_state import StopKind
from pratima_iscsi.replication.states import LinkState
from tests.scenarios.scene import Scene
from tests.simulation.setup import KIB


def synced(blocks: int) -> Scene:
    """In step and idle; an overflow makes a resync of so many blocks due."""
    scene = Scene(blocks=2 * blocks, log_bytes=blocks * 2 * KIB).synced()
    scene.rest()
    return scene


def leave(scene: Scene, blocks: int) -> None:
    """The replica's disk has room to stage so many blocks more, however many it has had."""
    disk, reserve = scene.replica.disk, scene.replica.reserve_bytes
    disk.faults.capacity_bytes += reserve + blocks * SLOT_BYTES - disk.free_bytes()


def full() -> Scene:
    """A staged transaction is open, and the replica holds the source, having no room for it."""
    scene = synced(128)
    scene.overflow()
    scene.until(lambda: scene.replica.shadow.transaction != 0)
    leave(scene, 8)
    scene.until(lambda: "no room" in scene.link.held)
    assert scene.replica.shadow.consistent and not scene.replica.shadow.direct
    return scene


def choose_direct(scene: Scene) -> None:
    """The operator lets the primary resync directly."""
    scene.link.options = replace(scene.link.options, direct_resync=True)


def test_a_resync_that_begins_anew_is_not_stuck_behind_one_that_found_no_room() -> None:
    scene = full()
    choose_direct(scene)
    scene.source.backstore.kill(0, scene.world.now)
    scene.source.after_event()
    scene.until(lambda: scene.replica.store.state.direct)
    leave(scene, 1 << 20)
    scene.until(scene.converged)
    scene.converge()


def test_a_begin_goes_to_a_replica_that_holds_the_primary() -> None:
    scene = full()
    choose_direct(scene)
    scene.source.backstore.kill(0, scene.world.now)
    scene.link.overflowed_at = scene.world.now + 5.0  # the resync begins that much later
    scene.source.after_event()
    scene.until(lambda: "no room" in scene.link.held)
    assert scene.link.transaction is None
    scene.until(lambda: scene.replica.store.state.direct)
    leave(scene, 1 << 20)
    scene.until(scene.converged)
    scene.converge()


def test_sessions_that_come_and_go_do_not_fill_the_journal_of_a_replica_without_room() -> None:
    scene = full()
    scene.rest(5.0)
    used = scene.replica.store.journal_used()
    for _ in range(30):
        scene.network.reset("connection reset")
        scene.rest(3.0)
    scene.until(lambda: "no room" in scene.link.held)
    assert scene.replica.store.journal_used() <= used + 4 * KIB
    assert scene.state is LinkState.RESYNCING
    leave(scene, 1 << 20)
    scene.until(scene.converged)
    scene.converge()


def test_a_replica_restarted_without_room_is_at_its_old_point_and_says_what_it_lacks() -> None:
    scene = full()
    position = scene.replica.shadow.position
    scene.replica.crash(power=True)
    scene.pair.start_replica()
    state = scene.replica.store.state
    assert (state.consistent, state.history.position, state.transaction) == (True, position, 0)
    scene.until(lambda: "no room to stage" in scene.link.reason)
    assert scene.state is LinkState.STALE
    scene.replica.crash(power=False)
    leave(scene, 1 << 20)
    scene.pair.start_replica()
    scene.until(scene.converged)
    scene.converge()


def test_an_end_that_is_durable_is_kept_though_its_blocks_find_no_room() -> None:
    """The primary believes the replica to be where that END says: no BEGIN may undo it."""
    scene = synced(32)
    store, sink, ends = scene.replica.store, scene.replica.sink, scene.replica.shadow.ends
    before = store.state
    sink.apply_busy = True  # the volumes are slow: nothing is applied until there is no room
    scene.overflow()
    scene.until(lambda: scene.replica.shadow.ends > ends)
    leave(scene, 8)
    sink.apply_busy = False
    scene.until(lambda: "no room" in scene.replica.sink.held)
    scene.source.crash(power=False)
    scene.start_source(StopKind.CRASHED)
    choose_direct(scene)
    scene.rest(30.0)
    assert "no room" in scene.replica.sink.held
    after = store.state
    assert after.consistent and (after.ended, after.history) == (before.ended, before.history)
    leave(scene, 1 << 20)
    scene.until(scene.converged)
    scene.converge()
