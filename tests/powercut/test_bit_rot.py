"""A flipped bit in the replica's files is found and said, or harmless; never silently wrong."""

from random import Random

import pytest

from pratima_iscsi.edges.replica_state import STATE_NAME
from pratima_iscsi.edges.replica_store import ReplicaDamaged, ReplicaStore
from pratima_iscsi.edges.staging import StagingRot
from pratima_iscsi.errors import StateError
from pratima_iscsi.limits import REPLICA_STATE_BYTES
from tests.powercut.workload import Frames, Image, Workload, check, open_store
from tests.simulation.disk import SimDisk


def flip_anywhere(disk: SimDisk, rng: Random, prefix: str) -> None:
    """Invert one bit of a random written byte of a file whose name begins with ``prefix``."""
    directory = disk.directory()
    name = rng.choice([name for name in directory.names() if name.startswith(prefix)])
    file = directory.open(name)
    content = file.pread(file.size, 0)
    written = [at for at in range(0, len(content), 64) if any(content[at : at + 64])] or [0]
    disk.flip(name, rng.choice(written) + rng.randrange(64), 1 << rng.randrange(8))


def develop(image: Image, proven: int) -> bool:
    """Recover a rotten image; whether the rot was found and said. ``proven``: what marks cover."""
    store = open_store(image.disk)
    state = store.state
    model = image.models.get(state.applied)
    if state.reason.startswith(("journal", "staging")):
        assert not state.consistent and not state.transaction and not state.direct
        again = open_store(image.disk)
        assert again.state.reason == state.reason
        assert not again.state.consistent
        return True
    assert model is not None
    assert state.applied >= proven, "what was provably durable was dropped in silence"
    try:
        check(store, image.disk, model)
    except StagingRot:
        return True  # a staged block is checked when it is read: END would say it
    return False


@pytest.mark.parametrize("prefix", ["journal", "staging", "state"])
def test_a_flipped_bit_is_said_or_harmless(prefix: str) -> None:
    found = harmless = 0
    for seed in range(40):
        rng = Random(f"rot {prefix} {seed}")
        workload = Workload(f"rot {seed}")
        workload.run(rng.randrange(20, 70), restarts=0.02)
        if prefix == "staging":
            open_a_transaction(workload)
        for _ in range(5):
            image = workload.image(rng.random() < 0.5, "rot")
            if not any(name.startswith(prefix) for name in image.disk.directory().names()):
                continue
            flip_anywhere(image.disk, rng, prefix)
            if develop(image, workload.store.applicable):
                found += 1
            else:
                harmless += 1
    assert harmless > 5
    assert found > 5 or prefix == "state"


def open_a_transaction(workload: Workload) -> None:
    """Go on until a staged transaction is open and checkpointed."""
    for _ in range(2000):
        workload.step()
        staging = workload.store._applier.staging
        if staging is not None and staging.number and workload.rng.random() < 0.2:
            return
    raise AssertionError("no transaction")


def test_after_rot_a_first_sync_makes_the_replica_consistent_again() -> None:
    for seed in range(10):
        workload = rotten(seed)
        assert workload.store.state.reason.startswith("journal: unit")
        model = workload.models[workload.store.state.applied] = workload.models[0]
        model.history, model.digest = workload.store.state.history, workload.store.state.digest
        model.n, model.ended = workload.store.state.n, workload.store.state.ended
        for index, volume in enumerate(workload.store.state.volumes):
            file = workload.disk.directory().open(f"volume{index}")
            model.volumes[index] = bytearray(file.pread(volume.size, 0))
        workload.frames = Frames(workload.rng, model)
        workload.last = workload.promised = workload.released = workload.store.state.applied
        for _ in range(500):
            workload.step()
        workload.finish()
        workload.restart(power_cut=True)


def rotten(seed: int) -> Workload:
    """A workload whose journal lost a unit that a durable mark covers, opened again."""
    workload = Workload(f"rotten {seed}")
    workload.run(30)
    workload.make_room()
    first = workload.last + 1
    for _ in range(3):
        workload.append(workload.frames.next())
        workload.promised = workload.store.sync()
    assert workload.store._journal is not None
    segment, offset, _ = workload.store._journal._locate(first)
    workload.disk.flip(segment.name, offset + 70)
    workload.store.close()
    workload.disk = workload.disk.crash()
    workload.store = open_store(workload.disk)
    return workload


