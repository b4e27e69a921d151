"""The process harness: waits, freezes and copies do what the torture scenarios rely on."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.torture.daemons import Daemon, copy, free_ports, listening, wait_until

WAIT_SECONDS = 20.0

COUNTS = """
import os, threading
def count(path):
    number = 0
    file = os.open(path, os.O_CREAT | os.O_WRONLY)
    while True:
        number += 1
        os.pwrite(file, b"%20d" % number, 0)
threads = [threading.Thread(target=count, args=(f"count-{n}",)) for n in range(3)]
for thread in threads: thread.start()
print("counting", flush=True)
"""


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    monkeypatch.chdir(tmp_path)
    return Daemon("counter", tmp_path, [sys.executable, "-c", COUNTS])


def counts(directory: Path) -> list[str]:
    return [path.read_text() for path in sorted(directory.glob("count-*"))]


def test_frozen_process_stands_still_in_all_its_threads(counting: Daemon, tmp_path: Path) -> None:
    with counting:
        counting.start()
        wait_until(lambda: all(counts(tmp_path)) and len(counts(tmp_path)) == 3, WAIT_SECONDS, "x")
        for _ in range(3):
            with counting.frozen():
                first = counts(tmp_path)
                assert all(counts(tmp_path) == first for _ in range(100))
            wait_until(lambda: counts(tmp_path) != first, WAIT_SECONDS, "it goes on")  # noqa: B023
        assert counting.runs


def test_dead_process_ends_a_wait_with_what_it_said(tmp_path: Path) -> None:
    daemon = Daemon("dying", tmp_path, [sys.executable, "-c", "print('no such volume'); exit(3)"])
    with daemon:
        daemon.start()
        with pytest.raises(AssertionError, match=r"dying ended with 3 .*\n(.*\n)*no such volume"):
            wait_until(lambda: False, WAIT_SECONDS, "never", [daemon])


def test_killed_process_is_gone_and_starts_again(counting: Daemon, tmp_path: Path) -> None:
    with counting:
        counting.start()
        wait_until(lambda: "counting" in counting.output(), WAIT_SECONDS, "it runs")
        pid = counting.pid
        counting.kill()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        counting.start()
        assert counting.runs
        assert counting.stop() == -signal.SIGTERM


def test_wait_has_a_deadline_and_names_what_it_waited_for() -> None:
    with pytest.raises(AssertionError, match="not within 0 s: the moon"):
        wait_until(lambda: None, 0.0, "the moon")
    assert wait_until(lambda: 7, 0.0, "seven") == 7


def test_free_ports_are_free_and_in_a_row() -> None:
    first = free_ports(3)
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", first))
        other.bind(("127.0.0.1", first + 1))
        other.listen()
        assert listening(first + 1) and not listening(first)


def test_copy_takes_sockets_and_keeps_holes(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind(str(state / "control"))
        with (state / "volume").open("wb") as volume:
            volume.truncate(1 << 24)
        copy(state, tmp_path / "copy")
    assert (tmp_path / "copy" / "control").is_socket()
    copied = (tmp_path / "copy" / "volume").stat()
    assert copied.st_size == 1 << 24 and copied.st_blocks * 512 < 1 << 20
