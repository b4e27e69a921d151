"""What the unit says of itself: INQUIRY, mode pages, supported opcodes, sense."""

import pytest

from pratima_iscsi.errors import UsageError
from pratima_iscsi.scsi.logical_unit import LogicalUnit
from pratima_iscsi.scsi.opcodes import COMMANDS, SERVICE_ACTION_OPCODES
from pratima_iscsi.scsi.task import data_out_length
from tests.support.memory_storage import MemoryStorage
from tests.unit.scsi.lab import (
    BLOCKS,
    TEST_UNIT_READY,
    Lab,
    cdb_6,
    cdb_10,
    cdb_12,
    cdb_16,
    compare_and_write,
    inquiry,
    mode_sense_6,
    report_opcodes,
)

BAD_FIELD = (5, 0x24, 0)
BAD_LIST = (5, 0x26, 0)


def test_standard_inquiry():
    data = Lab().good(inquiry())
    assert len(data) == 74
    assert data[:8] == bytes((0, 0, 6, 2, 69, 0, 0, 2))
    assert data[8:32] == b"PRATIMA MIRRORED DISK   "
    assert data[58:64] == bytes.fromhex("0960 0460 04C0")


def test_inquiry_allocation_length_is_16_bits_and_only_cuts():
    lab = Lab()
    whole = lab.good(inquiry(None, 512))
    for allocation in (0, 5, 36, 255, 511):
        assert lab.good(inquiry(None, allocation)) == whole[:allocation]


def test_inquiry_refuses_a_page_without_evpd_an_unknown_page_and_cmddt():
    lab = Lab()
    assert lab.refused(bytes((0x12, 0, 1, 0, 255, 0))) == BAD_FIELD
    assert lab.refused(inquiry(0xC0)) == BAD_FIELD
    assert lab.refused(bytes((0x12, 2, 0, 0, 255, 0))) == BAD_FIELD


def test_every_listed_page_can_be_read_and_the_list_ascends():
    lab = Lab()
    pages = lab.good(inquiry(0x00))[4:]
    assert pages == bytes((0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2))
    for page in pages:
        data = lab.good(inquiry(page))
        assert data[1] == page
        assert int.from_bytes(data[2:4], "big") == len(data) - 4


def test_identification_is_a_naa_6_of_the_serial():
    storage = MemoryStorage(4096)
    uuid = "36aa2e5a-5ba9-4d43-9dc1-c4cd1d8a8b7d"
    lab = Lab()
    lab.unit = LogicalUnit(storage, serial=uuid)
    lab.unit.attach(lab.session)
    assert lab.refused(TEST_UNIT_READY) == (6, 0x29, 0)
    data = lab.good(inquiry(0x83))
    assert data[4:8] == bytes((1, 3, 0, 16))
    assert data[8:24].hex() == "6001405" + uuid.replace("-", "")[:25]
    assert data[24:28] == bytes((2, 1, 0, 8 + len(uuid)))
    assert data[28:] == b"PRATIMA " + uuid.encode()
    assert lab.good(inquiry(0x80))[4:] == uuid.encode()


def test_short_serials_do_not_share_an_identifier():
    names = {
        LogicalUnit(MemoryStorage(4096), serial=serial).naa_digits
        for serial in ("1", "01", "disk-1", "disk-2", "0" * 24)
    }
    assert len(names) == 5
    assert all(len(name) == 25 for name in names)


@pytest.mark.parametrize("serial", ["", "x" * 65, "naïve", "a\nb"])
def test_a_serial_that_cannot_be_told_is_refused(serial):
    with pytest.raises(UsageError):
        LogicalUnit(MemoryStorage(4096), serial=serial)


def test_a_volume_without_a_block_and_an_odd_block_size_are_refused():
    with pytest.raises(UsageError):
        LogicalUnit(MemoryStorage(511), serial="x")
    with pytest.raises(UsageError):
        LogicalUnit(MemoryStorage(4096), serial="x", block_size=520)


def test_block_limits():
    data = Lab(transfer_bytes_max=1 << 20).good(inquiry(0xB0))
    assert len(data) == 64
    assert data[4:8] == bytes((1, 255, 0, 8))
    assert int.from_bytes(data[8:12], "big") == 2048
    assert int.from_bytes(data[20:24], "big") == 131072
    assert int.from_bytes(data[24:28], "big") == 256
    assert data[28:36] == bytes.fromhex("00000008 80000000")
    assert not any(data[44:])


