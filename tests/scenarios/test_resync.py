"""Stories of resync: transactions that are interrupted, overflow, and what must come over."""

from pratima_iscsi import limits
from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.operations import RecordKind
from pratima_iscsi.replication.messages import Ack
from pratima_iscsi.replication.source_state import StopKind
from pratima_iscsi.replication.states import Connection, LinkState, Mode, Replication
from tests.scenarios.scene import Scene
from tests.simulation.disk import SimDisk
from tests.simulation.network import TO_SOURCE
from tests.simulation.setup import KIB


def test_an_outage_costs_the_blocks_that_were_written_and_hardly_more() -> None:
    scene = Scene(blocks=64, log_bytes=64 * KIB).synced()
    brought = scene.replica.shadow.resync_bytes
    scene.overflow()
    dirty = len(scene.link.cover()) * BLOCK_BYTES
    scene.until(scene.converged)
    assert scene.replica.shadow.resync_bytes - brought <= 1.1 * dirty + 16 * BLOCK_BYTES
    scene.converge()


def test_a_short_outage_is_replayed_from_the_log_alone() -> None:
    scene = Scene().synced()
    for block in range(4):
        scene.write(block)
    scene.until(scene.converged)
    brought, ends = scene.replica.shadow.resync_bytes, scene.replica.shadow.ends
    scene.network.partition()
    for block in range(8):
        scene.write(block)
    scene.rest()
    scene.network.heal()
    scene.until(scene.converged)
    assert scene.replica.shadow.resync_bytes == brought
    assert scene.replica.shadow.ends == ends
    scene.converge()


def test_a_write_of_blocks_half_in_the_table_goes_whole_into_the_log() -> None:
    scene = Scene(blocks=64, log_bytes=64 * KIB).synced()
    scene.overflow()
    scene.until(lambda: scene.link.replication is Replication.TRANSACTION)
    scene.link.table.discard(0, 62, 64)
    scene.link.transaction.sent.add(0, 62, 64)  # type: ignore[union-attr]
    scene.link.table.add(0, 62, 63)
    before = scene.link.queue.end_n
    scene.write(62, 2)
    scene.rest(0.0)
    assert scene.link.queue.end_n > before
    assert (0, 62) in scene.link.table
    scene.converge()


def test_a_replica_that_takes_nothing_makes_the_log_overflow_once() -> None:
    scene = Scene(blocks=192, log_bytes=64 * KIB).synced()
    scene.replica.pause(2.5)
    scene.write_apart(range(32), 0.001)
    assert scene.link.replication is Replication.TABLE
    scene.rest(1.2 * limits.OVERFLOW_DWELL_SECONDS)
    overflowed_at = scene.link.overflowed_at
    scene.write_apart(range(32, 96), 0.001)
    assert scene.link.connection is Connection.OPEN
    assert scene.link.overflowed_at == overflowed_at
    scene.converge()


def test_an_overflow_while_a_transaction_is_open_keeps_the_replicas_staging() -> None:
    scene = Scene(blocks=192, log_bytes=64 * KIB).synced()
    scene.overflow()
    scene.until(lambda: scene.replica.shadow.transaction != 0)
    transaction = scene.link.transaction
    assert transaction is not None
    for at in range(0, 192, 4):
        scene.write(at, 4)
    scene.until(lambda: scene.link.overflows > 1)
    assert scene.link.transaction is transaction
    scene.until(scene.converged)
    scene.converge()


def test_an_end_that_was_durable_when_it_was_dropped_counts() -> None:
    scene = Scene(blocks=32, log_bytes=64 * KIB).synced()
    ends = scene.replica.shadow.ends
    scene.overflow()
    scene.at_record(RecordKind.END, lambda: scene.network.deaf_until.update({TO_SOURCE: 1e9}))
    scene.until(lambda: scene.replica.shadow.ends > ends)
    transaction = scene.link.transaction
    assert transaction is not None and transaction.end is not None
    scene.overflow()
    assert transaction.end is None
    scene.until(lambda: scene.link.transaction is not transaction)
    assert any("has the END" in reason for reason in scene.reasons())
    scene.until(scene.converged)
    scene.converge()


def test_an_end_dropped_before_it_arrived_opens_its_transaction_again() -> None:
    scene = Scene(blocks=32, log_bytes=64 * KIB).synced()
    scene.overflow()
    scene.until(lambda: bool(scene.link.transaction and scene.link.transaction.end))
    scene.replica.crash(power=True)
    scene.overflow()
    assert scene.link.replication is Replication.TRANSACTION
    scene.pair.start_replica()
    scene.until(scene.converged)
    scene.converge()


