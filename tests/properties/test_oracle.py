"""The oracle is right: it agrees with brute force, and broken versions of it do not.

ORACLE_CASES sets how many random cases are compared (default 20,000: a few seconds).
"""

import os
import types
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import pytest

from tests.oracle import checker
from tests.oracle.__main__ import main
from tests.oracle.brute_force import is_prefix
from tests.oracle.cases import Case, draw
from tests.oracle.checker import Verdict, check
from tests.oracle.client_view import lost
from tests.oracle.recorder import NEVER, History, Op, OpKind, Recorder, replay
from tests.oracle.stamps import (
    SECTOR_BYTES,
    ZERO,
    Image,
    describe_foreign,
    read_image,
    sector_value,
    stamp,
)

CASES = int(os.environ.get("ORACLE_CASES", "20000"))
MUTANT_CASES = 10_000
RUN = 0x1234_5678_9ABC_DEF0

# --- the checker against brute force ------------------------------------------------------------


@cache
def answered(seed: int) -> tuple[Case, bool]:
    case = draw(Random(seed))
    return case, is_prefix(case.history, case.image, case.since, case.by)


def test_checker_agrees_with_brute_force_on_every_random_case() -> None:
    seen: Counter[str] = Counter()
    for seed in range(CASES):
        case, right = answered(seed)
        verdict = check(case.history, case.image, case.since, case.by)
        assert verdict.ok == right, f"seed {seed}: {case}\nbrute force says {right}, {verdict}"
        seen["right" if right else verdict.reason.partition(":")[0].lstrip("0123456789 ")] += 1
    print(f"\n{CASES} cases, 0 disagreements: {dict(seen)}")
    wrong = CASES - seen["right"]
    assert seen["right"] > CASES / 5 and wrong > CASES / 5, seen
    assert seen["no order of the operations leaves this image"] > CASES / 10, seen


MUTANTS = {
    "real time ignored": (
        ">= ops[latest].issued",
        ">= -1",
    ),
    "touching intervals ordered": (
        "].acknowledged >= ops[latest].issued",
        "].acknowledged > ops[latest].issued",
    ),
    "torn operations accepted": (
        "if value == leaves:",
        "if value == leaves or sector != self.spans[index].start:",
    ),
    "required operations ignored": (
        "if op.required and op.acknowledged < self.since:",
        "if False:",
    ),
    "required before it was acknowledged": (
        "if op.required and op.acknowledged < self.since:",
        "if op.required:",
    ),
    "acknowledged before a member, but not added": (
        "if op.before(self.ops[last]):",
        "if False:",
    ),
    "first instead of last member closes the least set": (
        "last = max(self.least",
        "last = min(self.least",
    ),
    "issued after the image, accepted": (
        "if op.issued <= by]",
        "]",
    ),
    "base image ignored": (
        "if base is None",
        "if True",
    ),
    "zeros always accepted": (
        "if value == leaves:",
        "if value in (leaves, ZERO):",
    ),
    "zeros over a base never questioned": (
        "if bare:",
        "if False:",
    ),
    "zeros over a base always refused": (
        "if not self.settled[sector]]",
        "]",
    ),
    "unknown operations accepted": (
        'wrong.append(f"sector {self.name(sector)} {self.alien(sector)}")',
        "pass",
    ),
    "misplaced stamps accepted": (
        "if sector not in self.spans[writer] or",
        "if",
    ),
    "an operation that cannot stand last is a failure": (
        "if latest in self.least:",
        "if True:",
    ),
    "stuck members dropped": (
        "if latest in self.least:",
        "if False:",
    ),
    "dropped without what was issued after it": (
        "if last_peeled > ops[latest].acknowledged:",
        "if False:",
    ),
    "drops too much": (
        "if op.issued > limit:",
        "if op.issued >= limit:",
    ),
    "hopeless at the same instant": (
        "if last < op.issued:",
        "if last <= op.issued:",
    ),
    "hopeless operations keep their followers": (
        "limit = min(limit, op.acknowledged)",
        "pass",
    ),
    "covered twice": (
        "if not self.settled[sector]:\n",
        "if True:\n",
    ),
    "covered sectors still count": (
        "self.unmatched[other] -= 1",
        "self.unmatched[other] -= 0",
    ),
    "only the first zeroing counts": (
        "max(last.get(sector, -1), op.acknowledged)",
        "last.get(sector, op.acknowledged)",
    ),
    "zeroing operations leave stamps": (
        "ZERO if op.zeroes else op.id",
        "op.id",
    ),
    "never acknowledged means absent": (
        "if op.issued <= by]",
        "if op.issued <= by and op.acknowledged != NEVER]",
    ),
}


