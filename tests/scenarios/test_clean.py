"""Stories of `clean`: a replica declared equal with nothing copied, by a proof or by a word."""

from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.operations import Operation, RecordKind
from pratima_iscsi.replication.source_state import StopKind
from pratima_iscsi.replication.states import Connection, LinkState, Mode, Replication
from tests.scenarios.scene import Scene
from tests.simulation.setup import KIB


def clean(scene: Scene, *, proof: bool = True) -> bool:
    """Give the command; what it answers."""
    begun = scene.source.backstore.clean(0, scene.world.now, proof=proof)
    scene.source.after_event()
    return begun


def disable(scene: Scene) -> None:
    """Stop the link and forget its table."""
    scene.source.backstore.disable(0, scene.world.now)
    scene.source.after_event()


def kill(scene: Scene) -> None:
    """Drop the link's queue and session."""
    scene.source.backstore.kill(0, scene.world.now)
    scene.source.after_event()


def in_step(scene: Scene) -> None:
    """Wait until both sides are in step, and see that they are the same."""
    scene.until(scene.converged)
    scene.converge()


def test_an_equal_replica_is_proved_clean_and_nothing_is_copied() -> None:
    scene = Scene(blocks=64).synced()
    scene.write(3, 2)
    scene.until(scene.converged)
    brought, ends = scene.replica.shadow.resync_bytes, scene.replica.shadow.ends
    disable(scene)
    assert clean(scene)
    scene.until(scene.converged)
    assert scene.replica.shadow.resync_bytes == brought
    assert scene.replica.shadow.ends == ends + 1, "END carries position and history digest"
    assert "clean: the replica is equal, proved" in scene.reasons()
    scene.write(9)
    in_step(scene)


def test_a_difference_fails_the_proof_by_name_and_nothing_is_copied() -> None:
    scene = Scene(blocks=64).synced()
    disable(scene)
    scene.write(5)
    brought, position = scene.replica.shadow.resync_bytes, scene.replica.shadow.position
    assert clean(scene)
    scene.until(lambda: scene.state is LinkState.DISABLED)
    assert scene.replica.shadow.resync_bytes == brought
    assert scene.replica.shadow.position == position and scene.replica.shadow.consistent
    (alarm,) = [text for text in scene.alarms() if "differ" in text]
    assert "volume v0" in alarm and f"the first at byte {5 * BLOCK_BYTES}" in alarm
    assert scene.link.reason == f"not clean: {alarm}"
    scene.source.backstore.enable(0, scene.world.now)
    in_step(scene)


def test_zeros_at_the_primary_are_compared_and_not_sent() -> None:
    scene = Scene(blocks=64).synced()
    scene.write(5)
    scene.until(scene.converged)
    disable(scene)
    scene.submit(Operation(RecordKind.ZERO, 0, 0, 64 * BLOCK_BYTES))
    scene.rest()
    assert clean(scene)
    scene.until(lambda: scene.state is LinkState.DISABLED)
    assert "differ" in scene.link.reason
    assert any(scene.replica.shadow.images[0]), "the replica keeps what it has"


def test_a_link_that_was_at_work_resyncs_as_before_when_its_proof_fails() -> None:
    scene = Scene(blocks=64, log_bytes=64 * KIB).synced()
    scene.overflow()
    dirty = len(scene.link.cover())
    assert clean(scene)
    scene.until(lambda: scene.link.clean is None)
    assert len(scene.link.cover()) >= dirty, "the cover is what it was"
    in_step(scene)


def test_a_first_sync_is_proved_without_a_copy() -> None:
    scene = Scene(blocks=64)
    directory = scene.replica.disk.directory()
    file = directory.open("v0", create=True)
    image = scene.source.disk.directory().open("v0").pread(64 * BLOCK_BYTES, 0)
    file.pwrite(image, 0)
    file.fdatasync()
    directory.sync()
    scene.replica.shadow.images[0][:] = image
    scene.begin()
    disable(scene)
    assert clean(scene)
    in_step(scene)
    assert scene.replica.shadow.resync_bytes == 0
    assert "clean: the replica is equal, proved" in scene.reasons()


def test_a_write_between_question_and_answer_goes_to_the_replica() -> None:
    scene = Scene(blocks=8).synced()
    disable(scene)
    scene.at_record(RecordKind.VERIFY, lambda: scene.submit(scene.load.write(0, 0, BLOCK_BYTES)))
    assert clean(scene)
    scene.until(lambda: scene.link.clean is None)
    assert "clean: the replica is equal, proved" in scene.reasons()
    in_step(scene)


def test_a_proof_goes_on_in_the_next_session() -> None:
    scene = Scene(blocks=64).synced()
    disable(scene)
    scene.at_record(RecordKind.VERIFY, lambda: scene.network.reset("connection reset"))
    assert clean(scene)
    in_step(scene)
    assert "clean: the replica is equal, proved" in scene.reasons()