def test_a_replica_that_loses_power_in_a_transaction_stays_at_its_old_point() -> None:
    scene = Scene(blocks=192, log_bytes=64 * KIB).synced()
    scene.overflow()
    scene.until(lambda: scene.replica.shadow.transaction != 0)
    old = scene.replica.shadow.position
    scene.rest(0.05)
    scene.replica.check_image(power=True)
    scene.replica.crash(power=True)
    scene.pair.start_replica()
    assert scene.replica.shadow.consistent and scene.replica.shadow.position == old
    scene.until(scene.converged)
    scene.converge()


def test_a_replica_killed_while_it_commits_an_end_finishes_it() -> None:
    scene = Scene(blocks=64, log_bytes=64 * KIB).synced()
    scene.overflow()
    ends = scene.replica.shadow.ends
    scene.until(lambda: scene.replica.shadow.ends > ends)
    scene.replica.crash(power=True)
    scene.pair.start_replica()
    assert scene.replica.shadow.consistent
    scene.until(scene.converged)
    scene.converge()


def test_a_first_sync_that_is_interrupted_goes_on_and_claims_nothing_before_its_end() -> None:
    scene = Scene(blocks=192, log_bytes=64 * KIB)
    scene.begin()
    scene.write(0, 8)
    scene.until(lambda: scene.replica.shadow.direct)
    scene.until(lambda: len(scene.link.table) < 150)
    scene.replica.crash(power=True)
    scene.pair.start_replica()
    assert not scene.replica.store.state.consistent
    left = len(scene.link.cover())
    scene.until(lambda: scene.link.connection is Connection.OPEN)
    assert len(scene.link.cover()) <= left + 16, "the first sync began anew"
    scene.until(scene.converged)
    scene.converge()


def test_a_direct_resync_over_a_good_copy_claims_nothing_before_its_end() -> None:
    scene = Scene(blocks=192, log_bytes=64 * KIB, direct_resync=True)
    scene.replica.staging_bytes = 0
    scene.synced()
    for at in range(0, 192, 4):
        scene.write(at, 4)
        scene.rest(0.05)
    scene.until(scene.converged)
    scene.overflow()
    scene.until(lambda: scene.replica.sink.applied_index > scene.replica.sink.checkpointed_index)
    ends = scene.replica.shadow.ends
    while scene.replica.shadow.ends == ends:
        scene.replica.check_image(power=True)
        scene.rest(0.01)
    scene.until(scene.converged)
    scene.converge()


def test_a_replica_that_went_back_to_before_a_direct_resync_is_compared() -> None:
    """Seed 7 of the hunt ``disks``: what it had confirmed inside moved no position."""
    scene = Scene(blocks=192, log_bytes=64 * KIB, direct_resync=True)
    scene.replica.staging_bytes = 0
    scene.synced()
    scene.overflow()
    older = scene.replica.disk.clone()
    scene.until(lambda: scene.link.transaction is not None)
    first_n = scene.link.queue.first_n
    scene.until(lambda: scene.link.queue.first_n > first_n + 2)
    assert scene.link.transaction is not None and scene.link.transaction.direct
    scene.roll_back(older)
    scene.rest()
    scene.until(scene.converged)
    assert any("older than what it had acknowledged" in alarm for alarm in scene.alarms())
    scene.converge()


def test_an_acknowledgement_that_comes_late_does_not_hide_that_the_replica_went_back() -> None:
    """Seed 405764: an older one, delivered last, and the replica's journal rotted behind it."""
    scene = first_sync_of_everything()
    link, acks = scene.link, list[Ack]()

    def note(direction: str, what: object) -> bool:
        if isinstance(what, Ack) and what.durable:
            acks.append(what)
        return False

    scene.network.drop = note
    scene.until(lambda: scene.replica.shadow.direct and len(link.table) < 170)
    older = scene.replica.disk.clone()
    scene.until(lambda: len(link.table) < 100)
    scene.source.backstore.control(0, acks[0], scene.world.now)
    scene.roll_back(older)
    scene.until(lambda: link.connection is not Connection.OPEN)
    scene.until(lambda: link.connection is Connection.OPEN)
    assert len(link.cover()) > 170, "the replica was believed"
    scene.until(scene.converged)
    scene.converge()


