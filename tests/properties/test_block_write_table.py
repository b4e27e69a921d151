"""The block write table against a plain set of (volume, block)."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from pratima_iscsi.block_write_table import BlockWriteTable
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
