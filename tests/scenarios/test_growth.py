"""Stories of volumes that grow: who grows first, who cannot, and what must come over."""

import pytest

from pratima_iscsi import limits
from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.errors import OperatorError
from pratima_iscsi.operations import RecordKind
from pratima_iscsi.replication.messages import Grow, Grown
from pratima_iscsi.replication.source_state import StopKind
from pratima_iscsi.replication.states import LinkState, Mode, Replication
from tests.scenarios.scene import Scene
from tests.simulation.setup import KIB, SECTOR

BLOCKS = 64
OLD = BLOCKS * BLOCK_BYTES
NEW = OLD + 40 * BLOCK_BYTES


def grown(scene: Scene, size: int = NEW, *, volume: int = 0, later: bool = False) -> None:
    """Grow, and wait until initiators are told; raises OperatorError when it is refused."""
    before = len(scene.source.growths)
    scene.grow(volume, size, later=later)
    scene.until(lambda: len(scene.source.growths) > before)
    error = scene.source.growths[-1][2]
    if error is not None:
        raise error
    assert scene.load.sizes[volume] == size


def refusal(scene: Scene, size: int = NEW) -> OperatorError:
    """The reason for which a growth is refused; nothing has changed at the primary then."""
    old = len(scene.source.images[0])
    with pytest.raises(OperatorError) as error:
        grown(scene, size)
    scene.rest()
    assert len(scene.source.images[0]) == scene.source.remembered()[0].size == old
    return error.value


@pytest.mark.parametrize("mode", list(Mode))
def test_a_file_grows_without_a_resync_and_is_used_at_once(mode: Mode) -> None:
    scene = Scene(mode, blocks=BLOCKS).synced()
    ends = scene.replica.shadow.ends
    grown(scene)
    scene.wait(scene.write(BLOCKS + 10, 8))
    scene.until(scene.converged)
    assert scene.replica.shadow.ends == ends
    assert scene.replica.sink.durable.sizes == (NEW,)
    scene.converge()


def test_what_a_device_grows_by_is_brought_over() -> None:
    scene = Scene(blocks=BLOCKS)
    scene.setup.devices = True
    scene.synced()
    brought = scene.replica.shadow.resync_bytes
    grown(scene, NEW + SECTOR)
    assert scene.state is not LinkState.SYNCED
    scene.until(scene.converged)
    assert scene.replica.shadow.resync_bytes - brought == NEW + SECTOR - OLD
    scene.converge()


def test_garbage_behind_a_replicas_volume_is_overwritten() -> None:
    scene = Scene(blocks=BLOCKS).synced()
    scene.replica.extend_to(0, NEW)
    grown(scene)
    scene.until(scene.converged)
    scene.converge()


def test_the_primary_waits_for_the_replica_and_gives_up_in_time() -> None:
    scene = Scene(blocks=BLOCKS).synced()
    scene.network.drop = lambda direction, what: isinstance(what, Grown)
    began = scene.world.now
    assert "no answer" in refusal(scene).problem
    assert scene.world.now - began >= limits.GROW_SECONDS
    scene.network.drop = lambda direction, what: False
    grown(scene)
    scene.converge()


def test_a_replica_without_room_refuses_before_the_primary_has_changed() -> None:
    scene = Scene(blocks=BLOCKS).synced()
    scene.replica.disk.faults.fail(0, kinds=frozenset({"truncate"}))
    assert "has no room" in refusal(scene).problem
    grown(scene)
    scene.converge()


def test_one_replica_that_cannot_keeps_all_from_growing() -> None:
    scene = Scene(Mode.ASYNC, Mode.ASYNC, blocks=BLOCKS).synced()
    scene.pairs[1].replica.disk.faults.fail(0, kinds=frozenset({"truncate"}))
    assert "replica1 has no room" in refusal(scene).problem
    scene.until(scene.converged)
    assert all(pair.replica.sink.durable.sizes == (OLD,) for pair in scene.pairs)
    scene.converge()


