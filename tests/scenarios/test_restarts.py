"""Stories of restarts: clean stops, crashes, power cuts, and disks that went back in time."""

from dataclasses import replace

from pratima_iscsi.operations import FLUSH, Operation, RecordKind
from pratima_iscsi.replication.messages import Ack, Welcome
from pratima_iscsi.replication.source_state import StopKind
from pratima_iscsi.replication.states import Connection, LinkState, Mode
from tests.scenarios.scene import Scene
from tests.simulation.faults import _rot
from tests.simulation.network import DATA
from tests.simulation.setup import KIB


def test_a_clean_stop_carries_the_table_and_only_that_is_brought_over() -> None:
    scene = Scene(blocks=64, log_bytes=64 * KIB).synced()
    scene.overflow()
    scene.network.partition()
    dirty = len(scene.link.cover())
    scene.source.stop()
    scene.until(lambda: not scene.source.alive)
    brought = scene.replica.shadow.resync_bytes
    scene.network.heal()
    scene.start_source(StopKind.CLEAN)
    assert len(scene.link.table) == dirty
    scene.until(scene.converged)
    assert scene.replica.shadow.resync_bytes - brought <= 1.1 * dirty * 4096 + 65536
    scene.converge()


def test_a_clean_stop_carries_what_only_the_log_holds() -> None:
    scene = Scene().synced()
    scene.network.partition()
    scene.write_apart((3, 5, 9), 0.01)
    assert len(scene.link.table) == 0
    scene.source.stop()
    scene.until(lambda: not scene.source.alive)
    scene.network.heal()
    scene.start_source(StopKind.CLEAN)
    assert len(scene.link.table) == 3
    scene.until(scene.converged)
    scene.converge()


def test_stopping_twice_spills_the_same() -> None:
    scene = Scene(blocks=64, log_bytes=64 * KIB).synced()
    scene.overflow()
    scene.network.partition()
    cover = len(scene.link.cover())
    scene.source.stop()
    scene.source.stop()
    scene.until(lambda: not scene.source.alive)
    scene.network.heal()
    scene.start_source(StopKind.CLEAN)
    assert len(scene.link.table) == cover
    scene.until(scene.converged)
    scene.converge()


def test_a_synchronous_primary_that_lost_power_waits_for_the_operator_over_restarts() -> None:
    scene = Scene(Mode.SYNC).synced()
    scene.wait(scene.write(1))
    scene.source.crash(power=True)
    scene.start_source(StopKind.POWER_LOST)
    scene.until(lambda: scene.link.connection is Connection.HELD)
    assert "lost power" in scene.link.reason
    scene.wait(scene.write(2))
    scene.source.crash(power=False)
    scene.start_source(StopKind.CRASHED)
    scene.until(lambda: scene.link.connection is Connection.HELD)
    scene.source.stop()
    scene.until(lambda: not scene.source.alive)
    scene.start_source(StopKind.CLEAN)
    scene.until(lambda: scene.link.connection is Connection.HELD)
    scene.resync_from_primary()
    scene.until(scene.converged)
    scene.converge()


def held_after_a_power_loss(*, written: bool) -> Scene:
    """A link that waits for the operator, with writes since or without any."""
    scene = Scene(Mode.SYNC).synced()
    scene.wait(scene.write(1))
    scene.source.crash(power=True)
    scene.start_source(StopKind.POWER_LOST)
    scene.until(lambda: scene.link.connection is Connection.HELD)
    if written:
        scene.wait(scene.write(2))
    return scene


def kill_the_source(scene: Scene) -> None:
    """On the same boot: it comes back, and does not wait for the operator."""
    scene.source.crash(power=False)
    scene.start_source(StopKind.CRASHED)
    scene.until(scene.converged)


def test_the_operators_word_after_a_power_loss_is_not_asked_for_again_after_a_kill() -> None:
    for written in (True, False):
        scene = held_after_a_power_loss(written=written)
        scene.resync_from_primary()
        scene.until(scene.converged)
        kill_the_source(scene)
        scene.converge()


def test_the_operators_word_after_a_power_loss_stands_though_the_resync_was_cut_short() -> None:
    scene = held_after_a_power_loss(written=True)
    scene.network.partition()
    scene.resync_from_primary()
    scene.rest(0.1)
    assert not scene.converged()
    scene.source.crash(power=False)
    scene.network.heal()
    scene.start_source(StopKind.CRASHED)
    scene.until(scene.converged)
    scene.converge()


def test_a_first_sync_ends_the_wait_for_the_operator_over_a_kill() -> None:
    """A replica that came back empty holds no acknowledged write."""
    scene = held_after_a_power_loss(written=True)
    scene.roll_back()
    scene.until(scene.converged)
    kill_the_source(scene)
    scene.converge()