def test_mode_sense_gives_pages_with_a_block_descriptor():
    lab = Lab()
    data = lab.good(mode_sense_6(0x3F))
    assert data[0] == len(data) - 1
    assert data[2:4] == bytes((0x10, 8))
    assert data[4:12] == BLOCKS.to_bytes(4, "big") + (512).to_bytes(4, "big")
    pages = data[12:]
    codes = []
    while pages:
        codes.append(pages[0])
        pages = pages[2 + pages[1] :]
    assert codes == [0x01, 0x08, 0x0A]
    caching = lab.good(mode_sense_6(0x08, dbd=True))
    assert caching[3] == 0
    assert caching[4:7] == bytes((0x08, 18, 0x04))


def test_mode_sense_10_and_its_allocation_length():
    lab = Lab()
    data = lab.good(bytes((0x5A, 0, 0x3F, 0, 0, 0, 0, 2, 0, 0)))
    assert int.from_bytes(data[:2], "big") == len(data) - 2
    assert data[3] == 0x10 and data[7] == 8
    cut = lab.good(bytes((0x5A, 0, 0x3F, 0, 0, 0, 0, 0, 4, 0)))
    assert cut == data[:4]


def test_mode_sense_page_control():
    lab = Lab()
    assert lab.good(mode_sense_6(0x08, control=1))[14:] == bytes(18)
    assert lab.good(mode_sense_6(0x0A, control=1))[14:] == bytes((0, 0, 8)) + bytes(7)
    assert lab.good(mode_sense_6(0x08, control=2)) == lab.good(mode_sense_6(0x08))
    assert lab.refused(mode_sense_6(0x08, control=3)) == (5, 0x39, 0)
    assert lab.refused(mode_sense_6(0x1C)) == BAD_FIELD
    assert lab.refused(bytes((0x1A, 0, 0x08, 1, 255, 0))) == BAD_FIELD
    lab.good(bytes((0x1A, 0, 0x3F, 0xFF, 255, 0)))


def select_6(data: bytes, flags: int = 0x10) -> tuple[bytes, bytes]:
    return bytes((0x15, flags, 0, 0, len(data), 0)), data


def test_mode_select_takes_what_is_already_so():
    lab = Lab()
    now = lab.good(mode_sense_6(0x3F))
    lab.good(*select_6(b"\0" + now[1:]))
    lab.good(*select_6(bytes(4) + now[12:]))
    lab.good(*select_6(b""))
    ten = lab.good(bytes((0x5A, 0, 0x3F, 0, 0, 0, 0, 2, 0, 0)))
    lab.good(bytes((0x55, 0x10, 0, 0, 0, 0, 0, 0, len(ten), 0)), bytes(2) + ten[2:])


def test_mode_select_refuses_changes_and_torn_lists():
    lab = Lab()
    now = lab.good(mode_sense_6(0x08, dbd=True))[4:]
    changed = bytearray(now)
    changed[2] = 0
    assert lab.refused(*select_6(bytes(4) + changed)) == BAD_LIST
    assert lab.refused(*select_6(bytes(4) + now[:-1])) == (5, 0x1A, 0)
    assert lab.refused(*select_6(bytes(4) + now[:1])) == (5, 0x1A, 0)
    assert lab.refused(*select_6(bytes(3))) == (5, 0x1A, 0)
    assert lab.refused(*select_6(bytes((0, 0, 0, 8)) + bytes(4))) == (5, 0x1A, 0)
    assert lab.refused(*select_6(bytes((0, 0, 0, 8)) + bytes(8))) == BAD_LIST
    assert lab.refused(*select_6(bytes((0, 0, 0, 4)) + bytes(4))) == BAD_LIST
    assert lab.refused(*select_6(bytes(4) + b"\x1c\x00")) == BAD_LIST
    assert lab.refused(*select_6(bytes(4) + b"\x48\x00")) == BAD_LIST
    assert lab.refused(*select_6(bytes(4) + now, flags=0x11)) == BAD_FIELD
    assert lab.refused(*select_6(bytes(4) + now, flags=0x00)) == BAD_FIELD
    cdb, data = select_6(bytes(4) + now)
    assert lab.refused(cdb, data[:-1]) == (5, 0x0E, 3)


def test_software_write_protection_is_set_told_and_ended_by_a_reset():
    lab = Lab()
    other = lab.join("two")
    control = bytearray(lab.good(mode_sense_6(0x0A, dbd=True))[4:])
    control[4] |= 8
    lab.good(*select_6(bytes(4) + control))
    assert lab.unit.write_protected
    assert lab.good(mode_sense_6(0x0A))[2] == 0x90
    assert lab.good(mode_sense_6(0x0A, dbd=True))[4:] == control
    assert lab.refused(TEST_UNIT_READY, session=other) == (6, 0x2A, 1)
    lab.good(TEST_UNIT_READY)
    lab.unit.reset(None, lambda: None)
    assert not lab.unit.write_protected


