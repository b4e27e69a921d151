"""The seeds, one by one; and a short run with coverage feedback over all targets.

The long run is ``python -m tests.fuzz`` (its --help tells how long).
"""

import importlib.util
from pathlib import Path

import pytest

from tests.fuzz.__main__ import FINDING_CHARACTERS, fuzz
from tests.fuzz.targets import ANY, TARGETS, run, seeds

RUNS = 10_000
SECONDS_MAX = 40
RUNS_LEAST = 500


@pytest.mark.parametrize("target", TARGETS)
def test_every_seed_passes(target: str) -> None:
    known = seeds(target)
    assert known
    for seed in known:
        run(target, seed)
        for cut in range(0, len(seed), max(len(seed) // 16, 1)):
            run(target, seed[:cut])


def test_a_short_run_finds_nothing(tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is missing: pip install atheris (it has wheels for CPython on x86-64)")
    corpus, findings = tmp_path / "corpus", tmp_path / "findings"
    outcome = fuzz(ANY, runs=RUNS, seconds=SECONDS_MAX, corpus=corpus, findings=findings)
    assert not outcome.finding, outcome.finding[-FINDING_CHARACTERS:]
    assert outcome.executions > RUNS_LEAST, outcome
