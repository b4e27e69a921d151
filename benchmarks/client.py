"""Builds ``client.c`` and runs it: the one client of every measurement."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import MeasurementFailed, pinning

SOURCE: Final = Path(__file__).with_suffix(".c")
HEADER: Final = Path("/usr/include/iscsi/iscsi.h")
COMPILER: Final = ("cc", "-O2", "-std=c11", "-Wall", "-Wextra", "-D_GNU_SOURCE")
COMPILE_SECONDS_MAX: Final = 60.0
ANSWER_SECONDS_MAX: Final = 120.0
"""Beyond the time asked for; the client itself gives up after 60 s without an answer."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What the client does."""

    name: str
    title: str
    direction: str
    """``write`` or ``read``."""
    order: str
    """``random`` or ``sequential``."""
    block_bytes: int
    depth: int
    """Commands in flight, in each session."""
    sessions: int = 1

    @property
    def by_bytes(self) -> bool:
        """Whether its rate is told in MB/s; else in commands a second."""
        return self.order == "sequential"

    @property
    def writes(self) -> bool:
        """Whether it changes the volume, and so concerns a replica."""
        return self.direction == "write"


@dataclass(frozen=True, slots=True)
class Figures:
    """What the client printed; ``commands_all`` counts the warm-up too."""

    commands: int
    commands_all: int
    seconds: float
    seconds_all: float
    iops: float
    mb_per_s: float
    p50_us: float
    p99_us: float
    max_us: float


def missing_packages() -> list[str]:
    """Debian packages without which the client cannot be built here."""
    wanted = {"gcc": shutil.which("cc"), "libiscsi-dev": HEADER.exists()}
    return [package for package, there in wanted.items() if not there]


class Client:
    """The compiled client, bound to one processor, using the first ``span_bytes`` of a disk."""

    def __init__(self, directory: Path, *, cpu: int | None, span_bytes: int) -> None:
        self._program = directory / "client"
        self._cpu = cpu
        self._span_bytes = span_bytes
        compiled = subprocess.run(
            [*COMPILER, "-o", str(self._program), str(SOURCE), "-liscsi"],
            capture_output=True,
            text=True,
            check=False,
            timeout=COMPILE_SECONDS_MAX,
        )
        if compiled.returncode:
            raise MeasurementFailed(f"cannot build {SOURCE.name}: {compiled.stderr}")

    def for_a_time(
        self, url: str, workload: Workload, *, warm_seconds: float, seconds: float, seed: int
    ) -> Figures:
        """Keep ``workload`` up for ``seconds`` after a warm-up that is not counted."""
        return self._run(
            url, workload, str(warm_seconds), str(seconds), seed, warm_seconds + seconds
        )

    def for_commands(self, url: str, workload: Workload, *, commands: int, seed: int) -> Figures:
        """Do so many commands, all counted."""
        return self._run(url, workload, f"count={commands}", "-", seed, 0.0)

    def _run(
        self, url: str, workload: Workload, first: str, second: str, seed: int, expected: float
    ) -> Figures:
        command = [*pinning(self._cpu), str(self._program), url, workload.direction]
        command += [workload.order, str(workload.block_bytes), str(workload.depth)]
        command += [str(workload.sessions), str(self._span_bytes), first, second, str(seed)]
        try:
            ended = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=expected + ANSWER_SECONDS_MAX,
            )
        except subprocess.TimeoutExpired as error:
            raise MeasurementFailed(f"{workload.name} at {url}: no end to it") from error
        if ended.returncode:
            said = ended.stderr.strip() or f"the client ended with {ended.returncode}"
            raise MeasurementFailed(f"{workload.name} at {url}: {said}")
        return Figures(**json.loads(ended.stdout))