def test_a_unit_below_a_mark_is_never_dropped_in_silence() -> None:
    workload = rotten(99)
    state = workload.store.state
    assert not state.consistent
    assert "is missing though unit" in state.reason
    assert state.applied == workload.last


def test_a_bad_last_commit_group_is_a_torn_tail() -> None:
    workload = Workload("torn")
    workload.run(30)
    workload.make_room()
    durable = workload.promised
    for _ in range(3):
        workload.append(workload.frames.next())
    workload.store.sync()
    assert workload.store._journal is not None
    segment, offset, _ = workload.store._journal._locate(durable + 2)
    workload.disk.flip(segment.name, offset + 70)
    workload.store.close()
    disk = workload.disk.crash()
    store = open_store(disk)
    # The unit after the bad one is whole, but its mark is below: it proves nothing.
    assert store.state.applied == durable + 1
    check(store, disk, workload.models[durable + 1])


def test_what_the_state_says_was_durable_is_missed_without_any_mark() -> None:
    workload = Workload("missed")
    workload.run(30)
    workload.make_room()
    workload.append(workload.frames.next())
    durable = workload.store.sync()
    workload.store.checkpoint()
    assert workload.store._journal is not None
    segment, offset, _ = workload.store._journal._locate(durable)
    workload.disk.flip(segment.name, offset)
    workload.store.close()
    store = open_store(workload.disk.crash())
    assert store.state.reason == (
        f"journal: unit {durable} is missing though unit {durable} was durable"
    )


def test_a_damaged_segment_header_is_rot() -> None:
    workload = Workload("header")
    workload.run(30)
    workload.append(workload.frames.next())
    workload.disk.flip("journal.0000", 30)
    workload.store.close()
    store = open_store(workload.disk.crash())
    assert store.state.reason == "journal: the header of segment journal.0000 is damaged"


@pytest.mark.parametrize("copy", [0, 1])
def test_one_damaged_copy_of_the_state_is_healed(copy: int) -> None:
    workload = Workload("state")
    workload.run(40)
    workload.finish()
    workload.store.checkpoint()
    disk = workload.disk.crash()
    disk.flip(STATE_NAME, copy * REPLICA_STATE_BYTES + 40)
    store = open_store(disk)
    check(store, disk, workload.models[store.state.applied])
    store.close()
    disk.flip(STATE_NAME, (1 - copy) * REPLICA_STATE_BYTES + 40)
    store = open_store(disk)
    check(store, disk, workload.models[store.state.applied])


def test_two_damaged_copies_of_the_state_are_said() -> None:
    workload = Workload("state")
    workload.run(40)
    disk = workload.disk.crash()
    for copy in (0, 1):
        disk.flip(STATE_NAME, copy * REPLICA_STATE_BYTES + 40)
    with pytest.raises(StateError, match="damaged in both copies"):
        open_store(disk)


def test_rot_that_apply_finds_is_persisted_before_it_is_raised() -> None:
    workload = Workload("apply")
    workload.run(30)
    workload.make_room()
    first = workload.last + 1
    for _ in range(3):
        workload.append(workload.frames.next())
        workload.store.sync()
    assert workload.store._journal is not None
    segment, offset, _ = workload.store._journal._locate(first)
    workload.disk.flip(segment.name, offset + 100)
    damaged(workload.store, f"journal: unit {first} is damaged")
    later = open_store(workload.disk.power_cut(Random(1)))
    assert later.state.reason == f"journal: unit {first} is damaged"
    assert not later.state.consistent and not later.state.discard
    assert later.append(None, later.durable) > workload.last


def damaged(store: ReplicaStore, reason: str) -> None:
    """Assert that ``apply`` finds the damage, and that the store is closed by it."""
    with pytest.raises(ReplicaDamaged, match=reason):
        store.apply(store.applicable)
    assert not store.state.consistent and store.state.reason == reason
    with pytest.raises(OSError, match="store is closed"):
        store.append(None, store.durable)
    with pytest.raises(OSError, match="store is closed"):
        store.checkpoint()


def test_a_missing_staging_index_is_said() -> None:
    workload = Workload("index")
    open_a_transaction(workload)
    disk = workload.disk.crash()
    for name in disk.directory().names():
        if ".index" in name or "-index." in name:
            disk.directory().unlink(name)
    store = open_store(disk)
    assert store.state.reason.startswith("staging: index") and "missing" in store.state.reason
