"""What each record does to a replica, on a simulated disk and on a real one; what is refused."""

import errno
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from random import Random

import pytest

from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.edges.directory import DiskDirectory
from pratima_iscsi.edges.files import Directory, File
from pratima_iscsi.edges.replica_state import StateFile
from pratima_iscsi.edges.replica_store import Applied, ReplicaDamaged, ReplicaStore
from pratima_iscsi.edges.staging import SLOT_BYTES
from pratima_iscsi.errors import RemoteProtocolError, StateError
from pratima_iscsi.limits import MIB
from pratima_iscsi.operations import RecordKind
from pratima_iscsi.positions import ORIGIN, Ancestor, History, Position
from pratima_iscsi.records import (
    NO_HISTORY,
    Begin,
    End,
    GenerationBegin,
    Record,
    Verify,
    make_record,
    next_history,
    seed_history,
)
from pratima_iscsi.replication.wire import BatchHeader
from tests.simulation.disk import SimDisk
from tests.support.frames import frame_of

GROUP = b"g" * 16
NODE = b"n" * 16
BLOCKS = 16
SIZE = BLOCKS * BLOCK_BYTES
SYNCED = History(Position(5, 10))
K = RecordKind


def write(sequence: int, offset: int, data: bytes, volume: int = 0) -> Record:
    return make_record(K.WRITE, volume, offset, len(data), data, sequence)


def zero(sequence: int, offset: int, length: int) -> Record:
    return make_record(K.ZERO, 0, offset, length, b"", sequence)


def resync(first: int, data: bytes) -> Record:
    return make_record(K.RESYNC, 0, first * BLOCK_BYTES, len(data), data)


def resync_zero(first: int, count: int) -> Record:
    return make_record(K.RESYNC_ZERO, 0, first * BLOCK_BYTES, count * BLOCK_BYTES)


def begin(transaction: int, *, direct: bool) -> Record:
    return make_record(K.BEGIN, payload=Begin(transaction, direct).encode())


def end(transaction: int, history: History = SYNCED, digest: bytes = b"H" * 16) -> Record:
    return make_record(K.END, payload=End(transaction, history, digest).encode())


def generation(new: int, parent: int, last: int) -> Record:
    return make_record(K.GENERATION, payload=GenerationBegin(new, parent, last).encode())


def verify(number: int, first: int, blocks: Sequence[bytes]) -> Record:
    key = b"k" * 16
    digests = b"".join(blake2b(b, digest_size=16, key=key).digest() for b in blocks)
    payload = Verify(number, key, digests).encode()
    length = sum(map(len, blocks))
    return make_record(K.VERIFY, 0, first * BLOCK_BYTES, length, payload)


class Replica:
    """A store with one or two volumes, fed by hand."""

    def __init__(self, directory: Directory, sizes: Sequence[int] = (SIZE,)) -> None:
        self.directory = directory
        self.volumes: list[File] = []
        for index, size in enumerate(sizes):
            volume = directory.open(f"volume{index}", create=True)
            volume.truncate(size)
            volume.fdatasync()
            self.volumes.append(volume)
        directory.sync()
        self.staging_bytes = 1 << 40
        self.reserve_bytes = 0
        self.store = self.open()
        self.n = 0

    def open(self, *, patient: bool = False) -> ReplicaStore:
        return ReplicaStore.open(
            self.directory,
            self.volumes,
            segment_bytes=64 * 1024,
            journal_bytes=256 * 1024,
            staging_bytes=self.staging_bytes,
            reserve_bytes=self.reserve_bytes,
            patient=patient,
        )

    def reopen(self) -> None:
        self.store.close()
        self.store = self.open()

    def bind(self) -> None:
        sizes = [(f"v{i}", volume.size) for i, volume in enumerate(self.volumes)]
        self.store.bind(GROUP, "group", sizes, NODE)

    def append(self, *records: Record, of: int | None = None, group: bytes = GROUP) -> None:
        """One durable unit, and an empty one whose mark makes it applicable."""
        here = self.store.state.history.position.generation
        header = BatchHeader(group, b"s" * 16, 7, self.n + 1, here if of is None else of)
        self.n += len(records)
        self.store.append(frame_of(header, records), self.store.durable)
        self.store.append(None, self.store.sync())
        self.store.sync()

    def send(self, *records: Record, of: int | None = None) -> Applied:
        self.append(*records, of=of)
        return self.store.apply(self.store.applicable)

    def first_sync(self, fill: bytes = b"p") -> None:
        """Bound and consistent at SYNCED, every block ``fill``."""
        self.bind()
        self.send(begin(1, direct=True), resync(0, fill * BLOCK_BYTES * 8))
        self.send(resync(8, fill * BLOCK_BYTES * 8), end(1))

    def content(self, volume: int = 0) -> bytes:
        return self.volumes[volume].pread(self.volumes[volume].size, 0)


