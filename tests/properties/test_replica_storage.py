"""Arbitrary bytes where the replica's journal, state and staging index should be."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from pratima_iscsi.edges.journal import Journal, JournalRot
from pratima_iscsi.edges.replica_state import ReplicaState, StateFile
from pratima_iscsi.edges.staging import Staging, StagingRot
from pratima_iscsi.errors import StateError
from pratima_iscsi.limits import REPLICA_STATE_BYTES
from tests.simulation.disk import SimDisk

SEGMENT = 4096
SEGMENTS = 4

damages = st.lists(
    st.tuples(st.integers(0, SEGMENT * SEGMENTS - 1), st.binary(min_size=1, max_size=600)),
    max_size=4,
)
frames = st.lists(st.binary(max_size=1500), max_size=8)


def make_journal(disk: SimDisk) -> Journal:
    return Journal(
        disk.directory(),
        b"g" * 16,
        segment_bytes=SEGMENT,
        quota_bytes=SEGMENTS * SEGMENT,
        clock=lambda: 0,
        random_bytes=Random(1).randbytes,
    )


def overwrite(disk: SimDisk, name: str, damage: tuple[int, bytes], size: int) -> None:
    offset, data = damage
    disk.directory().open(name).pwrite(data[: size - offset % size], offset % size)


@given(frames=frames, damages=damages, synced=st.integers(0, 8))
def test_a_damaged_journal_gives_a_prefix_or_says_rot(
    frames: list[bytes], damages: list[tuple[int, bytes]], synced: int
) -> None:
    disk = SimDisk()
    journal = make_journal(disk)
    journal.restart(0)
    for index, frame in enumerate(frames, 1):
        journal.append(frame, journal.durable)
        if index == synced:
            journal.sync()
    names = disk.directory().names()
    for damage in damages if names else []:
        overwrite(disk, names[damage[0] // SEGMENT % len(names)], damage, SEGMENT)
    found = make_journal(disk)
    try:
        found.scan(0, journal.durable)
    except JournalRot:
        assert damages
        return
    assert journal.durable <= found.last <= len(frames)
    for index in range(1, found.last + 1):
        assert bytes(found.read(index).frame) == frames[index - 1]


@given(content=st.binary(max_size=2000), at=st.sampled_from([0, REPLICA_STATE_BYTES]))
def test_a_state_file_of_any_bytes_is_read_whole_or_refused(content: bytes, at: int) -> None:
    disk = SimDisk()
    state = ReplicaState(group=b"g" * 16, applied=7)
    StateFile(disk.directory()).save(state)
    disk.directory().open("state").pwrite(content, at)
    assert StateFile(disk.directory()).state == state
    disk.directory().open("state").truncate(0)
    disk.directory().open("state").pwrite(content, at)
    try:
        assert StateFile(disk.directory()).state == ReplicaState()
    except StateError as error:
        assert "both copies" in str(error)


@given(content=st.binary(max_size=300))
def test_a_staging_index_of_any_bytes_is_rot(content: bytes) -> None:
    disk = SimDisk()
    volume = disk.directory().open("volume", create=True)
    volume.truncate(8192)
    staging = Staging(disk.directory(), 1, [volume], quota_bytes=1 << 30, reserve_bytes=0)
    index = disk.directory().open(f"{staging.prefix}index.1", create=True)
    index.pwrite(content, 0)
    try:
        staging.load(1)
    except StagingRot as rot:
        assert "is damaged" in str(rot)
    else:
        raise AssertionError("arbitrary bytes were taken for an index")
