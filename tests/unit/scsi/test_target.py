"""LUNs, unit attentions, growth, and task management."""

import pytest

from pratima_iscsi.errors import UsageError
from pratima_iscsi.scsi.logical_unit import LogicalUnit
from pratima_iscsi.scsi.target import Target
from pratima_iscsi.scsi.task import Aborted, Nexus, Task
from tests.support.memory_storage import MemoryStorage
from tests.unit.scsi.lab import BLOCKS, TEST_UNIT_READY, Command, Lab, cdb_10, inquiry

REPORT_LUNS = b"\xa0" + bytes(5) + (4096).to_bytes(4, "big") + bytes(2)
REQUEST_SENSE = bytes((3, 0, 0, 0, 252, 0))
RESET = (6, 0x29, 0)


def unit() -> LogicalUnit:
    return LogicalUnit(MemoryStorage(4096), serial="another")


def ask_absent(lab: Lab, cdb: bytes, field: int = 5 << 48) -> Command:
    command = Command(lab.session, cdb)
    lab.target.unit(field).execute(command)
    assert command.ended == 1
    return command


def test_luns_are_found_by_either_addressing_method():
    target = Target()
    units = {lun: unit() for lun in (0, 3, 255)}
    for lun, each in units.items():
        target.add(lun, each)
        assert target.unit(lun << 48) is each
        assert target.unit((0x4000 | lun) << 48) is each
    for absent in (1 << 48, 1, 0x0103 << 48, 0x8000 << 48, 0xC101 << 48):
        assert target.unit(absent) not in units.values()
    assert target.luns == (0, 3, 255)


def test_report_luns_lists_the_targets_units():
    lab = Lab()
    lab.target.add(5, unit())
    data = lab.good(REPORT_LUNS)
    assert data == (16).to_bytes(4, "big") + bytes(4) + bytes(8) + b"\0\5" + bytes(6)
    assert len(lab.good(REPORT_LUNS[:6] + (16).to_bytes(4, "big") + bytes(2))) == 16
    assert lab.refused(REPORT_LUNS[:6] + (15).to_bytes(4, "big") + bytes(2)) == (5, 0x24, 0)
    assert lab.good(REPORT_LUNS[:2] + b"\1" + REPORT_LUNS[3:]) == bytes(8)
    assert lab.refused(REPORT_LUNS[:2] + b"\x11" + REPORT_LUNS[3:]) == (5, 0x24, 0)


def test_a_lun_without_a_unit_answers_as_such():
    lab = Lab()
    data = ask_absent(lab, inquiry()).data
    assert data[0] == 0x7F and len(data) == 74
    assert ask_absent(lab, REPORT_LUNS).data == lab.good(REPORT_LUNS)
    assert ask_absent(lab, REQUEST_SENSE).data[12:14] == b"\x25\0"
    for cdb in (TEST_UNIT_READY, cdb_10(0x28, 0, 1), b"\xff" * 16, b"\xa0" + bytes(5)):
        assert ask_absent(lab, cdb).sense_triple == (5, 0x25, 0)
    assert ask_absent(lab, inquiry(0x80)).sense_triple == (5, 0x24, 0)
    assert ask_absent(lab, b"").sense_triple == (5, 0x20, 0)


def test_luns_out_of_reach_or_taken_are_refused():
    target = Target()
    target.add(0, unit())
    for lun in (-1, 256, 0):
        with pytest.raises(UsageError):
            target.add(lun, unit())


def test_a_new_lun_is_told_and_report_luns_answers_it():
    lab = Lab()
    other = lab.join("two")
    lab.target.add(1, unit())
    lab.good(REPORT_LUNS)
    lab.good(TEST_UNIT_READY)
    assert lab.refused(TEST_UNIT_READY, session=other) == (6, 0x3F, 0x0E)


def test_an_attention_is_reported_once_and_not_by_inquiry():
    lab = Lab()
    lab.unit.capacity_changed()
    lab.unit.capacity_changed()
    lab.good(inquiry())
    lab.good(REPORT_LUNS)
    assert lab.refused(cdb_10(0x28, 0, 1)) == (6, 0x2A, 9)
    assert lab.storage.calls == []
    lab.good(cdb_10(0x28, 0, 1))


