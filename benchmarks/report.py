"""The report: a machine, tables of medians, ratios and bars, as markdown and as JSON."""

import dataclasses
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.bars import AGAIN, Judged, Memory, Metric, Ratio, Sample, Verdict, ratio
from benchmarks.client import Workload
from benchmarks.subjects import ALONE, ASYNC, DEAD, STOPPED, TGTD
from pratima_iscsi import hot_path

_PREFACE: Final = (
    "Made by `python -m benchmarks` (`make bench` writes this page); `--help` says what can be "
    "chosen. One client for all: it and the target share processor 0, a replica has processor 1. "
    "Ratios are taken inside rounds, between neighbours in time, and their median counts; an A/A "
    "line shows the same target against itself, which is the noise. Absolute figures are one "
    "machine's and say little; a ratio says how two programs fared side by side on it."
)
RATIOS: Final = (
    (TGTD + AGAIN, TGTD, "A/A"),
    (ALONE + AGAIN, ALONE, "A/A"),
    (ALONE, TGTD, ""),
    (ASYNC, ALONE, ""),
    (DEAD, ALONE, ""),
    (STOPPED, ALONE, ""),
)


def machine() -> dict[str, str]:
    """What the figures were made on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processors": f"{os.cpu_count()} × {model}",
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "hot path": hot_path(),
        "load": " ".join(f"{value:.2f}" for value in os.getloadavg()),
    }


def markdown(
    samples: Sequence[Sample],
    memory: Memory | None,
    judged: Iterable[Judged],
    workloads: Mapping[str, Workload],
    facts: Mapping[str, str],
) -> str:
    """The whole report as people read it."""
    lines = ["# Benchmark: this target beside tgtd", "", _PREFACE, ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    for name, workload in workloads.items():
        own = [sample for sample in samples if sample.workload == name]
        if own:
            lines += ["", f"## {workload.title}", "", *_figures(own, workload)]
            lines += ["", *_ratios(own, name)]
    lines += ["", "## Bars", "", *_bars(judged)]
    if memory is not None:
        lines += ["", "## Memory", ""]
        lines.append(
            f"Idle {_mib(memory.idle_bytes)}, peak {_mib(memory.peak_bytes)}, so "
            f"{_mib(memory.grown_bytes)} over idle with a log limit of "
            f"{_mib(memory.log_limit_bytes)}."
        )
    return "\n".join(lines) + "\n"


def as_json(
    samples: Sequence[Sample],
    memory: Memory | None,
    judged: Iterable[Judged],
    facts: Mapping[str, str],
) -> dict[str, object]:
    """The same for programs, every sample included."""
    return {
        "machine": dict(facts),
        "samples": [dataclasses.asdict(sample) for sample in samples],
        "memory": None if memory is None else dataclasses.asdict(memory),
        "bars": [{**dataclasses.asdict(bar), "verdict": bar.verdict.value} for bar in judged],
    }


def _figures(samples: Sequence[Sample], workload: Workload) -> list[str]:
    unit = "MB/s" if workload.by_bytes else "commands/s"
    head = [f"{unit}, median", "min – max", "p50 µs", "p99 µs", "target CPU s per 100,000"]
    lines = [_row(["subject", *head, "foreign CPU", "link before → after"])]
    lines.append("|---|---|---|---|---|---|---|---|")
    for subject in dict.fromkeys(sample.subject for sample in samples):
        own = [sample for sample in samples if sample.subject == subject]
        rates = [s.figures.mb_per_s if workload.by_bytes else s.figures.iops for s in own]
        cells = [
            subject,
            f"{statistics.median(rates):.0f}",
            f"{min(rates):.0f} – {max(rates):.0f}",
            f"{statistics.median(s.figures.p50_us for s in own):.0f}",
            f"{statistics.median(s.figures.p99_us for s in own):.0f}",
            f"{statistics.median(s.cpu_seconds_per_100k for s in own):.2f}",
            f"{statistics.median(s.foreign_cpu for s in own):.0%}",
            _states(own),
        ]
        lines.append(_row(cells))
    return _by_name(lines)


def _by_name(lines: list[str]) -> list[str]:
    """Two head lines stay, the rest by name: rounds are shuffled, reports should not be."""
    return [*lines[:2], *sorted(lines[2:], key=str.casefold)]


def _ratios(samples: Sequence[Sample], workload: str) -> list[str]:
    lines = ["| ratio | | rate, median | min – max | p99, median | min – max |"]
    lines.append("|---|---|---|---|---|---|")
    for subject, base, note in RATIOS:
        rates = ratio(samples, workload, subject, base, Metric.RATE)
        tails = ratio(samples, workload, subject, base, Metric.P99)
        if rates is not None and tails is not None:
            cells = [f"{subject} / {base}", note, *_two(rates), *_two(tails)]
            lines.append(_row(cells))
    return lines


def _bars(judged: Iterable[Judged]) -> list[str]:
    lines = ["| issue | bar | measured (min – max) | A/A | bound | verdict | |"]
    lines.append("|---|---|---|---|---|---|---|")
    left_out = 0
    for bar in judged:
        if bar.verdict is Verdict.NOT_MEASURED:
            left_out += 1
            continue
        cells = [str(bar.issue), bar.title, bar.measured, bar.noise, bar.bound]
        lines.append(_row([*cells, bar.verdict.value, bar.remark]))
    return [*lines, "", f"Bars not measured in this run: {left_out}."]


def _two(values: Ratio) -> tuple[str, str]:
    return f"{values.median:.2f}", f"{min(values.values):.2f} – {max(values.values):.2f}"


def _states(samples: Iterable[Sample]) -> str:
    pairs = sorted({(sample.state_before, sample.state_after) for sample in samples})
    return ", ".join(
        before if before == after else f"{before} → {after}" for before, after in pairs
    )


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"
