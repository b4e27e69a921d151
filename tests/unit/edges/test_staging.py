"""The staging of a transaction by itself: view, versions, room, rot."""

import errno
from itertools import pairwise
from random import Random

import pytest
from pyroaring import BitMap

from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.edges.staging import SLOT_BYTES, Staging, StagingRot, runs
from tests.simulation.disk import SimDisk, SimFile

BLOCKS = 40


def make_volume(disk: SimDisk, size: int = BLOCKS * BLOCK_BYTES) -> SimFile:
    volume = disk.directory().open("volume", create=True)
    volume.truncate(size)
    volume.pwrite(b"v" * size, 0)
    return volume


def make_staging(
    disk: SimDisk, volume: SimFile, *, blocks: int = 1000, reserve: int = 0
) -> Staging:
    return Staging(
        disk.directory(),
        0xFFFF_FFFF_FFFF_FFFF,
        [volume],
        quota_bytes=blocks * SLOT_BYTES,
        reserve_bytes=reserve,
    )


def test_runs_are_the_members_in_order() -> None:
    for seed in range(500):
        rng = Random(seed)
        members: set[int] = set()
        bitmap = BitMap()
        for _ in range(rng.randrange(10)):
            first = rng.randrange(300)
            end = first + rng.randrange(80)
            bitmap.add_range(first, end)
            members.update(range(first, end))
        first, end = rng.randrange(300), rng.randrange(400)
        found = list(runs(bitmap, first, end))
        assert [x for run in found for x in run] == sorted(x for x in members if first <= x < end)
        assert all(a.stop < b.start for a, b in pairwise(found))


def test_a_run_of_sixteen_tebibytes_costs_no_more_than_a_short_one() -> None:
    bitmap = BitMap()
    bitmap.add_range(0, 1 << 32)
    assert list(runs(bitmap)) == [range(1 << 32)]


@pytest.mark.parametrize("size", [BLOCKS * BLOCK_BYTES, BLOCKS * BLOCK_BYTES - 1536])
@pytest.mark.parametrize("seed", range(10))
def test_the_view_is_staging_over_volume_and_copying_makes_it_the_volume(
    seed: int, size: int
) -> None:
    rng = Random(seed)
    disk = SimDisk()
    volume = make_volume(disk, size)
    staging = make_staging(disk, volume)
    view = bytearray(volume.pread(size, 0))
    for _ in range(120):
        offset = rng.randrange(size)
        length = min(size - offset, rng.choice((1, 100, 4096, 9000, 50_000)))
        if rng.random() < 0.5:
            offset -= offset % BLOCK_BYTES
        data = rng.randbytes(length) if rng.random() < 0.6 else bytes(length)
        if any(data):
            staging.write(0, offset, data)
        else:
            staging.zero(0, offset, length)
        view[offset : offset + length] = data
        if rng.random() < 0.1:
            staging.checkpoint()
            staging.settle()
        if rng.random() < 0.05:
            number = staging.checkpoint()
            staging.close()
            staging = make_staging(disk, volume)
            staging.load(number)
        at = rng.randrange(size)
        assert staging.read(0, at, min(9000, size - at)) == view[at : at + 9000]
    assert staging.read(0, 0, size) == view
    assert volume.pread(size, 0) == b"v" * size
    staging.copy_out(0)
    assert volume.pread(size, 0) == view
    assert volume.size == size


def test_a_checkpoint_in_force_is_never_overwritten() -> None:
    disk = SimDisk()
    volume = make_volume(disk)
    staging = make_staging(disk, volume)
    staging.write(0, 0, b"a" * 3 * BLOCK_BYTES)
    number = staging.checkpoint()
    staging.settle()
    for letter in (b"b", b"c"):
        staging.write(0, BLOCK_BYTES, letter * BLOCK_BYTES)
    staging.checkpoint()  # durable, but not in force: nobody has persisted its number
    again = make_staging(disk.power_cut(Random(1)), volume)
    again.load(number)
    assert again.read(0, 0, 3 * BLOCK_BYTES) == b"a" * 3 * BLOCK_BYTES
    assert staging.read(0, BLOCK_BYTES, BLOCK_BYTES) == b"c" * BLOCK_BYTES