def broken(old: str, new: str) -> Callable[[History, Image, int, int], Verdict]:
    source = Path(checker.__file__).read_text()
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in the checker"
    module = types.ModuleType("broken_checker")
    module.__dict__["__name__"] = checker.__name__  # dataclasses look their module up
    exec(compile(source.replace(old, new), "broken_checker", "exec"), module.__dict__)
    found = module.__dict__["check"]
    assert callable(found)
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", MUTANTS)
def test_brute_force_kills_the_broken_checker(name: str) -> None:
    mutant = broken(*MUTANTS[name])
    for seed in range(MUTANT_CASES):
        case, right = answered(seed)
        try:
            if mutant(case.history, case.image, case.since, case.by).ok != right:
                return
        except (AssertionError, IndexError, KeyError, RecursionError):
            return
    pytest.fail(f"{MUTANT_CASES} cases do not tell it from the checker")


# --- what its messages say ----------------------------------------------------------------------


def write(number: int, lba: int, count: int, issued: int, acknowledged: int = NEVER) -> Op:
    return Op(number, OpKind.WRITE, 0, lba, count, issued, acknowledged)


def zero(number: int, lba: int, count: int, issued: int, acknowledged: int = NEVER) -> Op:
    return Op(number, OpKind.ZERO, 0, lba, count, issued, acknowledged)


def verdict_of(shown: list[int], *ops: Op, base: list[int] | None = None) -> Verdict:
    history = History((len(shown),), ops, None if base is None else Image([base]))
    return check(history, Image([shown]))


def test_lost_write_is_named_with_the_write_that_proves_it() -> None:
    verdict = verdict_of([0, 2], write(1, 0, 1, issued=10, acknowledged=20), write(2, 1, 1, 30))
    assert not verdict.ok
    assert verdict.reason.splitlines()[1:] == [
        (
            "  op 1 (write 0:0+1) is in the prefix: acknowledged at 20, before op 2 (write 0:1+1) "
            "was issued at 30, and that is in it: sector 0:1 shows it"
        ),
        (
            "  sector 0:0 shows its initial content (zeros), though op 1 (write 0:0+1) wrote it; "
            "nothing zeroed it"
        ),
    ]


def test_torn_write_is_named_with_both_sectors() -> None:
    verdict = verdict_of([1, 0], write(1, 0, 2, issued=10))
    assert verdict.reason.splitlines()[1:] == [
        "  op 1 (write 0:0+2) is in the prefix: sector 0:0 shows it",
        (
            "  sector 0:1 shows its initial content (zeros), though op 1 (write 0:0+2) wrote it; "
            "nothing zeroed it"
        ),
    ]


def test_overtaken_write_is_named_with_both_times() -> None:
    old, new = write(1, 0, 1, issued=10, acknowledged=20), write(2, 0, 2, issued=30)
    verdict = verdict_of([1, 2], old, new)
    assert verdict.reason.splitlines()[1:] == [
        "  op 2 (write 0:0+2) is in the prefix: sector 0:1 shows it",
        (
            "  sector 0:0 shows op 1 (write 0:0+1), so op 2 (write 0:0+2) comes before "
            "op 1 (write 0:0+1)"
        ),
        "  op 1 (write 0:0+1) was acknowledged at 20, before op 2 (write 0:0+2) was issued at 30",
    ]


