"""The report as markdown, and as JSON that later reports are made from."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Final

from benchmarks.bars import AGAIN, Judged, Metric, Sample, Verdict, range_text, ratio
from benchmarks.client import Workload
from benchmarks.kernel.host import as_sample
from benchmarks.kernel.plan import PARTS, RATIOS, WORKLOADS, Part

INTRODUCTION: Final = """\
# The kernel path beside its peers

What `python -m benchmarks.kernel` printed. All of it ran in one virtual machine under software \
emulation, where every instruction costs many times what it should and the kernel's share of the \
work is not what it is on real machines. So only ratios are judged, each taken between neighbours \
of one round and given as the median of the rounds; a subject measured twice in each round shows \
by its A/A ratio what such a median is worth. Rates are of fio: libaio, O_DIRECT, the whole disk.

- Back ends have files in memory behind them, allocated in full. Our handler and LIO fileio have \
their write cache on; tcmu-runner's packaged qcow handler has a raw image, its quickest.
- Far away, both sides have memory disks behind them. DRBD's devices are written directly; ours \
are SCSI disks of tcm_loop. A copy that was not whole and current before a run, and for sync also \
after it, is said in the last column and meets no bar.
- Rounds in which other programs of the host took unequal shares of it from the two sides are not \
judged, nor is anything where the A/A ratio says that a subject differs from itself by half.
"""
FOREIGN_NOTED: Final = 0.1
"""A run is said to have been disturbed from this share of all processors on."""


def markdown(
    samples: Sequence[Sample], judged: Sequence[Judged], facts: Sequence[Mapping[str, str]]
) -> str:
    """The whole report as people read it; ``facts`` are those of each guest in it."""
    lines = [INTRODUCTION, "## Bars", "", *_bars(judged)]
    for part in PARTS.values():
        rows = [row for name in part.workloads for row in _rows(samples, part, WORKLOADS[name])]
        if rows:
            lines += ["", f"## {part.title}", "", *HEAD, *rows]
            lines += _ratios(samples, part)
    lines += ["", "## How it was measured", ""]
    for number, told in enumerate(facts, 1):
        said = "; ".join(f"{name}: {value}" for name, value in told.items())
        lines.append(f"{number}. {said}")
    lines += ["", disturbed(samples)]
    return "\n".join(lines) + "\n"


HEAD: Final = (
    "| workload | subject | rate, median | min – max | p50 µs | p99 µs | foreign CPU | copy |",
    "|---|---|---|---|---|---|---|---|",
)


def disturbed(samples: Sequence[Sample]) -> str:
    """How many runs had to share the machine with others."""
    count = sum(sample.foreign_cpu > FOREIGN_NOTED for sample in samples)
    return (
        f"In {count} of {len(samples)} runs other programs of the host used more than "
        f"{FOREIGN_NOTED:.0%} of its processors."
    )


def as_json(samples: Iterable[Sample], facts: Sequence[Mapping[str, str]]) -> dict[str, object]:
    """What ``merged`` reads."""
    return {"facts": [dict(told) for told in facts], "samples": [asdict(one) for one in samples]}


def merged(reports: Iterable[Mapping[str, object]]) -> tuple[list[Sample], list[dict[str, str]]]:
    """Samples and facts of several reports; rounds of different guests stay different rounds."""
    samples: list[Sample] = []
    facts: list[dict[str, str]] = []
    for report in reports:
        first = 1 + max((sample.round for sample in samples), default=-1)
        told, made = report["facts"], report["samples"]
        assert isinstance(told, list)
        assert isinstance(made, list)
        samples += [replace(one, round=first + one.round) for one in map(as_sample, made)]
        facts += told
    return samples, facts


def _rows(samples: Sequence[Sample], part: Part, workload: Workload) -> list[str]:
    rows = []
    for subject in (*part.subjects, part.base + AGAIN):
        own = [
            sample
            for sample in samples
            if sample.workload == part.key(workload.name) and sample.subject == subject
        ]
        if own:
            rows.append(_row(workload, subject, own))
    return rows


def _row(workload: Workload, subject: str, own: Sequence[Sample]) -> str:
    figures = [sample.figures for sample in own]
    rates = [one.mb_per_s if workload.by_bytes else one.iops for one in figures]
    states = sorted(
        {state for sample in own for state in (sample.state_before, sample.state_after)}
    )
    return _cells(
        workload.title,
        subject,
        f"{statistics.median(rates):.0f}{' MB/s' if workload.by_bytes else '/s'}",
        f"{min(rates):.0f} – {max(rates):.0f}",
        f"{statistics.median(one.p50_us for one in figures):.0f}",
        f"{statistics.median(one.p99_us for one in figures):.0f}",
        f"{statistics.median(sample.foreign_cpu for sample in own):.0%}",
        ", ".join(states),
    )


def _ratios(samples: Sequence[Sample], part: Part) -> list[str]:
    lines = []
    for name, subject, base in RATIOS:
        for workload in part.workloads if name == part.name else ():
            found = ratio(samples, part.key(workload), subject, base, Metric.RATE)
            if found is not None:
                cells = (WORKLOADS[workload].title, f"{subject} / {base}", range_text(found))
                lines.append(_cells(*cells))
    head = [
        "",
        "| workload | ratio of rates, for information | median (min – max) |",
        "|---|---|---|",
    ]
    return [*head, *lines] if lines else []


def _bars(judged: Iterable[Judged]) -> list[str]:
    lines = [
        "| bar | measured (min – max) | A/A | bound | verdict | |",
        "|---|---|---|---|---|---|",
    ]
    left_out = 0
    for bar in judged:
        if bar.verdict is Verdict.NOT_MEASURED:
            left_out += 1
        if not bar.measured:
            continue
        verdict = bar.verdict.value
        lines.append(_cells(bar.title, bar.measured, bar.noise, bar.bound, verdict, bar.remark))
    return [*lines, "", f"Bars not measured: {left_out}."]


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
