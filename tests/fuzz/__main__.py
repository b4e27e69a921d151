"""Fuzz with coverage feedback: atheris, which is libFuzzer for Python.

    python -m tests.fuzz                                # a minute for each target
    python -m tests.fuzz --runs 1000000 --seconds 300   # longer: what comes first ends a target
    python -m tests.fuzz session portal --seconds 3600 --corpus DIR   # two; goes on from DIR
    python -m tests.fuzz TARGET --again FILE            # one input that was found

Prints executions and findings of each target; exits with 1 if there are findings. An input that
fails, hangs for ten seconds or takes a gigabyte is kept in ``--findings``; its place after the fix
is a line of ``corpus/TARGET.txt`` with its story (``--hex`` prints it), where every test run
repeats it.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fuzz.targets import ANY, TARGETS, run, seeds

SECONDS: Final = 60
INPUT_SECONDS_MAX: Final = 10
MEMORY_MIB_MAX: Final = 1024
INPUT_BYTES_MAX: Final = 4096
END_SECONDS: Final = 120
"""What a target may take beyond its time: its start, its seeds, its last input."""
FINDING_CHARACTERS: Final = 4000
DONE: Final = re.compile(r"^Done (\d+) runs in (\d+) second", re.MULTILINE)
PEAK: Final = re.compile(r"^stat::peak_rss_mb: +(\d+)", re.MULTILINE)
EXECUTED: Final = re.compile(r"^stat::number_of_executed_units: +(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one target's run."""

    target: str
    executions: int
    seconds: int
    peak_mib: int
    finding: str = ""
    """What libFuzzer and Python said of an input that failed; empty: none did."""

    def __str__(self) -> str:
        told = "FOUND SOMETHING" if self.finding else "nothing found"
        return (
            f"{self.target:10} {self.executions:>9} executions {self.seconds:>5} s "
            f"{self.peak_mib:>5} MiB  {told}"
        )


def fuzz(target: str, *, runs: int, seconds: int, corpus: Path, findings: Path) -> Outcome:
    """Fuzz one target in a process of its own; what it learns goes into ``corpus``/TARGET."""
    learnt = corpus / target
    learnt.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(target)):
        (learnt / f"seed-{number:03d}").write_bytes(seed)
    findings.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "tests.fuzz.one", target),
        f"-runs={runs if runs else -1}",
        f"-max_total_time={seconds}",
        f"-timeout={INPUT_SECONDS_MAX}",
        f"-rss_limit_mb={MEMORY_MIB_MAX}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-artifact_prefix={findings}/{target}-",
        "-print_final_stats=1",
        "-close_fd_mask=1",
        str(learnt),
    ]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=seconds + END_SECONDS,
    )
    said = ended.stdout + ended.stderr
    done, peak, executed = DONE.search(said), PEAK.search(said), EXECUTED.search(said)
    whole = ended.returncode == 0 and done is not None
    return Outcome(
        target,
        int(done[1] if done else executed[1] if executed else 0),
        int(done[2]) if done else 0,
        int(peak[1]) if peak else 0,
        "" if whole else said or f"exit code {ended.returncode}",
    )


def main() -> None:
    """Read the options and fuzz."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--runs", type=int, default=0, help="executions of each target; 0: no end")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of each target")
    parser.add_argument("--corpus", type=Path, help="where to keep what was learnt, to go on")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--again", type=Path, metavar="FILE", help="run this input alone")
    parser.add_argument("--hex", action="store_true", help="with --again: print it for the corpus")
    options = parser.parse_args()
    chosen = options.targets or list(TARGETS)
    unknown = set(chosen) - {*TARGETS, ANY}
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if options.again:
        data: bytes = options.again.read_bytes()
        if options.hex:
            print(data.hex())
        for target in chosen:
            run(target, data)
        return
    with tempfile.TemporaryDirectory(prefix="fuzz-") as fresh:
        corpus: Path = options.corpus or Path(fresh)
        outcomes = []
        for target in chosen:
            outcome = fuzz(
                target,
                runs=options.runs,
                seconds=options.seconds,
                corpus=corpus,
                findings=options.findings.absolute(),
            )
            outcomes.append(outcome)
            print(outcome, flush=True)
            if outcome.finding:
                print(outcome.finding[-FINDING_CHARACTERS:], flush=True)
    print(f"{sum(outcome.executions for outcome in outcomes)} executions in all")
    sys.exit(any(outcome.finding for outcome in outcomes))


if __name__ == "__main__":
    main()
