"""``python -m tests.simulation SEED [--trace]`` replays one seed; ``--seeds N`` runs many."""

import argparse
import sys
import time
import traceback

from tests.simulation.run import simulate


def main() -> int:
    """Run the seeds that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--seeds", type=int, default=1, help="how many, from SEED on")
    parser.add_argument("--trace", action="store_true", help="print the run's story")
    options = parser.parse_args()
    failed: list[int] = []
    started = time.process_time()
    for seed in range(options.seed, options.seed + options.seeds):
        try:
            simulation = simulate(seed, trace=options.trace)
        except BaseException as error:  # noqa: BLE001 - told of, whatever it is
            failed.append(seed)
            if options.seeds == 1:
                traceback.print_exc()
            else:
                print(f"seed {seed}: {type(error).__name__}: {str(error)[:150]}", flush=True)
            if isinstance(error, KeyboardInterrupt):
                break
            continue
        if options.trace:
            print("\n".join(simulation.world.lines))
    seconds = time.process_time() - started
    print(f"{options.seeds} seeds in {seconds:.1f} CPU s, {len(failed)} failed {failed[:20]}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
