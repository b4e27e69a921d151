"""Moving blocks: what lands where, what is refused, what an error of the volume becomes."""

import errno

import pytest

from tests.unit.scsi.lab import (
    BLOCKS,
    Lab,
    cdb_6,
    cdb_10,
    cdb_12,
    cdb_16,
    compare_and_write,
)

LBA_RANGE = (5, 0x21, 0)
BAD_FIELD = (5, 0x24, 0)
BAD_UNIT = (5, 0x0E, 3)
READS = {cdb_6: 0x08, cdb_10: 0x28, cdb_12: 0xA8, cdb_16: 0x88}
WRITES = {cdb_6: 0x0A, cdb_10: 0x2A, cdb_12: 0xAA, cdb_16: 0x8A}
LONG = [cdb_10, cdb_12, cdb_16]


@pytest.mark.parametrize("make", READS)
@pytest.mark.parametrize("block_size", [512, 4096])
def test_what_was_written_is_read_back_by_every_size_of_cdb(make, block_size):
    lab = Lab(size=1 << 20, block_size=block_size)
    data = bytes(range(256)) * (2 * block_size // 256)
    lab.good(make(WRITES[make], 5, 2), data)
    assert lab.good(make(READS[make], 5, 2)) == data
    assert lab.storage.data[5 * block_size : 7 * block_size] == data
    assert lab.storage.data.count(0) == lab.storage.size - len(data) + data.count(0)


def test_six_byte_length_zero_means_256_blocks():
    lab = Lab()
    assert len(lab.good(cdb_6(0x08, 0, 0))) == 256 * 512
    assert lab.refused(cdb_6(0x0A, 0, 0), bytes(255 * 512)) == BAD_UNIT


@pytest.mark.parametrize("make", LONG)
@pytest.mark.parametrize("opcodes", [READS, WRITES])
def test_zero_blocks_are_good_inside_and_out_of_range_beyond(make, opcodes):
    lab = Lab()
    lab.good(make(opcodes[make], BLOCKS - 1, 0))
    assert lab.refused(make(opcodes[make], BLOCKS, 0)) == LBA_RANGE
    assert lab.refused(make(opcodes[make], BLOCKS + 1, 0)) == LBA_RANGE
    assert lab.storage.calls == []


@pytest.mark.parametrize("make", READS)
def test_a_range_past_the_end_is_refused_and_writes_nothing(make):
    lab = Lab()
    assert lab.refused(make(READS[make], BLOCKS - 1, 2)) == LBA_RANGE
    assert lab.refused(make(WRITES[make], BLOCKS - 1, 2), bytes(1024)) == LBA_RANGE
    assert lab.storage.calls == []


def test_the_highest_lba_of_a_16_byte_cdb_does_not_wrap():
    lab = Lab()
    assert lab.refused(cdb_16(0x88, (1 << 64) - 1, 2)) == LBA_RANGE


@pytest.mark.parametrize("make", LONG)
@pytest.mark.parametrize("protect", [0x20, 0x40, 0x80, 0xE0])
def test_protection_information_is_refused(make, protect):
    lab = Lab()
    assert lab.refused(make(READS[make], 0, 1, protect)) == BAD_FIELD
    assert lab.refused(make(WRITES[make], 0, 1, protect), bytes(512)) == BAD_FIELD


@pytest.mark.parametrize("make", LONG)
def test_fua_reaches_the_storage_and_dpo_is_taken(make):
    lab = Lab()
    for flags, fua in ((0x00, False), (0x10, False), (0x08, True), (0x18, True)):
        lab.storage.calls.clear()
        lab.good(make(WRITES[make], 0, 1, flags), bytes(512))
        assert lab.storage.calls == [("write", 0, 512, fua)]
        lab.good(make(READS[make], 0, 1, flags))


def test_a_read_with_fua_brings_the_cache_to_the_medium_first():
    lab = Lab()
    lab.good(cdb_10(0x28, 1, 1, 0x08))
    assert lab.storage.calls == [("flush", 0, 0, False), ("read", 512, 512, False)]


def test_longer_than_the_transfer_limit_is_an_invalid_field():
    lab = Lab(transfer_bytes_max=64 * 512)
    assert len(lab.good(cdb_10(0x28, 0, 64))) == 64 * 512
    assert lab.refused(cdb_10(0x28, 0, 65)) == BAD_FIELD
    assert lab.refused(cdb_10(0x2A, 0, 65), bytes(65 * 512)) == BAD_FIELD


def test_too_little_data_writes_nothing_and_too_much_writes_what_the_cdb_says():
    lab = Lab()
    assert lab.refused(cdb_10(0x2A, 0, 2), b"x" * 512) == BAD_UNIT
    assert lab.storage.calls == []
    lab.good(cdb_10(0x2A, 0, 1), b"x" * 1024)
    assert lab.storage.data[:1024] == b"x" * 512 + bytes(512)


@pytest.mark.parametrize(
    ("code", "read", "write"),
    [
        (errno.EIO, (3, 0x11, 0), (3, 0x0C, 0)),
        (errno.ENOSPC, (7, 0x27, 7), (7, 0x27, 7)),
        (errno.EROFS, (7, 0x27, 0), (7, 0x27, 0)),
        (errno.EINVAL, (4, 0x44, 0), (4, 0x44, 0)),
        (None, (4, 0x44, 0), (4, 0x44, 0)),
    ],
)
def test_every_oserror_becomes_sense(code, read, write):
    lab = Lab()
    lab.storage.failure = OSError(code, "failed") if code else OSError("failed")
    block = b"x" * 512
    assert lab.refused(cdb_10(0x28, 0, 1)) == read
    assert lab.refused(cdb_10(0x2F, 0, 1)) == read
    assert lab.refused(cdb_10(0x34, 0, 1)) == read
    assert lab.refused(cdb_10(0x2A, 0, 1), block) == write
    assert lab.refused(cdb_10(0x2E, 0, 1), block) == write
    assert lab.refused(cdb_10(0x35)) == write
    assert lab.refused(cdb_10(0x28, 0, 1, 0x08)) == write
    assert lab.refused(cdb_10(0x41, 0, 1), block) == write
    assert lab.refused(cdb_10(0x41, 0, 1), bytes(512)) == write
    assert lab.refused(cdb_16(0x8B, 0, 1), block) == write
    assert lab.refused(compare_and_write(0, 1), bytes(1024)) == write


def test_a_write_does_not_depend_on_the_buffer_after_execute():
    lab = Lab(deferred=True)
    for cdb in (
        cdb_10(0x2E, 0, 1, 0x02),
        cdb_10(0x2F, 0, 1, 0x02),
        cdb_16(0x8B, 0, 1),
    ):
        buffer = bytearray(b"x" * 512)
        command = lab.begin(cdb, memoryview(buffer))
        buffer[:] = bytes(512)
        lab.storage.complete()
        assert (command.ended, command.status) == (1, 0)
        assert lab.storage.data[:512] == b"x" * 512


def test_compare_and_write_writes_only_what_was_expected():
    lab = Lab()
    lab.storage.data[1024:2048] = b"a" * 1024
    lab.good(compare_and_write(2, 2), b"a" * 1024 + b"b" * 1024)
    assert lab.storage.data[1024:2048] == b"b" * 1024
    assert lab.storage.calls == [("update", 1024, 1024, False)]


@pytest.mark.parametrize("offset", [0, 1, 511, 512, 1023])
def test_a_miscompare_tells_the_offset_of_the_first_difference(offset):
    lab = Lab()
    expected = bytearray(1024)
    expected[offset] = 1
    expected[-1] = 1
    command = lab.run(compare_and_write(0, 2), bytes(expected) + b"b" * 1024)
    assert command.sense_triple == (0xE, 0x1D, 0)
    assert command.sense[0] == 0xF0
    assert int.from_bytes(command.sense[3:7], "big") == offset
    assert not any(lab.storage.data)


def test_compare_and_write_wants_exactly_twice_the_blocks():
    lab = Lab()
    for length in (0, 512, 1023, 1025, 2048):
        assert lab.refused(compare_and_write(0, 1), bytes(length)) == BAD_FIELD
    assert lab.refused(compare_and_write(0, 0), bytes(256 * 1024)) == BAD_FIELD
    assert lab.refused(compare_and_write(BLOCKS - 1, 2), bytes(2048)) == LBA_RANGE
    assert lab.refused(compare_and_write(0, 1, 0x20), bytes(1024)) == BAD_FIELD
    lab.good(compare_and_write(0, 0))
    lab.good(compare_and_write(0, 255), bytes(255 * 1024))


def test_compare_and_write_is_cut_by_a_small_transfer_limit():
    lab = Lab(transfer_bytes_max=8 * 512)
    assert lab.refused(compare_and_write(0, 9), bytes(9 * 1024)) == BAD_FIELD


def test_orwrite_sets_bits():
    lab = Lab()
    lab.storage.data[:512] = b"\x0f" * 512
    lab.good(cdb_16(0x8B, 0, 1, 0x08), b"\xf0" * 512)
    assert lab.storage.data[:512] == b"\xff" * 512
    assert lab.storage.calls == [("update", 0, 512, True)]
    lab.good(cdb_16(0x8B, 0, 0))
    assert lab.refused(cdb_16(0x8B, 0, 1), bytes(511)) == BAD_UNIT


@pytest.mark.parametrize(("make", "opcode"), [(cdb_10, 0x35), (cdb_16, 0x91)])
def test_synchronize_cache_flushes(make, opcode):
    lab = Lab()
    lab.good(make(opcode))
    lab.good(make(opcode, BLOCKS - 1, 1, 0x02))
    assert [call[0] for call in lab.storage.calls] == ["flush", "flush"]
    assert lab.refused(make(opcode, BLOCKS - 1, 2)) == LBA_RANGE
    assert lab.refused(make(opcode, BLOCKS + 1, 0)) == LBA_RANGE


@pytest.mark.parametrize(("make", "opcode"), [(cdb_10, 0x34), (cdb_16, 0x90)])
def test_prefetch_reads_and_returns_nothing(make, opcode):
    lab = Lab(size=4 << 20)
    assert lab.good(make(opcode, 0, 1)) == b""
    assert lab.good(make(opcode, 0, 0)) == b""
    assert [call[2] for call in lab.storage.calls] == [512, 1 << 20]
    assert lab.refused(make(opcode, 8192, 1)) == LBA_RANGE


@pytest.mark.parametrize(
    ("make", "verify", "write_and_verify"),
    [(cdb_10, 0x2F, 0x2E), (cdb_12, 0xAF, 0xAE), (cdb_16, 0x8F, 0x8E)],
)
def test_verify_compares_as_bytchk_says(make, verify, write_and_verify):
    lab = Lab(size=4 << 20)
    data = b"a" * 512 + b"b" * 512
    lab.good(make(write_and_verify, 3, 2, 0x02), data)
    assert lab.storage.calls[0] == ("write", 3 * 512, 1024, True)
    lab.good(make(write_and_verify, 3, 2), data)
    lab.good(make(verify, 3, 2))
    lab.good(make(verify, 3, 2, 0x02), data)
    assert lab.refused(make(verify, 3, 2, 0x02), b"a" * 1024) == (0xE, 0x1D, 0)
    assert lab.refused(make(verify, 3, 2, 0x06), b"a" * 512) == (0xE, 0x1D, 0)
    lab.good(make(verify, 5, 4000, 0x06), bytes(512))
    lab.good(make(verify, 3, 0, 0x02))
    assert lab.refused(make(verify, 3, 1, 0x04), bytes(512)) == BAD_FIELD
    assert lab.refused(make(write_and_verify, 3, 1, 0x06), bytes(512)) == BAD_FIELD
    assert lab.refused(make(verify, 3, 2, 0x02), bytes(512)) == BAD_UNIT
    assert lab.refused(make(verify, 8192, 1)) == LBA_RANGE
    assert lab.refused(make(verify, 0, 1, 0x20)) == BAD_FIELD


@pytest.mark.parametrize(("make", "opcode"), [(cdb_10, 0x2F), (cdb_12, 0xAF), (cdb_16, 0x8F)])
@pytest.mark.parametrize("flags", [0x00, 0x02, 0x06])
def test_a_verify_of_no_blocks_is_good_without_data(make, opcode, flags):
    lab = Lab()
    lab.good(make(opcode, 3, 0, flags))
    assert lab.storage.calls == []


def test_a_long_verify_reads_in_bounded_chunks():
    lab = Lab(size=5 << 20)
    lab.good(cdb_16(0x8F, 0, (5 << 20) // 512))
    assert [call[2] for call in lab.storage.calls] == [1 << 20] * 5


def test_an_aborted_verify_stops_after_its_chunk():
    lab = Lab(size=5 << 20, deferred=True)
    command = lab.begin(cdb_16(0x8F, 0, (5 << 20) // 512))
    settled = []
    lab.unit.abort_task(command, lambda: settled.append(command.ended))
    lab.storage.complete()
    assert command.ended == 1 and settled == [1]
    assert len(lab.storage.calls) == 1


def test_software_write_protection_refuses_every_writer():
    lab = Lab()
    lab.unit.write_protected = True
    protected = (7, 0x27, 2)
    block = b"x" * 512
    for cdb in (cdb_10(0x2A, 0, 1), cdb_10(0x2E, 0, 1), cdb_10(0x41, 0, 1), cdb_16(0x8B, 0, 1)):
        assert lab.refused(cdb, block) == protected
    assert lab.refused(compare_and_write(0, 1), bytes(1024)) == protected
    assert lab.refused(cdb_10(0x42, 0, 0)) == protected
    assert lab.storage.calls == []
    lab.good(cdb_10(0x28, 0, 1))
