"""Giving space back: UNMAP, WRITE SAME, GET LBA STATUS, and the fields that must agree."""

import pytest

from tests.unit.scsi.lab import BLOCKS, Lab, cdb_10, cdb_16, inquiry, report_opcodes, unmap

LBA_RANGE = (5, 0x21, 0)
BAD_FIELD = (5, 0x24, 0)
BAD_LIST = (5, 0x26, 0)
SAME = [(cdb_10, 0x41), (cdb_16, 0x93)]


def lba_status(lba: int, allocation: int = 4096) -> bytes:
    return b"\x9e\x12" + lba.to_bytes(8, "big") + allocation.to_bytes(4, "big") + bytes(2)


def extents(data: bytes) -> list[tuple[int, int, int]]:
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    return [
        (int.from_bytes(d[:8], "big"), int.from_bytes(d[8:12], "big"), d[12])
        for d in (data[i : i + 16] for i in range(8, len(data), 16))
    ]


def read_capacity_16(allocation: int = 32) -> bytes:
    return b"\x9e\x10" + bytes(8) + allocation.to_bytes(4, "big") + bytes(2)


def test_unmap_zeroes_each_extent_and_joins_neighbours():
    lab = Lab()
    lab.storage.data[:] = b"x" * lab.storage.size
    lab.good(*unmap((0, 8), (8, 8), (32, 0), (64, 1), (16, 1)))
    assert lab.storage.calls == [
        ("zero", 0, 16 * 512, False),
        ("zero", 64 * 512, 512, False),
        ("zero", 16 * 512, 512, False),
    ]
    assert lab.good(cdb_10(0x28, 0, 18)) == bytes(17 * 512) + b"x" * 512


def test_an_unmap_with_one_bad_extent_does_nothing():
    lab = Lab()
    assert lab.refused(*unmap((0, 8), (BLOCKS - 1, 2))) == LBA_RANGE
    assert lab.storage.calls == []


def test_unmap_of_nothing_is_good_wherever_it_points():
    lab = Lab()
    lab.good(*unmap())
    lab.good(*unmap((BLOCKS, 0)))
    lab.good(cdb_10(0x42, 0, 0))


def test_unmap_parameter_lists_that_do_not_add_up_are_refused():
    lab = Lab()
    cdb, data = unmap((0, 8))
    assert lab.refused(cdb, data[:-1]) == (5, 0x0E, 3)
    assert lab.refused(cdb_10(0x42, 0, 7), data) == (5, 0x1A, 0)
    assert lab.refused(cdb_10(0x42, 0, 16), data) == BAD_LIST
    assert lab.refused(cdb_10(0x42, 0, 24, 0x01), data) == BAD_FIELD
    assert lab.refused(*unmap(*[(0, 0)] * 257)) == BAD_LIST
    lab.good(*unmap(*[(0, 0)] * 256))


def test_unmap_beyond_the_limit_of_page_b0_is_refused():
    lab = Lab(size=80 << 20)
    most = 64 * 1024 * 1024 // 512
    assert lab.refused(*unmap((0, most), (most, 1))) == BAD_LIST
    lab.good(*unmap((0, most)))


@pytest.mark.parametrize(("make", "opcode"), SAME)
def test_write_same_of_zeros_is_a_range_of_zeros(make, opcode):
    lab = Lab()
    for flags in (0x00, 0x08):
        lab.storage.calls.clear()
        lab.good(make(opcode, 2, 3, flags), bytes(512))
        assert lab.storage.calls == [("zero", 1024, 1536, False)]


@pytest.mark.parametrize(("make", "opcode"), SAME)
@pytest.mark.parametrize("flags", [0x00, 0x08])
def test_write_same_of_a_pattern_is_written_out(make, opcode, flags):
    lab = Lab(size=8 << 20)
    pattern = bytes(range(256)) * 2
    lab.good(make(opcode, 3, 5000, flags), pattern)
    assert lab.storage.data == bytes(1536) + pattern * 5000 + bytes((8 << 20) - 1536 - 2560000)
    assert max(call[2] for call in lab.storage.calls) <= 1 << 20


def test_a_pattern_is_written_in_pieces_of_the_transfer_limit():
    lab = Lab(transfer_bytes_max=3 * 512)
    lab.good(cdb_16(0x93, 0, 8), b"x" * 512)
    assert [call[2] for call in lab.storage.calls] == [1536, 1536, 1024]
    assert lab.storage.data[:5120] == b"x" * 4096 + bytes(1024)


