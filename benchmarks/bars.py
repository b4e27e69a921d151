"""The bars that issues set, and whether what was measured reaches them.

One rule: a verdict is computed from the samples of this run or is ``not measured``. The samples of
one round are neighbours in time, so ratios are taken inside rounds and their median is judged.
"""

import enum
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.client import Figures, Workload
from benchmarks.subjects import ALONE, ASYNC, DEAD, NO_LINK, SETTLED, STOPPED, TGTD

MIB: Final = 1 << 20
MEMORY_ALLOWANCE_BYTES: Final = 64 * MIB
AGAIN: Final = ", again"
"""Ends the name of the second half of an A/A pair: the same process, measured once more."""
TAIL_QUANTILE: Final = 0.9


class Metric(enum.Enum):
    """What of a sample is compared."""

    RATE = "rate"
    P50 = "p50"
    P99 = "p99"


class Verdict(enum.Enum):
    """Whether a bar is reached."""

    MET = "met"
    NOT_MET = "NOT MET"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of the client against one subject."""

    workload: str
    subject: str
    """A name of :data:`~benchmarks.subjects.NAMES`, with AGAIN behind it for an A/A pair."""
    round: int
    figures: Figures
    cpu_seconds_per_100k: float
    """Of the target alone, per 100,000 commands."""
    foreign_cpu: float
    """Share of all processors that others than subject and client used meanwhile."""
    state_before: str
    state_after: str

    def value(self, metric: Metric) -> float:
        """The figure by that name; rates as commands a second, which serve as well as bytes do."""
        match metric:
            case Metric.RATE:
                return self.figures.iops
            case Metric.P50:
                return self.figures.p50_us
            case Metric.P99:
                return self.figures.p99_us


@dataclass(frozen=True, slots=True)
class Memory:
    """What the target held while its replica was stopped and its log full."""

    log_limit_bytes: int
    written_bytes: int
    idle_bytes: int
    peak_bytes: int
    state_after: str

    @property
    def grown_bytes(self) -> int:
        """Peak over idle."""
        return self.peak_bytes - self.idle_bytes

    @property
    def allowed_bytes(self) -> int:
        """The bar."""
        return self.log_limit_bytes + MEMORY_ALLOWANCE_BYTES


@dataclass(frozen=True, slots=True)
class RateBar:
    """The subject's rate is at least ``least`` times the base's."""

    issue: int
    workload: str
    subject: str
    base: str
    least: float
    aim: float | None = None


@dataclass(frozen=True, slots=True)
class TailBar:
    """The subject's p99 over the base's is inside what the base shows against itself."""

    issue: int
    workload: str
    subject: str
    base: str


RATE_BARS: Final = (
    RateBar(2, "write-32", ALONE, TGTD, 1.2),
    RateBar(2, "read-32", ALONE, TGTD, 1.2),
    RateBar(2, "write-1", ASYNC, ALONE, 0.85),
    RateBar(2, "write-32", ASYNC, ALONE, 0.7),
    RateBar(3, "write-1", ALONE, TGTD, 0.9, aim=1.2),
    RateBar(3, "read-1", ALONE, TGTD, 0.9, aim=1.2),
    RateBar(3, "write-32", ALONE, TGTD, 1.5, aim=2.0),
    RateBar(3, "read-32", ALONE, TGTD, 1.5, aim=2.0),
    RateBar(3, "write-128k", ALONE, TGTD, 2.0),
    RateBar(3, "read-128k", ALONE, TGTD, 1.0),
    RateBar(3, "write-four", ALONE, TGTD, 1.2),
    RateBar(3, "write-1", ASYNC, ALONE, 0.85),
    RateBar(3, "write-32", ASYNC, ALONE, 0.7),
)
TAIL_BARS: Final = tuple(
    TailBar(2, workload, subject, ALONE)
    for workload in ("write-1", "write-32", "write-128k", "write-four")
    for subject in (DEAD, STOPPED)
)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ratios of two subjects, one for each round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """What a rate or a tail is judged by."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """How far an A/A pair strays: the 0.9 quantile of its ratios and their inverses.

        The two halves of such a pair may trade names, hence the inverses. The quantile and not
        the maximum, because the median of nine equal subjects passes it by chance once in a
        thousand, while one hiccup would lift the maximum above any regression.
        """
        both = sorted((*self.values, *(1 / value for value in self.values)))
        return both[min(len(both) - 1, int(TAIL_QUANTILE * len(both)))]


@dataclass(frozen=True, slots=True)
class Judged:
    """One bar, what was measured and what comes of it."""

    issue: int
    title: str
    measured: str
    noise: str
    bound: str
    verdict: Verdict
    remark: str = ""


def ratio(
    samples: Iterable[Sample], workload: str, subject: str, base: str, metric: Metric
) -> Ratio | None:
    """Subject over base in each round that has both; nothing when none has."""
    found: dict[str, dict[int, float]] = {subject: {}, base: {}}
    for sample in samples:
        if sample.workload == workload and sample.subject in found:
            found[sample.subject][sample.round] = sample.value(metric)
    rounds = sorted(found[subject].keys() & found[base].keys())
    if not rounds:
        return None
    return Ratio(tuple(found[subject][number] / found[base][number] for number in rounds))


def judge(
    samples: Sequence[Sample], memory: Memory | None, workloads: Mapping[str, Workload]
) -> list[Judged]:
    """Every bar, in the order of the issues."""
    rates = [_judge_rate(bar, samples, workloads[bar.workload]) for bar in RATE_BARS]
    tails = [_judge_tail(bar, samples, workloads[bar.workload]) for bar in TAIL_BARS]
    return sorted([*rates, *tails, _judge_memory(memory)], key=lambda judged: judged.issue)


def _judge_rate(bar: RateBar, samples: Sequence[Sample], workload: Workload) -> Judged:
    title = f"{workload.title}: {bar.subject} / {bar.base}"
    bound = f"≥ {bar.least:g}" + (f", aim {bar.aim:g}" if bar.aim else "")
    measured = ratio(samples, bar.workload, bar.subject, bar.base, Metric.RATE)
    noise = ratio(samples, bar.workload, bar.base + AGAIN, bar.base, Metric.RATE)
    if measured is None:
        return Judged(bar.issue, title, "", range_text(noise), bound, Verdict.NOT_MEASURED)
    remark = unsettled(samples, bar.workload, bar.subject)
    met = measured.median >= bar.least and not remark
    if met and bar.aim:
        remark = "aim reached" if measured.median >= bar.aim else "aim not reached"
    return Judged(
        bar.issue,
        title,
        range_text(measured),
        range_text(noise),
        bound,
        Verdict.MET if met else Verdict.NOT_MET,
        remark,
    )


def _judge_tail(bar: TailBar, samples: Sequence[Sample], workload: Workload) -> Judged:
    title = f"{workload.title}: p99 of {bar.subject} / {bar.base}"
    measured = ratio(samples, bar.workload, bar.subject, bar.base, Metric.P99)
    noise = ratio(samples, bar.workload, bar.base + AGAIN, bar.base, Metric.P99)
    if measured is None or noise is None:
        return Judged(
            bar.issue, title, range_text(measured), range_text(noise), "", Verdict.NOT_MEASURED
        )
    remark = unsettled(samples, bar.workload, bar.subject)
    met = measured.median <= noise.spread and not remark
    return Judged(
        bar.issue,
        title,
        range_text(measured),
        range_text(noise),
        f"≤ {noise.spread:.2f}",
        Verdict.MET if met else Verdict.NOT_MET,
        remark,
    )


def _judge_memory(memory: Memory | None) -> Judged:
    title = "memory of the target over idle, replica stopped, log full"
    if memory is None:
        return Judged(2, title, "", "", "", Verdict.NOT_MEASURED)
    return Judged(
        2,
        title,
        f"{memory.grown_bytes / MIB:.0f} MiB",
        "",
        f"≤ {memory.allowed_bytes / MIB:.0f} MiB",
        Verdict.MET if memory.grown_bytes <= memory.allowed_bytes else Verdict.NOT_MET,
        f"log limit {memory.log_limit_bytes / MIB:.0f} MiB, {memory.written_bytes / MIB:.0f} MiB "
        f"written, link then {memory.state_after}",
    )


def unsettled(samples: Sequence[Sample], workload: str, subject: str) -> str:
    """The states, if any, in which runs of ``subject`` began that should have begun SYNCED."""
    states = {
        sample.state_before
        for sample in samples
        if sample.workload == workload and sample.subject == subject
    } - {SETTLED, NO_LINK}
    return f"runs began {', '.join(sorted(states))}" if states else ""


def range_text(values: Ratio | None) -> str:
    """A ratio's median and range; nothing for none."""
    if values is None:
        return ""
    return f"{values.median:.2f} ({min(values.values):.2f} – {max(values.values):.2f})"
