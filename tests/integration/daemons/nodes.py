"""Daemons of both kinds as a test has them: started, asked over their control socket, stopped.

``Daemon`` (tests.torture.daemons) is the process; here stands what the two kinds are started with
and what they are asked. One rule: what a test waits for is what the daemon itself says, or what is
on its disk; never time.
"""

import contextlib
import io
import itertools
import os
import random
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pratima_iscsi import cli
from pratima_iscsi.control.client import ControlClient
from pratima_iscsi.control.config import TARGET_PREFIX
from pratima_iscsi.control.requests import ReconnectRequest
from pratima_iscsi.control.status import GroupStatus, LinkStatus, NodeStatus, exit_code
from pratima_iscsi.control.target_list import TargetStatus
from pratima_iscsi.edges.initiator import Initiator, Ticket, write_16
from pratima_iscsi.errors import OperatorError
from pratima_iscsi.iscsi.chap import Account
from pratima_iscsi.replication.states import LinkState
from tests.torture.daemons import PRATIMA, Daemon, copy, wait_until

MIB: Final = 1 << 20
BLOCK: Final = 4096
SECTOR: Final = 512
START_SECONDS: Final = 60.0
WAIT_SECONDS: Final = 60.0
DEPTH: Final = 8
PORTS: Final = range(12_000, 30_000)
"""Below what the kernel gives to outgoing connections, so that no dialler takes one meanwhile."""

_drawn = itertools.count(random.SystemRandom().randrange(len(PORTS)), 7)


