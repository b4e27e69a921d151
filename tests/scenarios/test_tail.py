"""Writes that stand in the log's tail: what they must not overtake, and what they must not miss."""

from pratima_iscsi import limits
from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.operations import UPDATE, Operation
from pratima_iscsi.replication.messages import Ack
from pratima_iscsi.replication.states import Connection, Replication
from pratima_iscsi.sent_batch import SentWrites
from tests.scenarios.scene import Scene
from tests.simulation.setup import KIB

APART = 1.5 * limits.TAIL_SECONDS
"""Seconds between writes that share no frame."""


def test_a_write_that_comes_just_before_room_does_stays_behind_those_that_wait() -> None:
    scene = Scene(blocks=64, log_bytes=64 * KIB).synced()
    scene.replica.pause(0.5)
    scene.write_apart(range(12), APART)
    queue = scene.link.queue
    assert queue.has_backlog, "the window is full"
    last = []
    scene.at_message(Ack, lambda: last.append(scene.write(20)))
    scene.until(lambda: last)
    scene.converge()
    assert not [reason for reason in scene.reasons() if "session" in reason]


def test_writes_behind_a_backlog_go_from_the_tail_as_soon_as_it_is_sent() -> None:
    scene = Scene(blocks=64, log_bytes=1 << 20).synced()
    scene.write(0)
    scene.until(scene.converged)
    scene.replica.pause(0.5)
    queue = scene.link.queue
    scene.write(1)
    queue.log.seal()
    assert queue.has_backlog
    scene.write_apart(range(2, 7), APART)
    assert [isinstance(batch, SentWrites) for batch in queue.sent] == [False] + 5 * [True]
    scene.converge()


def test_frames_of_writes_that_a_broken_session_lost_are_sent_again() -> None:
    scene = Scene(blocks=64).synced()
    scene.write(0)
    scene.until(scene.converged)
    ends = scene.replica.shadow.ends
    scene.replica.pause(0.5)
    scene.write_apart(range(1, 7), APART)
    sent = scene.link.queue.sent
    assert sent and all(isinstance(batch, SentWrites) for batch in sent)
    scene.network.partition()
    scene.until(lambda: scene.link.connection is not Connection.OPEN)
    scene.network.heal()
    scene.converge()
    assert scene.replica.shadow.ends == ends, "nothing but the frames was brought again"


def test_writes_that_cannot_be_sent_leave_no_timer_due() -> None:
    scene = Scene(blocks=64).synced()
    scene.write(0)
    scene.until(scene.converged)
    scene.network.partition()
    scene.until(lambda: scene.link.connection is not Connection.OPEN)
    scene.write(1)
    scene.rest(1.0)  # The simulation fails where ticks follow each other without an end.
    assert scene.link.replication is Replication.STREAM and scene.link.queue.has_backlog
    scene.network.heal()
    scene.converge()


def test_a_backlog_behind_a_silent_replica_leaves_no_timer_due() -> None:
    scene = Scene(blocks=64, log_bytes=1 << 20).synced()
    scene.replica.pause(1.5 * limits.PEER_DEAD_SECONDS)
    scene.write(0)
    scene.until(lambda: scene.link.connection is Connection.SILENT, seconds=60.0)
    scene.write(1)
    scene.rest(0.5)
    assert scene.link.connection is Connection.SILENT and scene.link.queue.has_backlog
    scene.converge()


def test_a_frame_has_nothing_of_a_write_that_waits_behind_its_own_in_the_same_memory() -> None:
    scene = Scene(blocks=64, slow=True).synced()
    scene.wait(scene.write(0))
    scene.until(scene.converged)
    scene.source.job_seconds = 0.1
    log = scene.link.queue.log
    update = Operation(UPDATE, 0, 0, BLOCK_BYTES, transform=lambda old: bytes(BLOCK_BYTES))
    writes = [scene.load.write(0, at * BLOCK_BYTES, BLOCK_BYTES) for at in (1, 2)]
    scene.submit(writes[0], update, writes[1])
    scene.rest(0.0)
    assert log.tail == writes[:1] and writes[1].memory is writes[0].memory
    scene.rest(APART)
    assert not log.tail, "the first write has been sent while the other waits"
    scene.converge()
    assert not [reason for reason in scene.reasons() if "session" in reason]
