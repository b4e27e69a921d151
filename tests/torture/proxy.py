"""A TCP proxy that breaks what passes through it, in either direction, at the edges of frames.

It works on any TCP connection. A *framing* cuts the stream into units: ``RawFraming`` takes what
each read brings, ``ZmtpFraming`` whole ZeroMQ messages (RFC 23: a greeting of 64 bytes, then
frames), so that a unit that is lost or doubled leaves a valid stream behind. Faults come from
one seeded generator, and ``done`` lists those that happened. One rule: nothing waits in the proxy
without a limit; a direction that does not flow stops reading, so that its sender feels it.
"""

import asyncio
import contextlib
import enum
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

READ_BYTES: Final = 1 << 16
UNITS_WAITING_MAX: Final = 64
"""Units of one direction of one connection that wait for their delay or for a hold to end."""
UNIT_BYTES_MAX: Final = 64 << 20
"""A frame that claims more ends the connection: the stream is garbage."""
CLOSE_SECONDS: Final = 10.0


class Direction(enum.Enum):
    """Which way bytes go."""

    TO_SERVER = "to server"
    TO_CLIENT = "to client"


class Fault(enum.Enum):
    """What can happen to one unit."""

    DROP = "drop"
    DUPLICATE = "duplicate"
    SWAP = "swap"
    """The unit comes after the next one."""
    FLIP = "flip"
    """One bit of it is turned over."""
    CUT = "cut"
    """A part of it passes, then the receiver's connection ends and the sender's is reset."""
    RESET = "reset"
    """Both connections are reset before it."""


class Framing(Protocol):
    """Cuts one direction of one connection into units."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The units that ``chunk`` completes."""

    def rest(self) -> bytes:
        """What is left when the stream ends."""