@pytest.fixture(params=["simulated", "real"])
def replica(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Replica]:
    if request.param == "simulated":
        yield Replica(SimDisk().directory())
        return
    directory = DiskDirectory.open_at(tmp_path / "state", create=True)
    replica = Replica(directory)
    yield replica
    replica.store.close()
    for volume in replica.volumes:
        volume.close()
    directory.close()


# --- binding -------------------------------------------------------------------------------------


def test_a_fresh_replica_is_unbound_and_takes_nothing(replica: Replica) -> None:
    store = replica.store
    assert not store.state.bound and store.state.history == History(ORIGIN)
    assert (store.durable, store.applicable, store.journal_used()) == (0, 0, 0)
    assert store.journal_room() > 0 and store.staging_room() > 0
    with pytest.raises(OSError, match="not bound"):
        store.append(None, 0)


def test_a_bound_replica_is_not_consistent_before_its_first_end(replica: Replica) -> None:
    replica.bind()
    state = replica.store.state
    assert state.bound and state.group == GROUP and state.node == NODE
    assert (state.consistent, state.reason) == (False, "the first sync has not begun")
    replica.reopen()
    assert replica.store.state.group_name == "group"
    assert [(v.name, v.size) for v in replica.store.state.volumes] == [("v0", SIZE)]


def test_volumes_must_match_the_group(replica: Replica) -> None:
    with pytest.raises(StateError, match="2 volumes, but 1 are given"):
        replica.store.bind(GROUP, "group", [("a", SIZE), ("b", SIZE)], NODE)
    with pytest.raises(StateError, match=f"has {SIZE} bytes, it must have {SIZE + 512}"):
        replica.store.bind(GROUP, "group", [("a", SIZE + 512)], NODE)
    replica.bind()
    replica.store.close()
    replica.volumes[0].truncate(SIZE - 512)
    with pytest.raises(StateError, match="name the right file"):
        replica.open()
    replica.volumes[0].truncate(SIZE)
    replica.store = replica.open()


def test_a_journal_whose_state_was_taken_away_is_not_a_fresh_replica(replica: Replica) -> None:
    replica.first_sync()
    replica.store.close()
    replica.directory.unlink("state")
    with pytest.raises(StateError, match="no replica state beside it"):
        replica.open()


# --- records outside a transaction ---------------------------------------------------------------


def test_a_direct_transaction_is_applied_at_once_and_inconsistent_until_its_end(
    replica: Replica,
) -> None:
    replica.bind()
    replica.send(begin(1, direct=True), resync(2, b"r" * 2 * BLOCK_BYTES), write(9, 0, b"w" * 512))
    state = replica.store.state
    assert (state.transaction, state.direct, state.consistent) == (1, True, False)
    assert state.history == History(ORIGIN)
    assert replica.content()[:512] == b"w" * 512
    assert replica.content()[2 * BLOCK_BYTES : 4 * BLOCK_BYTES] == b"r" * 2 * BLOCK_BYTES
    replica.reopen()
    assert replica.store.state.transaction == 1 and not replica.store.state.consistent
    replica.send(end(1))
    state = replica.store.state
    assert (state.transaction, state.direct, state.consistent) == (0, False, True)
    assert (state.history, state.digest, state.ended, state.n) == (SYNCED, b"H" * 16, 1, 4)
    assert state.reason == ""


def test_writes_move_position_and_digest_by_one_each(replica: Replica) -> None:
    replica.first_sync()
    records = [write(11, 512, b"x" * 1024), zero(12, 8192, 4096)]
    records.append(make_record(K.BOOKMARK, payload=b"here", sequence=13))
    records.append(make_record(K.FLUSH))
    applied = replica.send(*records)
    digest = b"H" * 16
    for record in records[:3]:
        digest = next_history(digest, record.entry, record.payload)
    assert applied.state.history == SYNCED.at(13)
    assert applied.state.digest == digest
    assert (applied.state.n, applied.index) == (replica.n, replica.store.applicable)
    expected = bytearray(b"p" * SIZE)
    expected[512:1536] = b"x" * 1024
    expected[8192:12288] = bytes(4096)
    assert replica.content() == expected


def test_a_generation_begins_where_its_parent_ended(replica: Replica) -> None:
    replica.first_sync()
    replica.send(write(11, 0, b"a" * 512))
    digest = replica.store.state.digest
    replica.send(generation(6, 5, 11), of=6)
    state = replica.store.state
    assert state.history == History(Position(6, 0), (Ancestor(5, 11),))
    assert state.digest == seed_history(6, digest)
    replica.send(write(1, 0, b"b" * 512))
    assert replica.store.state.history.position == Position(6, 1)


