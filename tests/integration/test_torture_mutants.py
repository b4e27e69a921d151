"""The torture scenarios are worth something: daemons broken on purpose fail them.

Each mutant is a copy of the package with one line changed, run as real daemons. A long run:
`pytest -m long tests/integration/test_torture_mutants.py` takes some minutes.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import pratima_iscsi
from tests.integration import test_torture as scenarios

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@dataclass(frozen=True, slots=True)
class Mutant:
    """``old`` becomes ``new`` in ``module``; ``scenario`` then fails, saying ``says``."""

    module: str
    old: str
    new: str
    scenario: Callable[[Path], None]
    says: str


MUTANTS = {
    "recovery leaves the journal out": Mutant(
        "edges/replica_store.py",
        "while self.state.applied < journal.last:",
        "while False:",
        scenarios.test_sync_acknowledged_means_in_every_image_of_the_replica,
        "NOT A PREFIX|; again:",
    ),
    "one write of fifty is not applied": Mutant(
        "edges/replica_apply.py",
        "if entry.length:",
        "if entry.length and (hot.sequence % 50 or self.state.transaction):",
        scenarios.test_replica_killed_and_frozen_at_random_always_recovers_a_prefix,
        "NOT A PREFIX",
    ),
    "a long write is applied in part": Mutant(
        "edges/replica_apply.py",
        ".pwrite(entry.payload, entry.offset)",
        ".pwrite(entry.payload[:65536], entry.offset)",
        scenarios.test_replica_killed_and_frozen_at_random_always_recovers_a_prefix,
        "NOT A PREFIX",
    ),
    "overflow forgets what it drops": Mutant(
        "replication/link_cover.py",
        "self.table.add_entries(self.queue.unsent_entries)",
        "self.table.add_records(list(self.queue.unsent)[::2])",
        scenarios.test_outage_that_overflows_the_log_resyncs_only_what_was_written,
        "NOT A PREFIX",
    ),
    "sync does not wait": Mutant(
        "backstore.py",
        "waiting = [link for link in self.links if link.waits]",
        "waiting: list[Link] = []",
        scenarios.test_sync_acknowledged_means_in_every_image_of_the_replica,
        "NOT A PREFIX",
    ),
    "a resync is applied as it comes": Mutant(
        "edges/replica_apply.py",
        "if self.staging is not None:\n                self.staging.write",
        "if False:\n                self.staging.write",
        scenarios.test_resync_under_load_keeps_the_old_point_until_it_ends,
        "NOT A PREFIX|not consistent",
    ),
    "a comparison finds nothing": Mutant(
        "edges/replica_apply.py",
        "verify.verify, differing))",
        "verify.verify, ()))",
        scenarios.test_killed_primary_loses_nothing_acknowledged_and_the_replica_follows_it,
        "NOT A PREFIX|not the new base",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_scenario_fails_with_broken_daemons(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant = MUTANTS[name]
    package = Path(pratima_iscsi.__file__).parent
    broken = tmp_path / "broken" / package.name
    shutil.copytree(package, broken, ignore=shutil.ignore_patterns("__pycache__"))
    module = broken / mutant.module
    source = module.read_text()
    assert mutant.old in source, f"{mutant.module} has no line {mutant.old!r} any more"
    module.write_text(source.replace(mutant.old, mutant.new))
    monkeypatch.chdir(broken.parent)  # `python -m` looks here first
    monkeypatch.setattr(scenarios, "CYCLES", 6)
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(AssertionError, match=mutant.says) as failure:
        mutant.scenario(run)
    print(f"\n{name}: {str(failure.value)[:600]}")
