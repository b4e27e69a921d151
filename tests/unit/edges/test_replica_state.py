"""The replica's state file: atomic, twice, and honest about what it cannot read."""

from random import Random

import pytest

from pratima_iscsi.edges.replica_state import (
    Commit,
    ReplicaState,
    ReplicaVolume,
    StateFile,
)
from pratima_iscsi.errors import StateError
from pratima_iscsi.limits import (
    ANCESTRY_MAX,
    NAME_BYTES_MAX,
    REASON_CHARACTERS_MAX,
    REPLICA_STATE_BYTES,
    VOLUMES_MAX,
)
from pratima_iscsi.positions import Ancestor, History, Position
from tests.simulation.disk import SimDisk

LONGEST = History(
    Position((1 << 64) - 1, (1 << 64) - 1),
    tuple(Ancestor((1 << 64) - 1 - i, -1) for i in range(ANCESTRY_MAX)),
)
LARGEST = ReplicaState(
    group=b"g" * 16,
    group_name="\U0001f4be" * NAME_BYTES_MAX,
    node=b"n" * 16,
    volumes=tuple(
        ReplicaVolume("\U0001f4be" * NAME_BYTES_MAX, 1 << 44) for _ in range(VOLUMES_MAX)
    ),
    reason="\U0001f4be" * REASON_CHARACTERS_MAX,
    failed="\U0001f4be" * REASON_CHARACTERS_MAX,
    history=LONGEST,
    committing=Commit(LONGEST, b"d" * 16),
)


def test_a_fresh_directory_is_unbound_and_stays_empty() -> None:
    disk = SimDisk()
    file = StateFile(disk.directory())
    assert file.state == ReplicaState()
    assert not file.state.bound
    file.close()
    assert disk.directory().names() == []


def test_the_largest_state_comes_back() -> None:
    disk = SimDisk()
    StateFile(disk.directory()).save(LARGEST)
    assert StateFile(disk.power_cut(Random(1)).directory()).state == LARGEST


def saves_and_cuts(rng: Random) -> list[tuple[SimDisk, int]]:
    """Four saves; for each operation a power cut, and the last state that was saved by then."""
    disk = SimDisk()
    file = StateFile(disk.directory())
    cuts: list[tuple[SimDisk, int]] = []
    disk.faults.before = lambda *_: cuts.append((disk.power_cut(rng), file.state.applied))
    for number in range(1, 5):
        reason = "x" * rng.randrange(3000)
        file.save(ReplicaState(group=b"g" * 16, applied=number, reason=reason))
    return cuts


def test_any_power_cut_shows_the_last_saved_state_or_the_one_under_way() -> None:
    for seed in range(200):
        for cut, saved in saves_and_cuts(Random(seed)):
            assert StateFile(cut.directory()).state.applied in {saved, saved + 1}


def test_a_state_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimDisk()
    StateFile(disk.directory()).save(LARGEST)
    monkeypatch.setattr("pratima_iscsi.edges.replica_state._VERSION", 2)
    with pytest.raises(StateError, match="version 1, this program knows 2"):
        StateFile(disk.directory())


def test_a_length_that_was_damaged_is_no_length() -> None:
    disk = SimDisk()
    StateFile(disk.directory()).save(LARGEST)
    for copy in (0, REPLICA_STATE_BYTES):
        disk.flip("state", copy + 16, 0x7F)
    with pytest.raises(StateError, match="both copies"):
        StateFile(disk.directory())