def ports(count: int = 3, host: str = "127.0.0.1") -> int:
    """The first of ``count`` ports in a row that are free now."""
    for _ in range(1000):
        first = PORTS[next(_drawn) % (len(PORTS) - count)]
        try:
            with contextlib.ExitStack() as held:
                for port in range(first, first + count):
                    held.enter_context(socket.socket()).bind((host, port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A fresh directory, in memory where the machine has one."""
    shm = Path("/dev/shm")
    base = shm if shm.is_dir() and os.access(shm, os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="pratima-test-", dir=base))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def pratima(*arguments: str) -> Ran:
    """Run a command to its end, in this process: what it imports is here already."""
    with io.StringIO() as out, io.StringIO() as errors:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            try:
                cli.main(arguments)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return Ran(code, out.getvalue(), errors.getvalue())


class Node(Daemon):
    """A daemon with a state directory."""

    def __init__(self, verb: str, name: str, place: Path, options: Sequence[str]) -> None:
        self.place = place
        self.state = place / f"{name}-state"
        super().__init__(name, place, [*PRATIMA, verb, "--state", str(self.state), *options])

    def launch(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it and do not wait."""
        super().start(environment)

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it answers."""
        self.launch(environment)
        self.wait_answers()

    def wait_answers(self) -> NodeStatus:
        """Wait until the control socket answers."""
        return wait_until(self.ask, START_SECONDS, f"{self.name} answers", [self])

    def ask(self) -> NodeStatus | None:
        """All that it says of itself; None: nobody answers."""
        try:
            with ControlClient(self.state) as client:
                found = client.status()
        except OperatorError:
            return None
        return found if not self.runs or found.pid == self.pid else None

    def status(self, group: str = "") -> GroupStatus:
        """What it says of its only group, or of ``group``; it must answer."""
        with ControlClient(self.state) as client:
            (found,) = client.status(group).groups
        return found

    @property
    def exit_code(self) -> int:
        """What ``pratima status`` would exit with."""
        with ControlClient(self.state) as client:
            return exit_code(client.status())

    def wait_status(
        self,
        predicate: Callable[[GroupStatus], object],
        what: str,
        *others: Daemon,
        group: str = "",
        seconds: float = WAIT_SECONDS,
    ) -> GroupStatus:
        """Wait until its status satisfies ``predicate``."""
        last: list[GroupStatus] = []

        def found() -> GroupStatus | None:
            last[:] = [self.status(group)]
            return last[0] if predicate(last[0]) else None

        try:
            return wait_until(found, seconds, what, [self, *others])
        except AssertionError as problem:
            raise AssertionError(f"{problem}\nlast status: {last}") from None

    def said(self, text: str) -> bool:
        """Whether it logged ``text``, in any of its lives."""
        return self.log.exists() and text in self.log.read_text(errors="replace")

    def wait_said(self, text: str) -> None:
        """Wait until it has logged ``text``."""
        wait_until(lambda: self.said(text), WAIT_SECONDS, f"{self.name} says {text!r}", [self])

    @property
    def resident_bytes(self) -> int:
        """Memory that it has now."""
        words = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(words[1]) * os.sysconf("SC_PAGESIZE")

    @property
    def resident_bytes_max(self) -> int:
        """Memory that it had at the most, or since ``forget_peak``."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
        raise AssertionError("no VmHWM")

    def finish(self) -> None:
        """A clean stop, which must exit with 0."""
        assert self.stop() == 0, self.output()


class Replica(Node):
    """``pratima replica``, with one volume or as many as are named."""

    def __init__(
        self,
        place: Path,
        *options: str,
        name: str = "replica",
        host: str = "127.0.0.1",
        volumes: Sequence[Path] = (),
    ) -> None:
        self.port = ports(3, host)
        self.address = f"{host}:{self.port}"
        self.volumes = list(volumes) or [place / f"{name}.img"]
        paths = [word for path in self.volumes for word in ("--volume", str(path))]
        super().__init__("replica", name, place, ["--listen", self.address, *paths, *options])

    @property
    def volume(self) -> Path:
        """Its first volume."""
        return self.volumes[0]

    def copied(self, name: str) -> tuple[Path, list[Path]]:
        """A copy of state and volumes, as they are now, in a directory of that name."""
        target = self.place / name
        target.mkdir()
        copy(self.state, target / "state")
        for number, volume in enumerate(self.volumes):
            copy(volume, target / f"{number}.img")
        return target / "state", [target / f"{n}.img" for n in range(len(self.volumes))]


class Primary(Node):
    """``pratima serve``, with one volume or as many as are named."""

    def __init__(
        self,
        place: Path,
        *options: str,
        name: str = "primary",
        size: int | None = 32 * MIB,
        replicas: Sequence[Replica] = (),
        volumes: Sequence[Path] = (),
        portal: str = "127.0.0.1:0",
    ) -> None:
        self.volumes = list(volumes) or [place / f"{name}.img"]
        words = ["--portal", portal]
        for path in self.volumes:
            words += ["--volume", str(path)]
        if size is not None:
            words += ["--size", str(size)]
        for replica in replicas:
            words += ["--replica", replica.address]
        super().__init__("serve", name, place, [*words, *options])

    @property
    def volume(self) -> Path:
        """Its first volume."""
        return self.volumes[0]

    def login(
        self,
        lun: int = 0,
        *,
        group: str = "",
        timeout: float = WAIT_SECONDS,
        account: Account | None = None,
    ) -> Initiator:
        """A session of the project's initiator."""
        status = self.status(group)
        host, _, port = status.portal.rpartition(":")
        return Initiator.connect(
            host, int(port), target=status.target, lun=lun, timeout=timeout, account=account
        )

    def link(self, number: int = 0, group: str = "") -> LinkStatus:
        """What it says of one link."""
        return self.status(group).links[number]

    def wait_link(
        self,
        predicate: Callable[[LinkStatus], object],
        what: str,
        *others: Daemon,
        number: int = 0,
        group: str = "",
        seconds: float = WAIT_SECONDS,
    ) -> LinkStatus:
        """Wait until one link's status satisfies ``predicate``."""
        found = self.wait_status(
            lambda status: predicate(status.links[number]),
            what,
            *others,
            group=group,
            seconds=seconds,
        )
        return found.links[number]

    def wait_synced(self, *others: Daemon, group: str = "") -> GroupStatus:
        """Wait until every link is SYNCED, none degraded and nothing waits in the log."""
        return self.wait_status(in_step, "in step", *others, group=group)


class Served(Node):
    """``pratima serve`` with a portal and no group of its own."""

    def __init__(self, place: Path, *options: str, portal: int = 0) -> None:
        self.portal_port = portal or ports(1)
        listen = f"127.0.0.1:{self.portal_port}"
        super().__init__("serve", "served", place, ["--portal", listen, *options])

    def create(self, name: str, *options: str) -> Ran:
        """``pratima target create``, with a volume of its name unless one is given."""
        if "--volume" not in options:
            options = ("--volume", str(self.place / f"{name}.img"), "--size", "8MiB", *options)
        return pratima("target", "create", name, "--state", str(self.state), *options)

    def delete(self, name: str, *options: str) -> Ran:
        """``pratima target delete``."""
        return pratima("target", "delete", name, "--state", str(self.state), *options)

    def targets(self) -> dict[str, TargetStatus]:
        """``pratima target list``, by group."""
        with ControlClient(self.state) as client:
            return {target.group: target for target in client.targets().targets}

    def session(self, name: str, **options: object) -> Initiator:
        """A session with a target."""
        return Initiator.connect(
            "127.0.0.1",
            self.portal_port,
            target=TARGET_PREFIX + name,
            **options,  # type: ignore[arg-type]
        )


def in_step(status: GroupStatus) -> bool:
    """Every link SYNCED, not degraded, with nothing in its log."""
    return all(
        link.state is LinkState.SYNCED and not link.degraded and link.lag.writes == 0
        for link in status.links
    )


def same(one: Path, other: Path) -> bool:
    """Whether two volumes have the same content."""
    with one.open("rb") as first, other.open("rb") as second:
        while True:
            mine, theirs = first.read(4 * MIB), second.read(4 * MIB)
            if mine != theirs:
                return False
            if not mine:
                return True


def wait_equal(primary: Primary, replica: Replica) -> None:
    """Wait until the replica is in step and has applied everything."""
    primary.wait_synced(replica)
    for mine, theirs in zip(primary.volumes, replica.volumes, strict=True):
        wait_until(
            lambda mine=mine, theirs=theirs: same(mine, theirs),  # type: ignore[misc]
            WAIT_SECONDS,
            f"{theirs} equals {mine}",
            [primary, replica],
        )


class Pair:
    """A primary and its replica in one directory."""

    def __init__(
        self,
        place: Path,
        *options: str,
        size: int = 32 * MIB,
        replica_options: Sequence[str] = (),
    ) -> None:
        self.place = place
        self.replica = Replica(place, *replica_options)
        self.primary = Primary(place, *options, size=size, replicas=[self.replica])

    @contextlib.contextmanager
    def running(self) -> Iterator["Pair"]:
        """Start both at once; at the end nothing is left running."""
        with self.replica, self.primary:
            self.replica.launch()
            self.primary.launch()
            self.replica.wait_answers()
            self.primary.wait_answers()
            yield self

    @contextlib.contextmanager
    def in_step(self) -> Iterator["Pair"]:
        """The same, once SYNCED."""
        with self.running():
            self.primary.wait_synced(self.replica)
            yield self

    def bring_back(self) -> None:
        """Start the replica again, and let the primary not wait for its back-off."""
        self.replica.start()
        with ControlClient(self.primary.state) as client:
            client.ask(ReconnectRequest())

    def wait_equal(self) -> None:
        """Wait until the replica is in step and has applied everything."""
        wait_equal(self.primary, self.replica)

    def recovered(self, name: str = "copy") -> Ran:
        """``pratima recover`` on a copy of the replica; the copy's volume is ``NAME/0.img``."""
        state, volumes = self.replica.copied(name)
        paths = [word for path in volumes for word in ("--volume", str(path))]
        return pratima("recover", "--state", str(state), *paths)


class Load:
    """Random overlapping writes of random data over one session, until it is ended."""

    def __init__(
        self,
        primary: Primary,
        *,
        lun: int = 0,
        seed: int = 1,
        sectors_max: int = 64,
        span: int | None = None,
        group: str = "",
    ) -> None:
        """``span``: only the first so many bytes of the volume are written."""
        self._primary = primary
        self._lun = lun
        self._random = random.Random(seed)
        self._sectors_max = sectors_max
        self._span = span
        self._group = group
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")
        self.acknowledged = 0
        self.failures: list[str] = []
        self.lost = ""

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def end(self) -> None:
        """Stop, and wait for what is under way."""
        self._stop.set()
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive(), "the load does not end"

    def wait(self, count: int) -> None:
        """Wait until ``count`` more writes are acknowledged."""
        goal = self.acknowledged + count
        wait_until(
            lambda: self.acknowledged >= goal or self.lost or self.failures,
            WAIT_SECONDS,
            f"{count} writes",
            [self._primary],
        )
        self.check()

    def check(self) -> None:
        """Fail if any write did."""
        assert not self.failures and not self.lost, (self.failures[:3], self.lost)

    def _run(self) -> None:
        draw = self._random
        try:
            with self._primary.login(self._lun, group=self._group) as session:
                blocks, _ = session.read_capacity()
                blocks = min(blocks, (self._span or blocks * SECTOR) // SECTOR)
                noise = draw.randbytes(self._sectors_max * SECTOR + MIB)
                while not self._stop.is_set():
                    count = draw.randint(1, self._sectors_max)
                    at = draw.randrange(MIB)
                    data = noise[at : at + count * SECTOR]
                    lba = draw.randrange(blocks - count)
                    session.submit(write_16(lba, count), data_out=data, done=self._done)
                    while session.in_flight >= DEPTH:
                        session.poll()
                session.drain()
        except (OSError, OperatorError) as error:
            self.lost = f"{type(error).__name__}: {error}"

    def _done(self, ticket: Ticket) -> None:
        if ticket.good:
            self.acknowledged += 1
        elif ticket.failure:
            self.lost = ticket.failure
        else:
            self.failures.append(f"{ticket.status:#x} {ticket.sense_triple}")
