"""The portal that a guest talks to: on the host's loopback, on a port of its own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.tgtd import Chap, Portal


@contextmanager
def served(volume: Path, *, chap: Chap | None = None) -> Iterator[Portal]:
    """Serve ``volume``, a file that has its size, until the block ends."""
    command = [sys.executable, "-m", "tests.support.memory_target", "--port", "0"]
    command += ["--file", str(volume), "--size", str(volume.stat().st_size)]
    if chap is not None:
        command += ["--chap", f"{chap.user}:{chap.secret}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline()
            # iscsi://ADDRESS:PORT/TARGET/LUN
            address, target, _lun = url.removeprefix("iscsi://").split("/")
            yield Portal(port=int(address.rpartition(":")[2]), target=target, pid=process.pid)
        finally:
            process.terminate()
