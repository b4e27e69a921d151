"""Processes of a measurement: pinned to a processor, watched, and ended with their parent.

One rule: nothing outlives its ``with`` block, whatever happens in it.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

POLL_SECONDS: Final = 0.02
PORT_TRIES_MAX: Final = 100
STOP_SECONDS_MAX: Final = 15.0
CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")


class MeasurementFailed(Exception):
    """A process died, never came up or gave an answer that is none; the message has its output."""


class Pinned:
    """One daemon under measurement: its output goes to ``log``, it runs on ``cpu`` alone.

    A processor that this machine does not have is taken for none; the report says how many there
    are.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cpu: int | None,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command = tuple(command)
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*pinning(cpu), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    @property
    def pid(self) -> int:
        """Taskset and setpriv both exec, so this is the daemon itself."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it still runs; a stopped process does."""
        return self._process.poll() is None

    def said(self) -> str:
        """All it has written so far."""
        return self._log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, while it runs."""
        if self.alive():
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash would, and see it gone."""
        self.signal(signal.SIGKILL)
        self._process.wait(STOP_SECONDS_MAX)

    def stop(self) -> None:
        """End it as an operator would; after STOP_SECONDS_MAX as a crash would."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()

    def __enter__(self) -> Self:
        """Nothing more: it was started when it was made."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop()


def pinning(cpu: int | None) -> list[str]:
    """The words before a command that bind it to ``cpu`` and end it with this process."""
    words = ["setpriv", "--pdeathsig", "KILL"]
    if cpu is not None and cpu in os.sched_getaffinity(0):
        words += ["taskset", "-c", str(cpu)]
    return words


def free_port(count: int = 1) -> int:
    """The first of ``count`` neighbouring ports of the loopback that nobody listens on now."""
    for _ in range(PORT_TRIES_MAX):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            first = 0
            for number in range(count):
                probe = stack.enter_context(socket.socket())
                probe.bind(("127.0.0.1", first + number if first else 0))
                first = first or probe.getsockname()[1]
            return first
    raise MeasurementFailed(f"no {count} free ports side by side")


def wait_for(
    ready: Callable[[], bool], seconds_max: float, daemons: Iterable[Pinned], what: str
) -> None:
    """Poll until ``ready``; raises :class:`MeasurementFailed` when a daemon dies or time is up."""
    deadline = time.monotonic() + seconds_max
    watched = list(daemons)
    while not ready():
        for daemon in watched:
            if not daemon.alive():
                raise MeasurementFailed(f"{what}: {' '.join(daemon.command)} died: {daemon.said()}")
        if time.monotonic() > deadline:
            said = "\n".join(daemon.said() for daemon in watched)
            raise MeasurementFailed(f"{what}: not within {seconds_max:g} s: {said}")
        time.sleep(POLL_SECONDS)


def answers(port: int) -> bool:
    """Whether somebody accepts connections on this port of the loopback."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


def cpu_seconds(pid: int) -> float:
    """Processor time, user and system, of all threads so far, the ended ones included."""
    # The command name, field 2, may hold spaces; what follows its bracket does not.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def memory_bytes(pid: int) -> int:
    """Resident memory now."""
    return _status_bytes(pid, "VmRSS")


def memory_bytes_peak(pid: int) -> int:
    """The most resident memory since :func:`forget_memory_peak`."""
    return _status_bytes(pid, "VmHWM")


def forget_memory_peak(pid: int) -> None:
    """Let the peak begin anew from what is resident now (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status_bytes(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise MeasurementFailed(f"process {pid} has no {field}: it is gone")
