"""The state directory on a real file system: modes, links, locks, short calls, holes."""

import errno
import os
import stat
from pathlib import Path

import pytest

from pratima_iscsi.edges import file_calls
from pratima_iscsi.edges.directory import DiskDirectory
from pratima_iscsi.errors import StateError


@pytest.fixture
def directory(tmp_path: Path) -> DiskDirectory:
    return DiskDirectory.open_at(tmp_path / "state", create=True)


def test_directory_and_files_are_the_owners_alone(directory: DiskDirectory) -> None:
    directory.open("journal", create=True)
    assert stat.S_IMODE(os.stat(directory.path).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(directory.path / "journal").st_mode) == 0o600


def test_a_second_process_is_kept_out_until_the_first_closes(directory: DiskDirectory) -> None:
    with pytest.raises(StateError, match="in use by another process"):
        DiskDirectory.open_at(directory.path)
    directory.close()
    directory.close()
    DiskDirectory.open_at(directory.path, create=True).close()


def test_a_missing_directory_is_made_only_on_demand(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="does not exist"):
        DiskDirectory.open_at(tmp_path / "none")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(StateError, match="cannot be opened"):
        DiskDirectory.open_at(tmp_path / "link")


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(StateError, match="cannot be locked"):
        DiskDirectory.open_at(tmp_path)


def test_links_and_special_files_are_refused(directory: DiskDirectory, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (directory.path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(directory.path / "fifo")
    with pytest.raises(OSError) as link:
        directory.open("link")
    assert link.value.errno == errno.ELOOP
    with pytest.raises(OSError) as fifo:
        directory.open("fifo")
    assert fifo.value.errno == errno.EINVAL
    assert directory.names() == []
    assert directory.exists("link")


def test_names_appear_move_and_go(directory: DiskDirectory) -> None:
    with pytest.raises(FileNotFoundError):
        directory.open("a")
    directory.open("b", create=True).close()
    directory.open("a", create=True).close()
    assert directory.names() == ["a", "b"]
    directory.rename("a", "c")
    directory.unlink("b")
    directory.sync()
    assert directory.names() == ["c"]
    assert directory.exists("c") and not directory.exists("a")
    assert directory.free_bytes() > 0
    with pytest.raises(AssertionError):
        directory.open("../escape", create=True)


def test_a_file_gives_back_what_was_written(directory: DiskDirectory) -> None:
    file = directory.open("file", create=True)
    file.pwrite(b"abc", 5)
    assert file.size == 8
    assert file.pread(10, 4) == b"\0abc" + bytes(6)
    assert file.pread(4, 100) == bytes(4)
    file.fdatasync()
    file.truncate(6)
    assert file.pread(3, 5) == b"a\0\0"
    file.close()
    file.close()


def test_short_writes_and_reads_go_on(
    directory: DiskDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = directory.open("file", create=True)
    real_write, real_read = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real_write(fd, bytes(data)[:3], at))
    monkeypatch.setattr(os, "pread", lambda fd, size, at: real_read(fd, min(size, 2), at))
    file.pwrite(memoryview(b"0123456789"), 0)
    assert file.pread(12, 0) == b"0123456789\0\0"
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: 0)
    monkeypatch.setattr(os, "pwritev", lambda fd, views, at: 0)
    with pytest.raises(OSError, match="takes no more"):
        file.pwrite(b"x", 0)


def test_punched_ranges_read_as_zeros_and_are_holes(directory: DiskDirectory) -> None:
    file = directory.open("file", create=True)
    file.pwrite(b"x" * 65536, 0)
    file.punch(4096, 8192)
    file.punch(65536, 4096)
    assert file.size == 65536
    assert file.pread(65536, 0) == b"x" * 4096 + bytes(8192) + b"x" * (65536 - 12288)
    assert not file.is_hole(0, 4096)
    file.truncate(1 << 20)
    assert file.is_hole(131072, 4096)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EIO])
def test_what_cannot_be_punched_is_overwritten(
    directory: DiskDirectory, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    file = directory.open("file", create=True)
    file.pwrite(b"x" * 9000, 0)
    monkeypatch.setattr(file_calls, "punch_hole", lambda fd, offset, length: code)
    if code == errno.EIO:
        with pytest.raises(OSError):
            file.punch(0, 9000)
        return
    file.punch(1000, 1 << 30)
    assert file.pread(9000, 0) == b"x" * 1000 + bytes(8000)


def test_fallocate_goes_on_after_a_signal(
    directory: DiskDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = [errno.EINTR, errno.EIO]
    monkeypatch.setattr(file_calls, "_fallocate", lambda *arguments: -1)
    monkeypatch.setattr("ctypes.get_errno", lambda: codes.pop(0))
    assert file_calls.punch_hole(0, 0, 1) == errno.EIO
    assert not codes


@pytest.mark.parametrize(
    ("code", "hole"), [(errno.ENXIO, True), (errno.EINVAL, False), (errno.EIO, None)]
)
def test_a_hole_is_believed_only_when_the_file_system_says_so(
    directory: DiskDirectory, monkeypatch: pytest.MonkeyPatch, code: int, hole: bool | None
) -> None:
    file = directory.open("file", create=True)

    def seek(fd: int, offset: int, whence: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "lseek", seek)
    if hole is None:
        with pytest.raises(OSError):
            file.is_hole(0, 512)
    else:
        assert file.is_hole(0, 512) is hole
