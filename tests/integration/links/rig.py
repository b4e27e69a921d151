"""A rig for the link tests: recorders that wait for events, both ends of a link, a proxy."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from pratima_iscsi.edges.curve import CurveKeys
from pratima_iscsi.edges.link_address import LinkAddress, parse_address
from pratima_iscsi.edges.link_replica import ReplicaEndpoint
from pratima_iscsi.edges.link_sockets import LinkContext
from pratima_iscsi.edges.link_source import SourceLink
from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.replication.messages import (
    Ack,
    Hello,
    Ping,
    ToReplica,
    ToSource,
    VolumeOffer,
)

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
GROUP = b"g" * 16
SESSION = b"s" * 16
FREE = parse_address("127.0.0.1:0")
HANDSHAKE_SECONDS = 5.0


def run(main: Coroutine[Any, Any, None], loop: str = "asyncio", seconds: float = 60) -> None:
    """Run one test's coroutine; an error that the loop swallowed fails it too."""
    swallowed: list[str] = []

    async def guarded() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: swallowed.append(f"{context['message']}: {context.get('exception')}")
        )
        async with asyncio.timeout(seconds):
            await main

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(guarded())
    assert swallowed == []


class Waiter:
    """Wakes whoever waits for a condition each time something was told."""

    def __init__(self) -> None:
        self._told = asyncio.Event()

    def tell(self) -> None:
        self._told.set()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self._told.clear()
            await self._told.wait()


@dataclass
class SourceRecorder(Waiter):
    """A source's engine that only notes what it is told."""

    ups: int = 0
    downs: list[str] = field(default_factory=list)
    messages: list[ToSource] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    readies: int = 0
    losses: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def on_up(self) -> None:
        self.ups += 1
        self.tell()

    def on_down(self, reason: str) -> None:
        self.downs.append(reason)
        self.tell()

    def on_control(self, message: ToSource) -> None:
        self.messages.append(message)
        self.tell()

    def on_violation(self, error: RemoteProtocolError) -> None:
        self.violations.append(str(error))
        self.tell()

    def on_data_ready(self) -> None:
        self.readies += 1
        self.tell()

    def on_data_lost(self, reason: str) -> None:
        self.losses.append(reason)
        self.tell()


