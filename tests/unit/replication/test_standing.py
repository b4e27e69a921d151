"""A frame is walked over record by record: what may stand where, whatever stands before it."""

import pytest

from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.operations import RecordKind as K
from pratima_iscsi.positions import History, Position
from pratima_iscsi.records import End, GenerationBegin, Record, make_record, next_history
from pratima_iscsi.replication.standing import CheckedFrame, Standing
from pratima_iscsi.replication.wire import BatchHeader
from tests.support.frames import checked_frame, frame_of

GROUP, GENERATION = b"g" * 16, 7
SIZES = (8 * BLOCK_BYTES, 4 * BLOCK_BYTES)
HERE = Standing(
    group=GROUP,
    consistent=True,
    history=History(Position(GENERATION, 3)),
    digest=b"H" * 16,
    incarnation=5,
    n=9,
    sizes=SIZES,
)


def write(sequence: int, offset: int = 0, length: int = 512, volume: int = 0) -> Record:
    return make_record(K.WRITE, volume, offset, length, b"w" * length, sequence)


def walked(*records: Record, before: Standing = HERE, of: int = GENERATION) -> CheckedFrame:
    frame = frame_of(BatchHeader(GROUP, b"s" * 16, 5, before.n + 1, of), records)
    return checked_frame(frame, before, SIZES)


def test_writes_move_the_standing_and_stay_with_the_frame() -> None:
    records = [write(4), write(5, 7 * BLOCK_BYTES, BLOCK_BYTES), write(6, 512, volume=1)]
    checked = walked(*records)
    digest = HERE.digest
    for record in records:
        digest = next_history(digest, record.entry, record.payload)
    assert checked.after.history.position == Position(GENERATION, 6)
    assert (checked.after.digest, checked.after.n) == (digest, 12)
    assert checked.before == HERE.digest
    assert [bytes(entry.entry) for entry in checked.writes] == [each.entry for each in records]


@pytest.mark.parametrize(
    ("records", "before"),
    [
        ([write(4), make_record(K.ZERO, 0, 0, BLOCK_BYTES, sequence=5)], HERE),
        ([make_record(K.FLUSH), write(4)], HERE),
        ([write(4, 0, 0)], HERE),
        ([write(1)], Standing(GROUP, True, HERE.history, sizes=SIZES, transaction=8)),
    ],
    ids=["a zero", "a flush", "nothing written", "in a transaction"],
)
def test_a_frame_of_anything_else_keeps_no_records(records: list[Record], before: Standing) -> None:
    assert not walked(*records, before=before).writes


@pytest.mark.parametrize("behind", [0, 1], ids=["first", "behind a good one"])
@pytest.mark.parametrize(
    ("sequence", "offset", "length", "volume", "reason"),
    [
        (1, 0, 512, 0, r"write 5 after 3|write 6 after 4"),
        (-1, 0, 512, 0, r"write 3 after 3|write 4 after 4"),
        (0, 0, 512, 2, "no volume 2"),
        (0, 8 * BLOCK_BYTES - 512, 1024, 0, "range 32256"),
        (0, 4 * BLOCK_BYTES, 512, 1, "range 16384"),
        (0, 100, 512, 0, "range 100"),
    ],
    ids=["a gap", "once more", "a volume", "the end", "the other's end", "alignment"],
)
def test_a_write_that_may_not_stand_there_rejects_the_frame(
    behind: int, sequence: int, offset: int, length: int, volume: int, reason: str
) -> None:
    good = [write(4)] if behind else []
    bad = write(4 + behind + sequence, offset, length, volume)
    with pytest.raises(RemoteProtocolError, match=reason):
        walked(*good, bad)


def generation(new: int, last: int = 3) -> Record:
    return make_record(K.GENERATION, payload=GenerationBegin(new, GENERATION, last).encode())


def end(of: int) -> Record:
    return make_record(K.END, payload=End(8, History(Position(of, 3)), b"H" * 16).encode())


RESYNCING = Standing(GROUP, True, HERE.history, sizes=SIZES, transaction=8)


def test_a_generation_stands_first_in_its_frame_and_an_end_last() -> None:
    assert walked(generation(9), write(1), of=9).after.history.position == Position(9, 1)
    assert walked(write(4), end(9), before=RESYNCING).after.history.position == Position(9, 3)


@pytest.mark.parametrize("of", [GENERATION, 9], ids=["before", "after"])
@pytest.mark.parametrize(
    ("records", "before"),
    [
        ([write(4), generation(9, 4)], HERE),
        ([write(4), generation(9, 4), write(1)], HERE),
        ([make_record(K.FLUSH), generation(9), write(1)], HERE),
        ([end(9), write(4)], RESYNCING),
        ([end(GENERATION), write(4)], RESYNCING),
        ([end(9), make_record(K.FLUSH)], RESYNCING),
        ([end(GENERATION), generation(9), write(1)], RESYNCING),
    ],
)
def test_a_frame_whose_header_cannot_hold_for_all_its_records_is_rejected(
    records: list[Record], before: Standing, of: int
) -> None:
    """The journal would have what cannot be applied."""
    with pytest.raises(RemoteProtocolError):
        walked(*records, before=before, of=of)


def test_a_generation_in_a_frame_of_another_rejects_the_frame() -> None:
    for records in ([generation(9)], [generation(9), write(1)], [generation(9), write(4)]):
        with pytest.raises(RemoteProtocolError):
            walked(*records)


def test_writes_of_another_generation_or_before_a_consistent_point_reject_the_frame() -> None:
    with pytest.raises(RemoteProtocolError, match="of generation 8 after 7"):
        walked(write(4), of=8)
    lost = Standing(GROUP, False, HERE.history, sizes=SIZES)
    with pytest.raises(RemoteProtocolError, match="not consistent"):
        walked(write(4), before=lost)
