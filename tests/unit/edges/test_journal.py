"""The journal by itself: units, segments, quota, reuse, marks."""

import errno
import threading
from random import Random

import pytest

from pratima_iscsi.edges.journal import ALIGNMENT, Journal, JournalRot, unit_bytes
from pratima_iscsi.errors import StateError
from tests.simulation.disk import SimDisk

GROUP = b"g" * 16
SEGMENT = 8192


def make_journal(disk: SimDisk, *, segments: int = 3, group: bytes = GROUP) -> Journal:
    return Journal(
        disk.directory(),
        group,
        segment_bytes=SEGMENT,
        quota_bytes=segments * SEGMENT,
        clock=lambda: 7,
        random_bytes=Random(id(disk)).randbytes,
    )


def fresh(disk: SimDisk, segments: int = 3) -> Journal:
    journal = make_journal(disk, segments=segments)
    journal.restart(0)
    return journal


def test_units_come_back_as_they_were_appended() -> None:
    journal = fresh(SimDisk())
    assert journal.append(b"first", 0) == 1
    assert journal.append(None, 0) == 2
    assert journal.sync() == 2
    assert journal.append(b"x" * 4000, 2) == 3
    units = [journal.read(index) for index in (1, 2, 3)]
    assert [bytes(unit.frame) for unit in units] == [b"first", b"", b"x" * 4000]
    assert [unit.mark for unit in units] == [0, 0, 2]
    assert units[0].wall_ns == 7


def test_only_a_durable_mark_makes_units_applicable() -> None:
    journal = fresh(SimDisk())
    journal.append(b"a", 0)
    journal.sync()
    assert (journal.durable, journal.applicable) == (1, 0)
    journal.append(None, 1)
    assert journal.applicable == 0
    journal.sync()
    assert (journal.durable, journal.applicable) == (2, 1)


def test_a_mark_never_speaks_of_what_is_not_durable() -> None:
    journal = fresh(SimDisk())
    journal.append(b"a", 0)
    with pytest.raises(AssertionError):
        journal.append(b"b", 1)


def test_over_quota_nothing_changes_and_release_makes_room() -> None:
    journal = fresh(SimDisk(), segments=2)
    frame = b"x" * (SEGMENT - ALIGNMENT - 64)
    journal.append(frame, 0)
    journal.append(frame, 0)
    with pytest.raises(OSError, match="quota") as full:
        journal.append(b"", 0)
    assert full.value.errno == errno.ENOSPC
    assert (journal.last, journal.room()) == (2, 0)
    journal.sync()
    journal.release(1)
    assert journal.room() == SEGMENT - ALIGNMENT
    assert journal.append(frame, 2) == 3
    assert bytes(journal.read(2).frame) == frame
    assert journal.sync() == 3