def test_a_volume_never_shrinks() -> None:
    scene = Scene(blocks=BLOCKS).synced()
    assert "never shrinks" in refusal(scene, OLD - SECTOR).problem
    scene.converge()


def test_a_replica_away_is_asked_first_or_grows_later() -> None:
    scene = Scene(blocks=BLOCKS).synced()
    scene.network.partition()
    scene.rest(20.0)
    assert "cannot be asked" in refusal(scene).problem
    grown(scene, later=True)
    scene.wait(scene.write(BLOCKS + 3))
    scene.network.heal()
    scene.until(scene.converged)
    assert scene.replica.sink.durable.sizes == (NEW,)
    scene.converge()


def test_a_disabled_link_does_not_hold_growth_up_and_grows_when_enabled() -> None:
    scene = Scene(blocks=BLOCKS).synced()
    scene.source.later(0.0, lambda: scene.source.backstore.disable(0, scene.world.now))
    scene.rest()
    grown(scene)
    scene.wait(scene.write(BLOCKS + 3))
    scene.source.later(0.0, lambda: scene.source.backstore.enable(0, scene.world.now))
    scene.until(scene.converged)
    scene.converge()


def test_a_returning_replica_that_cannot_grow_is_refused_by_name_until_it_can() -> None:
    scene = Scene(blocks=BLOCKS).synced()
    scene.network.partition()
    scene.rest(20.0)
    grown(scene, later=True)
    scene.replica.disk.faults.fail(0, for_good=True, kinds=frozenset({"truncate"}))
    scene.network.heal()
    scene.until(lambda: scene.state is LinkState.REFUSED)
    assert scene.link.reason.startswith("size: ")
    scene.replica.disk.faults.heal()
    scene.until(scene.converged)
    scene.converge()


def test_a_resize_dropped_with_the_log_is_told_by_the_next_begin() -> None:
    scene = Scene(blocks=BLOCKS, log_bytes=64 * KIB).synced()
    scene.network.drop = lambda direction, what: isinstance(what, bytes)  # frames are lost
    grown(scene)
    for at in range(0, BLOCKS, 4):
        scene.write(at, 4)
        scene.rest(0.001)
    assert scene.link.replication is Replication.TABLE
    assert not any(r.kind == RecordKind.RESIZE for r in scene.link.queue.unsent)
    scene.network.drop = lambda direction, what: False
    scene.until(scene.converged)
    assert scene.replica.sink.durable.sizes == (NEW,)
    scene.converge()


def test_a_resize_dropped_inside_a_transaction_is_queued_again() -> None:
    scene = Scene(blocks=192, log_bytes=64 * KIB).synced()
    scene.overflow()
    scene.until(lambda: scene.replica.shadow.transaction != 0)
    transaction = scene.link.transaction
    assert transaction is not None
    new = 200 * BLOCK_BYTES
    scene.at_message(Grown, lambda: scene.replica.pause(2.0))
    grown(scene, new)
    assert any(r.kind == RecordKind.RESIZE for r in scene.link.queue.unsent)
    scene.source.later(0.0, lambda: scene.link.overflow(scene.world.now))
    scene.rest(0.0)
    assert scene.link.transaction is transaction
    assert [r.kind for r in scene.link.queue.unsent].count(RecordKind.RESIZE) == 1
    scene.until(scene.converged)
    assert scene.replica.sink.durable.sizes == (new,)
    scene.converge()


def test_no_growth_begins_before_a_resize_that_was_given_up_in_line_is_through() -> None:
    """Seed 409740: the second, smaller growth came after the first, and the volume shrank."""
    scene = Scene(blocks=BLOCKS).synced()
    backstore = scene.source.backstore
    assert backstore.hold_writes()
    scene.grow(0, NEW, later=False)
    scene.rest(0.5)
    backstore.growth.stop()
    scene.grow(0, NEW - BLOCK_BYTES, later=False)
    backstore.release_writes(scene.world.now)
    scene.source.after_event()
    scene.rest(0.5)
    assert backstore.sizes == (NEW,), "what stood in line is done"
    assert [error is None for _, _, error in scene.source.growths] == [False, False]
    scene.grow(0, NEW + BLOCK_BYTES, later=False)
    scene.rest(0.5)
    assert backstore.sizes == (NEW + BLOCK_BYTES,)