def test_a_refused_mode_select_changes_nothing():
    lab = Lab()
    control = bytearray(lab.good(mode_sense_6(0x0A, dbd=True))[4:])
    control[4] |= 8
    assert lab.refused(*select_6(bytes(4) + control + b"\x1c\x00")) == BAD_LIST
    assert not lab.unit.write_protected


def opcode_list(data: bytes, step: int = 8) -> list[tuple[int, int | None, int]]:
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    return [
        (d[0], int.from_bytes(d[2:4], "big") if d[5] & 1 else None, int.from_bytes(d[6:8], "big"))
        for d in (data[i : i + step] for i in range(4, len(data), step))
    ]


def test_report_supported_opcodes_lists_each_command_once():
    listed = opcode_list(Lab().good(report_opcodes()))
    assert listed == [(c.opcode, c.service_action, c.length) for c in COMMANDS]
    assert len(set(listed)) == len(listed)
    timed = Lab().good(report_opcodes(rctd=True))
    assert opcode_list(timed, 20) == listed
    assert all(timed[i + 5] & 2 and timed[i + 9] == 10 for i in range(4, len(timed), 20))


def test_one_command_at_a_time_agrees_with_the_list():
    lab = Lab()
    for opcode, action, length in opcode_list(lab.good(report_opcodes())):
        fitting, wrong = (1, 2) if action is None else (2, 1)
        for options in (fitting, 3):
            data = lab.good(report_opcodes(options, opcode, action or 0))
            assert data[1] == 3
            assert int.from_bytes(data[2:4], "big") == length == len(data) - 4
            assert data[4] == opcode
        assert lab.refused(report_opcodes(wrong, opcode, action or 0)) == BAD_FIELD
        assert lab.good(report_opcodes(fitting, opcode, action or 0, rctd=True))[1] == 0x83
    assert lab.good(report_opcodes(1, 0x83)) == bytes((0, 1, 0, 0))
    assert lab.good(report_opcodes(3, 0x28, 1)) == bytes((0, 1, 0, 0))
    assert lab.good(report_opcodes(2, 0x9E, 0x1F)) == bytes((0, 1, 0, 0))
    assert lab.refused(report_opcodes(4)) == BAD_FIELD


def test_usage_data_agrees_with_dispatch_for_every_opcode_and_service_action():
    """All 256 opcodes, each with all 32 service actions: INVALID OPCODE, or INVALID FIELD for a
    service action, exactly where nothing is reported."""
    lab = Lab()
    reported = {(c.opcode, c.service_action) for c in COMMANDS}
    for opcode in range(256):
        for action in range(32) if opcode in SERVICE_ACTION_OPCODES else (None,):
            command = lab.run(bytes((opcode, action or 0)) + bytes(14))
            known = (opcode, action) in reported
            if opcode in SERVICE_ACTION_OPCODES:
                assert command.sense_triple != (5, 0x20, 0)
                if not known:
                    assert command.sense_triple == BAD_FIELD
            else:
                assert (command.sense_triple != (5, 0x20, 0)) == known
            lab.unit.reset(None, lambda: None)
            lab.run(TEST_UNIT_READY)


def test_usage_data_is_as_long_as_the_group_says():
    lengths = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}
    assert all(c.length == lengths[c.opcode >> 5] for c in COMMANDS)
    for command in COMMANDS:
        if command.service_action is not None:
            assert command.usage[1] & 0x1F == command.service_action


@pytest.mark.parametrize(("opcode", "action"), [(0x9E, 0x10), (0x5F, 0x06), (0xA3, 0x0C)])
def test_usage_data_has_the_service_action_itself(opcode, action):
    assert Lab().good(report_opcodes(2, opcode, action))[4:6] == bytes((opcode, action))


def test_dpo_and_fua_are_reported_as_mode_sense_says():
    lab = Lab()
    assert lab.good(mode_sense_6(0x3F))[2] & 0x10
    for opcode in (0x28, 0x2A, 0x88, 0x8A, 0x89, 0x8B, 0xA8, 0xAA):
        assert lab.good(report_opcodes(1, opcode))[5] & 0x18 == 0x18


def test_task_management_functions_are_told():
    lab = Lab()
    cdb = b"\xa3\x0d" + bytes(4) + (255).to_bytes(4, "big") + bytes(2)
    assert lab.good(cdb) == bytes((0xD8, 0, 0, 0))
    assert len(lab.good(cdb[:2] + b"\x80" + cdb[3:])) == 16
    assert lab.refused(b"\xa3\x0d" + bytes(4) + (3).to_bytes(4, "big") + bytes(2)) == BAD_FIELD


