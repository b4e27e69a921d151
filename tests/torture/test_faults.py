"""The preloaded library lets exactly the chosen call fail, in Python and in sqlite3 alike."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.faults import Shim, SyscallFault, build, compiler, happened

RUN_SECONDS = 60


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    found = compiler()
    if found is None:
        pytest.skip("no C compiler: apt-get install gcc libc6-dev")
    return build(tmp_path_factory.mktemp("shim"), found)


class Run:
    """A piece of Python under faults."""

    def __init__(self, shim: Shim, directory: Path, *faults: SyscallFault) -> None:
        self.directory = directory
        self.environment = shim.environment(faults, directory / "faults.log")

    def python(self, text: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-I", "-c", "import os, sys, sqlite3\n" + text],
            cwd=self.directory,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )

    def happened(self) -> list[str]:
        return happened(self.environment)


OPENED = "fd = os.open('journal', os.O_RDWR | os.O_CREAT, 0o600)\n"
ERRNO_OF_EACH = """
def tried(call):
    try:
        return call()
    except OSError as problem:
        return -problem.errno
"""


@pytest.mark.parametrize(
    "call",
    [
        "os.write(fd, b'0123')",
        "os.pwrite(fd, b'0123', 0)",
        "os.writev(fd, [b'01', b'23'])",
        "os.pwritev(fd, [b'01', b'23'], 0)",
        "os.pwritev(fd, [b'01', b'23'], 0, os.RWF_DSYNC)",
    ],
)
def test_nth_write_of_any_kind_fails_and_the_others_do_not(
    shim: Shim, tmp_path: Path, call: str
) -> None:
    run = Run(shim, tmp_path, SyscallFault("write", 2, "EIO", "journal"))
    ran = run.python(OPENED + ERRNO_OF_EACH + f"print([tried(lambda: {call}) for _ in range(3)])")
    assert ran.stdout.strip() == f"[4, -{errno.EIO}, 4]", ran.stderr
    assert run.happened() == [f"write {errno.EIO} {tmp_path / 'journal'}"]


@pytest.mark.parametrize("call", ["os.fsync(fd)", "os.fdatasync(fd)"])
def test_sync_fails_once_or_for_good(shim: Shim, tmp_path: Path, call: str) -> None:
    program = OPENED + ERRNO_OF_EACH + f"print([tried(lambda: {call}) for _ in range(3)])"
    once = Run(shim, tmp_path, SyscallFault("sync", 1, "EIO"))
    assert once.python(program).stdout.strip() == f"[-{errno.EIO}, None, None]"
    for_good = Run(shim, tmp_path, SyscallFault("sync", 2, "ENOSPC", onwards=True))
    assert for_good.python(program).stdout.strip() == f"[None, -{errno.ENOSPC}, -{errno.ENOSPC}]"


def test_short_write_writes_half_and_says_so(shim: Shim, tmp_path: Path) -> None:
    run = Run(shim, tmp_path, SyscallFault("write", 1, "short", "journal"))
    ran = run.python(OPENED + "print(os.pwrite(fd, b'01234567', 0))")
    assert ran.stdout.strip() == "4", ran.stderr
    assert (tmp_path / "journal").read_bytes() == b"0123"
    vectored = Run(shim, tmp_path, SyscallFault("write", 1, "short", "journal"))
    assert vectored.python(OPENED + "print(os.pwritev(fd, [b'ab'] * 4, 0))").stdout == "4\n"


@pytest.mark.parametrize(("action", "left"), [("kill", b""), ("killed", b"0123")])
def test_process_dies_before_or_after_the_call(
    shim: Shim, tmp_path: Path, action: str, left: bytes
) -> None:
    run = Run(shim, tmp_path, SyscallFault("write", 1, action, "journal"))
    ran = run.python(OPENED + "os.pwrite(fd, b'0123', 0); print('alive')")
    assert ran.returncode == -signal.SIGKILL
    assert ran.stdout == ""
    assert (tmp_path / "journal").read_bytes() == left
    assert len(run.happened()) == 1


@pytest.mark.parametrize(
    ("call", "expression"),
    [
        ("open", "os.open('journal-2', os.O_RDONLY | os.O_CREAT, 0o600)"),
        ("open", "open('journal-2', 'wb')"),
        ("open", "os.open('journal-2', os.O_CREAT, 0o600, dir_fd=os.open('.', os.O_RDONLY))"),
        ("rename", "os.rename('a', 'journal-2')"),
        ("rename", "os.replace('a', 'journal-2')"),
        ("unlink", "os.unlink('journal-2')"),
        ("truncate", "os.ftruncate(os.open('journal-2', os.O_RDWR | os.O_CREAT), 5)"),
    ],
)
def test_calls_by_path_fail(shim: Shim, tmp_path: Path, call: str, expression: str) -> None:
    run = Run(shim, tmp_path, SyscallFault(call, 1, "EROFS", "journal-2"))
    ran = run.python(ERRNO_OF_EACH + f"open('a', 'w').close(); print(tried(lambda: {expression}))")
    assert ran.stdout.strip() == f"-{errno.EROFS}", ran.stderr
    assert len(run.happened()) == 1


def test_other_files_are_left_alone(shim: Shim, tmp_path: Path) -> None:
    run = Run(shim, tmp_path, SyscallFault("write", 1, "EIO", "journal", onwards=True))
    ran = run.python("open('volume', 'wb').write(b'x'); print('fine')")
    assert ran.stdout == "fine\n" and not run.happened()


def test_sqlite_feels_it_too(shim: Shim, tmp_path: Path) -> None:
    program = """
database = sqlite3.connect('spill.sqlite')
try:
    database.execute('create table t (x)')
    database.commit()
    print('kept')
except sqlite3.OperationalError as problem:
    print(problem)
"""
    assert Run(shim, tmp_path).python(program).stdout == "kept\n"
    (tmp_path / "spill.sqlite").unlink()
    for fault in (
        SyscallFault("sync", 1, "EIO", "spill"),
        SyscallFault("write", 1, "EIO", "spill"),
    ):
        run = Run(shim, tmp_path, fault)
        assert run.python(program).stdout == "disk I/O error\n"
        assert len(run.happened()) >= 1


def test_nonsense_is_refused_aloud(shim: Shim, tmp_path: Path) -> None:
    for wrong in ("write:0:EIO", "write:1:EWHAT", "write"):
        environment = shim.environment([], tmp_path / "log") | {"PRATIMA_FAULTS": wrong}
        ran = subprocess.run(
            ["/bin/true"], env=environment, capture_output=True, text=True, timeout=RUN_SECONDS
        )
        assert ran.returncode == 125 and "cannot use" in ran.stderr, wrong