def test_a_volume_grows_and_never_shrinks(replica: Replica) -> None:
    replica.first_sync()
    grown = make_record(K.RESIZE, 0, 0, SIZE + BLOCK_BYTES, sequence=11)
    replica.send(grown, write(12, SIZE, b"z" * BLOCK_BYTES))
    assert replica.volumes[0].size == SIZE + BLOCK_BYTES
    replica.store.checkpoint()
    replica.reopen()
    assert replica.store.state.volumes[0].size == SIZE + BLOCK_BYTES
    assert replica.content()[SIZE:] == b"z" * BLOCK_BYTES
    with pytest.raises(RemoteProtocolError, match="cannot be resized"):
        replica.send(make_record(K.RESIZE, 0, 0, SIZE, sequence=13))


def test_a_volume_that_grew_before_a_failed_sync_has_its_size_after_a_power_cut() -> None:
    disk = SimDisk()
    volume = disk.directory().open("volume", create=True)
    volume.truncate(SIZE)
    volume.fdatasync()
    disk.directory().sync()
    volume.truncate(2 * SIZE)
    disk.faults.fail(0, kinds=frozenset({"fdatasync"}))
    with pytest.raises(OSError):
        volume.fdatasync()
    volume.fdatasync()
    assert disk.power_cut(Random(0)).directory().open("volume").size == 2 * SIZE


def test_a_device_that_is_larger_needs_no_growing(replica: Replica) -> None:
    replica.first_sync()
    replica.volumes[0].truncate(SIZE * 2)
    replica.send(make_record(K.RESIZE, 0, 0, SIZE + 512, sequence=11))
    assert replica.volumes[0].size == SIZE * 2
    assert replica.store.state.volumes[0].size == SIZE + 512


def test_zero_ranges_that_are_holes_already_are_left_alone() -> None:
    disk = SimDisk()
    replica = Replica(disk.directory())
    replica.bind()
    replica.send(begin(1, direct=True), resync(0, b"x" * BLOCK_BYTES))
    punched: list[str] = []
    disk.faults.before = lambda op, name: punched.append(op) if op == "punch" else None
    replica.send(resync_zero(4, 8))
    assert not punched
    replica.send(resync_zero(0, 2))
    assert punched == ["punch"]
    assert replica.content() == bytes(SIZE)


def test_records_of_no_bytes_do_nothing(replica: Replica) -> None:
    replica.first_sync()
    replica.send(write(11, 0, b""), zero(12, 0, 0), make_record(K.FLUSH, length=5))
    assert replica.store.state.history == SYNCED.at(12)
    assert replica.content() == b"p" * SIZE


# --- staged transactions -------------------------------------------------------------------------


def test_a_staged_transaction_leaves_the_old_point_until_its_end(replica: Replica) -> None:
    replica.first_sync()
    replica.send(begin(2, direct=False), resync(3, b"r" * 2 * BLOCK_BYTES))
    replica.send(write(77, 1024, b"w" * 10), zero(80, 15 * BLOCK_BYTES, 4096), resync_zero(9, 2))
    replica.send(generation(6, 99, 99), of=5)
    replica.store.checkpoint()
    state = replica.store.state
    assert state.transaction == 2
    assert (state.consistent, state.direct, state.history) == (True, False, SYNCED)
    assert replica.content() == b"p" * SIZE
    replica.reopen()
    assert replica.content() == b"p" * SIZE
    after = History(Position(6, 80), (Ancestor(5, 10),))
    replica.send(end(2, after, b"E" * 16))
    expected = bytearray(b"p" * SIZE)
    expected[3 * BLOCK_BYTES : 5 * BLOCK_BYTES] = b"r" * 2 * BLOCK_BYTES
    expected[1024:1034] = b"w" * 10
    expected[15 * BLOCK_BYTES :] = bytes(BLOCK_BYTES)
    expected[9 * BLOCK_BYTES : 11 * BLOCK_BYTES] = bytes(2 * BLOCK_BYTES)
    assert replica.content() == expected
    state = replica.store.state
    assert (state.history, state.digest, state.ended) == (after, b"E" * 16, 2)
    assert (state.transaction, state.committing, state.staging) == (0, None, 0)
    assert not [name for name in replica.directory.names() if name.startswith("staging")]


