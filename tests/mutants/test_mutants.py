"""Every mutant of the bank is killed, and what kills it passes on the code as it is.

``PRATIMA_MUTANT_SEEDS`` says how many seeds of each hunt the unbroken code must pass (default 4).
"""

import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from tests.mutants.bank import MUTANTS
from tests.mutants.hunt import PROCESSES, hunt_apart
from tests.simulation.hunts import HUNTS
from tests.simulation.run import run_setup

SEEDS = int(os.environ.get("PRATIMA_MUTANT_SEEDS", "4"))


@pytest.mark.timeout(900)
def test_every_mutant_is_killed_and_not_all_by_one_check() -> None:
    with ThreadPoolExecutor(PROCESSES) as pool:
        found = list(pool.map(lambda mutant: hunt_apart(mutant, mutant.seeds), MUTANTS))
    alive = [each.mutant for each in found if not each.check]
    assert not alive, f"these mutants live: {alive}"
    assert len({each.where for each in found}) >= 6, "one check killed them all"


def run_hunt(name: str) -> str:
    """The first failure of the unbroken code in a hunt, or nothing."""
    for seed in range(SEEDS):
        try:
            run_setup(seed, HUNTS[name])
        except AssertionError as error:
            return f"{name} {seed}: {error}"
    return ""


@pytest.mark.timeout(SEEDS * 60 + 60)
def test_the_unbroken_code_passes_the_hunts() -> None:
    with ProcessPoolExecutor(PROCESSES) as pool:
        assert not [failure for failure in pool.map(run_hunt, HUNTS) if failure]


def test_each_mutant_names_its_rule_and_no_two_are_the_same() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30
    assert len({(mutant.module, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)
    assert all(mutant.rule for mutant in MUTANTS)
