"""A local volume: opened alone, written whole, read without waiting, punched and measured."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pratima_iscsi.blocks import VOLUME_BYTES_MAX
from pratima_iscsi.edges import file_calls
from pratima_iscsi.edges import volume as volume_module
from pratima_iscsi.edges.boot import read_boot_id, same_boot
from pratima_iscsi.edges.volume import Volume
from pratima_iscsi.errors import StateError, SyncError, UsageError

MIB = 1 << 20


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    opened = Volume.open(tmp_path / "disk.img", size=4 * MIB)
    yield opened
    opened.close()


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Path]:
    """A loop device of 2 MiB, where this user can make one."""
    if os.geteuid() != 0 or shutil.which("losetup") is None:
        pytest.skip("loop devices need root and losetup")
    backing = tmp_path / "backing.img"
    backing.touch()
    os.truncate(backing, 2 * MIB)
    made = subprocess.run(
        ["losetup", "--find", "--show", str(backing)], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"losetup: {made.stderr.strip()}")
    device = made.stdout.strip()
    yield Path(device)
    subprocess.run(["losetup", "--detach", device], check=True)


def test_a_size_makes_a_sparse_private_file(volume: Volume) -> None:
    status = volume.path.stat()
    assert (volume.size, status.st_size) == (4 * MIB, 4 * MIB)
    assert status.st_blocks == 0
    assert status.st_mode & 0o777 == 0o600


def test_an_empty_file_takes_the_size(tmp_path: Path) -> None:
    (tmp_path / "v").touch()
    opened = Volume.open(tmp_path / "v", size=MIB)
    assert opened.size == MIB
    opened.close()


def test_an_existing_file_keeps_its_size_and_refuses_another(tmp_path: Path) -> None:
    path = tmp_path / "v"
    path.write_bytes(b"x" * 8192)
    with pytest.raises(StateError, match="has 8192 bytes, but 4096 were asked for"):
        Volume.open(path, size=4096)
    opened = Volume.open(path)
    assert opened.pread(8192, 0) == b"x" * 8192
    opened.close()


def test_a_replica_volume_may_be_created_empty_and_sized_later(tmp_path: Path) -> None:
    opened = Volume.open(tmp_path / "v", create=True)
    assert opened.size == 0
    opened.truncate(MIB)
    opened.pwrite(b"end", MIB - 3)
    assert opened.measure() == MIB
    opened.close()


@pytest.mark.parametrize("size", [0, -512, 513, VOLUME_BYTES_MAX + 512])
def test_an_impossible_size_is_refused_before_a_file_is_made(tmp_path: Path, size: int) -> None:
    with pytest.raises(UsageError):
        Volume.open(tmp_path / "v", size=size)
    assert not (tmp_path / "v").exists()


def test_a_file_of_no_whole_sectors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v").write_bytes(b"x" * 4608)
    Volume.open(tmp_path / "v").close()
    with pytest.raises(UsageError, match="4096-byte blocks"):
        Volume.open(tmp_path / "v", sector=4096)


def test_missing_empty_and_odd_paths_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"does not exist; .*--size"):
        Volume.open(tmp_path / "none")
    with pytest.raises(StateError, match="create its directory first"):
        Volume.open(tmp_path / "no" / "where", size=MIB)
    (tmp_path / "empty").touch()
    with pytest.raises(StateError, match=r"is empty; give its size"):
        Volume.open(tmp_path / "empty")
    with pytest.raises(UsageError, match="neither a file nor a block device"):
        Volume.open(tmp_path)
    with pytest.raises(UsageError, match="neither a file nor a block device"):
        Volume.open("/dev/null")


def test_a_volume_in_use_is_refused_until_it_is_closed(volume: Volume) -> None:
    with pytest.raises(StateError, match="in use by another process"):
        Volume.open(volume.path)
    volume.close()
    volume.close()
    Volume.open(volume.path).close()


def test_what_is_written_is_read_and_the_rest_is_zeros(volume: Volume) -> None:
    volume.pwrite(memoryview(b"abc"), 4095)
    volume.pwrite(bytearray(b"tail"), 4 * MIB - 4)
    assert volume.pread(5, 4094) == b"\0abc\0"
    assert volume.pread(8, 4 * MIB - 4) == b"tail\0\0\0\0"
    assert volume.pread(4, 9 * MIB) == bytes(4)


@pytest.mark.parametrize("call", ["pwrite", "write_through"])
def test_a_write_never_grows_the_volume(volume: Volume, call: str) -> None:
    with pytest.raises(OSError) as caught:
        getattr(volume, call)(b"12345", 4 * MIB - 4)
    assert caught.value.errno == errno.EINVAL
    assert volume.path.stat().st_size == 4 * MIB


def test_a_short_write_goes_on_until_all_is_written(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_pwrite, real_pwritev = os.pwrite, os.pwritev
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real_pwrite(fd, data[:3], at))
    monkeypatch.setattr(
        os, "pwritev", lambda fd, data, at, flags=0: real_pwritev(fd, [data[0][:2]], at, flags)
    )
    volume.pwrite(b"0123456789", 100)
    volume.write_through(b"abcdefghi", 200)
    assert volume.pread(10, 100) == b"0123456789"
    assert volume.pread(9, 200) == b"abcdefghi"


def test_a_write_that_makes_no_progress_is_an_error(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: 1)
    monkeypatch.setattr(os, "pwritev", lambda fd, data, at, flags=0: 0)
    with pytest.raises(OSError) as caught:
        volume.pwrite(b"0123", 0)
    assert caught.value.errno == errno.EIO


def test_write_through_syncs_where_the_kernel_has_no_flag_for_it(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def refuse(fd: int, data: object, at: int, flags: int = 0) -> int:
        raise OSError(errno.EOPNOTSUPP, "no RWF_DSYNC")

    monkeypatch.setattr(os, "pwritev", refuse)
    monkeypatch.setattr(os, "fdatasync", synced.append)
    volume.write_through(b"fua", 0)
    assert volume.pread(3, 0) == b"fua"
    assert synced == [volume.fileno()]


def test_a_cached_read_gives_what_memory_holds(volume: Volume) -> None:
    volume.pwrite(b"z" * 8192, 4096)
    cached = volume.read_cached(8192, 4096)
    assert cached is None or cached == b"z" * 8192


def test_a_cached_read_gives_none_when_the_page_cache_lacks_it(volume: Volume) -> None:
    volume.pwrite(b"q" * MIB, 0)
    if volume.read_cached(4096, 0) is None:
        pytest.skip("this file system has no RWF_NOWAIT")
    if volume._in_memory:
        pytest.skip("this file system lives in memory: nothing can be dropped from it")
    volume.fdatasync()
    # A page that the kernel still holds on to is left where it is: ask until one is gone.
    for _ in range(1000):
        os.posix_fadvise(volume.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        lacking = volume.read_cached(MIB, 0) is None
        if lacking:
            break
        os.sync()
    assert lacking
    assert volume.pread(MIB, 0) == b"q" * MIB
    assert volume.read_cached(MIB, 0) == b"q" * MIB


def test_a_cached_read_gives_up_for_good_where_the_kernel_has_none(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def refuse(fd: int, buffers: object, at: int, flags: int = 0) -> int:
        calls.append(at)
        raise OSError(errno.EOPNOTSUPP, "no RWF_NOWAIT")

    monkeypatch.setattr(volume, "_in_memory", False)
    monkeypatch.setattr(os, "preadv", refuse)
    assert volume.read_cached(512, 0) is None
    assert volume.read_cached(512, 512) is None
    assert calls == [0]


def test_a_cached_read_reports_a_disk_that_fails(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int, buffers: object, at: int, flags: int = 0) -> int:
        raise OSError(errno.EIO, "bad sector")

    monkeypatch.setattr(volume, "_in_memory", False)
    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(OSError, match="bad sector"):
        volume.read_cached(512, 0)


def test_a_cached_read_fills_the_room_that_it_is_given_or_says_that_it_did_not(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume.pwrite(b"x" * 4096, 0)
    room = bytearray(4096)
    assert volume.read_cached_into(room, 0)
    assert room == b"x" * 4096
    assert not volume.read_cached_into(room, volume.size - 512), "it goes beyond the end"
    monkeypatch.setattr(os, "preadv", lambda *call: 512)
    assert not volume.read_cached_into(room, 0), "memory had but a part of it"


def test_a_volume_in_memory_is_always_cached() -> None:
    if not Path("/dev/shm").is_dir() or not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm to write to")
    path = Path("/dev/shm") / f"pratima-test-{os.getpid()}"
    opened = Volume.open(path, size=MIB)
    try:
        opened.pwrite(b"m", 5)
        if not opened._in_memory:
            pytest.skip("/dev/shm is no tmpfs here")
        assert opened.read_cached(6, 0) == b"\0\0\0\0\0m"
    finally:
        opened.close()
        path.unlink()


def test_a_punched_range_reads_as_zeros_and_gives_its_space_back(volume: Volume) -> None:
    volume.pwrite(b"p" * (2 * MIB), 0)
    volume.fdatasync()
    before = volume.path.stat().st_blocks
    volume.punch(4097, MIB)
    assert volume.pread(MIB + 2, 4096) == b"p" + bytes(MIB) + b"p"
    assert volume.size == 4 * MIB
    if volume.thin:
        assert volume.path.stat().st_blocks < before


def test_punching_nothing_and_beyond_the_end(volume: Volume) -> None:
    volume.punch(0, 0)
    with pytest.raises(OSError, match="beyond"):
        volume.punch(3 * MIB, 2 * MIB)


def test_what_cannot_be_punched_is_overwritten_with_zeros(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (file_calls, volume_module):
        monkeypatch.setattr(module, "punch_hole", lambda fd, offset, length: errno.EOPNOTSUPP)
    volume.pwrite(b"p" * (3 * MIB), 0)
    volume.punch(1, 2 * MIB + 5)
    assert volume.pread(3 * MIB, 0) == b"p" + bytes(2 * MIB + 5) + b"p" * (MIB - 6)
    assert not volume_module._can_punch(volume.path, volume.fileno())


def test_a_punch_that_fails_is_an_error_and_writes_nothing(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_calls, "punch_hole", lambda fd, offset, length: errno.EIO)
    volume.pwrite(b"p" * 512, 0)
    with pytest.raises(OSError) as caught:
        volume.punch(0, 512)
    assert caught.value.errno == errno.EIO
    assert volume.pread(512, 0) == b"p" * 512


def test_holes_are_known_without_reading(volume: Volume) -> None:
    volume.pwrite(b"d" * 65536, MIB)
    volume.fdatasync()
    if volume.allocated(0, 4096)[0]:
        pytest.skip("this file system does not report holes")
    assert volume.allocated(0, 4 * MIB) == (False, MIB)
    assert volume.allocated(MIB, 4 * MIB) == (True, 65536)
    assert volume.allocated(MIB + 512, 1024) == (True, 1024)
    assert volume.allocated(3 * MIB, MIB) == (False, MIB)
    assert volume.is_hole(0, MIB)
    assert not volume.is_hole(0, MIB + 1)
    assert not volume.is_hole(MIB, 512)


def test_where_holes_are_unknown_everything_counts_as_allocated(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, offset: int, whence: int) -> int:
        raise OSError(errno.EINVAL, "no SEEK_DATA")

    monkeypatch.setattr(os, "lseek", refuse)
    assert volume.allocated(0, MIB) == (True, MIB)
    assert not volume.is_hole(0, MIB)


def test_the_state_for_the_spill_changes_with_every_write(volume: Volume) -> None:
    first = volume.state("disk")
    assert (first.name, first.size) == ("disk", 4 * MIB)
    assert first.inode == volume.path.stat().st_ino
    assert volume.state("disk") == first
    os.utime(volume.path, ns=(1, first.mtime_ns + 1))
    assert volume.state("disk") != first


@pytest.mark.parametrize("nameless_files", [True, False])
def test_opening_a_volume_does_not_change_its_state(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, nameless_files: bool
) -> None:
    if not nameless_files:
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)  # EISDIR, as where there are none
    volume.pwrite(b"x" * 512, 0)
    volume.fdatasync()
    os.utime(volume.path, ns=(1, 1_000_000_001))
    before, thin = volume.state("disk"), volume.thin
    volume.close()
    again = Volume.open(volume.path, size=4 * MIB)
    assert again.state("disk") == before
    assert again.thin == thin
    again.close()


def test_a_loop_device_is_a_volume(loop_device: Path) -> None:
    with pytest.raises(StateError, match="has 2097152 bytes"):
        Volume.open(loop_device, size=MIB)
    opened = Volume.open(loop_device, size=2 * MIB)
    try:
        assert opened.is_block_device
        with pytest.raises(StateError, match="in use"):
            Volume.open(loop_device)
        opened.pwrite(b"b" * 65536, 4096)
        opened.write_through(b"c" * 512, 512)
        opened.fdatasync()
        opened.punch(8192, 4096)
        opened.punch(512 * 100 + 1, 7)
        assert opened.pread(12288, 0) == (
            bytes(512) + b"c" * 512 + bytes(3072) + b"b" * 4096 + bytes(4096)
        )
        assert opened.pread(9, 512 * 100) == b"b" + bytes(7) + b"b"
        assert opened.allocated(0, MIB) == (True, MIB)
        cached = opened.read_cached(512, 512)
        assert cached is None or cached == b"c" * 512
        state = opened.state("d")
        assert (state.size, state.inode, state.mtime_ns) == (2 * MIB, 0, 0)
        opened.truncate(2 * MIB)
        with pytest.raises(OSError, match="block device of"):
            opened.truncate(MIB)
        with pytest.raises(OSError, match="beyond"):
            opened.pwrite(b"x", 2 * MIB)
    finally:
        opened.close()


def test_the_boot_is_known_or_never_the_same(tmp_path: Path) -> None:
    assert read_boot_id() == read_boot_id()
    assert read_boot_id(tmp_path / "none") == ""
    assert not same_boot("", "")
    assert not same_boot("a", "b")
    assert same_boot("a", "a")


def test_room_is_made_behind_a_volume_that_keeps_its_size(tmp_path: Path) -> None:
    volume = Volume.open(tmp_path / "v", size=MIB)
    assert volume.make_room(2 * MIB), "a file has zeros behind its end"
    assert (volume.size, volume.capacity, volume.state("v").size) == (MIB, 2 * MIB, MIB)
    with pytest.raises(OSError, match="beyond"):
        volume.pwrite(b"x", MIB)
    volume.keep_to(2 * MIB)
    volume.pwrite(b"x" * 512, MIB)
    assert volume.size == 2 * MIB
    volume.keep_to(MIB)
    assert not volume.make_room(3 * MIB), "something was written there"
    volume.close()


def test_a_volume_with_less_than_its_group_knows_is_refused(tmp_path: Path) -> None:
    volume = Volume.open(tmp_path / "v", size=MIB)
    with pytest.raises(StateError, match=f"has {MIB} bytes, but its group knows it with {2 * MIB}"):
        volume.keep_to(2 * MIB)
    volume.close()


def test_a_size_is_that_of_the_making_for_a_volume_that_may_have_grown(tmp_path: Path) -> None:
    Volume.open(tmp_path / "v", size=2 * MIB).close()
    with pytest.raises(StateError, match="were asked for"):
        Volume.open(tmp_path / "v", size=MIB)
    for grown in ({"grown": True}, {"known": MIB}):
        with pytest.raises(StateError, match="were asked for"):
            Volume.open(tmp_path / "v", size=3 * MIB, **grown)
    for grown, size in (({"grown": True}, 2 * MIB), ({"known": 3 * MIB // 2}, 3 * MIB // 2)):
        volume = Volume.open(tmp_path / "v", size=MIB, **grown)
        assert volume.size == size
        volume.close()


@pytest.mark.parametrize("known", [MIB, 0])
@pytest.mark.parametrize("size", [MIB, None])
def test_what_its_group_knows_is_never_made_anew(
    tmp_path: Path, known: int, size: int | None
) -> None:
    path = tmp_path / "v"
    for directory in (tmp_path, tmp_path / "no"):
        with pytest.raises(StateError, match="is missing, but its group knows it") as missing:
            Volume.open(directory / "v", size=size, known=known)
        assert "--size" not in str(missing.value) and "mount" in missing.value.next_step
    assert not path.exists()
    path.touch()
    with pytest.raises(StateError, match="has 0 bytes, but its group knows it"):
        Volume.open(path, size=size, known=known)
    assert path.stat().st_size == 0
    os.truncate(path, MIB)
    volume = Volume.open(path, size=size, known=known)
    assert volume.size == MIB
    volume.close()


def test_room_that_cannot_be_synced_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume.open(tmp_path / "v", size=MIB)

    def fails(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fails)
    with pytest.raises(SyncError):
        volume.make_room(2 * MIB)
    assert volume.capacity == MIB
    volume.close()


def test_a_file_that_was_made_and_cannot_be_used_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("made")
    (tmp_path / "there").touch()

    def full(fd: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "ftruncate", full)
    for name in ("made", "link", "there"):
        with pytest.raises(StateError, match="No space left"):
            Volume.open(tmp_path / name, size=MIB)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "there"]


def test_only_the_file_that_was_made_is_unmade(tmp_path: Path) -> None:
    volume = Volume.open(tmp_path / "v", size=MIB)
    assert volume.is_new
    volume.close()
    (tmp_path / "v").rename(tmp_path / "moved")
    (tmp_path / "v").touch()
    volume.unmake()
    assert (tmp_path / "v").exists() and (tmp_path / "moved").exists()
    again = Volume.open(tmp_path / "moved", size=MIB)
    assert not again.is_new
    again.close()
    again.unmake()
    assert (tmp_path / "moved").exists()
