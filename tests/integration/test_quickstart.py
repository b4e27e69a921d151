"""`make quickstart`: what it shows is true, on a terminal and off; it leaves nothing running."""

import contextlib
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pratima_iscsi.control.client import ControlClient

ROOT = Path(__file__).parents[2]
QUICKSTART = (sys.executable, str(ROOT / "tools" / "quickstart.py"))
SECONDS = 180.0
BLOCK_BYTES = 4096
SENT = re.compile(r"It was sent ([\d.]+) (\w+) for the (\d+) blocks")
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20}


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*QUICKSTART, "--directory", str(directory), *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def daemons_of(directory: Path) -> list[str]:
    """Command lines of processes that name the directory."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            line = (
                (entry / "cmdline").read_bytes().decode(errors="replace")
                if entry.name.isdigit()
                else ""
            )
            if str(directory) in line and "pratima_iscsi" in line:
                found.append(line)
    return found


def test_without_a_terminal_it_compares_stops_both_and_exits_with_0(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    done = run(directory)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "IDENTICAL" in done.stdout
    assert "240 writes" in done.stdout and "240 more writes" in done.stdout
    sent = SENT.search(done.stdout)
    assert sent is not None, done.stdout
    assert float(sent[1]) * UNITS[sent[2]] <= 1.1 * int(sent[3]) * BLOCK_BYTES
    for number in range(2):
        disk, copy = directory / f"disk{number}.img", directory / f"copy{number}.img"
        assert disk.read_bytes() == copy.read_bytes()
        assert any(disk.read_bytes())
    assert not daemons_of(directory)
    client = "qemu-io" if "with qemu-io" in done.stdout else "pratima's own initiator"
    assert f"with {client}" in done.stdout


@contextlib.contextmanager
def on_a_terminal(directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The quick start with the project's own initiator on a terminal; and the terminal."""
    terminal, other = pty.openpty()
    process = subprocess.Popen(
        [*QUICKSTART, "--directory", str(directory), "--client", "own"],
        stdin=other,
        stdout=other,
        stderr=other,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
    )
    os.close(other)
    try:
        yield process, terminal
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(SECONDS)
        os.close(terminal)


def read_until(terminal: int, wanted: str | None) -> str:
    """What the terminal shows until ``wanted``, or to the end."""
    text = ""
    deadline = time.monotonic() + SECONDS
    while wanted is None or wanted not in text:
        readable, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert readable, f"not within {SECONDS} s: {wanted}\n{text}"
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            part = b""
        if not part:
            assert wanted is None, f"it ended before: {wanted}\n{text}"
            break
        text += part.decode(errors="replace")
    return text


def test_on_a_terminal_it_serves_until_ctrl_c_and_what_it_prints_works(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with on_a_terminal(directory) as (process, terminal):
        text = read_until(terminal, "--logout")
        assert "IDENTICAL" in text
        lines = [line.strip() for line in text.splitlines()]
        for program in ("pratima", "iscsi-ls", "qemu-img"):
            (line,) = (line for line in lines if re.match(rf"\S*{program} (status|-s|info)", line))
            if program == "pratima":
                line = line.replace(line.split()[0], f"{sys.executable} -m pratima_iscsi")
            elif shutil.which(program) is None:
                continue
            told = subprocess.run(line.split(), capture_output=True, text=True, timeout=SECONDS)
            if program != "qemu-img" or "Unknown protocol" not in told.stderr:
                assert told.returncode == 0, told.stderr
        process.send_signal(signal.SIGINT)
        assert "Stopped both." in read_until(terminal, None)
        assert process.wait(SECONDS) == 0
    assert not daemons_of(directory)


def test_a_daemon_that_dies_is_a_failure_with_the_reason_and_the_log(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with on_a_terminal(directory) as (process, terminal):
        read_until(terminal, "3. Writing")
        with ControlClient(directory / "primary") as client:
            os.kill(client.status().pid, signal.SIGKILL)
        text = read_until(terminal, None)
        assert process.wait(SECONDS) == 1
    assert "quickstart FAILED: the target ended with exit code -9" in text
    assert "primary.log" in text and "resynced: consistent at" in text
    assert not daemons_of(directory)


def test_a_directory_with_anything_else_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "disk0.img").write_text("mine")
    done = run(tmp_path)
    assert done.returncode == 2
    assert "name another --directory" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["disk0.img"]
    assert (tmp_path / "disk0.img").read_text() == "mine"


def test_a_directory_of_its_own_with_something_added_is_refused(tmp_path: Path) -> None:
    (tmp_path / "made-by-quickstart").touch()
    (tmp_path / "disk0.img").touch()
    (tmp_path / "thesis.txt").write_text("mine")
    done = run(tmp_path)
    assert done.returncode == 2
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert (tmp_path / "disk0.img").exists()