def test_interleaved_concurrent_writes_are_shown_as_a_cycle() -> None:
    verdict = verdict_of([1, 2], write(1, 0, 2, issued=10), write(2, 0, 2, issued=11))
    assert verdict.reason.splitlines()[2:] == [
        (
            "  sector 0:0 shows op 1 (write 0:0+2), so op 2 (write 0:0+2) comes before "
            "op 1 (write 0:0+2)"
        ),
        (
            "  sector 0:1 shows op 2 (write 0:0+2), so op 1 (write 0:0+2) comes before "
            "op 2 (write 0:0+2)"
        ),
    ]


def test_zeros_after_a_write_need_a_zeroing_operation_that_can_follow() -> None:
    early, late = zero(1, 0, 1, 0, 5), zero(3, 0, 2, 25)
    written = write(2, 0, 2, issued=10, acknowledged=20)
    proof = write(4, 2, 1, issued=21)
    assert verdict_of([0, 0, 4], early, written, late, proof).ok
    verdict = verdict_of([0, 2, 4], early, written, late, proof)
    assert not verdict.ok
    assert "or another that zeroes it" in verdict.reason or "op 1 (zero" in verdict.reason


def test_write_from_after_the_image_is_refused_by_name() -> None:
    history = History((1,), (write(1, 0, 1, issued=50),))
    verdict = check(history, Image([[1]]), since=30, by=40)
    assert "op 1 (write 0:0+1), issued at 50, after the image (by 40)" in verdict.reason


def test_one_prefix_holds_over_all_volumes() -> None:
    first = Op(1, OpKind.WRITE, 0, 0, 1, issued=0, acknowledged=5)
    second = Op(2, OpKind.WRITE, 1, 0, 1, issued=6, acknowledged=9)
    history = History((1, 1), (first, second))
    assert check(history, Image([[1], [0]])).ok
    assert not check(history, Image([[0], [2]])).ok


def test_image_of_another_shape_is_an_error() -> None:
    with pytest.raises(ValueError, match="other volumes"):
        check(History((2,), ()), Image([[0]]))


# --- stamps -------------------------------------------------------------------------------------


def test_every_sector_of_a_write_reads_back_as_its_operation() -> None:
    data = stamp(RUN, 3, 77, 1000, 5)
    assert len(data) == 5 * SECTOR_BYTES
    for index in range(5):
        sector = data[index * SECTOR_BYTES : (index + 1) * SECTOR_BYTES]
        assert sector_value(sector, RUN, 3, 1000 + index) == 77
        assert sector_value(sector, RUN, 3, 999 + index) < 0, "misplaced"
        assert sector_value(sector, RUN, 2, 1000 + index) < 0, "another volume's"
        assert sector_value(sector, RUN + 1, 3, 1000 + index) < 0, "another run's"