@dataclass
class ReplicaRecorder(Waiter):
    """A replica's engine that only notes what it is told."""

    messages: list[tuple[bytes, str | None, ToReplica]] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)
    users: list[str | None] = field(default_factory=list)
    violations: list[tuple[bytes | None, str | None, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def on_control(self, peer: bytes, user: str | None, message: ToReplica) -> None:
        self.messages.append((peer, user, message))
        self.tell()

    def on_frame(self, frame: memoryview, user: str | None) -> None:
        self.frames.append(bytes(frame))
        self.users.append(user)
        self.tell()

    def on_violation(
        self, peer: bytes | None, user: str | None, error: RemoteProtocolError
    ) -> None:
        self.violations.append((peer, user, str(error)))
        self.tell()


@dataclass
class HookRecorder(Waiter):
    """Notes socket events."""

    events: list[tuple[str, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __call__(self, name: str, address: str, detail: str) -> None:
        self.events.append((name, address, detail))
        self.tell()

    def count(self, name: str) -> int:
        return sum(event[0] == name for event in self.events)


@dataclass
class Replica:
    endpoint: ReplicaEndpoint
    told: ReplicaRecorder
    hook: HookRecorder


@dataclass
class Source:
    link: SourceLink
    told: SourceRecorder
    hook: HookRecorder

    async def up(self) -> None:
        self.link.connect()
        await self.told.until(lambda: self.link.is_up)

    async def session(self) -> None:
        self.link.open_session()
        await self.told.until(lambda: self.link.is_data_ready)


@asynccontextmanager
async def replica(
    control: LinkAddress = FREE, data: LinkAddress | None = None, **options: Any
) -> AsyncIterator[Replica]:
    context, told, hook = LinkContext(), ReplicaRecorder(), HookRecorder()
    options.setdefault("handshake_seconds", HANDSHAKE_SECONDS)
    endpoint = ReplicaEndpoint(context, told, control, data, hook=hook, **options)
    try:
        await endpoint.open()
        yield Replica(endpoint, told, hook)
    finally:
        endpoint.close()
        context.close()


@asynccontextmanager
async def source(
    control: LinkAddress, data: LinkAddress | None = None, **options: Any
) -> AsyncIterator[Source]:
    context, told, hook = LinkContext(), SourceRecorder(), HookRecorder()
    options.setdefault("handshake_seconds", HANDSHAKE_SECONDS)
    link = SourceLink(context, told, control, data, hook=hook, **options)
    try:
        yield Source(link, told, hook)
    finally:
        link.close()
        context.close()


@asynccontextmanager
async def pair(**options: Any) -> AsyncIterator[tuple[Source, Replica]]:
    """A source and a replica on loopback, both connections up; options are the source's."""
    async with replica() as far, source_of(far, **options) as near:
        await near.up()
        await near.session()
        yield near, far


def source_of(far: Replica, **options: Any) -> Any:
    return source(far.endpoint.control_address, far.endpoint.data_address, **options)


def keyed(own: CurveKeys, peer: CurveKeys) -> dict[str, Any]:
    """A source's key options."""
    return {"keys": own, "peer_key": peer.public}


def hello(attempt: int = 1) -> Hello:
    return Hello(
        version=1,
        group=GROUP,
        group_name="default",
        node=b"n" * 16,
        incarnation=7,
        volumes=(VolumeOffer("disk", 1 << 20),),
        generation=3,
        sequence=4,
        ancestry=((1, -1), (2, 9)),
        attempt=attempt,
    )


def ping(sequence: int) -> Ping:
    return Ping(session=SESSION, generation=3, sequence=sequence)


def ack(received: int) -> Ack:
    return Ack(
        session=SESSION, received=received, durable=0, generation=3, sequence=0, history=b"h" * 16
    )


def frame(number: int, size: int = 4096) -> bytes:
    """Bytes of a frame's legal size that tell their number; the edge looks no further."""
    return number.to_bytes(8, "big") * (size // 8)


def number_of(data: bytes) -> int:
    assert data == data[:8] * (len(data) // 8), "a frame came mixed up"
    return int.from_bytes(data[:8], "big")


class Proxy:
    """A TCP proxy in front of one port, whose connections a test can reset or hold."""

    def __init__(self, target: LinkAddress) -> None:
        self._target = target
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def open(self) -> LinkAddress:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return LinkAddress("127.0.0.1", self._server.sockets[0].getsockname()[1])

    def retarget(self, target: LinkAddress) -> None:
        self._target = target

    def hold(self) -> None:
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    def reset(self) -> None:
        """End every connection with a TCP reset, whatever is on its way."""
        for writers in self._pairs:
            for writer in writers:
                raw = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):  # closed already
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
        self._pairs.clear()

    async def close(self) -> None:
        self.reset()
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._target.host, self._target.port)
        self._pairs.append((writer, far_writer))
        self._start(self._pump(reader, far_writer))
        self._start(self._pump(far_reader, writer))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                if writer.transport.is_closing():
                    return  # reset while this was held back; uvloop raises, asyncio does not
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def proxy(target: LinkAddress) -> AsyncIterator[tuple[Proxy, LinkAddress]]:
    middle = Proxy(target)
    address = await middle.open()
    try:
        yield middle, address
    finally:
        await middle.close()


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[LinkAddress]:
    """A server that is not Pratima."""
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            await answer(reader, writer)
        writer.close()

    def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.get_running_loop().create_task(serve(reader, writer)))

    listening = await asyncio.start_server(start, "127.0.0.1", 0)
    try:
        yield LinkAddress("127.0.0.1", listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


def free_port_pair() -> int:
    """A port that is free, as is the one above it."""
    for port in range(20000 + os.getpid() % 10000, 60000, 2):
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", port))
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise AssertionError("no two free ports side by side")


def ipc(directory: Path) -> LinkAddress:
    return parse_address(f"ipc://{directory}/link")


def counts(told: list[Any], count: int) -> Callable[[], bool]:
    """Whether ``told`` has come to hold ``count`` things."""
    return lambda: len(told) == count