class RawFraming:
    """What one read brings is one unit."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        yield chunk

    def rest(self) -> bytes:
        return b""


class ZmtpFraming:
    """A unit is a part of the greeting, all frames of one message, or one command (RFC 23)."""

    GREETING_BYTES = 64
    MORE, LONG = 1, 2
    LENGTH = struct.Struct(">Q")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._unit_bytes = 0
        self._greeting_left = self.GREETING_BYTES

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        self._buffer += chunk
        if self._greeting_left:
            # In parts, as they come: each peer waits for the other's before it goes on.
            part = self._take(min(len(self._buffer), self._greeting_left))
            self._greeting_left -= len(part)
            yield part
        while self._advance():
            yield self._take(self._unit_bytes)
            self._unit_bytes = 0

    def rest(self) -> bytes:
        return self._take(len(self._buffer))

    def _advance(self) -> bool:
        """Move ``_unit_bytes`` over whole frames; whether the last of a unit is there."""
        while True:
            at = self._unit_bytes
            header = self._buffer[at : at + 1 + self.LENGTH.size]
            if not header:
                return False
            long = bool(header[0] & self.LONG)
            if len(header) < (1 + self.LENGTH.size if long else 2):
                return False
            length = self.LENGTH.unpack_from(header, 1)[0] if long else header[1]
            end = at + (1 + self.LENGTH.size if long else 2) + length
            if end > UNIT_BYTES_MAX:
                raise ConnectionError(f"a frame of {length} bytes")
            if len(self._buffer) < end:
                return False
            self._unit_bytes = end
            if not header[0] & self.MORE:
                return True

    def _take(self, count: int) -> bytes:
        unit = bytes(self._buffer[:count])
        del self._buffer[:count]
        return unit


@dataclass(slots=True)
class Path:
    """How one direction behaves now; set its fields at any time, from any thread."""

    delay_seconds: float = 0.0
    rate_bytes: float = float("inf")
    """Bytes per second."""
    blackhole: bool = False
    """What comes is lost. A stream with a hole cannot go on: ``heal`` resets such connections."""
    chances: dict[Fault, float] = field(default_factory=dict)
    """Probability of each fault, per unit."""


@dataclass(slots=True)
class _Order:
    """A fault that a test asked for."""

    fault: Fault
    skip: int
    matching: Callable[[bytes], bool]


class _Connection:
    """One client's connection and ours to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers = {Direction.TO_CLIENT: client, Direction.TO_SERVER: server}
        self.holed = False
        self.cut: Direction | None = None

    def reset(self) -> None:
        """Send RST both ways, but only FIN to where a part of a unit was passed on."""
        for direction, writer in self.writers.items():
            if direction is self.cut:
                writer.close()
            else:
                reset(writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: nothing that waits is sent."""
    endpoint = writer.get_extra_info("socket")
    if endpoint is not None and not writer.transport.is_closing():
        with contextlib.suppress(OSError):
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class FaultProxy:
    """Listens on 127.0.0.1 and passes connections on to ``upstream``.

    ``async with`` runs it in the running loop; ``in_thread`` in a loop of its own. Its methods may
    be called from any thread.
    """

    def __init__(
        self,
        upstream: tuple[str, int],
        framing: Callable[[], Framing] = RawFraming,
        seed: int = 0,
        port: int = 0,
    ) -> None:
        self.upstream = upstream
        self.port = port
        self.paths = {direction: Path() for direction in Direction}
        self.done: list[tuple[Direction, Fault]] = []
        self.accepted = 0
        self._framing = framing
        self._random = random.Random(seed)
        self._orders: dict[Direction, list[_Order]] = {direction: [] for direction in Direction}
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._flows = {direction: asyncio.Event() for direction in Direction}
        for flow in self._flows.values():
            flow.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        for connection in tuple(self._connections):
            connection.reset()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @contextlib.contextmanager
    def in_thread(self) -> Iterator[Self]:
        """Run in a thread of its own, for tests that are not asynchronous."""
        started = threading.Event()
        problems: list[OSError] = []
        stop: asyncio.Event

        async def serve() -> None:
            nonlocal stop
            stop = asyncio.Event()
            try:
                async with self:
                    started.set()
                    await stop.wait()
            except OSError as problem:
                problems.append(problem)
                started.set()

        thread = threading.Thread(target=lambda: asyncio.run(serve()), name="fault proxy")
        thread.start()
        started.wait()
        if problems:
            thread.join()
            raise problems[0]
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(stop.set)
            thread.join(CLOSE_SECONDS)
            assert not thread.is_alive(), "the proxy does not end"

    @property
    def holed(self) -> bool:
        """Whether a blackhole has swallowed something of a connection that is still there."""
        return any(connection.holed for connection in tuple(self._connections))

    # --- what a test asks for -------------------------------------------------------------------

    def inject(
        self,
        direction: Direction,
        fault: Fault,
        *,
        skip: int = 0,
        matching: Callable[[bytes], bool] = lambda _: True,
    ) -> None:
        """Do ``fault`` to the next unit that matches, after ``skip`` that do."""
        self._call(lambda: self._orders[direction].append(_Order(fault, skip, matching)))

    def hold(self, direction: Direction) -> None:
        """Let nothing pass; it waits, in order, and the sender's buffers fill."""
        self._call(lambda: self._flows[direction].clear())

    def release(self, direction: Direction) -> None:
        """Let pass again what was held."""
        self._call(lambda: self._flows[direction].set())

    def refuse(self, refusing: bool = True) -> None:
        """Reset every new connection at once, or stop doing so."""
        self._call(lambda: setattr(self, "_refusing", refusing))

    def reset(self) -> None:
        """Reset all connections."""

        def resetting() -> None:
            for connection in tuple(self._connections):
                connection.reset()

        self._call(resetting)

    def heal(self) -> None:
        """End every fault; connections that lost bytes in a blackhole are reset."""

        def healing() -> None:
            self._refusing = False
            for direction in Direction:
                self.paths[direction] = Path()
                self._orders[direction].clear()
                self._flows[direction].set()
            for connection in tuple(self._connections):
                if connection.holed:
                    connection.reset()

        self._call(healing)

    def _call(self, action: Callable[[], object]) -> None:
        """Run ``action`` in the proxy's loop before this returns."""
        try:
            if asyncio.get_running_loop() is self._loop:
                action()
                return
        except RuntimeError:
            pass

        async def run() -> None:
            action()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(CLOSE_SECONDS)

    # --- how bytes pass -------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._refusing:
            reset(writer)
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(*self.upstream)
        except OSError:
            reset(writer)
            return
        connection = _Connection(writer, server_writer)
        self._connections.add(connection)
        task = asyncio.create_task(self._carry(connection, reader, server_reader))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(
        self,
        connection: _Connection,
        from_client: asyncio.StreamReader,
        from_server: asyncio.StreamReader,
    ) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for direction, reader in (
                    (Direction.TO_SERVER, from_client),
                    (Direction.TO_CLIENT, from_server),
                ):
                    units: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(UNITS_WAITING_MAX)
                    group.create_task(self._read(connection, direction, reader, units))
                    group.create_task(self._write(connection, direction, units))
        except* (OSError, asyncio.CancelledError):
            connection.reset()
        finally:
            self._connections.discard(connection)
            for writer in connection.writers.values():
                writer.close()

    async def _read(
        self,
        connection: _Connection,
        direction: Direction,
        reader: asyncio.StreamReader,
        units: "asyncio.Queue[tuple[float, bytes]]",
    ) -> None:
        """Cut what comes into units and queue them, each with the time when it is due."""
        framing = self._framing()
        while chunk := await reader.read(READ_BYTES):
            for unit in framing.feed(chunk):
                if self.paths[direction].blackhole:
                    connection.holed = True
                    continue
                await units.put((self._due(direction), unit))
        if rest := framing.rest():
            await units.put((self._due(direction), rest))
        await units.put((self._due(direction), b""))

    def _due(self, direction: Direction) -> float:
        return self._loop.time() + self.paths[direction].delay_seconds

    async def _write(
        self,
        connection: _Connection,
        direction: Direction,
        units: "asyncio.Queue[tuple[float, bytes]]",
    ) -> None:
        """Pass units on when they are due and the direction flows; an empty one is the end."""
        writer = connection.writers[direction]
        swapped = b""
        while True:
            due, unit = await units.get()
            await asyncio.sleep(due - self._loop.time())
            await self._flows[direction].wait()
            if not unit:
                writer.write(swapped)
                writer.write_eof()
                return
            fault = self._fault(direction, unit)
            if fault is Fault.SWAP and not swapped:
                swapped = unit
                continue
            if fault is Fault.CUT:
                connection.cut = direction
                writer.write(unit[: self._random.randrange(len(unit))])
            if fault in (Fault.CUT, Fault.RESET):
                raise ConnectionError(fault.value)
            sent = self._spoilt(unit, fault) + swapped
            swapped = b""
            writer.write(sent)
            await writer.drain()
            await asyncio.sleep(len(sent) / self.paths[direction].rate_bytes)

    def _spoilt(self, unit: bytes, fault: Fault | None) -> bytes:
        """What is sent in the place of a unit."""
        match fault:
            case Fault.DROP:
                return b""
            case Fault.DUPLICATE:
                return unit + unit
            case Fault.FLIP:
                flipped = bytearray(unit)
                flipped[self._random.randrange(len(unit))] ^= 1 << self._random.randrange(8)
                return bytes(flipped)
            case _:
                return unit

    def _fault(self, direction: Direction, unit: bytes) -> Fault | None:
        """What happens to this unit: the first order that is due, else what chance gives."""
        found: Fault | None = None
        for order in self._orders[direction]:
            if order.matching(unit):
                if order.skip:
                    order.skip -= 1
                    continue
                self._orders[direction].remove(order)
                found = order.fault
                break
        if found is None:
            for fault, chance in self.paths[direction].chances.items():
                if self._random.random() < chance:
                    found = fault
                    break
        if found is not None:
            self.done.append((direction, found))
        return found
