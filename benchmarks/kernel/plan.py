"""What a run measures: its parts, the subjects and workloads of each, and the bars.

One rule: host, guest and report read the same plan, so what was asked for is what is judged.
"""

from dataclasses import dataclass
from typing import Final

from benchmarks.bars import Metric
from benchmarks.client import Workload

KIB: Final = 1 << 10
PLAN: Final = "plan.json"
SAMPLES: Final = "samples.jsonl"
"""In the directory that host and guest share."""

OURS: Final = "pratima"
FILEIO: Final = "LIO fileio"
RUNNER: Final = "tcmu-runner"
ASYNC: Final = "pratima, async replica"
SYNC: Final = "pratima, sync replica"
DRBD_A: Final = "DRBD 8.4 A"
DRBD_C: Final = "DRBD 8.4 C"
ECHO: Final = "ZeroMQ alone"
"""A block there and an answer back, with nothing else done: no replica of ours can be quicker."""

DELAY_MS: Final = 5
"""Each way between primary and replica, in the part of that name."""

WRITES: Final = (
    Workload("write-1", "4 KiB random write, depth 1", "write", "random", 4 * KIB, 1),
    Workload("write-32", "4 KiB random write, depth 32", "write", "random", 4 * KIB, 32),
)
WORKLOADS: Final = {
    workload.name: workload
    for workload in (
        *WRITES,
        Workload("read-1", "4 KiB random read, depth 1", "read", "random", 4 * KIB, 1),
        Workload("read-32", "4 KiB random read, depth 32", "read", "random", 4 * KIB, 32),
        Workload("write-128k", "128 KiB write in order", "write", "sequential", 128 * KIB, 8),
        Workload("read-128k", "128 KiB read in order", "read", "sequential", 128 * KIB, 8),
    )
}


@dataclass(frozen=True, slots=True)
class Part:
    """Subjects that are compared with one another."""

    name: str
    title: str
    subjects: tuple[str, ...]
    base: str
    """Measured twice in each round, for an A/A pair."""
    workloads: tuple[str, ...]

    def key(self, workload: str) -> str:
        """What samples of one of its workloads are filed under."""
        return f"{self.name}/{workload}"


_BACK_ENDS: Final = (OURS, FILEIO, RUNNER)
_WRITE_NAMES: Final = tuple(workload.name for workload in WRITES)
PARTS: Final = {
    part.name: part
    for part in (
        Part("loop", "Back ends through tcm_loop", _BACK_ENDS, RUNNER, tuple(WORKLOADS)),
        Part("iscsi", "Back ends through iSCSI on loopback", _BACK_ENDS, RUNNER, tuple(WORKLOADS)),
        Part(
            "replica",
            "An async replica beside none, both daemons in one guest",
            (OURS, ASYNC),
            OURS,
            _WRITE_NAMES,
        ),
        Part(
            "delay",
            f"Replicas {DELAY_MS} ms away, each way",
            (ASYNC, SYNC, DRBD_A, DRBD_C, ECHO),
            DRBD_C,
            _WRITE_NAMES,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Bar:
    """The subject's figure over the base's is at least, or at most, this."""

    part: str
    workload: str
    subject: str
    base: str
    metric: Metric
    bound: float
    at_most: bool = False


BARS: Final = (
    *(
        Bar(part, workload, OURS, RUNNER, Metric.RATE, 1.0)
        for part in ("loop", "iscsi")
        for workload in WORKLOADS
    ),
    Bar("replica", "write-1", ASYNC, OURS, Metric.RATE, 0.85),
    Bar("replica", "write-32", ASYNC, OURS, Metric.RATE, 0.7),
    Bar("delay", "write-1", SYNC, DRBD_C, Metric.P50, 1.1, at_most=True),
    Bar("delay", "write-32", SYNC, DRBD_C, Metric.RATE, 1.0),
)
RATIOS: Final = (
    ("loop", OURS, FILEIO),
    ("iscsi", OURS, FILEIO),
    ("delay", ASYNC, DRBD_A),
    ("delay", ECHO, DRBD_C),
)
"""Reported, and judged by no bar."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run, as the host hands it to the guest."""

    parts: tuple[str, ...]
    workloads: tuple[str, ...]
    rounds: int
    seconds: float
    warm_seconds: float
    size_bytes: int
    seed: int

    def runs(self) -> int:
        """How many samples it makes."""
        return self.rounds * sum(
            (len(part.subjects) + 1) * len(self.chosen(part))
            for part in (PARTS[name] for name in self.parts)
        )

    def chosen(self, part: Part) -> list[Workload]:
        """The workloads of a part that were asked for."""
        return [WORKLOADS[name] for name in part.workloads if name in self.workloads]