def test_no_flipped_bit_and_no_torn_sector_passes() -> None:
    sector, other = stamp(RUN, 0, 7, 9, 1), stamp(RUN, 0, 8, 9, 1)
    for bit in range(8 * SECTOR_BYTES):
        flipped = bytearray(sector)
        flipped[bit // 8] ^= 1 << bit % 8
        assert sector_value(bytes(flipped), RUN, 0, 9) < 0, bit
    for cut in range(1, SECTOR_BYTES):
        torn = sector[:cut] + other[cut:]
        assert torn in (sector, other) or sector_value(torn, RUN, 0, 9) < 0, cut


def test_foreign_content_is_told_apart_and_described() -> None:
    sector = stamp(RUN, 0, 7, 9, 4)[:SECTOR_BYTES]
    flipped = sector[:-1] + bytes([sector[-1] ^ 1])
    assert sector_value(flipped, RUN, 0, 9) == sector_value(flipped, RUN, 0, 9) < 0
    assert sector_value(b"\xff" * SECTOR_BYTES, RUN, 0, 9) != sector_value(flipped, RUN, 0, 9)
    assert "torn or flipped sector 0 of 4 of op 7" in describe_foreign(flipped, RUN, 0, 9)
    assert "belongs to 0:9" in describe_foreign(sector, RUN, 0, 8)
    assert "another run" in describe_foreign(sector, 1, 0, 9)
    assert "no stamp: ffff" in describe_foreign(b"\xff" * SECTOR_BYTES, RUN, 0, 9)


# --- a recorded run -----------------------------------------------------------------------------


class Ticks:
    def __init__(self) -> None:
        self.time = 0

    def __call__(self) -> int:
        self.time += 1
        return self.time


class Disk:
    """A volume in a file beside the recorder's, written as the operations say."""

    def __init__(self, recorder: Recorder, name: str) -> None:
        self.recorder = recorder
        self.paths = recorder.image_paths(name)
        for path, sectors in zip(self.paths, recorder.sectors, strict=True):
            path.write_bytes(bytes(sectors * SECTOR_BYTES))

    def apply(self, op: Op, sectors: int | None = None) -> None:
        data = (
            bytes(op.count * SECTOR_BYTES)
            if op.zeroes
            else stamp(self.recorder.run, op.volume, op.id, op.lba, op.count)
        )
        with self.paths[op.volume].open("r+b") as file:
            file.seek(op.lba * SECTOR_BYTES)
            file.write(data if sectors is None else data[: sectors * SECTOR_BYTES])

    def judge(self, since: int = NEVER, by: int = NEVER) -> Verdict:
        image = read_image(self.paths, self.recorder.run, self.recorder.sectors)
        return check(self.recorder.history(), image, since, by)


def test_recorded_run_is_judged_the_same_from_its_file(tmp_path: Path) -> None:
    with Recorder(tmp_path, RUN, [8, 8], Ticks()) as recorder:
        disk = Disk(recorder, "first")
        first = recorder.issue(OpKind.WRITE, 0, 0, 4)
        disk.apply(first)
        recorder.acknowledge(first.id, required=True)
        second = recorder.issue(OpKind.COMPARE_AND_WRITE, 1, 2, 1)
        recorder.refuse(second.id)
        third = recorder.issue(OpKind.ZERO, 0, 3, 2)
        disk.apply(third)
        frozen = recorder.frozen("first", recorder.now(), recorder.now())
        assert disk.judge(frozen.since, frozen.by).ok

        torn = Disk(recorder, "torn")
        torn.apply(first, sectors=2)
        frozen = recorder.frozen("torn", recorder.now(), recorder.now())
        assert not torn.judge(frozen.since, frozen.by).ok
        online = recorder.history()
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"event":"iss')  # the recorder was killed here
    judgements = list(replay(tmp_path))
    assert [judgement.frozen.name for judgement in judgements] == ["first", "torn"]
    assert all(judgement.history == online for judgement in judgements)
    assert judgements[0].run == RUN


def test_rebase_takes_a_torn_write_for_the_truth_and_forgets_older_ones(tmp_path: Path) -> None:
    with Recorder(tmp_path, RUN, [8], Ticks()) as recorder:
        before = Disk(recorder, "before")
        lost = recorder.issue(OpKind.WRITE, 0, 0, 8)
        before.apply(lost, sectors=3)
        assert not before.judge().ok
        recorder.frozen("before", recorder.now(), recorder.now())
        primary = Disk(recorder, "base")
        primary.apply(lost, sectors=3)
        recorder.rebase("base")
        assert before.judge().ok, "the base itself is the empty prefix"
        after = Disk(recorder, "after")
        after.apply(lost, sectors=3)
        zeroed = recorder.issue(OpKind.ZERO, 0, 1, 1)
        after.apply(zeroed)
        recorder.acknowledge(zeroed.id)
        assert after.judge().ok
        recorder.frozen("after", recorder.now(), recorder.now())
        lost_again = Disk(recorder, "lost")
        lost_again.apply(lost, sectors=8)
        assert not lost_again.judge().ok, "an older write came back"
    epochs = [len(judgement.history.ops) for judgement in replay(tmp_path)]
    assert epochs == [1, 1]
    assert main([str(tmp_path)]) == 1, "the torn image of the first epoch is wrong"


def test_command_line_checks_a_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Recorder(tmp_path, RUN, [4], Ticks()) as recorder:
        disk = Disk(recorder, "good")
        op = recorder.issue(OpKind.WRITE, 0, 0, 4)
        disk.apply(op)
        recorder.frozen("good", recorder.now(), recorder.now())
        recorder.frozen("gone", recorder.now(), recorder.now())
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "good: a prefix of 1 to 1 operations",
        "gone: not kept",
    ]


