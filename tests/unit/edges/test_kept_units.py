"""Units of the journal in memory: which are kept, and that they are applied without the journal."""

import errno

import pytest

from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.edges.files import File
from pratima_iscsi.edges.kept_units import KeptUnits
from pratima_iscsi.edges.replica_store import ReplicaStore
from pratima_iscsi.engine.standing import standing_of
from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.limits import JOURNAL_UNIT_BYTES
from pratima_iscsi.operations import RecordKind as K
from pratima_iscsi.positions import History, Position
from pratima_iscsi.records import Begin, End, Record, make_record
from pratima_iscsi.replication.standing import CheckedFrame, Standing
from pratima_iscsi.replication.wire import BatchHeader
from tests.simulation.disk import SimDisk
from tests.support.frames import checked_frame, frame_of

GROUP, NODE = b"g" * 16, b"n" * 16
SYNCED = History(Position(7, 0))
SIZE = 8 * BLOCK_BYTES


def write(sequence: int, block: int, fill: bytes) -> Record:
    data = fill * BLOCK_BYTES
    return make_record(K.WRITE, 0, block * BLOCK_BYTES, len(data), data, sequence)


class Replica:
    """A store on a simulated disk, consistent at SYNCED, that is sent writes."""

    def __init__(self, kept_bytes: int = 1 << 20) -> None:
        self.disk = SimDisk()
        directory = self.disk.directory()
        self.volume: File = directory.open("volume", create=True)
        self.volume.truncate(SIZE)
        self.store = ReplicaStore.open(
            directory,
            [self.volume],
            segment_bytes=64 * 1024,
            journal_bytes=256 * 1024,
            kept_bytes=kept_bytes,
            reserve_bytes=0,
        )
        self.store.bind(GROUP, "group", [("v", SIZE)], NODE)
        self.standing = standing_of(self.store.state)
        self.take(make_record(K.BEGIN, payload=Begin(1, True).encode()))
        self.take(make_record(K.END, payload=End(1, SYNCED, b"H" * 16).encode()))
        self.commit()
        self.store.apply(self.store.applicable)
        self.commit()
        self.store.apply(self.store.applicable)  # the mark too
        self.preads: list[str] = []
        self.disk.faults.before = self._seen

    def _seen(self, operation: str, name: str) -> None:
        if operation == "pread":
            self.preads.append(name)

    def checked(self, *records: Record, before: Standing | None = None) -> CheckedFrame:
        before = before or self.standing
        header = BatchHeader(GROUP, b"s" * 16, 5, before.n + 1, before.history.position.generation)
        return checked_frame(frame_of(header, records), before, (SIZE,))

    def take(self, *records: Record) -> None:
        """Append a checked frame."""
        taken = self.checked(*records)
        self.standing = taken.after
        self.store.append(taken, self.store.durable)

    def commit(self) -> None:
        """Make all that was appended applicable."""
        self.store.append(None, self.store.sync())
        self.store.sync()

    def content(self) -> bytes:
        self.disk.faults.before = None
        return self.volume.pread(SIZE, 0)


def test_what_is_kept_is_applied_without_a_look_into_the_journal() -> None:
    replica = Replica()
    replica.take(write(1, 0, b"a"), write(2, 1, b"b"))
    replica.take(write(3, 1, b"c"))
    replica.commit()
    assert replica.store.keeps_next
    applied = replica.store.apply_kept(replica.store.applicable, 1 << 20)
    assert not replica.preads
    assert applied.frame_bytes > 3 * BLOCK_BYTES
    assert standing_of(replica.store.state) == replica.standing
    expected = b"a" * BLOCK_BYTES + b"c" * BLOCK_BYTES + bytes(SIZE - 2 * BLOCK_BYTES)
    assert replica.content() == expected