def test_a_replica_that_went_back_inside_a_first_sync_begins_anew_after_a_restart() -> None:
    scene = first_sync_of_everything()
    scene.until(lambda: scene.replica.shadow.direct and len(scene.link.table) < 170)
    older = scene.replica.disk.clone()
    scene.until(lambda: len(scene.link.table) < 100)
    restarted(scene, older)
    assert len(scene.link.table) <= 116 and scene.link.direct_id
    scene.until(lambda: scene.link.connection is Connection.OPEN)
    assert len(scene.link.cover()) > 170, "the replica was believed"
    scene.until(scene.converged)
    scene.converge()


def test_a_replica_that_went_back_to_before_a_direct_resync_is_compared_after_a_restart() -> None:
    scene = Scene(blocks=192, log_bytes=64 * KIB, direct_resync=True)
    scene.replica.staging_bytes = 0
    scene.synced()
    scene.overflow()
    older = scene.replica.disk.clone()
    restarted(scene)
    scene.until(lambda: scene.link.transaction is not None)
    left = len(scene.link.table)
    scene.until(lambda: len(scene.link.table) < left - 20)
    assert scene.link.transaction is not None and scene.link.transaction.direct
    restarted(scene, older)
    scene.until(scene.converged)
    assert any("older than what it had acknowledged" in alarm for alarm in scene.alarms())
    scene.converge()


def test_a_first_sync_goes_on_after_a_clean_restart_of_the_primary() -> None:
    scene = first_sync_of_everything()
    scene.until(lambda: scene.replica.shadow.direct and len(scene.link.table) < 100)
    restarted(scene)
    left = len(scene.link.table)
    scene.until(lambda: scene.link.connection is Connection.OPEN)
    assert len(scene.link.cover()) <= left <= 116, "the first sync began anew"
    scene.until(scene.converged)
    scene.converge()


def test_a_replica_that_has_more_than_it_could_acknowledge_before_a_restart_is_believed() -> None:
    scene = Scene().synced()
    scene.wait(scene.write(1))
    scene.until(scene.converged)
    restarted(scene)
    scene.at_record(RecordKind.BEGIN, lambda: scene.network.deaf_until.update({TO_SOURCE: 1e9}))
    durable = scene.replica.sink.durable.incarnation
    scene.until(lambda: scene.replica.sink.durable.incarnation != durable)
    restarted(scene)
    scene.until(scene.converged)
    assert not scene.alarms()
    scene.converge()


def first_sync_of_everything() -> Scene:
    """A pair of which the primary alone has data, in every block."""
    scene = Scene(blocks=192, log_bytes=64 * KIB)
    scene.begin()
    scene.network.partition()
    for at in range(0, 192, 4):
        scene.wait(scene.write(at, 4))
    scene.network.heal()
    return scene


def restarted(scene: Scene, older: SimDisk | None = None) -> None:
    """Stop the primary cleanly in the middle, and start it again; meanwhile the replica may have
    gone back to an older disk."""
    scene.network.partition()
    scene.source.stop()
    scene.until(lambda: not scene.source.alive)
    if older is not None:
        scene.roll_back(older)
    scene.network.heal()
    scene.start_source(StopKind.CLEAN)


def test_a_synchronous_link_is_degraded_before_a_direct_resync_gives_up_the_old_point() -> None:
    scene = Scene(Mode.SYNC, blocks=32, direct_resync=True, sync_timeout=5.0).synced()
    scene.replica.store._staging_bytes = 0
    scene.wait(scene.write(1))
    scene.network.reset("so that the room is asked for again")
    scene.rest(2.0)
    assert not scene.pair.marked
    marked: list[bool] = []
    scene.at_record(RecordKind.BEGIN, lambda: marked.append(scene.pair.marked))
    scene.source.fail_writes = 1
    scene.write(5, 4)
    scene.until(lambda: bool(marked))
    assert marked == [True]
    scene.until(scene.converged)
    assert not scene.pair.marked
    scene.converge()


def test_with_room_to_stage_a_resync_is_staged_whatever_was_chosen() -> None:
    scene = Scene(blocks=32, log_bytes=64 * KIB, direct_resync=True)
    scene.replica.staging_bytes = 1 << 40
    scene.synced()
    scene.overflow()
    scene.until(lambda: scene.replica.shadow.transaction != 0)
    assert scene.replica.shadow.consistent and not scene.replica.shadow.direct
    scene.until(scene.converged)
    scene.converge()


def test_a_primary_killed_in_a_comparison_compares_again() -> None:
    scene = Scene(blocks=64).synced()
    scene.write(0, 16)
    scene.write(16, 16)
    scene.until(scene.converged)
    scene.source.crash(power=False)
    scene.start_source(StopKind.CRASHED)
    scene.until(lambda: scene.link.transaction is not None and scene.link.transaction.comparing)
    scene.source.crash(power=False)
    scene.start_source(StopKind.CRASHED)
    scene.until(scene.converged)
    scene.converge()


