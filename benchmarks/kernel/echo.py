"""What ZeroMQ alone needs: a block there, synced, and a short answer back.

No SCSI command, no order, no check: whatever reaches a replica over ZeroMQ takes longer than this.
One rule: its messages are as long as ours are, and answers leave when the data is synced.
"""

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import zmq

from benchmarks.client import Figures, Workload
from benchmarks.processes import MeasurementFailed
from pratima_iscsi.edges.link_sockets import READABLE, readiness

MODULE: Final = "benchmarks.kernel.echo"
OVERHEAD_BYTES: Final = 112
"""Of a frame with one write: header, table entry, digest."""
ANSWER_BYTES: Final = 123
"""An acknowledgement."""
ANSWER_MS_MAX: Final = 30_000
HOST: Final = "tcp://127.0.0.1"


class Echo:
    """The near side: ``ports`` are where the far one listens."""

    def __init__(self, to: zmq.Socket[bytes], back: zmq.Socket[bytes], ports: list[int]) -> None:
        self._to = to
        self._back = back
        self.ports = ports

    def measure(
        self, workload: Workload, *, seconds: float, warm_seconds: float, seed: int
    ) -> Figures:
        """As many messages under way as the workload has commands; where they would be written
        makes no difference, so ``seed`` says nothing."""
        del seed
        message = bytes(workload.block_bytes + OVERHEAD_BYTES)
        sent: deque[float] = deque()
        took: list[float] = []
        begun = time.monotonic()
        counted, end = begun + warm_seconds, begun + warm_seconds + seconds
        for _ in range(workload.depth):
            self._to.send(message)
            sent.append(time.monotonic())
        while sent:
            try:
                self._back.recv()
            except zmq.Again:
                raise MeasurementFailed(f"no answer in {ANSWER_MS_MAX / 1000:g} s") from None
            now = time.monotonic()
            if counted <= now < end:
                took.append(now - sent[0])
            sent.popleft()
            if now < end:
                self._to.send(message)
                sent.append(time.monotonic())
        return _figures(took, seconds, workload)


def _figures(took: list[float], seconds: float, workload: Workload) -> Figures:
    if not took:
        raise MeasurementFailed("no message came back in the time that it had")
    ordered, count = sorted(took), len(took)
    return Figures(
        commands=count,
        commands_all=count,
        seconds=seconds,
        seconds_all=seconds,
        iops=count / seconds,
        mb_per_s=count * workload.block_bytes / seconds / 1e6,
        p50_us=ordered[count // 2] * 1e6,
        p99_us=ordered[count * 99 // 100] * 1e6,
        max_us=ordered[-1] * 1e6,
    )


@contextmanager
def echo(file: Path) -> Iterator[Echo]:
    """Both sides of it; the far one is a process of its own, and writes ``file``."""
    with ExitStack() as stack:
        far = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", MODULE, str(file)], stdout=subprocess.PIPE, text=True
            )
        )
        stack.callback(far.kill)
        assert far.stdout is not None
        said = far.stdout.readline()
        ports = [int(word) for word in said.split()]
        if len(ports) != 2:
            raise MeasurementFailed(f"the far side of the echo said {said!r}")
        context = stack.enter_context(zmq.Context())
        to = stack.enter_context(context.socket(zmq.PUSH))
        back = stack.enter_context(context.socket(zmq.PULL))
        to.linger = 0
        back.rcvtimeo = ANSWER_MS_MAX
        to.connect(f"{HOST}:{ports[0]}")
        back.connect(f"{HOST}:{ports[1]}")
        yield Echo(to, back, ports)


def main(path: str) -> None:
    """The far side: says its two ports, then answers until it is killed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    answer = bytes(ANSWER_BYTES)
    with (
        zmq.Context() as context,
        context.socket(zmq.PULL) as here,
        context.socket(zmq.PUSH) as back,
    ):
        print(*(socket.bind_to_random_port(HOST) for socket in (here, back)), flush=True)
        while True:
            count = _take(here, descriptor)
            os.fdatasync(descriptor)
            for _ in range(count):
                back.send(answer)


def _take(here: zmq.Socket[bytes], descriptor: int) -> int:
    """Write all that is there, at least one message: it is synced together."""
    count = 0
    while not count or readiness(here) & READABLE:
        os.pwrite(descriptor, here.recv(), 0)
        count += 1
    return count


if __name__ == "__main__":
    main(sys.argv[1])
