"""Memory of frames: what was put there stays, and it is used again when nobody looks at it."""

from pratima_iscsi.frame_memory import FrameMemories, FrameMemory
from pratima_iscsi.limits import FRAME_HEAD_BYTES, FRAME_MEMORIES_MAX

BATCH_BYTES = 4096


def filled(memories: FrameMemories, value: int) -> memoryview:
    """All the payload that fits into the next memory, of one value."""
    return memories.next().put(memoryview(bytes([value]) * BATCH_BYTES), BATCH_BYTES)


def test_payloads_lie_one_behind_the_other_with_room_around_them() -> None:
    memory = FrameMemories(BATCH_BYTES).next()
    first = memory.put(memoryview(b"a" * 512), 512)
    second = memory.put(memoryview(b"b" * 1024), 1024)
    assert (first, second) == (b"a" * 512, b"b" * 1024)
    around = memory.around()
    assert around[FRAME_HEAD_BYTES:-8] == b"a" * 512 + b"b" * 1024
    assert memory.end == FRAME_HEAD_BYTES + 1536


def test_it_says_what_fits_and_whether_half_of_it_is_used() -> None:
    memory = FrameMemories(BATCH_BYTES).next()
    assert memory.fits(BATCH_BYTES) and not memory.fits(BATCH_BYTES + 1)
    memory.put(memoryview(bytes(2047)), 2047)
    assert not memory.half_full
    memory.put(memoryview(bytes(1)), 1)
    assert memory.half_full
    assert memory.fits(2048) and not memory.fits(2049)


def test_memory_that_somebody_looks_at_is_not_given_out_again() -> None:
    memories = FrameMemories(BATCH_BYTES)
    kept = [filled(memories, value) for value in range(3)]
    part = kept[0][100:200]
    del kept[0]
    others = [filled(memories, 9) for _ in range(3)]
    assert part == bytes(100), "a view of a view is a look, too"
    assert [set(one) for one in kept] == [{1}, {2}]
    assert [set(one) for one in others] == [{9}] * 3


def test_memory_that_nobody_looks_at_is_used_again() -> None:
    memories = FrameMemories(BATCH_BYTES)
    for value in range(100):
        filled(memories, value)
    assert len(memories._given) == 1


def test_a_memory_alone_is_somebody_who_looks() -> None:
    memories = FrameMemories(BATCH_BYTES)
    writing: FrameMemory = memories.next()
    assert writing.put(memoryview(b"x" * 512), 512) == b"x" * 512
    filled(memories, 7)
    assert writing.around()[FRAME_HEAD_BYTES:-8] == b"x" * 512


def test_what_is_kept_for_use_has_a_bound_and_what_is_looked_at_outlives_it() -> None:
    memories = FrameMemories(BATCH_BYTES)
    kept = [filled(memories, value % 251) for value in range(3 * FRAME_MEMORIES_MAX)]
    assert len(memories._given) == FRAME_MEMORIES_MAX
    assert [set(one) for one in kept] == [{value % 251} for value in range(len(kept))]