def test_begin_frees_an_older_staging(replica: Replica) -> None:
    replica.first_sync()
    room = replica.store.staging_room()
    replica.send(begin(2, direct=False), resync(0, b"2" * 4 * BLOCK_BYTES))
    replica.store.checkpoint()
    assert replica.store.staging_room() >= room - 1 * MIB
    replica.send(begin(3, direct=False), resync(8, b"3" * BLOCK_BYTES))
    names = [name for name in replica.directory.names() if name.startswith("staging")]
    assert names and all("0003" in name for name in names)
    replica.send(end(3))
    assert replica.content() == b"p" * 8 * BLOCK_BYTES + b"3" * BLOCK_BYTES + b"p" * (
        SIZE - 9 * BLOCK_BYTES
    )


def test_the_same_transaction_begun_anew_is_empty(replica: Replica) -> None:
    replica.first_sync()
    replica.send(begin(2, direct=False), resync(0, b"2" * BLOCK_BYTES))
    replica.store.checkpoint()
    replica.send(begin(2, direct=False), resync(1, b"3" * BLOCK_BYTES), end(2))
    assert replica.content()[: 2 * BLOCK_BYTES] == b"p" * BLOCK_BYTES + b"3" * BLOCK_BYTES


def test_a_direct_begin_over_a_staged_one_forgets_what_was_staged(replica: Replica) -> None:
    replica.first_sync()
    replica.send(begin(2, direct=False), resync(0, b"2" * BLOCK_BYTES))
    replica.send(begin(3, direct=True), resync(1, b"3" * BLOCK_BYTES))
    assert not replica.store.state.consistent
    assert replica.content()[: 2 * BLOCK_BYTES] == b"p" * BLOCK_BYTES + b"3" * BLOCK_BYTES


def test_the_operator_may_give_up_the_old_point_when_room_ends() -> None:
    disk = SimDisk()
    replica = Replica(disk.directory())
    replica.staging_bytes = 3 * (BLOCK_BYTES + 8)
    replica.reopen()
    replica.first_sync()
    assert replica.store.staging_room() == 3 * BLOCK_BYTES
    replica.append(begin(2, direct=False), resync(0, b"a" * 2 * BLOCK_BYTES))
    replica.append(resync(4, b"b" * 2 * BLOCK_BYTES), resync(8, b"c" * BLOCK_BYTES))
    for _ in range(2):
        with pytest.raises(OSError, match="no room to stage") as full:
            replica.store.apply(replica.store.applicable)
        assert full.value.errno == errno.ENOSPC
    assert replica.store.state.consistent and replica.content() == b"p" * SIZE
    state = replica.store.make_direct()
    assert (state.consistent, state.direct, state.transaction) == (False, True, 2)
    assert replica.content()[: 2 * BLOCK_BYTES] == b"a" * 2 * BLOCK_BYTES
    replica.store.apply(replica.store.applicable)
    replica.send(end(2))
    assert replica.store.state.consistent
    assert replica.content()[4 * BLOCK_BYTES : 6 * BLOCK_BYTES] == b"b" * 2 * BLOCK_BYTES


def full_staging(disk: SimDisk) -> Replica:
    """Consistent at SYNCED; the third block of the open transaction 2 finds no room."""
    replica = Replica(disk.directory())
    replica.staging_bytes = 3 * SLOT_BYTES
    replica.reopen()
    replica.first_sync()
    replica.append(begin(2, direct=False), resync(0, b"a" * 2 * BLOCK_BYTES))
    replica.append(resync(4, b"b" * 2 * BLOCK_BYTES), write(99, 0, b"w" * 512))
    with pytest.raises(OSError, match="no room to stage"):
        replica.store.apply(replica.store.applicable)
    return replica


def give_room(replica: Replica) -> None:
    replica.staging_bytes = 1 << 40
    replica.reopen()


@pytest.mark.parametrize("life", ["same", "next"])
@pytest.mark.parametrize("direct", [False, True])
def test_a_newer_begin_frees_staging_that_is_full(direct: bool, life: str) -> None:
    replica = full_staging(SimDisk())
    replica.append(begin(3, direct=direct), resync(1, b"c" * BLOCK_BYTES))
    if life == "next":
        replica.reopen()
    else:
        replica.store.apply(replica.store.applicable)
    state = replica.store.state
    assert (state.transaction, state.consistent) == (3, not direct)
    assert replica.store.abandoned == ""
    replica.send(end(3))
    assert replica.content() == b"p" * BLOCK_BYTES + b"c" * BLOCK_BYTES + b"p" * (
        SIZE - 2 * BLOCK_BYTES
    )


