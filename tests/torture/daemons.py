"""The project's own daemons as processes that a test starts, stops, kills, freezes and copies.

One rule: a test waits for events (a status, a stopped process, an exit) with a deadline, never for
time to pass; and a daemon that died unasked ends every wait at once, with what it last said.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

import msgspec

PRATIMA: Final = (sys.executable, "-m", "pratima_iscsi")
COMMAND_SECONDS: Final = 60.0
START_SECONDS: Final = 120.0
"""A program that starts in a second takes a hundred times as long in a busy, emulated machine."""
STOP_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.05
OUTPUT_CHARACTERS: Final = 4000

T = TypeVar("T")


def wait_until(
    predicate: Callable[[], T | None],
    seconds: float,
    what: str,
    daemons: Sequence["Daemon"] = (),
) -> T:
    """What ``predicate`` returns once that is true. AssertionError after ``seconds``, or when one
    of ``daemons`` has ended meanwhile."""
    deadline = time.monotonic() + seconds
    while True:
        found = predicate()
        if found:
            return found
        for daemon in daemons:
            daemon.check_alive(f"while waiting for: {what}")
        if time.monotonic() > deadline:
            said = "".join(f"\n{daemon.name}: {daemon.output()}" for daemon in daemons)
            raise AssertionError(f"not within {seconds:.0f} s: {what} (last: {found!r}){said}")
        time.sleep(POLL_SECONDS)


def free_ports(count: int = 1) -> int:
    """The first of ``count`` ports in a row that are free on 127.0.0.1 now."""
    for _ in range(100):
        with contextlib.ExitStack() as held:
            first = 0
            try:
                for number in range(count):
                    endpoint = held.enter_context(socket.socket())
                    endpoint.bind(("127.0.0.1", first + number if first else 0))
                    first = first or endpoint.getsockname()[1]
            except OSError:
                continue
            return first
    raise AssertionError(f"no {count} free ports in a row")


def listening(port: int) -> bool:
    """Whether something accepts connections on a port of 127.0.0.1."""
    with socket.socket() as endpoint:
        return endpoint.connect_ex(("127.0.0.1", port)) == 0


def copy(source: Path, target: Path) -> None:
    """Copy a file or a directory, holes, sockets and all."""
    subprocess.run(
        ["cp", "-a", "--sparse=always", "--reflink=auto", str(source), str(target)],
        check=True,
        timeout=COMMAND_SECONDS,
    )


class Daemon:
    """One process; what it says goes to ``NAME.log`` in its directory, over all its lives."""

    def __init__(self, name: str, directory: Path, command: Sequence[str]) -> None:
        self.name = name
        self.command = list(command)
        self.log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id; AssertionError when it does not run."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it, with ``environment`` added to ours."""
        assert not self.runs, f"{self.name} runs already"
        with self.log.open("ab") as log:
            log.write(f"--- {' '.join(self.command)}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )

    def output(self) -> str:
        """The end of what it said."""
        if not self.log.exists():
            return ""
        return self.log.read_text(errors="replace")[-OUTPUT_CHARACTERS:]

    def check_alive(self, when: str = "") -> None:
        """AssertionError with its output when it has ended."""
        if self._process is not None and (status := self._process.poll()) is not None:
            raise AssertionError(f"{self.name} ended with {status} {when}:\n{self.output()}")

    def kill(self) -> None:
        """SIGKILL it and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
            self._process = None

    def stop(self) -> int:
        """SIGTERM it and wait for its end; the exit status."""
        assert self._process is not None, f"{self.name} does not run"
        self._process.terminate()
        status = self._process.wait(STOP_SECONDS)
        self._process = None
        return status

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait until it ends by itself; the exit status."""
        assert self._process is not None, f"{self.name} does not run"
        status = self._process.wait(seconds)
        self._process = None
        return status

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP it, wait until ALL its threads stand still, and let it go on afterwards."""
        self.check_alive("before it was frozen")
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        found = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert found is not None
        if found.si_code not in (os.CLD_STOPPED, os.CLD_TRAPPED):
            self.check_alive("as it was frozen")
        os.waitid(os.P_PID, pid, os.WSTOPPED)  # this stop is told once only
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()


# --- what `pratima status --json` says ----------------------------------------------------------


class Lag(msgspec.Struct, frozen=True):
    writes: int
    bytes: int
    seconds: float | None


class Resync(msgspec.Struct, frozen=True):
    blocks_total: int
    blocks_done: int
    bytes_sent: int


class Link(msgspec.Struct, frozen=True):
    replica: str
    state: str
    degraded: bool
    reason: str | None
    lag: Lag
    bwt_blocks: int
    resync: Resync | None = None


class Position(msgspec.Struct, frozen=True):
    generation: str
    sequence: int


class Status(msgspec.Struct, frozen=True):
    role: str
    position: Position
    links: list[Link] = []

    @property
    def synced(self) -> bool:
        """Every link SYNCED and none degraded."""
        return bool(self.links) and all(
            link.state == "SYNCED" and not link.degraded for link in self.links
        )

    @property
    def caught_up(self) -> bool:
        """SYNCED, and nothing waits in the log."""
        return self.synced and all(link.lag.writes == 0 for link in self.links)


def pratima(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of the project's to its end."""
    return subprocess.run(
        [*PRATIMA, *arguments], capture_output=True, text=True, timeout=COMMAND_SECONDS
    )


def status(state: Path) -> Status | None:
    """What a daemon says of itself, or None when nobody answers."""
    ran = pratima("status", "--state", str(state), "--json")
    if ran.returncode not in (0, 1, 2):
        raise AssertionError(f"status ended with {ran.returncode}: {ran.stderr}")
    try:
        found = msgspec.json.decode(ran.stdout, type=Status)
    except msgspec.DecodeError as problem:
        if not isinstance(problem, msgspec.ValidationError) and ran.returncode == 2:
            return None  # nobody answers: the reason stands on stderr, for people
        raise AssertionError(f"status says {ran.stdout!r}: {problem}") from problem
    if found.links and found.synced != (ran.returncode == 0):
        raise AssertionError(f"status ended with {ran.returncode} but says {ran.stdout}")
    return found


@dataclass(frozen=True, slots=True)
class Recovery:
    """What `pratima recover` said of a copy."""

    consistent: bool
    said: str


def recover(state: Path, volume: Path) -> Recovery:
    """Run a replica's own recovery on a copy of its state and volume."""
    ran = pratima("recover", "--state", str(state), "--volume", str(volume))
    return Recovery(ran.returncode == 0, f"{ran.stdout}{ran.stderr}")


# --- a pair -------------------------------------------------------------------------------------


class Replica(Daemon):
    """`pratima replica` with its state and, unless told otherwise, its volume in one directory."""

    def __init__(
        self, directory: Path, port: int | None = None, volume: Path | None = None
    ) -> None:
        self.port = port or free_ports(3)
        self.state = directory / "replica-state"
        self.volume = volume or directory / "replica.img"
        state, listen = str(self.state), f"127.0.0.1:{self.port}"
        command = [*PRATIMA, "replica", "--state", state, "--listen", listen]
        super().__init__("replica", directory, [*command, "--volume", str(self.volume)])

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it listens."""
        super().start(environment)
        wait_until(lambda: listening(self.port), START_SECONDS, "the replica listens", [self])

    def copy_to(self, directory: Path) -> tuple[Path, Path]:
        """Copy state and volume into a fresh directory: (state, volume)."""
        directory.mkdir(parents=True)
        copy(self.state, directory / "state")
        copy(self.volume, directory / "volume.img")
        return directory / "state", directory / "volume.img"


class Primary(Daemon):
    """`pratima serve` with its state and volume in one directory."""

    def __init__(
        self,
        directory: Path,
        volume_bytes: int,
        replica_port: int | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.port = free_ports()
        self.state = directory / "primary-state"
        self.volume = directory / "primary.img"
        self.volume_bytes = volume_bytes
        link = [] if replica_port is None else ["--replica", f"127.0.0.1:{replica_port}"]
        state, portal = str(self.state), f"127.0.0.1:{self.port}"
        command = [*PRATIMA, "serve", "--state", state, "--portal", portal]
        volume = ["--volume", str(self.volume), "--size", f"{volume_bytes >> 20}MiB"]
        super().__init__("primary", directory, [*command, *volume, *link, *options])

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it and wait until its portal listens."""
        super().start(environment)
        wait_until(lambda: listening(self.port), START_SECONDS, "the portal listens", [self])

    def status(self) -> Status | None:
        """What it says of itself."""
        return status(self.state)

    def wait_status(
        self,
        predicate: Callable[[Status], bool],
        seconds: float,
        what: str,
        others: Sequence[Daemon] = (),
    ) -> Status:
        """Poll until its status satisfies ``predicate``."""
        last: list[Status] = []

        def found() -> Status | None:
            now = self.status()
            last[:] = [now] if now else []
            return now if now is not None and predicate(now) else None

        try:
            return wait_until(found, seconds, what, [self, *others])
        except AssertionError as problem:
            raise AssertionError(f"{problem}\nlast status: {last}") from None


def discard(directory: Path) -> None:
    """Remove a copy that is not needed any more."""
    shutil.rmtree(directory)