def test_it_stops_where_nothing_is_kept_and_the_journal_has_the_rest() -> None:
    replica = Replica(kept_bytes=BLOCK_BYTES + 512 + 2 * JOURNAL_UNIT_BYTES)
    for sequence in (1, 2, 3):
        replica.take(write(sequence, 0, bytes([sequence])))
    replica.commit()
    first = replica.store.apply_kept(replica.store.applicable, 1 << 20)
    assert replica.store.state.history.position.sequence == 1
    assert not replica.store.keeps_next
    assert replica.store.apply_kept(replica.store.applicable, 1 << 20).index == first.index
    replica.store.apply(replica.store.applicable)
    assert set(replica.preads) == {"journal.0000"}
    assert standing_of(replica.store.state) == replica.standing
    assert replica.content() == b"\3" * BLOCK_BYTES + bytes(SIZE - BLOCK_BYTES)


def test_a_turn_of_a_few_bytes_applies_one_unit_at_least() -> None:
    replica = Replica()
    for sequence in (1, 2, 3):
        replica.take(write(sequence, 0, bytes([sequence])))
    replica.commit()
    begin = replica.store.state.applied + 1  # a mark
    replica.store.apply_kept(begin, 1 << 20)
    assert replica.store.apply_kept(begin + 3, 1).index == begin + 1
    assert replica.store.apply_kept(begin + 3, BLOCK_BYTES + 512).index == begin + 3


def test_a_unit_that_a_disk_refuses_is_applied_anew_as_a_whole() -> None:
    replica = Replica()
    replica.take(write(1, 0, b"a"), write(2, 1, b"b"), write(3, 2, b"c"))
    replica.commit()
    replica.store.apply_kept(replica.store.state.applied + 1, 1 << 20)  # a mark
    before, writes = replica.store.state, 0

    def second_fails(operation: str, name: str) -> None:
        nonlocal writes
        if operation == "pwrite" and name == "volume":
            writes += 1
            if writes == 2:
                raise OSError(errno.ENOSPC, "no room")

    replica.disk.faults.before = second_fails
    with pytest.raises(OSError, match="no room"):
        replica.store.apply_kept(replica.store.applicable, 1 << 20)
    assert replica.store.state == before and replica.store.keeps_next
    replica.store.apply_kept(replica.store.applicable, 1 << 20)
    assert standing_of(replica.store.state) == replica.standing
    assert replica.content()[: 3 * BLOCK_BYTES] == b"".join(
        c * BLOCK_BYTES for c in (b"a", b"b", b"c")
    )


def test_a_frame_that_was_checked_elsewhere_is_checked_again() -> None:
    replica = Replica()
    replica.take(write(1, 0, b"a"))
    stray = replica.checked(write(2, 0, b"b"))
    replica.store.append(stray, replica.store.durable)  # checked behind write 1, and appended
    replica.store.append(stray, replica.store.durable)  # once more, behind itself
    replica.commit()
    with pytest.raises(RemoteProtocolError, match="write 2 after 2"):
        replica.store.apply(replica.store.applicable)


def test_only_frames_of_writes_are_kept_and_the_oldest_have_the_room() -> None:
    replica = Replica()
    one, zero = write(1, 0, b"a"), make_record(K.ZERO, 0, 0, BLOCK_BYTES, sequence=1)
    frame, other = replica.checked(one), replica.checked(zero)
    kept = KeptUnits(2 * (len(frame.frame) + JOURNAL_UNIT_BYTES))
    kept.keep(1, other)
    for index in (2, 3, 4):
        kept.keep(index, frame)
    assert [index for index in range(9) if index in kept] == [2, 3]
    kept.drop(1)
    kept.drop(2)
    kept.keep(5, None)
    kept.keep(6, frame)
    assert [index for index in range(9) if index in kept] == [3, 5]
    assert kept[3] is frame and kept[5] is None
    kept.drop(3)
    kept.drop(5)
    kept.keep(7, frame)
    kept.keep(8, frame)
    assert 7 in kept and 8 in kept
