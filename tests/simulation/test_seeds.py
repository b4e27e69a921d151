"""Seeds of the simulator, each a different story of faults: nothing that must hold is ever broken.

``PRATIMA_SEEDS`` says how many (default 2000), ``PRATIMA_FIRST_SEED`` from which on. A failing seed
replays with ``python -m tests.simulation SEED --trace``.
"""

import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.run import simulate

SEEDS = int(os.environ.get("PRATIMA_SEEDS", "2000"))
FIRST = int(os.environ.get("PRATIMA_FIRST_SEED", "0"))
PROCESSES = 2
CHUNK = 25


def run_seeds(first: int, end: int) -> tuple[list[str], int]:
    """The failures among seeds ``first`` to ``end`` (exclusive), and the events that were tried."""
    failures, events = [], 0
    for seed in range(first, end):
        try:
            events += simulate(seed).world.events
        except Exception as error:  # noqa: BLE001 - an error of any kind is a failed seed
            failures.append(f"seed {seed}: {type(error).__name__}: {error}")
    return failures, events


@pytest.mark.timeout(SEEDS * 2 + 60)
def test_no_seed_breaks_what_must_hold() -> None:
    firsts = range(FIRST, FIRST + SEEDS, CHUNK)
    ends = [min(first + CHUNK, FIRST + SEEDS) for first in firsts]
    with ProcessPoolExecutor(PROCESSES) as pool:
        results = list(pool.map(run_seeds, firsts, ends))
    failures = [failure for failed, _ in results for failure in failed]
    assert not failures, f"{len(failures)} of {SEEDS} seeds:\n" + "\n".join(failures[:20])
    assert sum(events for _, events in results) > SEEDS * 500
