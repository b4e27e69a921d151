"""``make quickstart``: a target and its replica on loopback, seen at work.

It starts `pratima replica` and `pratima serve` as anybody would, writes through real iSCSI logins,
shows the replica following, kills the replica for a while, shows what it is sent when it is back,
and compares all volumes by hash. On a terminal it goes on serving until Ctrl-C; elsewhere it stops
both and exits with 0, or with 1 and the reason. One rule: it says only what it has seen, and what
it started it stops.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType
from typing import Final, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn

from pratima_iscsi.control.client import ControlClient
from pratima_iscsi.control.status import GroupStatus, LinkStatus
from pratima_iscsi.control.units import format_size
from pratima_iscsi.edges.initiator import Initiator
from pratima_iscsi.errors import OperatorError, PratimaError, StateError
from pratima_iscsi.replication.states import LinkState

PRATIMA: Final = (sys.executable, "-m", "pratima_iscsi")
MARKER: Final = "made-by-quickstart"
MIB: Final = 1 << 20
VOLUMES: Final = 2
VOLUME_BYTES: Final = 256 * MIB
LOG_LIMIT: Final = "16MiB"
"""Small, so that the outage outgrows it and the block write table is seen at work."""
WRITES: Final = 120
"""Writes to each volume in each of the two rounds."""
WRITE_BYTES: Final = (4096, 65536, 262144)
START_SECONDS: Final = 30.0
FOLLOW_SECONDS: Final = 120.0
STOP_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.1
TRIES: Final = 3
LOG_LINES: Final = 15

GOOD, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


class Trouble(Exception):
    """Something did not happen that should have; the text says what."""


class Refused(Exception):
    """The directory is not ours to use."""


# --- where it all lies ---------------------------------------------------------------------------


class Place:
    """The quick start's own directory, held while it runs."""

    def __init__(self, path: Path) -> None:
        """Make it, or empty what an earlier run left. Raises Refused if anything else is there."""
        self.path = path.absolute()
        self.disks = [self.path / f"disk{n}.img" for n in range(VOLUMES)]
        self.copies = [self.path / f"copy{n}.img" for n in range(VOLUMES)]
        self.primary, self.replica = self.path / "primary", self.path / "replica"
        marker = self.path / MARKER
        if self.path.exists() and (not self.path.is_dir() or self._strangers()):
            raise Refused(
                f"{self.path} holds what this did not put there: name another --directory"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = marker.open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"another quick start is at work in {self.path}: stop it first") from None
        for state in (self.primary, self.replica):
            if state.exists():
                self._check_stopped(state)
        for old in self._ours():
            if old.is_dir():
                shutil.rmtree(old)
            elif old != marker:
                old.unlink(missing_ok=True)

    def _ours(self) -> list[Path]:
        logs = [self.path / "primary.log", self.path / "replica.log"]
        return [self.path / MARKER, self.primary, self.replica, *self.disks, *self.copies, *logs]

    def _strangers(self) -> bool:
        found = set(self.path.iterdir())
        return bool(found - set(self._ours())) or (bool(found) and self.path / MARKER not in found)

    @staticmethod
    def _check_stopped(state: Path) -> None:
        """Raises Refused if the daemon of an earlier run, which was killed, still runs."""
        try:
            with ControlClient(state, seconds=2.0) as client:
                pid = client.status().pid
        except StateError:
            return
        raise Refused(f"a daemon of an earlier run still uses {state}: stop it with `kill {pid}`")


# --- daemons -------------------------------------------------------------------------------------


