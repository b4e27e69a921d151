"""What is measured: tgtd, and this project's target with its replica in every state of health.

One rule: each run begins from a known state. A subject's ``prepare`` brings it there and says
which state that was; a run that began elsewhere stays in the report, with its state beside it.
"""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Protocol

from benchmarks import tgtd as peer
from benchmarks.processes import MeasurementFailed, Pinned, answers, free_port, wait_for

TARGET_CPU: Final = 0
"""The client's too: a target that needs more of it leaves less to the client."""
REPLICA_CPU: Final = 1
COMMAND: Final = (sys.executable, "-m", "pratima_iscsi")
TARGET_NAME: Final = "iqn.2026-11.org.example:pratima"
READY_SECONDS_MAX: Final = 30.0
SETTLE_SECONDS_MAX: Final = 180.0
ASK_SECONDS_MAX: Final = 20.0
SAID_CHARACTERS_MAX: Final = 4000
SETTLED: Final = "SYNCED"
NO_LINK: Final = "-"

TGTD: Final = "tgtd"
ALONE: Final = "pratima"
ASYNC: Final = "pratima, async replica"
DEAD: Final = "pratima, dead replica"
STOPPED: Final = "pratima, stopped replica"
NAMES: Final = (TGTD, ALONE, ASYNC, DEAD, STOPPED)


class Subject(Protocol):
    """One target under measurement."""

    name: str

    @property
    def url(self) -> str:
        """The logical unit, as libiscsi writes it."""

    @property
    def pid(self) -> int:
        """The process that serves it."""

    @property
    def pids(self) -> tuple[int, ...]:
        """Every live process of it, the replica's included."""

    def prepare(self) -> str:
        """Bring it into the state that its name promises; gives back the link's state."""

    def state(self) -> str:
        """The link's state now, ``-`` where there is no link."""

    def said(self) -> str:
        """The last that its daemons wrote, for the message of a measurement that failed."""


class TgtdSubject:
    """tgtd on one volume."""

    name = TGTD

    def __init__(self, portal: peer.Portal) -> None:
        self.url = portal.url
        self.pid = portal.pid
        self.pids: tuple[int, ...] = (portal.pid,)

    def prepare(self) -> str:
        """It has one state."""
        return NO_LINK

    def state(self) -> str:
        """It has no link."""
        return NO_LINK

    def said(self) -> str:
        """Its log is its own."""
        return ""


class PratimaSubject:
    """``pratima serve`` on one volume, with ``pratima replica`` unless its name is ALONE."""

    def __init__(self, name: str, directory: Path, size_bytes: int, log_limit_bytes: int) -> None:
        self.name = name
        self._directory = directory
        self._port = free_port()
        self._replica_port = free_port(2)  # control, and data right above it
        self._stack = ExitStack()
        self._replica: Pinned | None = None
        words = [
            *("--portal", f"127.0.0.1:{self._port}", "--iqn", TARGET_NAME),
            *("--volume", str(directory / "volume"), "--size", str(size_bytes)),
        ]
        if name != ALONE:
            self._start_replica()
            words += ["--replica", f"127.0.0.1:{self._replica_port}", "--mode", "async"]
            words += ["--log-limit", str(log_limit_bytes)]
        self._target = self._stack.enter_context(
            Pinned(
                _pratima("serve", directory / "state", *words),
                cpu=TARGET_CPU,
                log=directory / "serve.log",
            )
        )
        wait_for(lambda: answers(self._port), READY_SECONDS_MAX, [self._target], name)
        self.url = f"iscsi://127.0.0.1:{self._port}/{TARGET_NAME}/0"

    @property
    def pid(self) -> int:
        """The target daemon."""
        return self._target.pid

    @property
    def pids(self) -> tuple[int, ...]:
        """Both daemons, while they live."""
        replica = self._replica
        return (self.pid,) if replica is None else (self.pid, replica.pid)

    def prepare(self) -> str:
        """Settle, then let happen what the name says, so that each run meets a fresh outage."""
        if self.name == ALONE:
            return NO_LINK
        if self._replica is None:
            self._start_replica()
        assert self._replica is not None
        self._replica.signal(signal.SIGCONT)
        # A link that never settles is a result too: it stands in the report as the state it had.
        with contextlib.suppress(MeasurementFailed):
            wait_for(self._settled, SETTLE_SECONDS_MAX, [self._target, self._replica], self.name)
        state = self.state()
        if self.name == DEAD:
            self._replica.kill()
            self._replica = None
        elif self.name == STOPPED:
            self._replica.signal(signal.SIGSTOP)
        return state

    def state(self) -> str:
        """As ``pratima status`` tells it."""
        if self.name == ALONE:
            return NO_LINK
        return str(self._link().get("state", "no answer"))

    def said(self) -> str:
        """The ends of both logs."""
        logs = (self._directory / "serve.log", self._directory / "replica.log")
        return "".join(
            f"\n--- {path.name}\n{path.read_text(errors='replace')[-SAID_CHARACTERS_MAX:]}"
            for path in logs
            if path.exists()
        )

    def close(self) -> None:
        """End both daemons."""
        if self._replica is not None:
            self._replica.signal(signal.SIGCONT)
        self._stack.close()

    def _start_replica(self) -> None:
        directory = self._directory
        address = f"127.0.0.1:{self._replica_port}"
        command = _pratima("replica", directory / "replica-state", "--listen", address)
        command += ["--volume", str(directory / "replica-volume")]
        self._replica = self._stack.enter_context(
            Pinned(command, cpu=REPLICA_CPU, log=directory / "replica.log")
        )

    def _link(self) -> dict[str, object]:
        """The one link of ``status --json``; empty when nobody answers."""
        ended = subprocess.run(
            _pratima("status", self._directory / "state", "--json"),
            capture_output=True,
            text=True,
            check=False,
            timeout=ASK_SECONDS_MAX,
        )
        try:
            link: dict[str, object] = json.loads(ended.stdout)["links"][0]
        except (ValueError, LookupError, TypeError):
            return {}
        return link

    def _settled(self) -> bool:
        link = self._link()
        lag = link.get("lag")
        return link.get("state") == SETTLED and isinstance(lag, dict) and lag.get("writes") == 0


@contextmanager
def started(
    name: str, directory: Path, *, size_bytes: int, log_limit_bytes: int
) -> Iterator[Subject]:
    """The subject of that name, its files in ``directory``, running until the block ends."""
    directory.mkdir()
    _sparse(directory / "volume", size_bytes)
    if name == TGTD:
        with peer.tgtd(directory / "volume", cpu=TARGET_CPU) as portal:
            yield TgtdSubject(portal)
        return
    subject = PratimaSubject(name, directory, size_bytes, log_limit_bytes)
    try:
        yield subject
    finally:
        subject.close()


def _pratima(verb: str, state: Path, *words: str) -> list[str]:
    return [*COMMAND, verb, "--state", str(state), *words]


def _sparse(path: Path, size_bytes: int) -> None:
    with path.open("wb") as volume:
        volume.truncate(size_bytes)
