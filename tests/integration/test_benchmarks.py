"""The benchmark measures what it says, and judges by what it measured; none asserts a time."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from benchmarks import __main__ as command
from benchmarks.bars import AGAIN, Judged, Memory, Metric, Ratio, Sample, Verdict, judge, ratio
from benchmarks.client import Client, Figures
from benchmarks.kernel.echo import OVERHEAD_BYTES, echo
from benchmarks.measure import turns_of
from benchmarks.processes import MeasurementFailed, free_port
from benchmarks.subjects import ALONE, ASYNC, DEAD, NAMES, SETTLED, STOPPED, TGTD, Subject
from benchmarks.tgtd import tgtd
from benchmarks.workloads import WORKLOADS

MIB = 1 << 20


def needs_programs() -> None:
    missing = command.missing_packages(NAMES)
    if missing:
        pytest.skip(f"apt-get install {' '.join(missing)}")


def sample(subject: str, iops: float, *, round: int = 0, p99_us: float = 100.0) -> Sample:
    figures = Figures(
        commands=1000,
        commands_all=1200,
        seconds=1.0,
        seconds_all=1.2,
        iops=iops,
        mb_per_s=iops * 4096 / 1e6,
        p50_us=50.0,
        p99_us=p99_us,
        max_us=900.0,
    )
    return Sample(
        workload="write-32",
        subject=subject,
        round=round,
        figures=figures,
        cpu_seconds_per_100k=1.0,
        foreign_cpu=0.0,
        state_before=SETTLED,
        state_after=SETTLED,
    )


def verdict_on(judged: list[Judged], issue: int, title: str) -> Judged:
    (found,) = (bar for bar in judged if bar.issue == issue and bar.title.endswith(title))
    return found


RATE_TITLE = "random write, depth 32: pratima / tgtd"


@pytest.mark.parametrize(
    ("iops", "issue_2", "issue_3"),
    [
        (1190.0, Verdict.NOT_MET, Verdict.NOT_MET),
        (1200.0, Verdict.MET, Verdict.NOT_MET),
        (1500.0, Verdict.MET, Verdict.MET),
    ],
)
def test_a_rate_bar_is_met_from_its_factor_on(
    iops: float, issue_2: Verdict, issue_3: Verdict
) -> None:
    judged = judge([sample(TGTD, 1000.0), sample(ALONE, iops)], None, WORKLOADS)
    assert verdict_on(judged, 2, RATE_TITLE).verdict is issue_2
    assert verdict_on(judged, 3, RATE_TITLE).verdict is issue_3


def test_an_aim_is_told_apart_from_its_bar() -> None:
    judged = judge([sample(TGTD, 1000.0), sample(ALONE, 1600.0)], None, WORKLOADS)
    assert verdict_on(judged, 3, RATE_TITLE).remark == "aim not reached"
    judged = judge([sample(TGTD, 1000.0), sample(ALONE, 2000.0)], None, WORKLOADS)
    assert verdict_on(judged, 3, RATE_TITLE).remark == "aim reached"


def test_what_was_not_measured_is_neither_met_nor_failed() -> None:
    assert {bar.verdict for bar in judge([], None, WORKLOADS)} == {Verdict.NOT_MEASURED}


def test_a_run_that_began_out_of_sync_fails_its_bar_and_says_so() -> None:
    late = replace(sample(ASYNC, 990.0), state_before="RESYNCING")
    judged = judge([sample(ALONE, 1000.0), late], None, WORKLOADS)
    bar = verdict_on(judged, 2, "write, depth 32: pratima, async replica / pratima")
    assert bar.verdict is Verdict.NOT_MET
    assert "RESYNCING" in bar.remark


@pytest.mark.parametrize(
    ("workload", "outages", "expected"),
    [
        ("read-1", True, [TGTD + AGAIN, TGTD, ALONE, ALONE + AGAIN]),
        ("write-1", False, [TGTD + AGAIN, TGTD, ALONE, ASYNC, ALONE + AGAIN]),
        ("write-1", True, [TGTD + AGAIN, TGTD, ALONE, ASYNC, ALONE + AGAIN, DEAD, STOPPED]),
    ],
)
def test_whose_rates_are_compared_stand_side_by_side(
    workload: str, outages: bool, expected: list[str]
) -> None:
    running = [cast("Subject", SimpleNamespace(name=name)) for name in NAMES]
    turns = turns_of(running, WORKLOADS[workload], outages=outages)
    assert [name for name, _ in turns] == expected
    assert all(name.removesuffix(AGAIN) == subject.name for name, subject in turns)


def test_ratios_are_taken_inside_rounds() -> None:
    samples = [
        sample(TGTD, 100.0, round=0),
        sample(ALONE, 200.0, round=0),
        sample(TGTD, 1000.0, round=1),
        sample(ALONE, 3000.0, round=1),
        sample(ALONE, 5.0, round=2),
    ]
    found = ratio(samples, "write-32", ALONE, TGTD, Metric.RATE)
    assert found == Ratio((2.0, 3.0))


@pytest.mark.parametrize(
    ("p99_us", "verdict"), [(119.0, Verdict.MET), (121.0, Verdict.NOT_MET), (80.0, Verdict.MET)]
)
def test_a_tail_is_judged_by_the_spread_of_its_base_against_itself(
    p99_us: float, verdict: Verdict
) -> None:
    samples = []
    for number in range(9):
        samples += [
            sample(ALONE, 1000.0, round=number, p99_us=100.0),
            sample(ALONE + AGAIN, 1000.0, round=number, p99_us=120.0 if number % 2 else 100.0),
            sample(DEAD, 1000.0, round=number, p99_us=p99_us),
        ]
    bar = verdict_on(
        judge(samples, None, WORKLOADS), 2, "32: p99 of pratima, dead replica / pratima"
    )
    assert bar.verdict is verdict


def test_one_hiccup_of_an_a_a_pair_does_not_lift_its_spread() -> None:
    assert Ratio((1.0,) * 8 + (9.0,)).spread < 1.1


def test_both_halves_of_an_a_a_pair_may_be_the_slower() -> None:
    assert Ratio((0.5,) * 9).spread == Ratio((2.0,) * 9).spread == 2.0


@pytest.mark.parametrize(
    ("peak_mib", "verdict"), [(40 + 256 + 64, Verdict.MET), (40 + 256 + 65, Verdict.NOT_MET)]
)
def test_memory_may_grow_by_the_log_and_its_allowance(peak_mib: int, verdict: Verdict) -> None:
    memory = Memory(
        log_limit_bytes=256 * MIB,
        written_bytes=768 * MIB,
        idle_bytes=40 * MIB,
        peak_bytes=peak_mib * MIB,
        state_after="STALE",
    )
    assert verdict_on(judge([], memory, WORKLOADS), 2, "log full").verdict is verdict


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    volume = tmp_path / "volume"
    with volume.open("wb") as file:
        file.truncate(16 * MIB)
    return volume


@pytest.mark.tools
def test_the_client_does_all_commands_asked_for(tmp_path: Path, disk: Path) -> None:
    needs_programs()
    client = Client(tmp_path, cpu=None, span_bytes=16 * MIB)
    with tgtd(disk) as portal:
        for workload in WORKLOADS.values():
            done = client.for_commands(portal.url, workload, commands=200, seed=1)
            assert done.commands == done.commands_all == 200
            assert 0 < done.p50_us <= done.p99_us <= done.max_us
    written = disk.read_bytes()
    assert written.count(bytes(4096)) < len(written) // 4096


@pytest.mark.tools
def test_the_client_fails_rather_than_measure_a_disk_too_small(tmp_path: Path, disk: Path) -> None:
    needs_programs()
    client = Client(tmp_path, cpu=None, span_bytes=17 * MIB)
    with tgtd(disk) as portal, pytest.raises(MeasurementFailed, match="smaller than the span"):
        client.for_commands(portal.url, WORKLOADS["read-1"], commands=1, seed=1)


@pytest.mark.tools
def test_the_client_fails_where_nobody_listens(tmp_path: Path) -> None:
    needs_programs()
    client = Client(tmp_path, cpu=None, span_bytes=MIB)
    nobody = f"iscsi://127.0.0.1:{free_port()}/iqn.2026-11.org.example:nobody/0"
    with pytest.raises(MeasurementFailed, match="write-1"):
        client.for_commands(nobody, WORKLOADS["write-1"], commands=1, seed=1)


@pytest.mark.tools
def test_one_tiny_round_of_every_subject_gives_a_whole_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_programs()
    answer = tmp_path / "report.json"
    sizes = ["--size", "16", "--log-limit", "16", "--outage-log-limit", "8"]
    times = ["--pairs", "1", "--seconds", "0.2", "--warm", "0.1"]
    places = ["--directory", str(tmp_path), "--json", str(answer)]
    code = command.main(["--workloads", "write-32", *sizes, *times, *places])
    said = capsys.readouterr()
    assert code in (0, 1), said.err

    told = json.loads(answer.read_text())
    subjects = sorted([*NAMES, TGTD + AGAIN, ALONE + AGAIN])
    assert sorted(entry["subject"] for entry in told["samples"]) == subjects
    assert all(entry["figures"]["commands"] > 0 for entry in told["samples"])
    assert {entry["state_before"] for entry in told["samples"]} == {"-", SETTLED}
    assert told["memory"]["written_bytes"] == 3 * 16 * MIB
    assert told["memory"]["peak_bytes"] >= told["memory"]["idle_bytes"] > 0
    measured = [bar for bar in told["bars"] if bar["verdict"] != Verdict.NOT_MEASURED.value]
    # Rate beside tgtd and with a replica, in two issues; two tails; memory.
    assert len(measured) == 7
    assert code == any(bar["verdict"] == Verdict.NOT_MET.value for bar in measured)
    for subject in subjects:
        assert f"| {subject} |" in said.out
    assert "## Bars" in said.out


def test_the_echo_sends_whole_blocks_and_counts_what_came_back(tmp_path: Path) -> None:
    far, workload = tmp_path / "far", WORKLOADS["write-32"]
    with echo(far) as alone:
        figures = alone.measure(workload, seconds=0.05, warm_seconds=0.0, seed=1)
    assert far.stat().st_size == workload.block_bytes + OVERHEAD_BYTES
    assert figures.commands > 0
    assert 0 < figures.p50_us <= figures.p99_us <= figures.max_us