def test_an_asynchronous_primary_that_lost_power_compares_by_itself() -> None:
    scene = Scene(Mode.ASYNC).synced()
    scene.wait(scene.write(1))
    scene.until(scene.converged)
    scene.source.crash(power=True)
    scene.start_source(StopKind.POWER_LOST)
    scene.until(scene.converged)
    scene.converge()


def test_a_replica_that_went_back_is_compared_and_there_is_an_alarm() -> None:
    scene = Scene().synced()
    scene.write(1)
    scene.until(scene.converged)
    older = scene.replica.disk.clone()
    scene.write(2)
    scene.until(scene.converged)
    scene.roll_back(older)
    scene.rest()
    scene.until(scene.converged)
    assert any("older than what it had acknowledged" in alarm for alarm in scene.alarms())
    scene.converge()


def test_a_replica_that_went_back_behind_a_resync_at_the_same_position_is_compared() -> None:
    scene = Scene().synced()
    scene.write(1)
    scene.until(scene.converged)
    scene.source.fail_writes = 1
    scene.write(5, 4)
    scene.rest(0.01)
    older = scene.replica.disk.clone()
    scene.until(scene.converged)
    position = scene.replica.shadow.position
    scene.rest(3.0)
    scene.roll_back(older)
    scene.rest()
    scene.until(scene.converged)
    assert scene.replica.shadow.position == position
    scene.converge()


def test_an_empty_disk_in_a_replicas_place_gets_a_first_sync() -> None:
    scene = Scene().synced()
    scene.write(1, 8)
    scene.until(scene.converged)
    scene.roll_back()
    scene.rest()
    scene.until(scene.converged)
    scene.converge()


def test_a_primary_that_went_back_is_refused() -> None:
    scene = Scene().synced()
    scene.write(1)
    scene.until(scene.converged)
    scene.source.stop()
    scene.until(lambda: not scene.source.alive)
    disk, store = scene.source.disk.clone(), scene.source.store.copy()
    scene.start_source(StopKind.CLEAN)
    scene.write(2)
    scene.until(scene.converged)
    scene.source.crash(power=False)
    scene.source.disk, scene.source.store = disk, store
    scene.pair.amnesia = True  # Nobody can know before the handshake.
    scene.source.start(StopKind.CLEAN)
    scene.until(lambda: scene.link.connection is Connection.REFUSED)
    position = scene.replica.shadow.position
    scene.rest(20.0)
    assert scene.state is LinkState.REFUSED or scene.link.connection is Connection.GREETING
    assert scene.replica.shadow.position == position, "the replica was written over"


def test_a_spill_copied_back_is_refused() -> None:
    scene = Scene().synced()
    scene.write(1)
    scene.until(scene.converged)
    scene.source.stop()
    scene.until(lambda: not scene.source.alive)
    store = scene.source.store.copy()
    scene.start_source(StopKind.CLEAN)
    scene.write(2)
    scene.until(scene.converged)
    scene.source.stop()
    scene.until(lambda: not scene.source.alive)
    scene.source.store = store
    scene.source.start(StopKind.CLEAN)
    scene.until(lambda: scene.link.connection is Connection.REFUSED)


def test_rot_in_the_replicas_journal_costs_a_first_sync() -> None:
    lost = 0
    for seed in range(6):
        scene = Scene(seed=seed).synced()
        for at in range(12):
            scene.write(at)
            scene.rest(0.05)
        scene.replica.crash(power=False)
        _rot(scene.pair)
        scene.pair.start_replica()
        lost += not scene.replica.store.state.consistent
        scene.until(scene.converged)
        scene.converge()
    assert lost, "no seed hit what was durable"


def test_a_replicas_disk_error_ends_in_failed_and_loses_nothing_acknowledged() -> None:
    scene = Scene(Mode.SYNC, sync_timeout=0.5).synced()
    scene.wait(scene.write(1))
    scene.replica.disk.faults.fail(0, for_good=True)
    scene.wait(scene.write(2))
    scene.until(lambda: scene.link.connection is Connection.FAILED)
    assert scene.state is LinkState.FAILED and scene.pair.marked
    scene.pair.start_replica()
    scene.until(scene.converged)
    scene.converge()


