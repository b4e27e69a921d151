"""fio, the one client of every subject: its command line, and what it prints as figures.

One rule: what it does not print is an error, never a zero.
"""

import json
import subprocess
from pathlib import Path
from typing import Any, Final

from benchmarks.client import Figures, Workload
from benchmarks.processes import MeasurementFailed

ANSWER_SECONDS_MAX: Final = 120.0
"""Beyond the time asked for: an emulated machine starts programs slowly."""
PATTERNS: Final = {
    ("write", "random"): "randwrite",
    ("read", "random"): "randread",
    ("write", "sequential"): "write",
    ("read", "sequential"): "read",
}


def command(
    disk: Path, workload: Workload, *, seconds: float, warm_seconds: float, seed: int
) -> list[str]:
    """A whole disk, past the page cache, for a time."""
    return [
        *("fio", "--name=run", f"--filename={disk}", "--direct=1", "--ioengine=libaio"),
        *("--thread", f"--rw={PATTERNS[workload.direction, workload.order]}", "--norandommap"),
        *(f"--bs={workload.block_bytes}", f"--iodepth={workload.depth}", f"--randseed={seed}"),
        *("--time_based", f"--runtime={seconds * 1000:.0f}ms"),
        *(f"--ramp_time={warm_seconds * 1000:.0f}ms", "--output-format=json"),
        "--lat_percentiles=1",
    ]


def run(
    disk: Path, workload: Workload, *, seconds: float, warm_seconds: float, seed: int
) -> Figures:
    """Measure one disk."""
    words = command(disk, workload, seconds=seconds, warm_seconds=warm_seconds, seed=seed)
    ended = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + warm_seconds + ANSWER_SECONDS_MAX,
    )
    if ended.returncode:
        raise MeasurementFailed(f"fio ended with {ended.returncode}: {ended.stderr}{ended.stdout}")
    return figures(ended.stdout, workload.direction)


def figures(said: str, direction: str) -> Figures:
    """What fio printed of its only job; MeasurementFailed when that is no measurement.

    Its warm-up is not in its counts, so ``commands_all`` counts what ``commands`` does.
    """
    try:
        (job,) = json.loads(said[said.index("{") :])["jobs"]
        if job["error"]:
            raise MeasurementFailed(f"fio: error {job['error']}")
        return _figures(job[direction])
    except (KeyError, ValueError, TypeError) as error:
        raise MeasurementFailed(f"fio printed what is no report ({error!r}): {said}") from error


def _figures(done: dict[str, Any]) -> Figures:
    seconds, commands = done["runtime"] / 1000, done["total_ios"]
    if not commands or not seconds:
        raise MeasurementFailed("fio completed no command in the time that it had")
    latency = done["lat_ns"]  # with the submission, in which quick devices do all their work
    return Figures(
        commands=commands,
        commands_all=commands,
        seconds=seconds,
        seconds_all=seconds,
        iops=float(done["iops"]),
        mb_per_s=done["bw_bytes"] / 1e6,
        p50_us=latency["percentile"]["50.000000"] / 1000,
        p99_us=latency["percentile"]["99.000000"] / 1000,
        max_us=latency["max"] / 1000,
    )