def test_a_primary_that_dies_after_the_replica_made_room_keeps_its_size() -> None:
    scene = Scene(blocks=BLOCKS).synced()
    scene.at_message(Grown, lambda: scene.source.crash(power=False))
    scene.grow(0, NEW)
    scene.until(lambda: not scene.source.alive)
    scene.start_source(StopKind.CRASHED)
    assert len(scene.source.images[0]) == OLD
    scene.until(scene.converged)
    grown(scene)
    scene.converge()


def test_a_primary_that_dies_once_it_remembers_the_size_has_grown() -> None:
    scene = Scene(blocks=BLOCKS, seed=2).synced()
    scene.grow(0, NEW)
    scene.until(lambda: scene.source.remembered()[0].size == NEW)
    scene.source.crash(power=True)
    scene.start_source(StopKind.POWER_LOST)
    assert len(scene.source.images[0]) == NEW
    scene.until(scene.converged)
    scene.converge()


@pytest.mark.parametrize("power", [False, True])
def test_a_replica_that_dies_after_it_made_room_goes_on(power: bool) -> None:
    scene = Scene(blocks=BLOCKS).synced()
    scene.at_message(Grown, lambda: scene.replica.crash(power=power))
    grown(scene)
    scene.wait(scene.write(BLOCKS + 1))
    scene.pair.start_replica()
    scene.until(scene.converged)
    scene.converge()


def test_a_primary_that_stops_meanwhile_says_so_and_does_not_grow() -> None:
    scene = Scene(blocks=BLOCKS).synced()
    scene.at_message(Grow, scene.source.stop)
    scene.grow(0, NEW)
    scene.until(lambda: not scene.source.alive)
    assert "the group stops" in str(scene.source.growths[-1][2])
    scene.start_source(StopKind.CLEAN)
    assert len(scene.source.images[0]) == OLD
    scene.until(scene.converged)
    scene.converge()


def test_a_short_last_block_that_was_being_compared_is_compared_again() -> None:
    scene = Scene(blocks=8, short=3 * SECTOR).synced()
    scene.wait(scene.write(1))
    scene.source.crash(power=False)
    scene.source.read_seconds = 0.2
    scene.start_source(StopKind.CRASHED)
    grown_while_read(scene, compare=True)


def test_a_short_last_block_that_was_being_copied_is_read_again() -> None:
    scene = Scene(blocks=8, short=3 * SECTOR).synced()
    scene.wait(scene.ask(scene.load.write(0, 7 * BLOCK_BYTES, BLOCK_BYTES - 3 * SECTOR)))
    scene.until(scene.converged)
    scene.source.read_seconds = 0.2
    scene.source.cold = True
    scene.source.fail_writes = 1
    scene.ask(scene.load.write(0, 7 * BLOCK_BYTES, SECTOR))
    grown_while_read(scene, compare=False)


def grown_while_read(scene: Scene, *, compare: bool) -> None:
    """Grow while the volume's last block is read for a comparison, or for a copy."""

    def read() -> bool:
        reads = scene.link.transaction.reads.values() if scene.link.transaction else ()
        return any(
            watch.compare is compare and not watch.sweep and watch.ranges[-1].overlaps(0, 7, 8)
            for watch in reads
        )

    scene.until(read)
    grown(scene, 16 * BLOCK_BYTES)
    assert read()
    scene.source.cold = False
    session = scene.link.session
    scene.until(scene.converged)
    assert scene.link.session == session, "no frame was refused"
    scene.converge()