def test_a_flush_after_a_failed_one_fails_too_and_so_do_writes() -> None:
    scene = Scene().synced()
    scene.source.fail_flushes = 1
    scene.wait(scene.write(1))
    first, second = scene.flush(), scene.flush()
    scene.wait(first)
    scene.wait(second)
    third, write = scene.flush(), scene.write(2)
    scene.wait(third)
    scene.wait(write)
    assert all(operation.error is not None for operation in (first, second, third, write))
    assert scene.source.backstore.volume_failed
    scene.source.stop()
    scene.until(lambda: not scene.source.alive)
    assert not scene.source.stopped_clean


def test_a_write_that_fails_locally_leaves_both_sides_equal() -> None:
    scene = Scene().synced()
    scene.source.fail_writes = 1
    failed = scene.wait(scene.write(5, 4))
    assert failed.error is not None
    assert any("a local write failed" in alarm for alarm in scene.alarms())
    scene.until(scene.converged)
    scene.converge()


def test_an_update_is_a_barrier_for_the_writes_behind_it() -> None:
    scene = Scene(slow=True).synced()
    seen: list[bytes] = []

    def transform(old: bytes) -> bytes:
        seen.append(old)
        return b"\xaa" * len(old)

    before = scene.write(3)
    update = Operation(64, 0, 3 * 4096, 4096, transform=transform)
    update.update_done = lambda changed, error: scene.done.append(update)
    scene.submit(update)
    after = scene.write(3)
    flush = scene.ask(Operation(FLUSH, 0, 0, 0))
    scene.wait(flush)
    assert seen == [before.payload]
    assert before.sequence < update.sequence < after.sequence
    assert bytes(scene.source.images[0][3 * 4096 : 4 * 4096]) == after.payload
    scene.until(scene.converged)
    scene.converge()


def test_a_greeting_during_a_journal_job_is_answered_with_that_jobs_end() -> None:
    scene = Scene(Mode.SYNC, sync_timeout=5.0).synced()
    welcomes: list[Welcome] = []
    scene.network.passed = lambda direction, what: (
        welcomes.append(what) if isinstance(what, Welcome) else None
    )
    scene.write(1)
    scene.until(lambda: scene.replica.sink.journal_busy)
    durable = scene.replica.sink.last_index
    scene.link.lose("at a bad moment", scene.world.now)
    scene.link.reconnect(scene.world.now)
    scene.source.after_event()
    scene.until(lambda: bool(welcomes))
    assert welcomes[-1].durable >= scene.replica.sink.durable.n - 1 >= 1 and durable
    scene.until(scene.converged)
    scene.converge()


def test_the_generation_is_on_disk_before_the_first_write_reaches_the_volume() -> None:
    scene = Scene().synced()
    images = [bytes(image) for image in scene.source.images]
    scene.write(1)
    scene.until(lambda: scene.source.backstore.quiet is False)
    assert [bytes(image) for image in scene.source.images] == images
    scene.source.crash(power=False)
    assert scene.source.store.state.history.position.generation == 0
    scene.source.store.state = replace(scene.source.store.state, stop=StopKind.NONE)
    scene.source.start(StopKind.NONE)
    scene.pair.recheck()
    scene.until(scene.converged)
    scene.converge()


def test_an_acknowledgement_of_an_older_run_says_nothing() -> None:
    scene = Scene().synced()
    heard: list[Ack] = []
    scene.network.passed = lambda direction, what: (
        heard.append(what) if isinstance(what, Ack) else None
    )
    for at in range(20):
        scene.write(at)
        scene.rest(0.05)
    scene.until(scene.converged)
    old = heard[-1]
    scene.source.crash(power=False)
    scene.start_source(StopKind.CRASHED)
    scene.until(scene.converged)
    scene.network.deaf_until[DATA] = 1e9
    while scene.link.window.highest_n < old.received:
        scene.write(30)
        scene.rest(0.01)
    assert scene.link.queue.first_n <= old.durable
    scene.source.control(0, old)
    scene.rest(0.1)
    scene.network.heal()
    scene.until(scene.converged)
    scene.converge()


def test_records_are_named_in_the_trace() -> None:
    scene = Scene().synced()
    kinds: list[RecordKind] = []
    scene.at_record(RecordKind.GENERATION, lambda: kinds.append(RecordKind.GENERATION))
    scene.wait(scene.write(1))
    scene.until(scene.converged)
    assert kinds == [RecordKind.GENERATION]


def test_a_welcome_that_was_meant_for_an_older_run_answers_nothing() -> None:
    """Seed 1572: a late WELCOME of the run before had the number of this one's second HELLO, and
    its session was believed to be ours."""
    scene = Scene().synced()
    older = scene.link.attempt
    scene.source.crash(power=False)
    scene.start_source(StopKind.CRASHED)
    scene.until(scene.converged)
    assert abs(scene.link.attempt - older) > 1_000_000
    scene.converge()
