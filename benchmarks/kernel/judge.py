"""Verdicts on the bars of the kernel path.

One rule: as for the other benchmark, computed from the samples of this report or ``not measured``;
a median of ratios inside rounds is judged, and only if each run began, and a sync run also ended,
with a copy that was whole and current.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from benchmarks.bars import AGAIN, Judged, Metric, Sample, Verdict, range_text, ratio, unsettled
from benchmarks.kernel.plan import BARS, PARTS, SYNC, WORKLOADS, Bar
from benchmarks.subjects import NO_LINK, SETTLED

ISSUE: Final = 4
NAMES: Final = {Metric.RATE: "rate", Metric.P50: "p50", Metric.P99: "p99"}


def judge(samples: Sequence[Sample]) -> list[Judged]:
    """Every bar, in the order of the plan."""
    return [_judge(bar, samples) for bar in BARS]


def _judge(bar: Bar, samples: Sequence[Sample]) -> Judged:
    key = PARTS[bar.part].key(bar.workload)
    title = (
        f"{PARTS[bar.part].title}: {WORKLOADS[bar.workload].title}: "
        f"{NAMES[bar.metric]} of {bar.subject} / {bar.base}"
    )
    bound = f"{'≤' if bar.at_most else '≥'} {bar.bound:g}"
    measured = ratio(samples, key, bar.subject, bar.base, bar.metric)
    base = PARTS[bar.part].base
    noise = range_text(ratio(samples, key, base + AGAIN, base, bar.metric))
    if measured is None:
        return Judged(ISSUE, title, "", noise, bound, Verdict.NOT_MEASURED)
    remark = "; ".join(
        said
        for name in (bar.subject, bar.base)
        for said in (unsettled(samples, key, name), _broken(samples, key, name))
        if said
    )
    reached = measured.median <= bar.bound if bar.at_most else measured.median >= bar.bound
    return Judged(
        ISSUE,
        title,
        range_text(measured),
        noise,
        bound,
        Verdict.MET if reached and not remark else Verdict.NOT_MET,
        remark,
    )


def _broken(samples: Iterable[Sample], key: str, subject: str) -> str:
    """The states, if any, in which runs ended whose every write should have been copied."""
    if subject != SYNC:
        return ""
    states = {
        sample.state_after
        for sample in samples
        if sample.workload == key and sample.subject == subject
    } - {SETTLED, NO_LINK}
    return f"runs ended {', '.join(sorted(states))}" if states else ""
