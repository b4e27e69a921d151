"""The benchmark in the guest judges by what was measured; no guest is booted here."""

import json
from pathlib import Path

import pytest

from benchmarks.bars import AGAIN, Judged, Sample, Verdict
from benchmarks.client import Figures
from benchmarks.kernel import __main__ as command
from benchmarks.kernel import fio, report
from benchmarks.kernel.host import Reader
from benchmarks.kernel.inside import SUBJECTS
from benchmarks.kernel.judge import judge
from benchmarks.kernel.plan import (
    ASYNC,
    BARS,
    DRBD_C,
    FILEIO,
    OURS,
    PARTS,
    RATIOS,
    RUNNER,
    SYNC,
    WORKLOADS,
    Plan,
)
from benchmarks.processes import MeasurementFailed
from benchmarks.subjects import NO_LINK, SETTLED


def sample(
    subject: str,
    *,
    key: str = "loop/write-32",
    iops: float = 1000.0,
    p50_us: float = 50.0,
    round: int = 0,
    foreign: float = 0.0,
    before: str = NO_LINK,
    after: str = NO_LINK,
) -> Sample:
    figures = Figures(
        commands=1000,
        commands_all=1000,
        seconds=1.0,
        seconds_all=1.0,
        iops=iops,
        mb_per_s=iops * 4096 / 1e6,
        p50_us=p50_us,
        p99_us=100.0,
        max_us=900.0,
    )
    return Sample(key, subject, round, figures, 0.0, foreign, before, after)


def verdict(samples: list[Sample], title: str) -> Judged:
    (found,) = (bar for bar in judge(samples) if title in bar.title)
    return found


LOOP = "tcm_loop: 4 KiB random write, depth 32: rate of pratima / tcmu-runner"
LATENCY = "depth 1: p50 of pratima, sync replica / DRBD 8.4 C"
FAR_RATE = "depth 32: rate of pratima, sync replica / DRBD 8.4 C"


@pytest.mark.parametrize(
    ("iops", "expected"), [(999.0, Verdict.NOT_MET), (1000.0, Verdict.MET), (1500.0, Verdict.MET)]
)
def test_a_rate_bar_is_met_from_its_bound_on(iops: float, expected: Verdict) -> None:
    assert verdict([sample(OURS, iops=iops), sample(RUNNER)], LOOP).verdict is expected


@pytest.mark.parametrize(
    ("p50_us", "expected"), [(54.0, Verdict.MET), (55.0, Verdict.MET), (56.0, Verdict.NOT_MET)]
)
def test_a_latency_bar_is_met_up_to_its_bound(p50_us: float, expected: Verdict) -> None:
    far = {"key": "delay/write-1", "before": SETTLED, "after": SETTLED}
    made = [sample(SYNC, p50_us=p50_us, **far), sample(DRBD_C, **far)]
    assert verdict(made, LATENCY).verdict is expected


def test_the_median_of_ratios_inside_rounds_is_judged() -> None:
    made = []
    for number, (ours, theirs) in enumerate([(900, 600), (100, 200), (60, 50)]):
        made += [sample(OURS, iops=ours, round=number), sample(RUNNER, iops=theirs, round=number)]
    judged = verdict(made, LOOP)
    assert judged.measured == "1.20 (0.50 – 1.50)"
    assert judged.verdict is Verdict.MET


def test_a_round_that_others_disturbed_on_one_side_is_not_judged() -> None:
    made = [sample(OURS, foreign=0.05), sample(RUNNER, foreign=0.39, iops=500.0)]
    assert verdict(made, LOOP).verdict is Verdict.NOT_MEASURED
    made += [sample(OURS, foreign=0.5, round=1), sample(RUNNER, foreign=0.5, round=1)]
    judged = verdict(made, LOOP)
    assert judged.measured == "1.00 (1.00 – 1.00)"
    assert judged.remark == (
        "1 round; 1 left out: others took unequal shares; foreign CPU up to 50%"
    )


@pytest.mark.parametrize("again", [600.0, 1600.0])
def test_a_base_that_differs_from_itself_judges_nobody(again: float) -> None:
    made = [sample(OURS, iops=3000.0), sample(RUNNER), sample(RUNNER + AGAIN, iops=again)]
    judged = verdict(made, LOOP)
    assert judged.verdict is Verdict.NOT_MEASURED
    assert judged.remark.startswith("too noisy to judge")
    assert "| not measured | too noisy to judge" in report.markdown(made, [judged], [])


def test_what_has_no_pair_is_not_measured() -> None:
    assert {bar.verdict for bar in judge([sample(OURS), sample(FILEIO)])} == {Verdict.NOT_MEASURED}


