"""Our volumes with replicas, near and far, and DRBD 8.4 far away: everybody in one guest.

One rule: what is compared lies on the same kind of backing. Near, that is files in memory; far,
memory disks (brd), which DRBD needs. Ours are reached through tcm_loop, DRBD's devices directly,
without a SCSI layer; both sides' records go through the same delay.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.kernel import drbd
from benchmarks.kernel.back_ends import Units, allocated, handler
from benchmarks.kernel.echo import echo
from benchmarks.kernel.plan import ASYNC, DELAY_MS, DRBD_A, DRBD_C, ECHO, OURS, SYNC
from benchmarks.kernel.subject import Subject, fio_disk
from benchmarks.subjects import NO_LINK
from tests.kernel.inside import rig
from tests.torture.daemons import Replica

PORTS_OF_A_REPLICA: Final = 3
DISKS: Final = 8
FILL_BYTES: Final = 1 << 20
OVERWRITE: Final = "--overwrite"


@dataclass(frozen=True, slots=True)
class Pair:
    """Our daemon and its replica, if it has one."""

    daemon: rig.Handler
    ports: Sequence[int] = ()

    def settle(self) -> str:
        """Until the replica has all."""
        self.daemon.wait_caught_up()
        return self.state()

    def state(self) -> str:
        """Of its link."""
        links = self.daemon.group().links
        words = [f"{link.state.name}{', degraded' if link.degraded else ''}" for link in links]
        return "; ".join(words) or NO_LINK


@contextmanager
def beside_none(place: Path, size: int) -> Iterator[list[Subject]]:
    """Ours alone and with an async replica."""
    with ExitStack() as stack:
        alone = Pair(stack.enter_context(handler(place / "alone", size)))
        copied = stack.enter_context(
            _pair(
                place / "async",
                "async",
                volume=allocated(place / "async" / "volume.img", size),
                copy=allocated(place / "async" / "copy.img", size),
            )
        )
        pairs = {OURS: alone, ASYNC: copied}
        yield stack.enter_context(_as_disks(pairs, size))


@contextmanager
def far_away(place: Path, size: int) -> Iterator[list[Subject]]:
    """Ours async and sync, DRBD by protocol A and C, ZeroMQ alone, all with the delay."""
    with ExitStack() as stack:
        disks = stack.enter_context(_memory_disks(size))
        resources = [
            stack.enter_context(drbd.resource(number, protocol, disks[2 * number :][:2]))
            for number, protocol in enumerate("AC")
        ]
        pairs = {}
        for number, (name, mode) in enumerate(((ASYNC, "async"), (SYNC, "sync")), 2):
            volume, copy = disks[2 * number :][:2]
            pairs[name] = stack.enter_context(_pair(place / mode, mode, volume=volume, copy=copy))
        ours = stack.enter_context(_as_disks(pairs, size))
        ports = [port for resource in resources for port in resource.ports]
        ports += [port for pair in pairs.values() for port in pair.ports]
        alone = stack.enter_context(echo(place / "echo"))
        ports += alone.ports
        stack.enter_context(delayed(ports))
        theirs = [
            fio_disk(name, resource.disk, resource.settle, resource.state)
            for name, resource in zip((DRBD_A, DRBD_C), resources, strict=True)
        ]
        yield [*ours, *theirs, Subject(ECHO, alone.measure)]


@contextmanager
def _pair(place: Path, mode: str, *, volume: Path, copy: Path) -> Iterator[Pair]:
    place.mkdir(exist_ok=True)
    with Replica(place, volume=copy) as replica:
        replica.start()
        options = ("--mode", mode, "--replica", f"127.0.0.1:{replica.port}", OVERWRITE)
        with rig.Handler(place, (), options, volumes=[volume]) as daemon:
            daemon.start()
            daemon.wait_caught_up()
            ports = range(replica.port, replica.port + PORTS_OF_A_REPLICA)
            yield Pair(daemon, ports)


@contextmanager
def _as_disks(pairs: dict[str, Pair], size: int) -> Iterator[list[Subject]]:
    """One LUN of tcm_loop for each."""
    with ExitStack() as stack:
        objects = [
            stack.enter_context(
                rig.devices(pair.daemon.state, [size], prefix=f"unit{number}-")
            ).objects[0]
            for number, pair in enumerate(pairs.values())
        ]
        disks = stack.enter_context(rig.loopback(Units(objects)))
        yield [
            fio_disk(name, path, pair.settle, pair.state)
            for (name, pair), path in zip(pairs.items(), disks, strict=True)
        ]


@contextmanager
def _memory_disks(size: int) -> Iterator[list[Path]]:
    """Disks of this size in memory, with all their pages."""
    rig.run("modprobe", "brd", f"rd_nr={DISKS}", f"rd_size={size >> 10}")
    disks = [Path(f"/dev/ram{number}") for number in range(DISKS)]
    try:
        for disk in disks:
            with disk.open("wb", buffering=0) as file:
                for _ in range(size // FILL_BYTES):
                    file.write(bytes(FILL_BYTES))
        yield disks
    finally:
        rig.run("rmmod", "brd")


@contextmanager
def delayed(ports: Sequence[int]) -> Iterator[None]:
    """Packets from and to these ports of the loopback take DELAY_MS, all others no time."""
    rig.run("modprobe", "-a", "sch_prio", "sch_netem", "cls_u32")
    tc("qdisc", "add", "dev", "lo", "root", "handle", "1:", "prio", "priomap", *["0"] * 16)
    try:
        tc(
            *("qdisc", "add", "dev", "lo", "parent", "1:3", "handle", "30:"),
            *("netem", "delay", f"{DELAY_MS}ms", "limit", "100000"),
        )
        for port in ports:
            for side in ("sport", "dport"):
                tc(
                    *("filter", "add", "dev", "lo", "parent", "1:", "protocol", "ip"),
                    *("u32", "match", "ip", side, str(port), "0xffff", "flowid", "1:3"),
                )
        yield
    finally:
        tc("qdisc", "del", "dev", "lo", "root")


def tc(*words: str) -> None:
    """Run tc."""
    rig.run("tc", *words)
