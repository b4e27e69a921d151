"""The portal that a guest talks to: the product's own, on a free port of the host's loopback."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.processes import Pinned, answers, free_port, wait_for
from benchmarks.subjects import COMMAND
from benchmarks.tgtd import Chap, Portal

TARGET_NAME: Final = "iqn.2026-11.org.example:lab"
READY_SECONDS_MAX: Final = 30.0


@contextmanager
def served(volume: Path, *, chap: Chap | None = None) -> Iterator[Portal]:
    """``pratima serve`` on ``volume``, a file that has its size, until the block ends."""
    port = free_port()
    state = volume.with_name(f"{volume.name}-state")
    command = [*COMMAND, "serve", "--state", str(state), "--portal", f"127.0.0.1:{port}"]
    command += ["--volume", str(volume), "--iqn", TARGET_NAME]
    if chap is not None:
        secret = volume.with_name(f"{volume.name}-secret")
        secret.touch(mode=0o600)
        secret.write_text(chap.secret)
        command += ["--chap-user", chap.user, "--chap-password-file", str(secret)]
    with Pinned(command, cpu=None, log=volume.with_name(f"{volume.name}-log")) as daemon:
        wait_for(lambda: answers(port), READY_SECONDS_MAX, [daemon], "pratima serve")
        yield Portal(port=port, target=TARGET_NAME, pid=daemon.pid)
