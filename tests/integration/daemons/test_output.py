"""Daemons whose standard descriptors are closed, broken, or read by nobody: they serve and stop."""

import os
import shlex
from pathlib import Path

import pytest

from tests.integration.daemons.nodes import BLOCK, Node, Pair, Primary


def redirect(node: Node, words: str) -> None:
    """From its next start on ``node`` has its standard descriptors as a shell's ``words`` say."""
    node.command = ["sh", "-c", f'exec "$@" {words}', "sh", *node.command]


def full_pipe(path: Path) -> int:
    """A named pipe that takes no more; the descriptor that keeps it so."""
    os.mkfifo(path)
    held = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        while True:
            os.write(held, bytes(4096))
    except BlockingIOError:
        return held


@pytest.mark.parametrize("words", [">{0}", "2>{0}", ">{0} 2>&1"])
def test_a_daemon_whose_output_nobody_reads_serves_and_stops(place: Path, words: str) -> None:
    pipe = place / "nobody"
    held = full_pipe(pipe)
    pair = Pair(place, "--mode", "sync")
    for node in (pair.replica, pair.primary):
        redirect(node, words.format(shlex.quote(str(pipe))))
    with pair.in_step():
        with pair.primary.login() as session:
            session.write(0, b"w" * BLOCK)
        for node in (pair.primary, pair.replica):
            node.finish()
    os.close(held)


@pytest.mark.parametrize("words", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_daemon_that_is_started_with_closed_descriptors_serves_and_stops(
    place: Path, words: str
) -> None:
    pair = Pair(place, "--mode", "sync")
    for node in (pair.replica, pair.primary):
        redirect(node, words)
    with pair.in_step():
        with pair.primary.login() as session:
            session.write(0, b"w" * BLOCK)
        for node in (pair.primary, pair.replica):
            for number in range(3):
                found = os.readlink(f"/proc/{node.pid}/fd/{number}")
                assert found in (os.devnull, str(node.log)), "nothing else took its place"
            node.finish()


@pytest.mark.parametrize("words", [">{0}", "2>{0}", ">{0} 2>&1"])
def test_a_daemon_whose_reader_is_gone_before_it_starts_serves_and_stops(
    place: Path, words: str
) -> None:
    pipe = place / "gone"
    os.mkfifo(pipe)
    # Opened for reading too, so that a reader is there, which the shell then closes.
    opened = "3<>{0} " + words + " 3>&-"
    primary = Primary(place)
    redirect(primary, opened.format(shlex.quote(str(pipe))))
    with primary:
        primary.start()
        with primary.login() as session:
            session.write(0, b"w" * BLOCK)
        primary.finish()