def test_a_long_run_is_judged_and_one_lost_sector_is_found() -> None:
    """Thousands of writes at depth 32, images behind the writer: no vacuous verdict."""
    random = Random(5)
    sectors, depth, count = 16384, 32, 6000
    ops: list[Op] = []
    order: list[int] = []
    clock = 0
    flight: list[tuple[int, OpKind, int, int, int]] = []
    applied: list[Op] = []
    while len(order) < count:
        clock += 1
        if len(flight) < depth:
            length = random.choice([1, 8, 8, 16, 64])
            lba = random.randrange(sectors - length)
            kind = random.choices([OpKind.WRITE, OpKind.ZERO], weights=(9, 1))[0]
            order.append(len(order) + 1)
            flight.append((order[-1], kind, lba, length, clock))
        else:
            number, kind, lba, length, issued = flight.pop(random.randrange(depth))
            applied.append(Op(number, kind, 0, lba, length, issued, clock))
    ops = sorted(applied, key=lambda op: op.id)
    history = History((sectors,), tuple(ops))
    shown = [ZERO] * sectors
    for op in applied[:5000]:
        shown[op.lba : op.end] = [ZERO if op.zeroes else op.id] * op.count
    verdict = check(history, Image([shown]))
    assert verdict.ok, verdict.reason
    assert 5000 - depth <= verdict.least <= 5000 <= verdict.most <= 5000 + 2 * depth
    caught = 0
    visible = [lba for lba, value in enumerate(shown) if value != ZERO]
    for lba in random.sample(visible, 5):
        spoilt = shown.copy()
        spoilt[lba] = ZERO
        caught += not check(history, Image([spoilt])).ok
    assert caught >= 3, "a zeroing operation may excuse one or two"


# --- one sector alone: what a client may read ---------------------------------------------------


def lost_of(shown: list[int], *ops: Op, since: int = NEVER) -> list[str]:
    return lost(History((len(shown),), ops), Image([shown]), since)


def test_overwritten_content_is_lost_only_when_the_overwrite_was_acknowledged() -> None:
    old = write(1, 0, 1, issued=0, acknowledged=5)
    new = write(2, 0, 1, issued=6, acknowledged=9)
    assert lost_of([2], old, new) == []
    assert lost_of([1], old, write(2, 0, 1, issued=6)) == []
    assert lost_of([1], old, write(2, 0, 1, issued=4, acknowledged=9)) == [], "concurrent"
    assert lost_of([1], old, new, since=8) == [], "acknowledged after the image"
    assert lost_of([1], old, new) == [
        (
            "sector 0:0 shows op 1 (write 0:0+1), but op 2 (write 0:0+1) was issued after that and "
            "acknowledged"
        )
    ]


def test_zeros_are_lost_content_unless_something_zeroed_it() -> None:
    written = write(1, 0, 1, issued=0, acknowledged=5)
    assert len(lost_of([0], written)) == 1
    assert lost_of([0], write(1, 0, 1, issued=0)) == []
    assert lost_of([0], written, zero(2, 0, 1, issued=3)) == []
    assert len(lost_of([0], zero(2, 0, 1, 0, 1), write(1, 0, 1, 2, 3))) == 1


def test_torn_sector_is_excused_only_by_a_write_that_was_never_acknowledged() -> None:
    assert lost_of([-5], write(1, 0, 1, issued=0)) == []
    assert len(lost_of([-5], write(1, 0, 1, issued=0, acknowledged=5))) == 1


def test_every_right_image_is_a_right_view_for_clients() -> None:
    seen = 0
    for seed in range(min(CASES, 5000)):
        case, right = answered(seed)
        ops = [op for op in case.history.ops if op.acknowledged < case.since]
        if right and all(op.required for op in ops):
            seen += len(ops) > 0
            assert not lost(case.history, case.image, case.since, case.by), seed
    assert seen > 10
