"""How a replica's journal learns that its last group is durable, so that it can be applied."""

from pratima_iscsi.replication.sink_effects import WriteJournal
from tests.scenarios.scene import Scene


def empty_units(scene: Scene) -> list[int]:
    """Counts, from now on, the units that the replica writes for a mark alone."""
    found: list[int] = []
    carry_out = scene.replica._write_journal

    def seen(effect: WriteJournal) -> None:
        found.extend(effect.mark for unit in effect.frames if unit is None)
        carry_out(effect)

    scene.replica._write_journal = seen  # type: ignore[method-assign]
    return found


def test_the_last_group_of_an_idle_stream_is_applied() -> None:
    scene = Scene().synced()
    scene.rest()
    marks = empty_units(scene)
    scene.wait(scene.write(0))
    scene.rest()
    sink = scene.replica.sink
    assert sink.applied_index >= sink.last_frame_index
    assert len(marks) == 1, "and one mark is enough"


def test_while_frames_come_they_bring_the_mark() -> None:
    scene = Scene().synced()
    scene.rest()
    marks = empty_units(scene)
    scene.write_apart(range(60), 0.006)
    assert len(marks) <= 6
    assert scene.replica.sink.applied_index > scene.replica.sink.last_frame_index - 30


def test_a_full_journal_waits_for_no_frame_to_bring_the_mark() -> None:
    scene = Scene().synced()
    sink = scene.replica.sink
    scene.rest()
    scene.write(0)
    scene.until(lambda: sink.durable_index == sink.last_frame_index > sink.applicable_index)
    full, sink.journal_room = sink.journal_room, lambda wanted: 0
    scene.write(1)
    scene.until(lambda: bool(sink.held))
    began = scene.world.now
    scene.until(lambda: sink.last_index > sink.last_frame_index)
    assert scene.world.now == began
    sink.journal_room = full
    scene.until(scene.converged)
