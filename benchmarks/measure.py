"""The run: subjects started once, then rounds in which each is measured right after the others.

One rule: what is compared is interleaved, and stands side by side: a machine that others use too
may be twice as quick a few seconds later. Which of two comes first is drawn anew for each round.
"""

import os
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.bars import AGAIN, Memory, Sample
from benchmarks.client import Client, Workload
from benchmarks.processes import (
    CLOCK_TICKS,
    MeasurementFailed,
    cpu_seconds,
    forget_memory_peak,
    memory_bytes,
    memory_bytes_peak,
)
from benchmarks.subjects import ALONE, ASYNC, DEAD, STOPPED, TARGET_CPU, TGTD, Subject, started
from benchmarks.workloads import FILL, FLOOD

OUTAGES_EVERY: Final = 3
"""Subjects whose replica is dead or stopped are in one round of so many: each time it must first be
there again, which takes longer than the run."""
FLOOD_TIMES: Final = 3
"""How many times its limit the log is offered while the replica is stopped."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How long, how often, on what."""

    rounds: int
    seconds: float
    warm_seconds: float
    size_bytes: int
    log_limit_bytes: int
    outage_log_limit_bytes: int
    """For subjects whose replica is dead or stopped: small enough to fill within a run."""
    directory: Path
    seed: int


def measure(
    workloads: Sequence[Workload], subjects: Sequence[str], options: Options, tell: Tell
) -> Iterator[Sample]:
    """Every sample of every workload, round by round, as it is made."""
    chosen = random.Random(options.seed)
    with _scratch(options) as scratch, ExitStack() as stack:
        client = Client(scratch, cpu=TARGET_CPU, span_bytes=options.size_bytes)
        running: list[Subject] = []
        for number, name in enumerate(subjects):
            tell(f"starting {name}")
            limit = (
                options.log_limit_bytes
                if name in (TGTD, ALONE, ASYNC)
                else options.outage_log_limit_bytes
            )
            subject = stack.enter_context(
                started(
                    name,
                    scratch / str(number),
                    size_bytes=options.size_bytes,
                    log_limit_bytes=limit,
                )
            )
            client.for_commands(
                subject.url, FILL, commands=options.size_bytes // FILL.block_bytes, seed=number
            )
            running.append(subject)
        for workload in workloads:
            for round_number in range(options.rounds):
                tell(f"{workload.title}: round {round_number + 1} of {options.rounds}")
                outages = round_number % OUTAGES_EVERY == 0
                turns = turns_of(running, workload, outages=outages)
                if chosen.random() < 0.5:
                    turns.reverse()
                for label, subject in turns:
                    yield _sample(client, workload, label, subject, round_number, options)


def measure_memory(options: Options, tell: Tell) -> Memory:
    """How much a target grows that is written FLOOD_TIMES its log's limit, its replica stopped."""
    tell("memory: a stopped replica and a full log")
    with (
        _scratch(options) as scratch,
        started(
            STOPPED,
            scratch / "memory",
            size_bytes=options.size_bytes,
            log_limit_bytes=options.log_limit_bytes,
        ) as subject,
    ):
        client = Client(scratch, cpu=TARGET_CPU, span_bytes=options.size_bytes)
        subject.prepare()
        idle_bytes = memory_bytes(subject.pid)
        forget_memory_peak(subject.pid)
        commands = FLOOD_TIMES * options.log_limit_bytes // FLOOD.block_bytes
        client.for_commands(subject.url, FLOOD, commands=commands, seed=options.seed)
        return Memory(
            log_limit_bytes=options.log_limit_bytes,
            written_bytes=commands * FLOOD.block_bytes,
            idle_bytes=idle_bytes,
            peak_bytes=memory_bytes_peak(subject.pid),
            state_after=subject.state(),
        )


def turns_of(
    running: Sequence[Subject], workload: Workload, *, outages: bool
) -> list[tuple[str, Subject]]:
    """Who is measured in a round, under which name, in an order that has those side by side whose
    rates are compared; the bases twice."""
    subjects = {subject.name: subject for subject in running}
    whole = [ASYNC] if workload.writes else []  # a read concerns no replica
    broken = [DEAD, STOPPED] if workload.writes and outages else []
    order = [TGTD + AGAIN, TGTD, ALONE, *whole, ALONE + AGAIN, *broken]
    turns = [(name, name.removesuffix(AGAIN)) for name in order]
    return [(name, subjects[own]) for name, own in turns if own in subjects]


def _sample(
    client: Client,
    workload: Workload,
    label: str,
    subject: Subject,
    round_number: int,
    options: Options,
) -> Sample:
    state_before = subject.prepare()
    busy_before, own_before = busy_seconds(), _own_seconds(subject)
    target_before, begun = cpu_seconds(subject.pid), time.monotonic()
    try:
        figures = client.for_a_time(
            subject.url,
            workload,
            warm_seconds=options.warm_seconds,
            seconds=options.seconds,
            seed=options.seed + round_number,
        )
    except MeasurementFailed as error:
        raise MeasurementFailed(f"{label}: {error}{subject.said()}") from error
    took = time.monotonic() - begun
    target_used = cpu_seconds(subject.pid) - target_before
    foreign = (busy_seconds() - busy_before) - (_own_seconds(subject) - own_before)
    return Sample(
        workload=workload.name,
        subject=label,
        round=round_number,
        figures=figures,
        cpu_seconds_per_100k=target_used * 100_000 / figures.commands_all,
        foreign_cpu=max(0.0, foreign / took / (os.cpu_count() or 1)),
        state_before=state_before,
        state_after=subject.state(),
    )


def _own_seconds(subject: Subject) -> float:
    """Processor time of the subject and of the clients that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(map(cpu_seconds, subject.pids)) + children.ru_utime + children.ru_stime


def busy_seconds() -> float:
    """Processor time that this machine has spent, all processors together, waiting left out."""
    user, nice, system, _idle, _iowait, irq, softirq = map(
        int, Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
    )
    return (user + nice + system + irq + softirq) / CLOCK_TICKS


@contextmanager
def _scratch(options: Options) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="pratima-bench-") as name:
        yield Path(name)
