"""The host's side: boots the guest, takes its samples, notes who else used the machine.

One rule: a guest cannot see who takes its processors away, so what others used is measured here,
from one sample to the next, and stands in the sample.
"""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.bars import Sample
from benchmarks.client import Figures
from benchmarks.kernel.plan import PLAN, SAMPLES, Plan
from benchmarks.measure import busy_seconds
from benchmarks.processes import MeasurementFailed, cpu_seconds
from tests.kernel import guest_tests, image, lab

PROGRAMS: Final = lab.PROGRAMS | {
    "fio": "fio",
    "iscsid": "open-iscsi",
    "iscsiadm": "open-iscsi",
    "tc": "iproute2",
    "tcmu-runner": "tcmu-runner",
    "dbus-daemon": "dbus-daemon",
    "drbdmeta": "drbd-utils",
}
JOB: Final = "2-benchmark"
MODULE: Final = "benchmarks.kernel.inside"
MEMORY: Final = "3G"
RUN_SECONDS_MAX: Final = 60
"""What one run may take beside its own seconds, in the mean: fio's start and a copy's lag."""
PART_SECONDS_MAX: Final = 240
"""Making and taking away the subjects of one part."""

Tell = Callable[[str], None]


class Reader:
    """Samples from the share, each with the foreign share of the time since the one before."""

    def __init__(self, path: Path, guest_pid: int, tell: Callable[[Sample], None]) -> None:
        self._path = path
        self._guest_pid = guest_pid
        self._tell = tell
        self._read_bytes = 0
        self._guest_seconds = 0.0
        self._mark = self._now()

    def poll(self) -> None:
        """Take what has come; a line that is not whole waits."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        if not whole:
            return
        self._read_bytes += len(whole)
        foreign = self._foreign_cpu()
        for line in whole.splitlines():
            sample = dataclasses.replace(as_sample(json.loads(line)), foreign_cpu=foreign)
            self._tell(sample)

    def _now(self) -> tuple[float, float, float]:
        with contextlib.suppress(OSError):  # it has just ended
            self._guest_seconds = cpu_seconds(self._guest_pid)
        return time.monotonic(), busy_seconds(), self._guest_seconds + time.process_time()

    def _foreign_cpu(self) -> float:
        before, self._mark = self._mark, self._now()
        took, busy, own = (new - old for new, old in zip(self._mark, before, strict=True))
        return min(1.0, max(0.0, (busy - own) / took / (os.cpu_count() or 1)))


def as_sample(told: dict[str, object]) -> Sample:
    """A sample from its JSON form."""
    figures = told["figures"]
    assert isinstance(figures, dict)
    return Sample(**{**told, "figures": Figures(**figures)})  # type: ignore[arg-type]


def missing_packages() -> list[str]:
    """Debian packages without which nothing can be measured here."""
    return lab.missing_packages(PROGRAMS)


def kernel_release() -> str:
    """Of the guest."""
    return image.kernel().release


def measure(plan: Plan, share: Path, samples: list[Sample], tell: Tell) -> None:
    """Carry out a plan in one guest. ``samples`` grows as they are made, also when it fails then
    with MeasurementFailed."""
    (share / PLAN).write_text(json.dumps(dataclasses.asdict(plan)))
    runs_seconds = plan.runs() * (plan.seconds + plan.warm_seconds + RUN_SECONDS_MAX)
    machine = lab.Machine(
        memory=MEMORY, job_seconds_max=int(len(plan.parts) * PART_SECONDS_MAX + runs_seconds)
    )
    ended = share / f"{JOB}.rc"

    def told(sample: Sample) -> None:
        samples.append(sample)
        tell(
            f"{len(samples)} of {plan.runs()}: {sample.workload}, {sample.subject}: "
            f"{sample.figures.iops:.0f}/s, foreign CPU {sample.foreign_cpu:.0%}"
        )

    try:
        with lab.Guest(share, guest_tests.target_jobs(JOB, "-m", MODULE), machine) as guest:
            guest.wait_for(lab.UP)  # by then it is the process that stays
            reader = Reader(share / SAMPLES, guest.pid, told)

            def over() -> bool:
                reader.poll()
                return ended.exists()

            guest.wait_until(over, "all is measured")
            reader.poll()
            result = guest.finish()[JOB]
    except (lab.GuestFailed, image.LabUnavailable) as error:
        raise MeasurementFailed(str(error)) from error
    if result.rc:
        raise MeasurementFailed(result.explain())