def test_a_volume_that_grew_in_a_transaction_without_room_has_grown() -> None:
    replica = full_staging(SimDisk())
    replica.append(make_record(K.RESIZE, 0, 0, SIZE + BLOCK_BYTES, sequence=99))
    replica.send(begin(3, direct=False))
    assert replica.store.state.volumes[0].size == replica.volumes[0].size == SIZE + BLOCK_BYTES


def test_full_staging_goes_on_directly_when_its_own_begin_says_so() -> None:
    replica = full_staging(SimDisk())
    replica.send(begin(2, direct=True))
    assert not replica.store.state.consistent and replica.store.state.direct
    replica.send(end(2))
    expected = bytearray(b"a" * 2 * BLOCK_BYTES + b"p" * 14 * BLOCK_BYTES)
    expected[4 * BLOCK_BYTES : 6 * BLOCK_BYTES] = b"b" * 2 * BLOCK_BYTES
    expected[:512] = b"w" * 512
    assert replica.store.state.consistent and replica.content() == expected


@pytest.mark.parametrize("life", ["same", "next"])
def test_what_ended_durably_is_never_passed_over_for_want_of_room(life: str) -> None:
    """Whatever follows: the source has been told that the replica has it."""
    replica = full_staging(SimDisk())
    replica.append(end(2, SYNCED.at(20)))
    replica.append(begin(3, direct=False), resync(1, b"c" * BLOCK_BYTES))
    with pytest.raises(OSError, match="no room to stage"):
        if life == "next":
            replica.reopen()
        replica.store.apply(replica.store.applicable)
    assert replica.content() == b"p" * SIZE
    give_room(replica)
    state = replica.store.state
    assert (state.history, state.ended, state.transaction) == (SYNCED.at(20), 2, 3)
    assert replica.content()[: 2 * BLOCK_BYTES] == b"w" * 512 + b"a" * (2 * BLOCK_BYTES - 512)
    assert replica.content()[4 * BLOCK_BYTES : 6 * BLOCK_BYTES] == b"b" * 2 * BLOCK_BYTES


def test_a_recovery_without_room_abandons_a_resync_that_leads_nowhere() -> None:
    replica = full_staging(SimDisk())
    replica.reopen()
    state = replica.store.state
    assert (state.transaction, state.consistent, state.history) == (0, True, SYNCED)
    assert "transaction 0000000000000002: no room to stage it" in replica.store.abandoned
    assert state.n == replica.n and replica.content() == b"p" * SIZE
    assert not [name for name in replica.directory.names() if name.startswith("staging")]
    replica.send(begin(3, direct=False), resync(1, b"c" * BLOCK_BYTES), end(3))
    replica.reopen()
    assert replica.store.abandoned == "" and replica.store.state.ended == 3


@pytest.mark.parametrize("behind", ["nothing", "staged", "direct"])
def test_a_power_cut_at_any_step_without_room_ends_where_it_would_have_ended(behind: str) -> None:
    for seed in range(40):
        rng = Random(seed)
        disk = SimDisk()
        replica = full_staging(disk)
        if behind != "nothing":
            replica.append(begin(3, direct=behind == "direct"), resync(1, b"c" * BLOCK_BYTES))
        replica.store.close()
        cuts: list[SimDisk] = []
        disk.faults.before = lambda *_, d=disk, r=rng, c=cuts: c.append(d.power_cut(r))
        store = replica.open()
        disk.faults.before = None
        store.checkpoint()
        for cut in rng.sample(cuts, 4):
            directory = cut.directory()
            volume = directory.open("volume0")
            staging_bytes = rng.choice([replica.staging_bytes, 1 << 40])
            again = ReplicaStore.open(
                directory, [volume], staging_bytes=staging_bytes, reserve_bytes=0
            )
            state = again.state
            if behind != "direct":
                assert state.history == SYNCED and volume.pread(SIZE, 0) == b"p" * SIZE
            assert state.consistent is (behind != "direct")
            assert state.transaction == (3 if behind != "nothing" else state.transaction & 2)
            assert state.n == store.state.n


def test_a_store_that_cannot_be_recovered_for_now_says_where_it_stands_to_the_patient() -> None:
    replica = full_staging(SimDisk())
    replica.append(end(2, SYNCED.at(20)))
    replica.store.close()
    store = replica.open(patient=True)
    assert (
        store.unrecovered == f"the replica cannot be recovered: no room to stage {2 * 4096} bytes"
    )
    assert store.state.bound and store.state.history == SYNCED
    with pytest.raises(OSError, match="the replica's store is closed"):
        store.append(None, 0)
    give_room(replica)
    assert replica.store.unrecovered == "" and replica.store.state.ended == 2