def test_request_sense_takes_the_attention():
    lab = Lab()
    lab.unit.capacity_changed()
    data = lab.good(REQUEST_SENSE)
    assert data[2] == 6 and data[12:14] == b"\x2a\x09"
    lab.good(TEST_UNIT_READY)


def test_a_reset_replaces_older_attentions_and_reaches_every_nexus():
    lab = Lab()
    other = lab.join("two")
    lab.unit.capacity_changed()
    lab.unit.reset(lab.session, lambda: None)
    for session in (lab.session, other):
        assert lab.refused(TEST_UNIT_READY, session=session) == RESET
        lab.good(TEST_UNIT_READY, session=session)


def test_growth_is_told_and_then_usable():
    lab = Lab()
    lab.storage.grow(2 * BLOCKS * 512)
    assert lab.refused(cdb_10(0x28, BLOCKS, 1)) == (5, 0x21, 0)
    lab.unit.capacity_changed()
    assert lab.refused(TEST_UNIT_READY) == (6, 0x2A, 9)
    lab.good(cdb_10(0x2A, 2 * BLOCKS - 1, 1), bytes(512))
    assert int.from_bytes(lab.good(cdb_10(0x25))[:4], "big") == 2 * BLOCKS - 1


def test_a_detached_nexus_is_forgotten():
    lab = Lab()
    lab.target.detach(lab.session)
    lab.unit.capacity_changed()
    assert not lab.unit.attentions.pending
    lab.target.detach(lab.session)


def test_abort_task_is_answered_when_the_write_has_settled():
    lab = Lab(deferred=True)
    write = lab.begin(cdb_10(0x2A, 0, 1), b"x" * 512)
    order: list[str] = []
    lab.unit.abort_task(write, lambda: order.append(f"ended {write.ended}"))
    assert (order, write.aborted, write.ended) == ([], Aborted.SILENT, 0)
    lab.storage.complete()
    assert order == ["ended 1"]


@pytest.mark.parametrize("function", ["abort_task_set", "clear_task_set", "reset"])
def test_whose_tasks_a_function_aborts(function):
    lab = Lab()
    other = lab.join("two")
    lab.storage.deferred = True
    mine, theirs = (
        lab.begin(cdb_10(0x2A, 0, 1), b"x" * 512, session) for session in (lab.session, other)
    )
    told: list[bool] = []
    getattr(lab.unit, function)(lab.session, lambda: told.append(True))
    assert mine.aborted == Aborted.SILENT
    assert theirs.aborted == (Aborted.NO if function == "abort_task_set" else Aborted.REPORTED)
    assert told == []
    lab.storage.complete()
    assert told == [True] and mine.ended == theirs.ended == 1


def test_a_target_reset_waits_for_every_unit():
    lab = Lab()
    second = MemoryStorage(4096, deferred=True)
    lab.target.add(1, LogicalUnit(second, serial="two"))
    told: list[bool] = []
    lab.target.reset(lab.session, lambda: told.append(True))
    assert told == []
    second.complete()
    assert told == [True]
    assert lab.refused(TEST_UNIT_READY) == RESET
    Target().reset(None, lambda: told.append(False))
    assert told == [True, False]


def test_a_write_same_in_pieces_ends_early_when_aborted():
    lab = Lab(size=8 << 20, deferred=True)
    command = lab.begin(cdb_10(0x41, 0, 8192), b"x" * 512)
    lab.storage.complete(1)
    assert command.ended == 0
    lab.unit.reset(None, lambda: None)
    lab.storage.complete()
    assert command.ended == 1
    assert len(lab.storage.calls) == 2
    assert not any(lab.storage.data[2 << 20 :])


def test_a_bare_nexus_and_task_are_complete_but_for_done():
    lab = Lab()
    bare = Nexus("iqn.2026-01.org.example:bare", "80", lab.target)
    assert bare.port == "iqn.2026-01.org.example:bare,i,0x80"
    bare.abort_tasks(lab.unit, Aborted.SILENT)
    with pytest.raises(NotImplementedError):
        Task(bare, TEST_UNIT_READY).done()
