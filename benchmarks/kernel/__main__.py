"""``python -m benchmarks.kernel``: measure in a guest, print the report, judge by the exit code.

Exit codes: 0 every bar that was measured is met, 1 one is not, 2 it could not be measured
to the end; what was measured until then is printed.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from benchmarks import report as machine_report
from benchmarks.bars import Sample, Verdict
from benchmarks.kernel import host, report
from benchmarks.kernel.judge import judge
from benchmarks.kernel.plan import PARTS, WORKLOADS, Plan
from benchmarks.processes import MeasurementFailed

MIB: Final = 1 << 20


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernel",
        description="Our handler beside LIO fileio, tcmu-runner and DRBD in one virtual machine "
        "under software emulation: ratios mean something, figures do not.",
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(default: all)"
    )
    parser.add_argument(
        "--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="(default: all)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each workload (default: 5)")
    parser.add_argument("--seconds", type=float, default=1.5, help="of one run (default: 1.5)")
    parser.add_argument("--warm", type=float, default=0.3, help="before each (default: 0.3)")
    parser.add_argument("--size", type=int, default=64, help="volume, MiB (default: 64)")
    parser.add_argument("--seed", type=int, default=1, help="of the order and of the blocks hit")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument(
        "--report", type=Path, nargs="+", metavar="FILE", help="measure nothing: report on those"
    )
    return parser


def _told_to_end(signal_number: int, _frame: FrameType | None) -> NoReturn:
    raise MeasurementFailed(f"ended by {signal.Signals(signal_number).name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; gives back the exit code."""
    chosen = _parser().parse_args(arguments)
    if chosen.report:
        saved = report.merged(json.loads(path.read_text()) for path in chosen.report)
        return _finish(*saved, "")
    missing = host.missing_packages()
    if missing:
        print(f"missing: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 2
    plan = Plan(
        parts=tuple(chosen.parts),
        workloads=tuple(chosen.workloads),
        rounds=chosen.rounds,
        seconds=chosen.seconds,
        warm_seconds=chosen.warm,
        size_bytes=chosen.size * MIB,
        seed=chosen.seed,
    )
    samples: list[Sample] = []
    failure, begun = "", time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _told_to_end)
    facts = [_facts(plan, sys.argv[1:] if arguments is None else arguments)]
    with tempfile.TemporaryDirectory(prefix="pratima-bench-") as share:
        try:
            host.measure(plan, Path(share), samples, _tell)
        except MeasurementFailed as error:
            failure = f"broken off: {error}"
            facts[0]["broken off"] = str(error).splitlines()[0]
    facts[0]["took"] = f"{time.monotonic() - begun:.0f} s"
    facts[0]["load afterwards"] = machine_report.machine()["load"]
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(report.as_json(samples, facts)))
    return _finish(samples, facts, failure)


def _finish(samples: list[Sample], facts: list[dict[str, str]], failure: str) -> int:
    judged = judge(samples)
    print(report.markdown(samples, judged, facts))
    if failure:
        print(failure, file=sys.stderr)
        return 2
    return 1 if any(bar.verdict is Verdict.NOT_MET for bar in judged) else 0


def _facts(plan: Plan, arguments: Sequence[str]) -> dict[str, str]:
    machine = machine_report.machine()
    return {
        "command": f"`python -m benchmarks.kernel {' '.join(arguments)}`",
        "host": machine["processors"],
        "guest": f"Linux {host.kernel_release()}, 2 processors, emulated",
        "python": machine["python"],
        "hot path": machine["hot path"],
        "runs": f"{plan.rounds} rounds of {plan.seconds:g} s after {plan.warm_seconds:g} s, "
        f"volumes of {plan.size_bytes // MIB} MiB in memory",
        "load before": machine["load"],
    }


def _tell(line: str) -> None:
    """Progress goes where it does not mix with the report."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
