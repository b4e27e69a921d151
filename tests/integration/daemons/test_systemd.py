"""The daemons as systemd runs them: told when they serve and stop, and confined as units say."""

import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.integration.daemons.nodes import BLOCK, MIB, Load, Node, Pair, Primary, Replica
from tests.integration.daemons.test_outage import write_blocks
from tests.support.confined import HEADER, allowed_calls

SYSTEMD = Path(__file__).parents[3] / "packaging" / "systemd"
SECONDS = 60.0


@contextmanager
def manager(place: Path) -> Iterator[tuple[dict[str, str], socket.socket]]:
    """A service manager's socket, and the environment that names it."""
    path = place / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(SECONDS)
        yield {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"}, listener


@pytest.mark.parametrize("kind", [Primary, Replica])
def test_ready_means_that_it_serves_and_stopping_that_it_ends(
    place: Path, kind: type[Primary] | type[Replica]
) -> None:
    node: Node = Primary(place, size=8 * MIB) if kind is Primary else Replica(place)
    with node, manager(place) as (environment, listener):
        node.launch(environment)
        assert listener.recv(99) == b"READY=1"
        assert node.ask() is not None, "who is ready answers"
        if isinstance(node, Primary):
            node.login().close()
        assert [listener.recv(99) for _ in range(2)] == [b"WATCHDOG=1"] * 2
        node.finish()
        listener.setblocking(False)
        last = b""
        while last != b"STOPPING=1":
            last = listener.recv(99)  # BlockingIOError: it never said so


def confined(node: Node, unit: str) -> None:
    """From its next start on ``node`` is confined as ``unit`` says."""
    words = [sys.executable, "-m", "tests.support.confined", str(SYSTEMD / unit)]
    node.command[:0] = words


@pytest.mark.tools
def test_what_the_units_forbid_the_daemons_do_without(place: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing: apt install systemd")
    if platform.machine() != "x86_64" or not HEADER.exists():
        pytest.skip(f"the numbers of system calls are not in {HEADER}")
    pair = Pair(place, "--log-limit", "4MiB")
    confined(pair.primary, "pratima-portal@.service")
    confined(pair.replica, "pratima-replica.service")
    with pair.in_step():
        for node in (pair.primary, pair.replica):
            status = Path(f"/proc/{node.pid}/status").read_text()
            assert "\nSeccomp:\t2\n" in status and "\nNoNewPrivs:\t1\n" in status
        with Load(pair.primary) as load:
            load.wait(100)
            pair.replica.kill()
            load.wait(100)
            pair.bring_back()
        load.check()
        with pair.primary.login() as session:
            write_blocks(session, list(range(64)), Random(1))
            session.unmap([(8, 64 * BLOCK // 512)])
            session.flush()
        pair.wait_equal()
        pair.primary.finish()
        pair.replica.finish()


@pytest.mark.tools
def test_the_filter_is_what_it_says(place: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing: apt install systemd")
    names = allowed_calls((SYSTEMD / "pratima@.service").read_text())
    assert {"pwritev2", "fdatasync", "epoll_wait", "sched_setscheduler"} <= names
    assert not names & {"ptrace", "mount", "reboot", "setpriority", "init_module", "bpf"}
