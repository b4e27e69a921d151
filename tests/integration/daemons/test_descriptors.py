"""Daemons that run out of descriptors: they say so, rest, answer, and keep what they have."""

import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pratima_iscsi.control.status import Alarm
from pratima_iscsi.limits import GROUP_DESCRIPTORS
from tests.integration.daemons.nodes import BLOCK, Node, Pair, Served
from tests.torture.daemons import wait_until

STRANGERS = 60
ROOM = 20
SECONDS = 30.0


@contextlib.contextmanager
def limited(node: Node, spare: int) -> Iterator[None]:
    """The node may have ``spare`` descriptors more than it has."""
    before = resource.prlimit(node.pid, resource.RLIMIT_NOFILE)
    numbers = {int(name) for name in os.listdir(f"/proc/{node.pid}/fd")}
    free = (number for number in range(before[0]) if number not in numbers)
    for _ in range(spare):
        next(free)
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (next(free), before[1]))
    try:
        yield
    finally:
        resource.prlimit(node.pid, resource.RLIMIT_NOFILE, before)


@contextlib.contextmanager
def strangers(port: int) -> Iterator[list[socket.socket]]:
    """Connections that say nothing."""
    with contextlib.ExitStack() as held:
        yield [
            held.enter_context(socket.create_connection(("127.0.0.1", port)))
            for _ in range(STRANGERS)
        ]


def is_shut(connection: socket.socket) -> bool:
    """Whether the other side has ended it; what it says before is skipped."""
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


def wait_most_are_shut(connections: list[socket.socket], node: Node) -> None:
    """All but those that there is room for."""
    wait_until(
        lambda: sum(map(is_shut, connections)) >= STRANGERS - ROOM,
        SECONDS,
        "what is too much is shut",
        [node],
    )


def alarm_of(node: Node) -> Alarm | None:
    """What it says about its descriptors."""
    found = node.ask()
    alarms = found.node_alarms if found is not None else ()
    return next((alarm for alarm in alarms if alarm.place == "descriptors"), None)


def wait_alarm(node: Node) -> None:
    alarm = wait_until(lambda: alarm_of(node), SECONDS, "an alarm", [node])
    assert alarm.event == "too few" and "raise LimitNOFILE" in alarm.reason
    assert node.log.read_text().count("descriptors: too few") == 1


def test_a_target_is_not_made_of_the_last_descriptors_and_says_why(place: Path) -> None:
    served = Served(place)
    with served:
        served.start()
        with limited(served, GROUP_DESCRIPTORS):
            made = served.create("db")
            assert made.returncode == 2 and "descriptors are left for one more" in made.stderr
            assert "raise LimitNOFILE" in made.stderr
            assert served.targets() == {}
        assert served.create("db").returncode == 0


def test_a_target_whose_own_files_take_the_last_descriptors_says_so(place: Path) -> None:
    served = Served(place)
    with served:
        served.start()
        with limited(served, 0):
            served.wait_said("descriptors: too few")
        wait_alarm(served)


def write_through(pair: Pair) -> None:
    """A write that waits for the replica, over the link that was there before."""
    with pair.primary.login() as initiator:
        initiator.write(0, b"w" * BLOCK)
    assert pair.replica.output().count("session: open") == 1, pair.replica.output()


@pytest.mark.parametrize("above", [0, 1, 2], ids=["control", "data", "events"])
def test_strangers_leave_a_replica_its_last_descriptors(place: Path, above: int) -> None:
    pair = Pair(place, "--mode", "sync")
    with pair.in_step():
        port = pair.replica.port + above
        with limited(pair.replica, ROOM), strangers(port) as connections:
            wait_most_are_shut(connections, pair.replica)
            wait_alarm(pair.replica)
            write_through(pair)


@pytest.mark.parametrize("above", [0, 1, 2], ids=["control", "data", "events"])
def test_a_replica_without_any_descriptor_shuts_what_waits_and_rests(
    place: Path, above: int
) -> None:
    pair = Pair(place, "--mode", "sync")
    with pair.in_step():
        with limited(pair.replica, 0), strangers(pair.replica.port + above) as connections:
            wait_until(
                lambda: all(map(is_shut, connections)), SECONDS, "all are shut", [pair.replica]
            )
        wait_alarm(pair.replica)
        write_through(pair)
        with socket.create_connection(("127.0.0.1", pair.replica.port + above)) as connection:
            assert connection.recv(1), "whoever comes now is let in"


def test_strangers_leave_a_target_its_last_descriptors(place: Path) -> None:
    pair = Pair(place, "--mode", "sync")
    with pair.in_step():
        port = int(pair.primary.status().portal.rpartition(":")[2])
        with limited(pair.primary, ROOM), strangers(port) as connections:
            wait_most_are_shut(connections, pair.primary)
            wait_alarm(pair.primary)
        write_through(pair)
