"""What systemd hears: READY, STOPPING, the watchdog, and nothing where it does not listen."""

import asyncio
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pratima_iscsi.engine.service_manager import ServiceManager

SECONDS = 20.0


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + address[1:] if address.startswith("@") else address)
        listener.settimeout(SECONDS)
        yield listener


@contextmanager
def path_or_abstract(kind: str) -> Iterator[str]:
    if kind == "abstract":
        yield f"@pratima-test-{os.getpid()}"
        return
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield str(Path(directory) / "notify")


def run(step: Callable[[], Awaitable[None]]) -> None:
    async def body() -> None:
        await step()

    asyncio.run(body())


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_ready_and_stopping_are_told(kind: str) -> None:
    with path_or_abstract(kind) as address, listening(address) as listener:

        async def step() -> None:
            manager = ServiceManager({"NOTIFY_SOCKET": address})
            manager.ready()
            manager.stopping()
            manager.close()

        run(step)
        assert [listener.recv(99) for _ in range(2)] == [b"READY=1", b"STOPPING=1"]
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.recv(99)


def test_the_watchdog_hears_the_loop_twice_in_its_time() -> None:
    with path_or_abstract("path") as address, listening(address) as listener:

        async def step() -> None:
            manager = ServiceManager(
                {
                    "NOTIFY_SOCKET": address,
                    "WATCHDOG_USEC": "20000",
                    "WATCHDOG_PID": str(os.getpid()),
                }
            )
            manager.ready()
            heard = [await asyncio.to_thread(listener.recv, 99) for _ in range(4)]
            assert heard == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1", b"WATCHDOG=1"]
            manager.close()

        run(step)


@pytest.mark.parametrize(
    "environment",
    [
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "0"},
        {},
    ],
)
def test_no_watchdog_is_fed_that_is_not_ours(environment: dict[str, str]) -> None:
    with path_or_abstract("path") as address, listening(address) as listener:

        async def step() -> None:
            manager = ServiceManager({"NOTIFY_SOCKET": address, **environment})
            manager.ready()
            manager.stopping()
            manager.close()

        run(step)
        assert [listener.recv(99) for _ in range(2)] == [b"READY=1", b"STOPPING=1"]


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "@nobody-listens", "x" * 300])
def test_whether_it_is_heard_changes_nothing(address: str) -> None:
    async def step() -> None:
        manager = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
        manager.ready()
        manager.stopping()
        manager.close()

    run(step)
