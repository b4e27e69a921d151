"""Daemons whose standard descriptors are closed, broken, or read by nobody: they serve and stop."""

import os
import shlex
from pathlib import Path

import pytest

from tests.integration.daemons.nodes import BLOCK, Node, Pair


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