def test_a_comparison_brings_over_only_what_differs() -> None:
    scene = Scene(blocks=64).synced()
    scene.write(0, 16)
    scene.write(16, 16)
    scene.until(scene.converged)
    brought = scene.replica.shadow.resync_bytes
    scene.source.crash(power=False)
    scene.start_source(StopKind.CRASHED)
    scene.until(scene.converged)
    assert scene.replica.shadow.resync_bytes - brought <= 8 * BLOCK_BYTES
    scene.converge()


def test_verify_records_dropped_with_the_log_are_asked_again() -> None:
    scene = Scene(blocks=192, log_bytes=64 * KIB).synced()
    for at in range(0, 192, 4):
        scene.write(at, 4)
        scene.rest(0.1)
    scene.until(scene.converged)
    scene.source.crash(power=False)
    scene.start_source(StopKind.CRASHED)
    scene.until(lambda: not scene.link.table.meets(0, 0, 40) and bool(scene.link.unverified))
    credit, scene.link.window.credit = scene.link.window.credit, 0
    scene.replica.pause(1.0)
    kinds: set[int] = set()

    def queued() -> bool:
        kinds.update(record.kind for record in scene.link.queue.unsent)
        return RecordKind.VERIFY in kinds

    scene.until(queued)
    for at in range(0, 40, 4):
        scene.write(at, 4)
    assert scene.link.overflows > 0
    scene.link.window.credit = credit
    overflowed = scene.world.now
    scene.until(scene.converged)
    assert scene.world.now - overflowed < limits.VERIFY_SECONDS
    scene.converge()


def test_without_room_to_stage_the_link_says_so_and_waits() -> None:
    scene = Scene(blocks=64, log_bytes=64 * KIB)
    scene.replica.staging_bytes = 4 * BLOCK_BYTES
    scene.synced()
    scene.overflow()
    scene.until(lambda: scene.link.connection is Connection.HELD)
    assert scene.state is LinkState.STALE and "no room to stage" in scene.link.reason
    assert any("no room to stage" in alarm for alarm in scene.alarms())
    scene.rest(10.0)
    assert scene.replica.shadow.consistent
    scene.replica.crash(power=False)
    scene.replica.staging_bytes = 1 << 40
    scene.pair.start_replica()
    scene.until(scene.converged)
    scene.converge()


def test_one_unreadable_block_keeps_the_link_resyncing_and_is_named() -> None:
    scene = Scene(blocks=64, log_bytes=64 * KIB).synced()
    scene.source.unreadable.add((0, 17))
    scene.overflow()
    scene.until(lambda: "cannot read block 17 of volume 0" in scene.link.reason)
    scene.until(lambda: len(scene.link.table) == 1)
    assert (0, 17) in scene.link.table and scene.state is LinkState.RESYNCING
    scene.rest(25.0)
    assert scene.state is LinkState.RESYNCING
    scene.source.unreadable.clear()
    scene.until(scene.converged)
    scene.converge()


def test_a_full_journal_holds_the_source_within_the_same_session_and_loses_nothing() -> None:
    scene = Scene(blocks=64).synced()
    session, room = scene.link.session, scene.replica.sink.journal_room
    scene.replica.sink.journal_room = lambda wanted: 0
    for at in range(0, 64, 8):
        scene.write(at, 8)
    scene.rest(limits.STALL_SECONDS + 2.0)
    assert "journal is full" in scene.link.held and scene.link.session == session
    scene.replica.sink.journal_room = room
    scene.until(scene.converged)
    assert scene.link.session == session
    scene.converge()


def test_a_replica_whose_disk_is_full_takes_up_where_it_stood() -> None:
    scene = Scene(blocks=64, log_bytes=64 * KIB).synced()
    scene.overflow()
    scene.until(lambda: scene.replica.shadow.transaction != 0)
    scene.replica.disk.faults.capacity_bytes = 0
    scene.rest(3.0)
    assert scene.replica.shadow.consistent
    scene.replica.disk.faults.capacity_bytes = 1 << 50
    scene.pair.start_replica()
    scene.until(scene.converged)
    scene.converge()


def test_two_volumes_have_one_order() -> None:
    scene = Scene(Mode.SYNC, blocks=16, volumes=2, slow=True).synced()
    for at in range(16):
        scene.write(at, volume=at % 2)
        if at % 5 == 0:
            scene.replica.check_image(power=True)
    scene.until(scene.converged)
    scene.converge()
