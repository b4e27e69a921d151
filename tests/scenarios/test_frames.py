"""Stories of frames that no source sends: the session ends, and the replica is as it was."""

from pratima_iscsi.operations import RecordKind
from pratima_iscsi.records import GenerationBegin, Record, make_record
from pratima_iscsi.replication.states import Connection
from pratima_iscsi.replication.wire import BatchHeader
from tests.scenarios.scene import Scene
from tests.support.frames import frame_of


def forged(scene: Scene, generation: int, *records: Record) -> bytes:
    """A frame of the session that there is, next in line."""
    standing, link = scene.replica.sink.standing, scene.link
    header = BatchHeader(
        group=standing.group,
        session=link.session,
        incarnation=standing.incarnation,
        first_n=standing.n + 1,
        generation=generation,
    )
    return bytes(frame_of(header, records))


def test_a_generation_that_begins_inside_a_frame_ends_the_session_and_changes_nothing() -> None:
    scene = Scene().synced()
    scene.write(1)
    scene.until(scene.converged)
    here = scene.replica.sink.standing.history.position
    payload = GenerationBegin(9, here.generation, here.sequence).encode()
    turn = make_record(RecordKind.GENERATION, payload=payload)
    write = make_record(RecordKind.WRITE, 0, 0, 512, b"w" * 512, 1)
    flush = make_record(RecordKind.FLUSH)
    for records in ((turn, write), (flush, turn, write), (flush, turn)):
        before = scene.replica.sink.standing
        scene.replica.frame(forged(scene, here.generation, *records))
        scene.until(lambda: scene.link.connection is not Connection.OPEN)
        assert scene.replica.sink.standing == before
        scene.until(scene.converged)
    scene.write(2)
    scene.until(scene.converged)
    scene.converge()