def test_blocks_staged_again_after_a_failed_sync_outlast_a_power_cut() -> None:
    """Seed 20 of the failing recoveries: the simulated disk showed the size that the first attempt
    had written, never made it durable, and cut the checksums off."""
    disk = SimDisk()
    volume = make_volume(disk)
    volume.fdatasync()
    disk.directory().sync()
    staging = make_staging(disk, volume)
    staging.write(0, 0, b"a" * BLOCK_BYTES)
    disk.faults.fail(1, kinds=frozenset({"fdatasync"}))  # the data's succeeds, the checksums' fails
    with pytest.raises(OSError):
        staging.checkpoint()
    staging = make_staging(disk, volume)
    staging.write(0, 0, b"a" * BLOCK_BYTES)
    number = staging.checkpoint()
    for seed in range(10):
        cut = disk.power_cut(Random(seed))
        found = make_staging(cut, cut.directory().open("volume"))
        found.load(number)
        assert found.read(0, 0, BLOCK_BYTES) == b"a" * BLOCK_BYTES


def test_room_is_at_most_the_blocks_touched() -> None:
    disk = SimDisk()
    staging = make_staging(disk, make_volume(disk))
    for _ in range(5):
        staging.write(0, 0, bytes([1]) * 8 * BLOCK_BYTES)
        staging.checkpoint()
        staging.settle()
        assert staging.used_bytes == 8 * SLOT_BYTES
    data = [n for n in disk.directory().names() if "-data." in n]
    held = sum(len(disk._inodes[disk._names[name]].cache) for name in data)
    assert held == 8 * 8
    staging.zero(0, 0, 8 * BLOCK_BYTES)
    staging.checkpoint()
    staging.settle()
    assert staging.used_bytes == 0


def test_a_terabyte_of_zeros_takes_no_room() -> None:
    disk = SimDisk()
    volume = disk.directory().open("volume", create=True)
    volume.truncate(1 << 40)
    staging = make_staging(disk, volume, blocks=1)
    staging.zero(0, 0, 1 << 40)
    number = staging.checkpoint()
    staging.settle()
    assert staging.used_bytes == 0
    again = make_staging(disk, volume)
    again.load(number)
    volume.pwrite(b"x" * 512, 1 << 39)
    again.copy_out(0)
    assert volume.pread(512, 1 << 39) == bytes(512)


@pytest.mark.parametrize("why", ["quota", "reserve"])
def test_without_room_nothing_is_staged_and_overwriting_goes_on(why: str) -> None:
    disk = SimDisk()
    volume = make_volume(disk)
    staging = make_staging(disk, volume, blocks=2 if why == "quota" else 99, reserve=BLOCK_BYTES)
    staging.write(0, 0, b"a" * 2 * BLOCK_BYTES)
    if why == "reserve":
        disk.faults.capacity_bytes -= disk.free_bytes() - BLOCK_BYTES
    with pytest.raises(OSError, match="no room to stage 4096 bytes") as full:
        staging.write(0, 5 * BLOCK_BYTES, b"b" * BLOCK_BYTES)
    assert full.value.errno == errno.ENOSPC
    staging.write(0, 512, b"c" * 512)
    assert staging.read(0, 5 * BLOCK_BYTES, 1) == b"v"
    assert staging.read(0, 512, 512) == b"c" * 512


@pytest.mark.parametrize("kind", ["data", "sums", "index"])
def test_a_flipped_bit_is_noticed(kind: str) -> None:
    disk = SimDisk()
    volume = make_volume(disk)
    staging = make_staging(disk, volume)
    staging.write(0, 0, b"a" * 3 * BLOCK_BYTES)
    number = staging.checkpoint()
    name = next(name for name in disk.directory().names() if kind in name)
    disk.flip(name, 9)
    again = make_staging(disk, volume)
    with pytest.raises(StagingRot, match="damaged"):
        again.load(number)
        again.copy_out(0)


def test_an_index_that_is_missing_or_of_another_number_is_noticed() -> None:
    disk = SimDisk()
    volume = make_volume(disk)
    staging = make_staging(disk, volume)
    staging.write(0, 0, b"a")
    number = staging.checkpoint()
    with pytest.raises(StagingRot, match="damaged"):
        make_staging(disk, volume).load(number + 2)
    with pytest.raises(StagingRot, match="missing"):
        make_staging(disk, volume).load(number + 1)


def test_a_block_in_another_place_is_noticed() -> None:
    disk = SimDisk()
    volume = make_volume(disk)
    staging = make_staging(disk, volume)
    staging.write(0, 0, b"a" * BLOCK_BYTES + b"b" * BLOCK_BYTES)
    for kind, size in (("data", BLOCK_BYTES), ("sums", 8)):
        file = disk.directory().open(f"{staging.prefix}{kind}.0.0")
        first, second = file.pread(size, 0), file.pread(size, size)
        file.pwrite(second + first, 0)
    with pytest.raises(StagingRot, match="block 0 of volume 0"):
        staging.read(0, 0, BLOCK_BYTES)
