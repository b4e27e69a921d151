"""``python -m benchmarks.kernel.inside``: the guest's side, which carries a plan out.

One rule: each sample is a line in the share as soon as it is made, so that a guest that dies leaves
what it has measured, and the host knows when each was made.
"""

import dataclasses
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from benchmarks.bars import AGAIN, Sample
from benchmarks.client import Workload
from benchmarks.kernel import back_ends, replicas
from benchmarks.kernel.plan import PARTS, PLAN, SAMPLES, Part, Plan
from benchmarks.kernel.subject import Subject

SHARE: Final = Path("/lab")
MEMORY: Final = Path("/dev/shm")
"""Where the volumes are: what is measured is the path to them, not a disk."""
SUBJECTS: Final[dict[str, Callable[[Path, int], AbstractContextManager[list[Subject]]]]] = {
    "loop": back_ends.through_loopback,
    "iscsi": back_ends.through_iscsi,
    "replica": replicas.beside_none,
    "delay": replicas.far_away,
}


def main() -> None:
    """Every part of the plan, one after the other."""
    told = json.loads((SHARE / PLAN).read_text())
    plan = Plan(**{**told, "parts": tuple(told["parts"]), "workloads": tuple(told["workloads"])})
    chosen = random.Random(plan.seed)
    with (SHARE / SAMPLES).open("w", buffering=1) as output:
        for name in plan.parts:
            with (
                tempfile.TemporaryDirectory(dir=MEMORY) as place,
                SUBJECTS[name](Path(place), plan.size_bytes) as subjects,
            ):
                for sample in measure(PARTS[name], plan, subjects, chosen):
                    output.write(json.dumps(dataclasses.asdict(sample)) + "\n")


def measure(
    part: Part, plan: Plan, subjects: list[Subject], chosen: random.Random
) -> Iterator[Sample]:
    """Rounds in which each subject is measured right after the others, in an order drawn anew."""
    turns = [(subject.name, subject) for subject in subjects]
    turns += [(one.name + AGAIN, one) for one in subjects if one.name == part.base]
    for round_number in range(plan.rounds):
        for workload in plan.chosen(part):
            chosen.shuffle(turns)
            for label, subject in turns:
                yield _sample(part, plan, workload, label, subject, round_number)


def _sample(
    part: Part, plan: Plan, workload: Workload, label: str, subject: Subject, round_number: int
) -> Sample:
    state_before = subject.settle()
    figures = subject.measure(
        workload,
        seconds=plan.seconds,
        warm_seconds=plan.warm_seconds,
        seed=plan.seed + round_number,
    )
    return Sample(
        workload=part.key(workload.name),
        subject=label,
        round=round_number,
        figures=figures,
        cpu_seconds_per_100k=0.0,
        foreign_cpu=0.0,
        state_before=state_before,
        state_after=subject.state(),
    )


if __name__ == "__main__":
    main()