class Daemon:
    """One `pratima` daemon as a process, its output in a log file."""

    def __init__(self, name: str, log: Path, arguments: Sequence[str]) -> None:
        self.name = name
        self.log = log
        self.arguments = [*PRATIMA, *arguments]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, state: Path) -> None:
        """Start it and wait until it answers. Raises Trouble if it ends instead."""
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches this program alone, which stops both in order.
            self.process = subprocess.Popen(
                self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        def answers() -> bool:
            try:
                status(state)
            except StateError:
                return False
            return True

        wait(answers, START_SECONDS, f"the {self.name} answers", [self])

    def check(self) -> None:
        """Raises Trouble if it has ended."""
        if self.process is not None and self.process.poll() is not None:
            raise Trouble(f"the {self.name} ended with exit code {self.process.returncode}")

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """A clean stop. Raises Trouble if it does not come about."""
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Trouble(f"the {self.name} did not stop within {STOP_SECONDS:.0f} s") from None
        if code:
            raise Trouble(f"the {self.name} stopped with exit code {code}")

    def tail(self) -> str:
        """The last lines of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])


def wait(
    condition: Callable[[], bool], seconds: float, what: str, daemons: Sequence[Daemon]
) -> None:
    """Wait for an event. Raises Trouble after ``seconds``, or if a daemon ends meanwhile."""
    deadline = time.monotonic() + seconds
    while not condition():
        for daemon in daemons:
            daemon.check()
        if time.monotonic() >= deadline:
            raise Trouble(f"not within {seconds:.0f} s: {what}")
        time.sleep(POLL_SECONDS)


def status(state: Path) -> GroupStatus:
    """What a daemon says of its only group."""
    with ControlClient(state) as client:
        return client.status().groups[0]


def free_ports_in_a_row() -> int:
    """The first of three free ports on 127.0.0.1: a replica's for control, data and events."""
    while True:
        with socket.socket() as first, socket.socket() as second, socket.socket() as third:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
                third.bind(("127.0.0.1", port + 2))
            except (OSError, OverflowError):
                continue
            return port


# --- writing through a login ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Write:
    """``length`` bytes of ``pattern`` at ``offset``."""

    offset: int
    length: int
    pattern: int


def plan(random: Random) -> list[Write]:
    """Writes of several sizes in a part of the volume that is small enough for many to overlap."""
    start = random.randrange(0, VOLUME_BYTES // 2, MIB)
    writes = []
    for _ in range(WRITES):
        length = random.choice(WRITE_BYTES)
        offset = start + random.randrange(0, 24 * MIB, 4096)
        writes.append(Write(offset, length, random.randrange(1, 256)))
    return writes


class QemuIo:
    """Writes with qemu-io and its iscsi driver."""

    name = "qemu-io"

    @staticmethod
    def why_not(url: str) -> str:
        """Why this machine's qemu-io cannot do it; empty: it can."""
        if shutil.which("qemu-io") is None:
            return "no qemu-io here (apt-get install qemu-utils qemu-block-extra)"
        done = QemuIo._run(url, ["read -q 0 4096"])
        if done.returncode or "failed" in done.stdout:
            said = (done.stderr or done.stdout).strip().splitlines() or ["it says nothing"]
            return f"its qemu-io cannot log in: {said[-1]}"
        return ""

    @staticmethod
    def _run(url: str, commands: Sequence[str]) -> subprocess.CompletedProcess[str]:
        arguments = [part for command in commands for part in ("-c", command)]
        return subprocess.run(
            ["qemu-io", "-f", "raw", *arguments, url],
            capture_output=True,
            text=True,
            timeout=FOLLOW_SECONDS,
            check=False,
        )

    def write(self, url: str, writes: Sequence[Write]) -> None:
        """Write, flush, and read the last one back. Raises Trouble."""
        commands = [f"write -q -P {w.pattern} {w.offset} {w.length}" for w in writes]
        last = writes[-1]
        commands += ["flush", f"read -q -P {last.pattern} {last.offset} {last.length}"]
        done = self._run(url, commands)
        if done.returncode or "failed" in done.stdout:
            raise Trouble(f"qemu-io: {(done.stderr + done.stdout).strip() or 'failed'}")


class OwnInitiator:
    """Writes with the project's own initiator: the same protocol over the same socket."""

    name = "pratima's own initiator"

    def write(self, url: str, writes: Sequence[Write]) -> None:
        """Write, flush, and read the last one back. Raises Trouble."""
        address, target, lun = url.removeprefix("iscsi://").rsplit("/", 2)
        host, port = address.rsplit(":", 1)
        try:
            with Initiator.connect(host, int(port), target=target, lun=int(lun)) as session:
                _, block = session.read_capacity()
                for one in writes:
                    session.write(one.offset // block, bytes([one.pattern]) * one.length)
                session.flush()
                last = writes[-1]
                read = session.read(last.offset // block, last.length // block)
        except (OSError, PratimaError) as error:
            raise Trouble(f"the initiator: {error}") from error
        if read != bytes([last.pattern]) * last.length:
            raise Trouble("what was written last does not read back")


# --- what is seen --------------------------------------------------------------------------------


class View:
    """Lines that change in place on a terminal, and plain ones elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._said = ""

    def say(self, line: str, style: str = "") -> None:
        """One line."""
        self.console.print(line, style=style, markup=False, soft_wrap=True)

    def step(self, line: str) -> None:
        """The next step begins."""
        self.say(f"\n{line}", "bold")

    @contextmanager
    def following(self) -> Iterator[None]:
        """Between these, ``show`` draws; what it showed last stays."""
        self._said = ""
        if not self.console.is_terminal:
            yield
            return
        columns = (BarColumn(24), TextColumn("{task.description}", markup=False))
        with Progress(*columns, console=self.console) as progress:
            progress.add_task("", total=None)
            self._progress = progress
            try:
                yield
            finally:
                self._progress = None

    def show(self, done: int, total: int, line: str) -> None:
        """How far something is."""
        if self._progress is not None:
            task = self._progress.task_ids[0]
            self._progress.update(task, completed=done, total=max(total, 1), description=line)
        elif line != self._said:
            self._said = line
            self.say(f"  {line}")


def in_words(primary: GroupStatus, link: LinkStatus, replica: GroupStatus | None) -> str:
    """One line of how the pair stands."""
    there = "away" if replica is None else f"{replica.position.sequence} writes"
    line = f"primary {primary.position.sequence} writes, replica {there}: {link.state.value}"
    if link.resync.blocks_done < link.resync.blocks_total:
        line += f", resync {link.resync.blocks_done} of {link.resync.blocks_total} blocks"
    elif link.bwt_blocks:
        line += f", {link.bwt_blocks} blocks in the block write table"
    if link.lag.writes:
        line += f", {link.lag.writes} writes ({format_size(link.lag.bytes)}) behind"
    if replica is not None and replica.journal is not None and replica.journal.unapplied:
        line += f", {replica.journal.unapplied} batches to apply"
    return line


class Pair:
    """The two daemons and what is seen of them."""

    def __init__(self, place: Place, view: View) -> None:
        self.place = place
        self.view = view
        self.replica_address = ""
        self.replica = Daemon("replica", place.path / "replica.log", ())
        self.primary = Daemon("target", place.path / "primary.log", ())

    def start(self) -> None:
        """Start both; ports that somebody takes meanwhile are chosen anew."""
        place = self.place
        for last in (*[False] * (TRIES - 1), True):
            self.replica_address = f"127.0.0.1:{free_ports_in_a_row()}"
            self.replica.arguments = [
                *(*PRATIMA, "replica", "--state", str(place.replica)),
                *("--listen", self.replica_address, "--journal-limit", "64MiB"),
                *volume_options(place.copies),
            ]
            try:
                self.replica.start(place.replica)
                break
            except Trouble:
                if last:
                    raise
        self.primary.arguments = [
            *(*PRATIMA, "serve", "--state", str(place.primary), "--portal", "127.0.0.1:0"),
            *volume_options(place.disks),
            *("--size", str(VOLUME_BYTES), "--log-limit", LOG_LIMIT),
            *("--replica", self.replica_address),
        ]
        self.primary.start(place.primary)
        group = status(place.primary)
        self.portal, self.target = group.portal, group.target

    def check(self) -> None:
        """Raises Trouble if one of them has ended."""
        self.primary.check()
        self.replica.check()

    def stop(self) -> None:
        """Stop the target, then the replica, both whatever happens to the other."""
        with ExitStack() as last_first:
            last_first.callback(self.replica.stop)
            last_first.callback(self.primary.stop)

    def url(self, lun: int) -> str:
        """Where a volume is served."""
        return f"iscsi://{self.portal}/{self.target}/{lun}"

    def look(self) -> tuple[GroupStatus, LinkStatus, GroupStatus | None]:
        """How both stand now; the replica is None while it is away."""
        group = status(self.place.primary)
        try:
            replica = status(self.place.replica)
        except StateError:
            replica = None
        return group, group.links[0], replica

    def show(self) -> bool:
        """Show how both stand; whether the replica has, and has applied, all that was written."""
        group, link, replica = self.look()
        at = 0 if replica is None else replica.position.sequence
        if link.resync.blocks_done < link.resync.blocks_total:
            self.view.show(
                link.resync.blocks_done, link.resync.blocks_total, in_words(group, link, replica)
            )
        else:
            self.view.show(at, group.position.sequence, in_words(group, link, replica))
        return (
            replica is not None
            and replica.journal is not None
            and link.state is LinkState.SYNCED
            and not link.lag.writes
            and replica.position == group.position
            and not replica.journal.unapplied
        )

    def wait_in_step(self) -> None:
        """Show both until the replica has all."""
        with self.view.following():
            daemons = [self.replica, self.primary]
            wait(self.show, FOLLOW_SECONDS, "the replica has everything", daemons)

    def write(self, client: "QemuIo | OwnInitiator", random: Random) -> tuple[int, int]:
        """Write to all volumes at once, each through a login of its own, and show both meanwhile.

        Returns the number of writes and their bytes.
        """
        plans = [plan(random) for _ in range(VOLUMES)]
        with ThreadPoolExecutor(VOLUMES) as writers, self.view.following():
            running: list[Future[None]] = [
                writers.submit(client.write, self.url(lun), writes)
                for lun, writes in enumerate(plans)
            ]
            while not all(future.done() for future in running):
                self.show()
                self.primary.check()
                time.sleep(POLL_SECONDS)
            self.show()
            for future in running:
                future.result()
        return WRITES * VOLUMES, sum(one.length for writes in plans for one in writes)


def volume_options(paths: Sequence[Path]) -> list[str]:
    """``--volume`` for each path."""
    return [part for path in paths for part in ("--volume", str(path))]


def digest(path: Path) -> str:
    """The file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- the steps -----------------------------------------------------------------------------------


class QuickStart:
    """The whole show, step by step."""

    def __init__(self, place: Place, view: View, seed: int, client: str) -> None:
        self.place = place
        self.view = view
        self.random = Random(seed)
        self.wanted = client
        self.pair = Pair(place, view)

    def run(self) -> None:
        """All steps up to the comparison. Raises Trouble."""
        client = self.start()
        self.view.step(f"3. Writing through {VOLUMES} iSCSI logins at once, with {client.name}")
        count, size = self.pair.write(client, self.random)
        self.view.say(f"  {count} writes, {format_size(size)}, acknowledged and read back.")
        self.pair.wait_in_step()
        self.outage(client)
        self.compare()

    def start(self) -> QemuIo | OwnInitiator:
        """Both daemons, the first sync, and who will write."""
        size = format_size(VOLUME_BYTES)
        self.view.step(f"1. A replica and a target, each with {VOLUMES} sparse volumes of {size}")
        self.pair.start()
        self.view.say(f"  replica on {self.pair.replica_address}, files in {self.place.path}")
        self.view.say(f"  target {self.pair.target} at {self.pair.portal}")
        self.view.step("2. The first sync: holes travel as ranges, without data")
        self.pair.wait_in_step()
        if self.wanted == "own":
            return OwnInitiator()
        why_not = QemuIo.why_not(self.pair.url(0))
        if not why_not:
            return QemuIo()
        if self.wanted == "qemu-io":
            raise Trouble(why_not)
        self.view.say(f"  ({why_not}; our own initiator writes instead)")
        return OwnInitiator()

    def outage(self, client: QemuIo | OwnInitiator) -> None:
        """Kill the replica, write, bring it back."""
        pair, view = self.pair, self.view
        view.step("4. The replica is killed (SIGKILL); writing goes on")
        pair.replica.kill()
        count, size = pair.write(client, self.random)
        _, link, _ = pair.look()
        view.say(f"  {count} more writes, {format_size(size)}, acknowledged without the replica.")
        view.say(
            f"  It lacks {link.bwt_blocks} blocks of 4 KiB"
            + (f" and {link.lag.writes} writes in the ordered log." if link.lag.writes else ".")
        )
        lacked = link.bwt_blocks
        view.step("5. The replica is back and is sent what it lacks, and no more")
        pair.replica.start(self.place.replica)
        pair.wait_in_step()
        _, link, _ = pair.look()
        if lacked:
            volume_bytes = VOLUMES * VOLUME_BYTES
            view.say(
                f"  It was sent {format_size(link.resync.bytes_sent)} for the {lacked} blocks "
                f"({format_size(lacked * 4096)}) that it lacked, of {format_size(volume_bytes)}."
            )

    def compare(self) -> None:
        """Hash both sides. Raises Trouble if they differ."""
        self.view.step("6. Comparing by hash (SHA-256)")
        different = []
        for disk, copy in zip(self.place.disks, self.place.copies, strict=True):
            ours, theirs = digest(disk), digest(copy)
            sign = "=" if ours == theirs else "IS NOT"
            self.view.say(f"  {disk.name} {ours[:16]}… {sign} {copy.name} {theirs[:16]}…")
            if ours != theirs:
                different.append(copy.name)
        if different:
            raise Trouble(f"the copies differ: {', '.join(different)}")
        self.view.say("  The volumes and their copies are IDENTICAL.", "bold green")

    def serve(self) -> None:
        """Say how to log in, and show the pair until Ctrl-C. Raises Trouble if a daemon ends."""
        pair, view = self.pair, self.view
        view.step("7. Serving until Ctrl-C. From another terminal:")
        url, pratima = pair.url(0), Path(sys.executable).with_name("pratima")
        for line in (
            f"{pratima} status --state {self.place.primary}",
            f"iscsi-ls -s iscsi://{pair.portal}",
            f"qemu-img info {url}",
            f"sudo iscsiadm -m discovery -t sendtargets -p {pair.portal}",
            f"sudo iscsiadm -m node -T {pair.target} -p {pair.portal} --login",
            f"sudo iscsiadm -m node -T {pair.target} -p {pair.portal} --logout",
        ):
            view.say(f"  {line}")
        view.say("")
        with Live(console=view.console, auto_refresh=False) as live:
            while True:
                pair.check()
                group, link, replica = pair.look()
                line = in_words(group, link, replica)
                live.update(f"  {line}, {group.sessions} sessions", refresh=True)
                time.sleep(POLL_SECONDS)


class Interrupt(Exception):
    """Ctrl-C, or a signal to end."""


def raise_on_signals() -> None:
    """Let every polite signal end the run in order, so that no daemon is left behind."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)  # once: the stop itself takes its time
        raise Interrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)


class Arguments(argparse.Namespace):
    """The command line."""

    directory: Path
    client: str
    seed: int
    stop: bool

    @classmethod
    def parse(cls, default: Path) -> Self:
        """Parse it."""
        parser = argparse.ArgumentParser(description="A target and its replica, seen at work.")
        parser.add_argument("--directory", type=Path, default=default)
        parser.add_argument("--client", choices=["auto", "qemu-io", "own"], default="auto")
        parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
        parser.add_argument("--stop", action="store_true", help="do not go on serving")
        return parser.parse_args(namespace=cls())


def main(out: TextIO = sys.stdout) -> int:
    """Run it; the exit code."""
    console = Console(file=out, highlight=False)
    arguments = Arguments.parse(Path(__file__).parents[1] / "quickstart-data")
    view = View(console)
    try:
        place = Place(arguments.directory)
    except Refused as refusal:
        view.say(f"quickstart: {refusal}")
        return REFUSED
    raise_on_signals()
    show = QuickStart(place, view, arguments.seed, arguments.client)
    compared = False
    try:
        try:
            show.run()
            compared = True
            if console.is_terminal and not arguments.stop:
                show.serve()
        except (Trouble, OperatorError):
            show.pair.check()  # a daemon that has ended is the reason for whatever came of it
            raise
        finally:
            show.pair.stop()
    except Interrupt:
        view.say("\nStopped both." + ("" if compared else " It had not finished."))
        return GOOD if compared else INTERRUPTED
    except (Trouble, OperatorError, OSError, subprocess.SubprocessError) as trouble:
        view.say(f"\nquickstart FAILED: {trouble} (seed {arguments.seed})", "bold red")
        for daemon in (show.pair.primary, show.pair.replica):
            view.say(f"\nThe end of {daemon.log}:\n{daemon.tail()}")
        return FAILED
    view.say(f"\nBoth stopped cleanly; {place.path} is emptied by the next run.")
    return GOOD


if __name__ == "__main__":
    sys.exit(main())
