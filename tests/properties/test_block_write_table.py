"""The block write table against a plain set of (volume, block)."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from pratima_iscsi.block_write_table import BlockWriteTable, _run
from pratima_iscsi.blocks import BLOCK_BYTES, BLOCKS_PER_VOLUME_MAX, block_count
from pratima_iscsi.operations import RecordKind
from pratima_iscsi.records import make_record

VOLUMES = 2
SPANS = st.tuples(
    st.sampled_from(["add", "discard"]),
    st.integers(0, VOLUMES - 1),
    st.integers(0, 200),
    st.integers(1, 60),
)
Blocks = set[tuple[int, int]]


def build(steps: list[tuple[str, int, int, int]]) -> tuple[BlockWriteTable, Blocks]:
    """The table and the set after the same steps."""
    table, blocks = BlockWriteTable(VOLUMES), set[tuple[int, int]]()
    for what, volume, first, count in steps:
        span = {(volume, block) for block in range(first, first + count)}
        if what == "add":
            table.add(volume, first, first + count)
            blocks |= span
        else:
            table.discard(volume, first, first + count)
            blocks -= span
    return table, blocks


def listed(table: BlockWriteTable) -> Blocks:
    """All its blocks."""
    return {(volume, block) for volume, bitmap in enumerate(table.bitmaps) for block in bitmap}


@given(st.lists(SPANS, max_size=20), SPANS)
def test_it_is_a_set(
    steps: list[tuple[str, int, int, int]], probe: tuple[str, int, int, int]
) -> None:
    table, blocks = build(steps)
    assert listed(table) == blocks and len(table) == len(blocks) and bool(table) == bool(blocks)
    _, volume, first, count = probe
    span = {(volume, block) for block in range(first, first + count)}
    assert table.holds(volume, first, first + count) == (span <= blocks)
    assert table.meets(volume, first, first + count) == bool(span & blocks)


@given(st.lists(SPANS, max_size=12), st.lists(SPANS, max_size=12))
def test_tables_combine_as_sets_do(
    one: list[tuple[str, int, int, int]], two: list[tuple[str, int, int, int]]
) -> None:
    combine: tuple[
        tuple[
            Callable[[BlockWriteTable, BlockWriteTable], None], Callable[[Blocks, Blocks], Blocks]
        ],
        ...,
    ] = (
        (BlockWriteTable.update, set.__or__),
        (BlockWriteTable.subtract, set.__sub__),
        (BlockWriteTable.intersect, set.__and__),
    )
    for change, expected in combine:
        (mine, blocks), (theirs, others) = build(one), build(two)
        change(mine, theirs)
        assert listed(mine) == expected(blocks, others)
        assert listed(theirs) == others


@given(st.lists(SPANS, max_size=20), st.integers(1, 40))
def test_runs_are_its_blocks_in_order_and_no_longer_than_asked(
    steps: list[tuple[str, int, int, int]], longest: int
) -> None:
    table, blocks = build(steps)
    runs = list(table.runs(longest))
    found = [(run.volume, block) for run in runs for block in range(run.first, run.end)]
    assert found == sorted(blocks)
    assert all(1 <= run.count <= longest for run in runs)


def walked_run(blocks: set[int], at: int, count_max: int) -> tuple[int, int] | None:
    """The first run at or after ``at``, found block by block."""
    first = min((block for block in blocks if block >= at), default=None)
    if first is None:
        return None
    end = first
    while end in blocks and end - first < count_max:
        end += 1
    return first, end


@given(
    st.sampled_from([0, 65536 - 150, BLOCKS_PER_VOLUME_MAX - 300]),
    st.lists(st.tuples(st.integers(0, 299), st.integers(1, 300)), max_size=6),
    st.integers(0, 299),
    st.integers(1, 320),
)
def test_a_run_ends_where_a_walk_finds_its_end(
    base: int, spans: list[tuple[int, int]], at: int, count_max: int
) -> None:
    """Runs and gaps at both ends: of a volume, and across two of the bitmap's parts."""
    table, blocks = BlockWriteTable(1), set[int]()
    for step, (first, count) in enumerate(spans):
        span = range(base + first, base + min(first + count, 300))
        if step % 3 == 2:
            table.discard(0, span.start, span.stop)
            blocks -= set(span)
        else:
            table.add(0, span.start, span.stop)
            blocks |= set(span)
    found = _run(table.bitmaps[0], base + at, count_max)
    assert found == walked_run(blocks, base + at, count_max)


class Counting(BitMap):
    """Counts the questions about ranges and the blocks that were walked."""

    asked = 0

    def contains_range(self, range_start: int, range_end: int) -> bool:
        self.asked += 1
        return bool(super().contains_range(range_start, range_end))

    def iter_equal_or_larger(self, val: int) -> Iterator[int]:
        for block in super().iter_equal_or_larger(val):
            self.asked += 1
            yield block


@pytest.mark.parametrize("gap", [0, 1 << 20])
@pytest.mark.parametrize("count", [1, 1000, (1 << 18) - 1, 1 << 18])
def test_a_long_run_is_measured_in_a_few_steps(count: int, gap: int) -> None:
    bitmap = Counting()
    bitmap.add_range(gap, gap + count)
    assert _run(bitmap, 0, 1 << 18) == (gap, gap + count)
    assert bitmap.asked <= 2 * 18 + 4


@given(st.lists(SPANS, max_size=20))
def test_it_comes_back_from_its_bytes(steps: list[tuple[str, int, int, int]]) -> None:
    table, blocks = build(steps)
    assert listed(BlockWriteTable.deserialize(table.serialize())) == blocks
    copy = table.copy()
    copy.clear()
    assert listed(table) == blocks and not copy


@given(st.lists(st.integers(0, 40 * BLOCK_BYTES), min_size=1, max_size=3))
def test_a_full_table_has_every_block_the_short_last_one_too(sizes: list[int]) -> None:
    assert len(BlockWriteTable.full(sizes)) == sum(map(block_count, sizes))


@given(st.integers(0, 20 * BLOCK_BYTES), st.integers(1, 5 * BLOCK_BYTES))
def test_a_write_marks_every_block_that_it_touches(offset: int, length: int) -> None:
    table = BlockWriteTable(1)
    table.add_records([make_record(RecordKind.ZERO, 0, offset, length, sequence=1)])
    touched = {
        (0, at // BLOCK_BYTES) for at in (*range(offset, offset + length, 512), offset + length - 1)
    }
    assert listed(table) == touched


def test_a_verify_record_covers_nothing() -> None:
    table = BlockWriteTable(1)
    table.add_records([make_record(RecordKind.VERIFY, 0, 0, 4096, b"x")])
    assert not table


def test_the_last_block_of_the_largest_volume_is_a_block() -> None:
    table = BlockWriteTable(1)
    table.add(0, BLOCKS_PER_VOLUME_MAX - 2, BLOCKS_PER_VOLUME_MAX)
    (run,) = table.runs(100)
    assert (run.first, run.count) == (BLOCKS_PER_VOLUME_MAX - 2, 2)