def test_request_sense_has_nothing_to_tell():
    lab = Lab()
    data = lab.good(bytes((3, 0, 0, 0, 252, 0)))
    assert len(data) == 18 and data[0] == 0x70 and not data[2]
    assert len(lab.good(bytes((3, 0, 0, 0, 4, 0)))) == 4
    assert lab.refused(bytes((3, 1, 0, 0, 252, 0))) == BAD_FIELD


def test_start_stop_and_prevent():
    lab = Lab()
    lab.good(bytes((0x1B, 1, 0, 0, 1, 0)))
    for wrong in (0x00, 0x02, 0x03, 0x11):
        assert lab.refused(bytes((0x1B, 0, 0, 0, wrong, 0))) == BAD_FIELD
    lab.good(bytes((0x1E, 0, 0, 0, 1, 0)))


def test_naca_is_refused_by_every_command_as_standard_inquiry_says():
    """SAM-5 5.2, SPC-4 6.6.2 (NORMACA): 5/24/00, which points at the control byte."""
    lab = Lab()
    assert not lab.good(inquiry())[3] & 0x20
    for command in COMMANDS:
        cdb = bytearray(command.length)
        cdb[0], cdb[-1] = command.opcode, 0x04
        cdb[1] = command.service_action or 0
        refused = lab.run(bytes(cdb) + bytes(16 - command.length))
        assert refused.sense_triple == BAD_FIELD, command.name
        assert refused.sense[15:] == bytes((0xC0, 0, command.length - 1)), command.name
        assert command.usage[-1] == 0x04, "REPORT SUPPORTED OPERATION CODES: it is looked at"
    for short in (b"\xa3\x1f\0\0\0\x04", b"\xff\0\0\0\0\x04"):
        assert lab.run(short).sense_triple in (BAD_FIELD, (5, 0x20, 0))


def test_naca_does_not_hide_that_a_command_is_not_there():
    lab = Lab(thin=False)
    assert lab.refused(b"\x42" + bytes(8) + b"\x04" + bytes(6)) == (5, 0x20, 0)


def test_a_cdb_cut_short_is_refused():
    lab = Lab()
    assert lab.refused(b"") == (5, 0x20, 0)
    assert lab.refused(b"\xff") == (5, 0x20, 0)
    assert lab.refused(b"\x28" + bytes(8)) == BAD_FIELD
    assert lab.refused(b"\x9e\x10" + bytes(13)) == BAD_FIELD
    assert lab.refused(b"\x9e") == (5, 0x20, 0)
    assert lab.refused(b"\xc0" + bytes(5)) == (5, 0x20, 0)
    lab.good(memoryview(cdb_10(0x28, 0, 1) + bytes(250)))


def test_sense_points_at_the_field():
    sense = Lab().run(inquiry(0xC0)).sense
    assert len(sense) == 18
    assert sense[0] == 0x70 and sense[7] == 10
    assert sense[15:] == bytes((0xC0, 0, 2))


@pytest.mark.parametrize(
    ("cdb", "length"),
    [
        (cdb_6(0x0A, 0, 3), 3 * 512),
        (cdb_6(0x0A, 0, 0), 256 * 512),
        (cdb_10(0x2A, 0, 3), 3 * 512),
        (cdb_12(0xAA, 0, 3), 3 * 512),
        (cdb_16(0x8A, 0, 3), 3 * 512),
        (cdb_16(0x8B, 0, 3), 3 * 512),
        (cdb_10(0x2E, 0, 3), 3 * 512),
        (cdb_12(0xAE, 0, 3), 3 * 512),
        (cdb_16(0x8E, 0, 3), 3 * 512),
        (cdb_10(0x2F, 0, 3), 0),
        (cdb_10(0x2F, 0, 3, 2), 3 * 512),
        (cdb_12(0xAF, 0, 3, 6), 512),
        (cdb_16(0x8F, 0, 3, 4), 0),
        (cdb_10(0x2F, 0, 0, 6), 0),
        (cdb_10(0x2F, 0, 0, 2), 0),
        (cdb_10(0x41, 0, 3), 512),
        (cdb_16(0x93, 0, 3), 512),
        (cdb_16(0x93, 0, 3, 1), 0),
        (cdb_10(0x42, 0, 24), 24),
        (compare_and_write(0, 3), 6 * 512),
        (bytes((0x15, 0x10, 0, 0, 24, 0)), 24),
        (bytes((0x55, 0x10, 0, 0, 0, 0, 0, 1, 24, 0)), 280),
        (bytes((0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0)), 24),
        (cdb_10(0x28, 0, 3), 0),
        (b"\x2a\0\0", 0),
        (b"", 0),
        (b"\xff" * 16, 0),
    ],
)
def test_data_out_length_is_what_the_cdb_asks_for(cdb, length):
    assert data_out_length(cdb, 512) == length