def test_a_proof_that_the_log_has_no_room_for_fails() -> None:
    scene = Scene(blocks=64, log_bytes=64 * KIB).synced()
    disable(scene)
    assert clean(scene)
    scene.until(lambda: scene.link.replication is Replication.TRANSACTION)
    scene.overflow()
    scene.until(lambda: scene.state is LinkState.DISABLED)
    assert any("a proof copies nothing" in text for text in scene.alarms())
    scene.source.backstore.enable(0, scene.world.now)
    in_step(scene)


def test_a_block_that_cannot_be_read_is_not_proved() -> None:
    scene = Scene(blocks=8).synced()
    disable(scene)
    scene.source.unreadable.add((0, 3))
    assert clean(scene)
    scene.until(lambda: scene.state is LinkState.DISABLED)
    assert "cannot read block 3" in scene.link.reason


def test_a_word_is_taken_and_what_was_written_since_is_brought_over() -> None:
    scene = Scene(blocks=64).synced()
    brought = scene.replica.shadow.resync_bytes
    disable(scene)
    scene.network.partition()
    assert clean(scene, proof=False)
    scene.write(7)
    scene.rest()
    scene.network.heal()
    in_step(scene)
    assert scene.replica.shadow.resync_bytes - brought <= BLOCK_BYTES
    assert "clean: the replica is equal, by the operator's word" in scene.reasons()


def test_a_word_says_nothing_of_a_replica_that_went_back() -> None:
    scene = Scene(blocks=16).synced()
    older = scene.replica.disk.clone()
    scene.write(3)
    scene.until(scene.converged)
    scene.replica.crash(power=False)
    scene.rest()
    disable(scene)
    assert clean(scene, proof=False)
    scene.roll_back(older)
    scene.until(lambda: scene.state is LinkState.DISABLED)
    assert "another state of the replica" in scene.link.reason
    scene.source.backstore.enable(0, scene.world.now)
    in_step(scene)


def test_a_kill_in_its_proof_leaves_a_link_disabled_that_was_so() -> None:
    scene = Scene(blocks=64).synced()
    disable(scene)
    scene.write(5)
    image = bytes(scene.replica.shadow.images[0])
    scene.at_record(RecordKind.VERIFY, lambda: kill(scene))
    assert clean(scene)
    scene.until(lambda: scene.state is LinkState.DISABLED)
    scene.rest(10.0)
    assert scene.state is LinkState.DISABLED
    assert scene.replica.shadow.images[0] == image, "nothing was written over"
    assert "not clean: killed by the operator" in scene.reasons()
    scene.source.backstore.enable(0, scene.world.now)
    in_step(scene)


def test_a_kill_takes_a_word_back_and_leaves_a_link_disabled_that_was_so() -> None:
    scene = Scene(blocks=64).synced()
    disable(scene)
    scene.write(5)
    scene.network.partition()
    assert clean(scene, proof=False)
    scene.rest()
    kill(scene)
    assert scene.state is LinkState.DISABLED
    scene.network.heal()
    scene.rest(10.0)
    assert scene.state is LinkState.DISABLED
    scene.source.backstore.enable(0, scene.world.now)
    in_step(scene)


def test_a_link_that_was_at_work_resyncs_when_its_proof_is_killed() -> None:
    scene = Scene(blocks=64, log_bytes=64 * KIB).synced()
    scene.overflow()
    assert clean(scene)
    kill(scene)
    assert scene.link.clean is None and scene.link.connection is Connection.WAITING
    in_step(scene)


def test_what_is_in_step_has_nothing_to_declare() -> None:
    scene = Scene().synced()
    session = scene.link.session
    assert not clean(scene) and not clean(scene, proof=False)
    assert scene.state is LinkState.SYNCED and scene.link.session == session


def test_a_link_that_was_disabled_is_so_after_a_crash_in_its_proof() -> None:
    scene = Scene(Mode.ASYNC, blocks=64).synced()
    scene.write(1)
    scene.until(scene.converged)
    scene.network.partition()
    disable(scene)
    assert clean(scene)
    scene.source.stop()
    scene.until(lambda: not scene.source.alive)
    scene.start_source(StopKind.CRASHED)
    assert scene.link.connection is Connection.DISABLED
    scene.network.heal()
    assert clean(scene)
    in_step(scene)
    assert scene.source.store.state.links[0].enabled


def test_why_all_is_compared_is_said_as_it_is() -> None:
    scene = Scene(Mode.ASYNC, blocks=64).synced()
    scene.write(1)
    scene.until(scene.converged)
    disable(scene)
    scene.source.backstore.enable(0, scene.world.now)
    in_step(scene)
    disable(scene)
    assert clean(scene)
    in_step(scene)
    welcomes = [text for text in scene.reasons() if text.startswith("welcome: ")]
    forgotten = [text for text in welcomes if text.startswith("welcome: forgotten table")]
    assert len(forgotten) == 2 and not any("unclean stop" in text for text in welcomes)