def test_a_direct_begin_of_the_open_staged_transaction_applies_what_is_staged(
    replica: Replica,
) -> None:
    replica.first_sync()
    replica.send(begin(2, direct=False), resync(0, b"a" * BLOCK_BYTES))
    replica.send(begin(2, direct=True), resync(1, b"b" * BLOCK_BYTES))
    state = replica.store.state
    assert (state.transaction, state.direct, state.consistent) == (2, True, False)
    assert replica.content()[: 2 * BLOCK_BYTES] == b"a" * BLOCK_BYTES + b"b" * BLOCK_BYTES
    assert not [name for name in replica.directory.names() if name.startswith("staging")]


def test_a_power_cut_while_turning_direct_ends_direct_or_staged_with_every_block() -> None:
    for seed in range(60):
        rng = Random(seed)
        disk = SimDisk()
        replica = Replica(disk.directory())
        replica.first_sync()
        replica.send(begin(2, direct=False), resync(0, b"a" * 3 * BLOCK_BYTES), resync_zero(5, 2))
        cuts: list[SimDisk] = []
        disk.faults.before = lambda *_, d=disk, r=rng, c=cuts: c.append(d.power_cut(r))
        replica.store.make_direct()
        for cut in rng.sample(cuts, 6):
            directory = cut.directory()
            volume = directory.open("volume0")
            store = ReplicaStore.open(directory, [volume], reserve_bytes=0)
            assert store.state.transaction == 2
            assert store.state.consistent is not store.state.direct
            staging = store._applier.staging
            assert (staging is None) is store.state.direct
            view = staging.read(0, 0, SIZE) if staging else volume.pread(SIZE, 0)
            assert view == replica.content()


def test_a_kill_while_begin_frees_an_older_staging_loses_nothing() -> None:
    disk = SimDisk()
    replica = Replica(disk.directory())
    replica.first_sync()
    replica.send(begin(2, direct=False), resync(0, b"2" * 4 * BLOCK_BYTES))
    replica.store.checkpoint()
    replica.append(begin(3, direct=False), resync(8, b"3" * BLOCK_BYTES))
    killed: list[SimDisk] = []
    disk.faults.before = lambda *_: killed.append(disk.crash())
    replica.store.apply(replica.store.applicable)
    assert len(killed) > 10
    for image in killed:
        directory = image.directory()
        volume = directory.open("volume0")
        store = ReplicaStore.open(directory, [volume], reserve_bytes=0)
        assert (store.state.transaction, store.state.consistent) == (3, True)
        staging = store._applier.staging
        assert staging is not None
        view = b"p" * 8 * BLOCK_BYTES + b"3" * BLOCK_BYTES + b"p" * 7 * BLOCK_BYTES
        assert staging.read(0, 0, SIZE) == view
        assert not [name for name in directory.names() if "0002-" in name]


def test_the_commit_is_durable_before_the_first_byte_reaches_the_volume() -> None:
    disk = SimDisk()
    replica = Replica(disk.directory())
    replica.first_sync()
    replica.append(begin(2, direct=False), resync(0, b"2" * 4 * BLOCK_BYTES), end(2))
    committing: list[bool] = []

    def look(operation: str, name: str) -> None:
        if (operation, name) == ("pwrite", "volume0"):
            durable = StateFile(disk.power_cut(Random(len(committing))).directory()).state
            committing.append(durable.committing is not None and durable.staging > 0)

    disk.faults.before = look
    replica.store.apply(replica.store.applicable)
    assert committing and all(committing)


def test_a_commit_that_finds_no_room_on_the_volume_goes_on_later() -> None:
    disk = SimDisk()
    replica = Replica(disk.directory())
    replica.bind()
    replica.send(begin(1, direct=True), resync(0, b"x" * BLOCK_BYTES), end(1))
    replica.append(begin(2, direct=False), resync(1, b"y" * 8 * BLOCK_BYTES), end(2))
    disk.faults.before = lambda op, name: (
        disk.faults.fail(0, errno.ENOSPC)
        if (op, name) == ("pwrite", "volume0") and replica.store.state.committing
        else None
    )
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            replica.store.apply(replica.store.applicable)
    assert replica.store.state.committing is not None
    assert replica.store.state.history == SYNCED and replica.store.state.ended == 1
    disk.faults.before = None
    applied = replica.store.apply(replica.store.applicable)
    assert applied.state.ended == 2 and applied.state.committing is None
    assert replica.content()[: 9 * BLOCK_BYTES] == b"x" * BLOCK_BYTES + b"y" * 8 * BLOCK_BYTES


