"""Verdicts on the bars of the kernel path.

One rule: as for the other benchmark, computed from the samples of this report or ``not measured``;
a median of ratios inside rounds is judged, and only if each run began, and a sync run also ended,
with a copy that was whole and current. Rounds in which others took more of the machine from one
side than from the other are not compared, and where a subject differs from itself by more than
NOISE_MAX nothing is judged.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from benchmarks.bars import AGAIN, Judged, Metric, Sample, Verdict, range_text, ratio, unsettled
from benchmarks.kernel.plan import BARS, PARTS, SYNC, WORKLOADS, Bar
from benchmarks.subjects import NO_LINK, SETTLED

ISSUE: Final = 4
NOISE_MAX: Final = 1.5
"""The factor by which an A/A ratio's median may differ from one, either way."""
FOREIGN_UNEQUAL: Final = 0.1
"""By how much the share of all processors that others used may differ between two runs."""
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
    left_out = _unequal(samples, key, bar)
    kept = [sample for sample in samples if sample.round not in left_out]
    measured = ratio(kept, key, bar.subject, bar.base, bar.metric)
    base = PARTS[bar.part].base
    same = ratio(samples, key, base + AGAIN, base, bar.metric)
    noise = range_text(same)
    if measured is None:
        return Judged(ISSUE, title, "", noise, bound, Verdict.NOT_MEASURED)
    broken = [
        said
        for name in (bar.subject, bar.base)
        for said in (unsettled(kept, key, name), _broken(kept, key, name))
        if said
    ]
    reached = measured.median <= bar.bound if bar.at_most else measured.median >= bar.bound
    verdict = Verdict.MET if reached and not broken else Verdict.NOT_MET
    if same is not None and not 1 / NOISE_MAX <= same.median <= NOISE_MAX:
        verdict = Verdict.NOT_MEASURED
        broken.append("too noisy to judge")
    return Judged(
        ISSUE,
        title,
        range_text(measured),
        noise,
        bound,
        verdict,
        "; ".join(
            [*broken, *_rounds(len(measured.values), len(left_out)), _others(kept, key, bar)]
        ),
    )


def _rounds(judged: int, left_out: int) -> list[str]:
    said = [f"{judged} {'round' if judged == 1 else 'rounds'}"]
    return [*said, f"{left_out} left out: others took unequal shares"] if left_out else said


def _others(samples: Iterable[Sample], key: str, bar: Bar) -> str:
    own = (bar.subject, bar.base)
    shares = [s.foreign_cpu for s in samples if s.workload == key and s.subject in own]
    return f"foreign CPU up to {max(shares):.0%}"


def _unequal(samples: Iterable[Sample], key: str, bar: Bar) -> set[int]:
    """Rounds in which others disturbed one side of a bar more than the other."""
    foreign: dict[int, list[float]] = {}
    for sample in samples:
        if sample.workload == key and sample.subject in (bar.subject, bar.base):
            foreign.setdefault(sample.round, []).append(sample.foreign_cpu)
    return {
        number for number, shares in foreign.items() if max(shares) - min(shares) > FOREIGN_UNEQUAL
    }


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