@pytest.mark.parametrize(
    ("states", "remark"),
    [
        ({"before": "STALE", "after": SETTLED}, "runs began STALE"),
        ({"before": SETTLED, "after": "SYNCED, degraded"}, "runs ended SYNCED, degraded"),
    ],
)
def test_a_sync_run_without_its_copy_meets_no_bar(states: dict[str, str], remark: str) -> None:
    made = [
        sample(SYNC, key="delay/write-32", iops=9000.0, **states),
        sample(DRBD_C, key="delay/write-32", before=SETTLED, after=SETTLED),
    ]
    judged = verdict(made, FAR_RATE)
    assert judged.verdict is Verdict.NOT_MET
    assert judged.remark == f"{remark}; 1 round; foreign CPU up to 0%"


def test_an_async_run_may_end_behind() -> None:
    made = [
        sample(ASYNC, key="replica/write-32", before=SETTLED, after="STALE"),
        sample(OURS, key="replica/write-32"),
    ]
    judged = verdict(made, "depth 32: rate of pratima, async replica / pratima")
    assert judged.verdict is Verdict.MET


def test_every_bar_and_ratio_names_what_is_measured() -> None:
    for bar in BARS:
        part = PARTS[bar.part]
        assert bar.workload in part.workloads
        assert {bar.subject, bar.base} <= set(part.subjects)
    for name, subject, base in RATIOS:
        assert {subject, base} <= set(PARTS[name].subjects)
    assert SUBJECTS.keys() == PARTS.keys()
    plan = Plan(tuple(PARTS), tuple(WORKLOADS), 2, 1.0, 0.1, 1 << 20, 1)
    assert plan.runs() == 2 * (2 * 4 * 6 + 3 * 2 + 6 * 2)


def test_the_report_has_medians_ratios_verdicts_and_who_disturbed() -> None:
    made = [sample(RUNNER + AGAIN), sample(RUNNER, foreign=0.3), sample(FILEIO, iops=2000.0)]
    made += [sample(OURS, iops=500.0, foreign=0.3)]
    text = report.markdown(made, judge(made), [{"command": "this"}])
    assert "0.50 (0.50 – 0.50) | 1.00 (1.00 – 1.00) | ≥ 1 | NOT MET" in text
    assert f"| {WORKLOADS['write-32'].title} | LIO fileio | 2000/s | 2000 – 2000 |" in text
    assert "| pratima / LIO fileio | 0.25 (0.25 – 0.25) |" in text
    assert "In 2 of 4 runs" in text
    assert f"Bars not measured: {len(BARS) - 1}." in text


def test_a_report_on_files_keeps_their_rounds_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, iops in (("a", 1100.0), ("b", 900.0), ("c", 1300.0)):
        made = [sample(OURS, iops=iops), sample(RUNNER)]
        saved = report.as_json(made, [{"command": name}])
        (tmp_path / name).write_text(json.dumps(saved))
    assert command.main(["--report", *(str(tmp_path / name) for name in "abc")]) == 0
    assert "1.10 (0.90 – 1.30)" in capsys.readouterr().out


def test_samples_are_taken_as_they_come_and_whole(tmp_path: Path) -> None:
    path, taken = tmp_path / "samples", list[Sample]()
    reader = Reader(path, guest_pid=1, tell=taken.append)
    reader.poll()
    saved = report.as_json([sample(OURS), sample(RUNNER)], [])["samples"]
    assert isinstance(saved, list)
    first, second = (json.dumps(one) + "\n" for one in saved)
    path.write_text(first + second[:20])
    reader.poll()
    assert [one.subject for one in taken] == [OURS]
    path.write_text(first + second)
    reader.poll()
    assert [one.subject for one in taken] == [OURS, RUNNER]
    assert all(0.0 <= one.foreign_cpu <= 1.0 for one in taken)


FIO = {
    "error": 0,
    "write": {
        "runtime": 1500,
        "total_ios": 3000,
        "iops": 2000.0,
        "bw_bytes": 8192000,
        "lat_ns": {"max": 9000, "percentile": {"50.000000": 5000, "99.000000": 8000}},
    },
}


def test_what_fio_prints_becomes_figures() -> None:
    found = fio.figures("a note\n" + json.dumps({"jobs": [FIO]}), "write")
    assert (found.iops, found.p50_us, found.p99_us, found.seconds) == (2000.0, 5.0, 8.0, 1.5)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "{}",
        json.dumps({"jobs": []}),
        json.dumps({"jobs": [{**FIO, "error": 5}]}),
        json.dumps({"jobs": [{"error": 0, "write": {**FIO["write"], "total_ios": 0}}]}),  # type: ignore[dict-item]
    ],
)
def test_a_fio_that_measured_nothing_is_an_error(said: str) -> None:
    with pytest.raises(MeasurementFailed):
        fio.figures(said, "write")