@pytest.mark.parametrize("call", ["apply", "make_direct", "partial"])
def test_rot_in_the_staging_is_found_before_it_reaches_the_volume(call: str) -> None:
    disk = SimDisk()
    replica = Replica(disk.directory())
    replica.first_sync()
    replica.send(begin(2, direct=False), resync(0, b"a" * 3 * BLOCK_BYTES))
    name = next(name for name in disk.directory().names() if "-data." in name)
    disk.flip(name, BLOCK_BYTES + 7)
    if call == "apply":
        replica.append(end(2))
    elif call == "partial":
        replica.append(write(99, BLOCK_BYTES, b"w" * 512))
    with pytest.raises(ReplicaDamaged, match="staging: block 1 of volume 0 is damaged"):
        if call == "make_direct":
            replica.store.make_direct()
        replica.store.apply(replica.store.applicable)
    replica.reopen()
    state = replica.store.state
    assert (state.consistent, state.transaction, state.committing) == (False, 0, None)
    assert state.reason == "staging: block 1 of volume 0 is damaged"
    replica.send(begin(3, direct=True), resync(0, b"n" * 8 * BLOCK_BYTES))
    replica.send(resync(8, b"n" * 8 * BLOCK_BYTES), end(3))
    assert replica.store.state.consistent and replica.content() == b"n" * SIZE


# --- verify --------------------------------------------------------------------------------------


def test_verify_looks_at_the_volume_outside_and_at_the_view_inside_a_transaction(
    replica: Replica,
) -> None:
    replica.first_sync()
    old, new = b"p" * BLOCK_BYTES, b"n" * BLOCK_BYTES
    applied = replica.send(verify(1, 0, [old, new, old]))
    assert [(a.transaction, a.verify, a.differing) for a in applied.answers] == [(0, 1, (1,))]
    applied = replica.send(
        begin(2, direct=False),
        resync(1, new),
        verify(2, 0, [old, new, old]),
        resync_zero(0, 1),
        verify(3, 0, [old, old]),
    )
    assert [(a.transaction, a.verify, a.differing) for a in applied.answers] == [
        (2, 2, ()),
        (2, 3, (0, 1)),
    ]
    assert not replica.send(make_record(K.FLUSH)).answers


def test_verify_of_a_short_last_block() -> None:
    disk = SimDisk()
    replica = Replica(disk.directory(), [BLOCK_BYTES + 512])
    replica.bind()
    applied = replica.send(
        begin(1, direct=True),
        resync(0, b"a" * (BLOCK_BYTES + 512)),
        verify(1, 0, [b"a" * BLOCK_BYTES, b"a" * 512]),
        verify(2, 1, [b"b" * 512]),
    )
    assert [a.differing for a in applied.answers] == [(), (0,)]


def test_answers_outlive_an_apply_that_fails_after_them() -> None:
    replica = Replica(SimDisk().directory())
    replica.staging_bytes = 0
    replica.reopen()
    replica.first_sync()
    replica.append(
        begin(2, direct=False), verify(1, 0, [b"p" * BLOCK_BYTES]), resync(0, b"a" * BLOCK_BYTES)
    )
    with pytest.raises(OSError, match="no room"):
        replica.store.apply(replica.store.applicable)
    replica.store.make_direct()
    assert [a.verify for a in replica.store.apply(replica.store.applicable).answers] == [1]


# --- what must not stand in the journal ----------------------------------------------------------