def test_what_room_promises_is_taken() -> None:
    for seed in range(200):
        rng = Random(seed)
        disk = SimDisk()
        journal = fresh(disk, segments=rng.randrange(1, 6))
        for _ in range(rng.randrange(8)):
            if journal.room() >= 3000:
                journal.append(bytes(rng.randrange(2000)), journal.durable)
            if rng.random() < 0.3:
                journal.release(journal.sync())
        if rng.random() < 0.3:
            disk.faults.capacity_bytes -= disk.free_bytes() - rng.randrange(3 * SEGMENT)
        room = journal.room()
        while room >= ALIGNMENT:
            most = min(room, SEGMENT - ALIGNMENT)
            size = rng.choice((most, rng.randrange(ALIGNMENT, most + 1)))
            frame = bytes(max(0, size // ALIGNMENT * ALIGNMENT - 64))
            room -= unit_bytes(len(frame))
            journal.append(frame, journal.durable)


def test_a_released_unit_is_not_given_out() -> None:
    journal = fresh(SimDisk())
    journal.append(b"a", 0)
    journal.sync()
    journal.release(1)
    with pytest.raises(AssertionError, match="was released"):
        journal.read(1)
    journal.append(b"b", 1)
    with pytest.raises(AssertionError, match="never written"):
        journal.read(3)


def test_a_unit_that_changed_since_is_not_given_out() -> None:
    disk = SimDisk()
    journal = fresh(disk)
    journal.append(b"a" * 1000, 0)
    disk.flip("journal.0000", 1000)
    with pytest.raises(JournalRot, match="unit 1 is damaged"):
        journal.read(1)


def test_a_damaged_header_is_named() -> None:
    disk = SimDisk()
    fresh(disk).append(b"a", 0)
    disk.flip("journal.0000", 40)
    with pytest.raises(JournalRot, match=r"the header of segment journal\.0000 is damaged"):
        make_journal(disk).scan(0, 0)


def test_a_segment_that_cannot_be_made_leaves_the_journal_usable() -> None:
    for nth in range(4):
        disk = SimDisk()
        journal = fresh(disk)
        disk.faults.fail(nth, errno.ENOSPC)
        with pytest.raises(OSError, match="injected"):
            journal.append(b"a", 0)
        assert journal.append(b"a", 0) == 1
        assert journal.sync() == 1


@pytest.mark.parametrize("operation", ["pwrite", "fdatasync"])
def test_after_a_failed_write_or_sync_nothing_more_is_taken(operation: str) -> None:
    disk = SimDisk()
    journal = fresh(disk)
    journal.append(b"a", 0)
    disk.faults.fail(0, kinds=frozenset({operation}))
    with pytest.raises(OSError, match="injected"):
        journal.append(b"b", 0)
        journal.sync()
    for _ in range(2):
        with pytest.raises(OSError, match="the journal is closed"):
            journal.sync()
        with pytest.raises(OSError, match="the journal is closed"):
            journal.append(b"c", 0)


def test_before_recovery_has_ended_and_after_closing_nothing_is_taken() -> None:
    disk = SimDisk()
    journal = make_journal(disk)
    with pytest.raises(OSError, match="recovery has not ended"):
        journal.append(b"a", 0)
    journal.restart(0)
    journal.append(b"a", 0)
    journal.close()
    with pytest.raises(OSError, match="it was closed"):
        journal.append(b"b", 0)


def test_a_scan_finds_what_was_synced_and_restart_forgets_it() -> None:
    disk = SimDisk()
    journal = fresh(disk)
    for index in range(10):
        journal.append(bytes([index]) * 1000, 0)
    journal.sync()
    again = make_journal(disk.power_cut(Random(1)))
    again.scan(4, 0)
    assert (again.last, again.durable) == (10, 10)
    assert bytes(again.read(5).frame) == b"\4" * 1000
    again.restart(10)
    later = make_journal(disk)
    later.scan(10, 10)
    assert later.last == 10


def test_a_restart_leaves_no_more_segments_than_the_quota_and_none_of_another_size() -> None:
    disk = SimDisk()
    journal = fresh(disk)
    for _ in range(3):
        journal.append(bytes(SEGMENT - ALIGNMENT - 64), 0)
    disk.directory().open("journal.0009", create=True).pwrite(bytes(512), 0)
    again = make_journal(disk, segments=2)
    again.scan(0, 0)
    assert again.last == 3
    again.restart(3)
    assert disk.directory().names() == ["journal.0000", "journal.0001"]
    assert again.append(b"a", 3) == 4


@pytest.mark.plain
def test_a_journal_of_another_group_or_version_is_not_taken() -> None:
    disk = SimDisk()
    fresh(disk).append(b"a", 0)
    with pytest.raises(JournalRot, match="belongs to another group"):
        make_journal(disk, group=b"h" * 16).scan(0, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pratima_iscsi.edges.journal._VERSION", 2)
        with pytest.raises(StateError, match="has version 1, this program 2"):
            make_journal(disk).scan(0, 0)


def test_units_hidden_in_a_payload_are_not_units() -> None:
    disk = SimDisk()
    journal = fresh(disk)
    journal.append(b"a", 0)
    journal.sync()
    segment = disk.directory().open("journal.0000")
    unit = segment.pread(512, 512)
    journal.append(bytes(512 - 64) + unit.replace(b"a", b"b") + b"-PRJU" * 200, 1)
    journal.sync()
    disk.flip("journal.0000", 1024 + 20)  # the outer one is bad: its payload is scanned too
    again = make_journal(disk)
    again.scan(0, 0)
    assert again.last == 1


def test_one_thread_appends_while_another_reads() -> None:
    journal = fresh(SimDisk(), segments=4)
    readable = threading.Semaphore(0)
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for index in range(1, 401):
                assert readable.acquire(timeout=30)
                assert bytes(journal.read(index).frame) == index.to_bytes(4, "big") * 50
                if index % 8 == 0:
                    released.release()
        except BaseException as error:
            failures.append(error)
            raise

    released = threading.Semaphore(0)
    thread = threading.Thread(target=read)
    thread.start()
    for index in range(1, 401):
        journal.append(index.to_bytes(4, "big") * 50, journal.durable)
        readable.release()
        if index % 8 == 0:
            assert released.acquire(timeout=30)
            journal.sync()
            journal.release(index)
    thread.join(30)
    assert not failures
