"""``python -m benchmarks``: measure, print the report, say by the exit code how it went.

Exit codes: 0 every bar that was measured is met, 1 one is not, 2 it could not be measured
to the end; what was measured until then is printed.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import client, report, tgtd
from benchmarks.bars import Memory, Sample, Verdict, judge
from benchmarks.measure import OUTAGES_EVERY, Options, measure, measure_memory
from benchmarks.processes import MeasurementFailed
from benchmarks.subjects import NAMES, TGTD
from benchmarks.workloads import WORKLOADS

MIB: Final = 1 << 20
SHORT_NAMES: Final = dict(zip(("tgtd", "alone", "async", "dead", "stopped"), NAMES, strict=True))


def missing_packages(subjects: Sequence[str]) -> list[str]:
    """Debian packages without which this machine cannot measure ``subjects``."""
    missing = client.missing_packages()
    if TGTD in subjects:
        missing += tgtd.missing_packages()
    return missing


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="This target beside tgtd, same client, interleaved. Target and client share "
        "processor 0, the replica has processor 1.",
    )
    parser.add_argument(
        "--workloads",
        nargs="+",
        choices=WORKLOADS,
        default=list(WORKLOADS),
        metavar="NAME",
        help=f"of: {', '.join(WORKLOADS)} (default: all)",
    )
    parser.add_argument(
        "--subjects",
        nargs="+",
        choices=SHORT_NAMES,
        default=list(SHORT_NAMES),
        metavar="NAME",
        help=f"of: {', '.join(SHORT_NAMES)} (default: all)",
    )
    parser.add_argument(
        "--pairs",
        type=int,
        default=27,
        help="rounds of each workload (default: 27); every third is one with outages too",
    )
    parser.add_argument("--seconds", type=float, default=0.75, help="of one run (default: 0.75)")
    parser.add_argument("--warm", type=float, default=0.25, help="before each (default: 0.25)")
    parser.add_argument("--size", type=int, default=256, help="volume, MiB (default: 256)")
    parser.add_argument("--log-limit", type=int, default=256, help="MiB (default: 256)")
    parser.add_argument(
        "--outage-log-limit",
        type=int,
        default=32,
        help="MiB, where the replica is dead or stopped, so that it fills in a run (default: 32)",
    )
    parser.add_argument(
        "--directory", type=Path, default=Path("/dev/shm"), help="where the files go (a tmpfs)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the order and of the blocks hit")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory bar")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="the report, not to the screen")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; gives back the exit code."""
    chosen = _parser().parse_args(arguments)
    subjects = [SHORT_NAMES[name] for name in chosen.subjects]
    missing = missing_packages(subjects)
    if missing:
        print(f"missing: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 2
    options = Options(
        rounds=chosen.pairs,
        seconds=chosen.seconds,
        warm_seconds=chosen.warm,
        size_bytes=chosen.size * MIB,
        log_limit_bytes=chosen.log_limit * MIB,
        outage_log_limit_bytes=chosen.outage_log_limit * MIB,
        directory=chosen.directory,
        seed=chosen.seed,
    )
    facts = report.machine()
    facts["runs"] = (
        f"{options.rounds} rounds of {options.seconds:g} s after {options.warm_seconds:g} s, one "
        f"in {OUTAGES_EVERY} with a dead and a stopped replica too, "
        f"volumes of {chosen.size} MiB in {options.directory}, log limit {chosen.log_limit} MiB, "
        f"{chosen.outage_log_limit} MiB where the replica is dead or stopped"
    )
    samples: list[Sample] = []
    memory: Memory | None = None
    failure = ""
    try:
        for sample in measure([WORKLOADS[n] for n in chosen.workloads], subjects, options, _tell):
            samples.append(sample)
        if not chosen.no_memory:
            memory = measure_memory(options, _tell)
    except MeasurementFailed as error:
        failure = f"broken off: {error}"
        facts["broken off"] = str(error).splitlines()[0]
    judged = judge(samples, memory, WORKLOADS)
    facts["load afterwards"] = report.machine()["load"]
    page = report.markdown(samples, memory, judged, WORKLOADS, facts)
    if chosen.write is None:
        print(page)
    else:
        chosen.write.write_text(page)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(report.as_json(samples, memory, judged, facts)))
    if failure:
        print(failure, file=sys.stderr)
        return 2
    return 1 if any(bar.verdict is Verdict.NOT_MET for bar in judged) else 0


def _tell(line: str) -> None:
    """Progress goes where it does not mix with the report."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