@pytest.mark.parametrize(("make", "opcode"), SAME)
def test_write_same_of_no_blocks_or_too_many_is_refused(make, opcode):
    lab = Lab(size=80 << 20)
    assert lab.refused(make(opcode, 0, 0), bytes(512)) == BAD_FIELD
    assert lab.refused(make(opcode, 0, 32769), bytes(512)) == BAD_FIELD
    assert lab.refused(make(opcode, 163841, 0), bytes(512)) == LBA_RANGE
    assert lab.storage.calls == []
    lab.good(make(opcode, 0, 32768), bytes(512))


def test_write_same_16_without_data_writes_zeros():
    lab = Lab()
    lab.good(cdb_16(0x93, 0, 1, 0x01))
    assert lab.storage.calls == [("zero", 0, 512, False)]
    assert lab.refused(cdb_10(0x41, 0, 1, 0x01)) == BAD_FIELD


@pytest.mark.parametrize(("make", "opcode"), SAME)
def test_write_same_refuses_what_it_does_not_offer(make, opcode):
    lab = Lab()
    for flags in (0x10, 0x18, 0x20, 0x02, 0x04):
        assert lab.refused(make(opcode, 0, 1, flags), bytes(512)) == BAD_FIELD
    for length in (0, 256, 511, 513, 1024):
        assert lab.refused(make(opcode, 0, 1), bytes(length)) == (5, 0x0E, 3)
    assert lab.storage.calls == []


def test_get_lba_status_lists_extents_as_they_are():
    lab = Lab()
    lab.good(cdb_10(0x2A, 8, 16), b"x" * 8192)
    assert extents(lab.good(lba_status(0))) == [(0, 8, 1), (8, 16, 0), (24, BLOCKS - 24, 1)]
    assert extents(lab.good(lba_status(8, 24))) == [(8, 16, 0)]
    assert len(lab.good(lba_status(0, 4))) == 4
    assert lab.refused(lba_status(BLOCKS)) == LBA_RANGE


def test_get_lba_status_begins_with_the_lba_asked_for():
    lab = Lab(size=20 * 512)
    lab.good(cdb_10(0x2A, 0, 20), b"x" * 20 * 512)
    assert extents(lab.good(lba_status(1)))[0] == (1, 19, 0)
    assert extents(lab.good(lba_status(9)))[0] == (9, 11, 0)
    assert extents(lab.good(lba_status(17)))[0] == (17, 3, 0)


def test_get_lba_status_inside_the_first_block_behind_a_hole_begins_with_the_next():
    lab = Lab(size=36 * 512)
    lab.good(cdb_10(0x2A, 8, 28), b"x" * 28 * 512)
    assert extents(lab.good(lba_status(9)))[0] == (16, 20, 0)
    assert extents(lab.good(lba_status(17)))[0] == (17, 19, 0)
    assert extents(lab.good(lba_status(1)))[0] == (1, 7, 1)


def test_what_is_told_of_thin_provisioning_agrees():
    thin, thick = Lab(), Lab(thin=False)
    assert thin.good(read_capacity_16())[14] == 0xC0
    assert thick.good(read_capacity_16())[14] == 0
    assert thin.good(inquiry(0xB2))[4:8] == bytes((0, 0xE4, 2, 0))
    assert thick.good(inquiry(0xB2))[4:8] == bytes(4)
    limits = thick.good(inquiry(0xB0))
    assert limits[20:36] == bytes(16)
    assert int.from_bytes(limits[36:44], "big") == 16 * 2048


def test_a_volume_that_gives_nothing_back_does_not_offer_unmap():
    lab = Lab(thin=False)
    assert lab.refused(*unmap((0, 8))) == (5, 0x20, 0)
    assert lab.refused(cdb_16(0x93, 0, 1, 0x08), bytes(512)) == BAD_FIELD
    assert lab.good(report_opcodes(1, 0x42))[1] == 1
    assert Lab().good(report_opcodes(1, 0x42))[1] == 3
    lab.good(cdb_16(0x93, 0, 1), bytes(512))


def test_capacity_is_told_in_both_forms():
    lab = Lab()
    assert lab.good(cdb_10(0x25)) == (BLOCKS - 1).to_bytes(4, "big") + (512).to_bytes(4, "big")
    data = lab.good(read_capacity_16())
    assert len(data) == 32
    assert data[:12] == (BLOCKS - 1).to_bytes(8, "big") + (512).to_bytes(4, "big")
    assert data[13] == 3
    assert len(lab.good(read_capacity_16(15))) == 15
    assert (
        Lab(block_size=4096).good(read_capacity_16())[8:14] == (4096).to_bytes(4, "big") + b"\0\0"
    )


def test_a_volume_too_large_for_ten_bytes_says_so():
    lab = Lab()
    lab.unit.blocks = 1 << 32
    assert lab.good(cdb_10(0x25))[:4] == b"\xff\xff\xff\xff"
    lab.unit.blocks = (1 << 32) + 1
    assert lab.good(cdb_10(0x25))[:4] == b"\xff\xff\xff\xff"