FORBIDDEN: dict[str, tuple[Callable[[], list[Record]], str]] = {
    "gap": (lambda: [write(12, 0, b"x" * 512)], "write 12 after 10"),
    "repetition": (lambda: [write(11, 0, b"x"), write(11, 0, b"x")], "write 11 after 11"),
    "no volume": (lambda: [write(11, 0, b"x", volume=3)], "no volume 3"),
    "no volume to grow": (
        lambda: [make_record(K.RESIZE, 3, 0, SIZE, sequence=11)],
        "no volume 3",
    ),
    "beyond the end": (lambda: [zero(11, SIZE - 512, 1024)], "range"),
    "resync outside": (lambda: [resync(0, b"x" * BLOCK_BYTES)], "outside a transaction"),
    "end outside": (lambda: [end(1)], "not open"),
    "end of another": (lambda: [begin(2, direct=False), end(3)], "not open"),
    "part of a block": (
        lambda: [begin(2, direct=False), make_record(K.RESYNC, 0, 0, 512, b"x" * 512)],
        "parts of blocks",
    ),
    "empty verify": (lambda: [verify(1, 0, [])], "range"),
    "long verify": (
        lambda: [
            begin(2, direct=True),
            make_record(K.RESIZE, 0, 0, 2 * MIB, sequence=1),
            verify(1, 0, [bytes(BLOCK_BYTES)] * 257),
        ],
        "a VERIFY of",
    ),
    "wrong generation": (lambda: [generation(7, 4, 10)], "does not begin here"),
    "generation too early": (lambda: [generation(7, 5, 9)], "does not begin here"),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_the_protocol_does_not_allow_fails_the_replica(name: str) -> None:
    records, reason = FORBIDDEN[name]
    disk = SimDisk()
    replica = Replica(disk.directory())
    replica.first_sync()
    before = replica.store.state
    with pytest.raises(RemoteProtocolError, match=reason):
        replica.send(make_record(K.FLUSH), *records())
    for _ in range(2):
        state = replica.store.state
        assert reason in state.failed
        assert state.history.position.sequence - before.history.position.sequence in {0, 1}
        with pytest.raises(OSError, match="has failed"):
            replica.store.append(None, 0)
        replica.reopen()


def test_a_write_of_another_generation_or_group_fails_the_replica() -> None:
    for of, group, reason in ((4, GROUP, "generation 4 after 5"), (5, b"h" * 16, "another group")):
        replica = Replica(SimDisk().directory())
        replica.first_sync()
        replica.append(write(11, 0, b"x" * 512), of=of, group=group)
        with pytest.raises(RemoteProtocolError, match=reason):
            replica.store.apply(replica.store.applicable)


def test_a_write_for_an_inconsistent_replica_fails_it() -> None:
    replica = Replica(SimDisk().directory())
    replica.bind()
    with pytest.raises(RemoteProtocolError, match="not consistent"):
        replica.send(write(1, 0, b"x" * 512))


def test_recovery_finds_the_same_failure_and_keeps_the_prefix_before_it() -> None:
    disk = SimDisk()
    replica = Replica(disk.directory())
    replica.first_sync()
    replica.append(write(11, 0, b"x" * 512), write(13, 0, b"y" * 512))
    for _ in range(2):
        replica.reopen()
        state = replica.store.state
        assert state.failed == "write 13 after 11"
        assert state.consistent and state.history == SYNCED.at(11)
        assert replica.content()[:512] == b"x" * 512
        with pytest.raises(OSError, match="has failed"):
            replica.store.apply(0)


# --- bounds --------------------------------------------------------------------------------------


def test_apply_stops_at_its_bytes_and_never_passes_a_durable_mark() -> None:
    replica = Replica(SimDisk().directory())
    replica.first_sync()
    for sequence in range(11, 15):
        replica.append(write(sequence, 0, bytes([sequence]) * 4096))
    applied = replica.store.apply(replica.store.applicable, 4096)
    assert applied.state.history == SYNCED.at(11)
    assert 4096 < applied.frame_bytes < 5000
    replica.store.append(None, replica.store.durable)
    with pytest.raises(AssertionError, match="not provably durable"):
        replica.store.apply(replica.store.applicable + 1)


def test_only_what_a_checkpoint_covers_is_released() -> None:
    replica = Replica(SimDisk().directory())
    replica.first_sync()
    room = replica.store.journal_room()
    applied = replica.send(write(11, 0, b"x" * 4096)).index
    with pytest.raises(AssertionError):
        replica.store.release(applied)
    assert replica.store.journal_used() > 4096
    assert replica.store.checkpoint() == applied
    replica.store.release(applied)
    assert replica.store.journal_room() >= room


def test_when_the_source_was_heard_is_remembered() -> None:
    replica = Replica(SimDisk().directory())
    replica.first_sync()
    replica.store.heard(1 << 62)
    replica.store.heard(5)
    replica.store.checkpoint()
    replica.reopen()
    assert replica.store.state.heard_ns == 1 << 62


def test_after_a_failed_checkpoint_only_a_new_recovery_goes_on() -> None:
    disk = SimDisk()
    replica = Replica(disk.directory())
    replica.first_sync()
    replica.send(write(11, 0, b"x" * 512))
    disk.faults.fail(0, kinds=frozenset({"fdatasync"}))
    with pytest.raises(OSError, match="injected"):
        replica.store.checkpoint()
    for call in (replica.store.checkpoint, replica.store.sync, replica.store.make_direct):
        with pytest.raises(OSError, match="a checkpoint failed"):
            call()
    # The kernel has dropped what was to be synced: only the journal still has it.
    replica.store.close()
    cut = disk.power_cut(Random(1))
    volume = cut.directory().open("volume0")
    store = ReplicaStore.open(cut.directory(), [volume], reserve_bytes=0)
    assert store.state.history == SYNCED.at(11)
    assert volume.pread(512, 0) == b"x" * 512


def test_an_unbound_replica_has_no_history() -> None:
    assert ReplicaStore.open(SimDisk().directory(), []).state.digest == NO_HISTORY
