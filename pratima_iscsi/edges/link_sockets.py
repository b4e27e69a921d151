"""ZeroMQ sockets on an event loop: the shared context, a reader, a monitor.

A ZeroMQ descriptor is edge-triggered: it says "something changed", once, and a send may swallow
what it said about a receive. One rule: after every send and every receive, look at EVENTS again
(``SocketReader``); no wake-up is lost then. Plain sockets and ``loop.add_reader``, no
future per message; asyncio's loop and uvloop's behave the same.
"""

import asyncio
import enum
import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import zmq

from pratima_iscsi.limits import (
    MONITOR_EVENTS_MAX,
    READ_BYTES_PER_TURN,
    READS_PER_TURN_MAX,
    ZMQ_SOCKETS_MAX,
)

Socket = zmq.Socket[bytes]

EventHook = Callable[[str, str, str], None]
"""Told each socket event as (name, address, detail): for monitors; must not raise."""

READABLE: Final = int(zmq.POLLIN)
WRITABLE: Final = int(zmq.POLLOUT)
"""Plain numbers: ``&`` of a flag is Python code, and costs as much as asking the socket."""

_MONITOR_EVENT: Final = struct.Struct("=HI")
"""event, value: in the machine's byte order, as libzmq writes it"""


class LinkContext:
    """The one ZeroMQ context of a process, shared by all its links and its replica endpoint."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, ZMQ_SOCKETS_MAX)
        self._names = itertools.count()

    def socket(self, kind: zmq.SocketType) -> Socket:
        """A new socket that drops at its close what it has not sent."""
        socket = self._context.socket(kind)
        socket.linger = 0
        return socket

    def fresh_name(self) -> str:
        """An in-process endpoint that no socket of this context has had."""
        return f"inproc://monitor-{next(self._names)}"

    def close(self, farewell_seconds: float = 0.0) -> None:
        """Close whatever is still open, and the context; what was sent last may still leave."""
        self._context.destroy(linger=int(farewell_seconds * 1000))


def readiness(socket: Socket) -> int:
    """POLLIN and POLLOUT as they are now; makes libzmq take in what its I/O thread has told."""
    # getsockopt(EVENTS) says the same, but makes an enumeration of its argument first, in Python.
    ready = zmq.zmq_poll([(socket, READABLE | WRITABLE)], 0)
    return ready[0][1] if ready else 0


def parts_of(socket: Socket, first: zmq.Frame) -> list[bytes]:
    """All parts of the message that began with ``first``: ZeroMQ delivers a message whole."""
    if not first.more:
        return [first.bytes]
    return [first.bytes, *socket.recv_multipart(zmq.NOBLOCK)]


class SocketReader:
    """Calls ``read`` on the loop for each message that the socket has, while it is not closed.

    ``read`` gets the first part of it, sees to the others (``parts_of``), and gives back the bytes
    of all. After READS_PER_TURN_MAX messages, or READ_BYTES_PER_TURN, the loop's other work comes
    first.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, socket: Socket, read: Callable[[zmq.Frame], int]
    ) -> None:
        self._loop = loop
        self._socket = socket
        self._read = read
        self._descriptor = socket.FD
        self._scheduled: asyncio.Handle | None = None
        self._closed = False
        loop.add_reader(self._descriptor, self._turn)
        self.check()

    def check(self) -> None:
        """Schedule a turn if the socket is readable; call it after every send."""
        if self._closed or self._scheduled is not None:
            return
        if readiness(self._socket) & READABLE:
            self._scheduled = self._loop.call_soon(self._turn)

    def close(self) -> None:
        """Stop reading; before the socket is closed, ``read`` may call it."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._descriptor)
        if self._scheduled is not None:
            self._scheduled.cancel()

    def _turn(self) -> None:
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        if self._closed:
            return
        more = True
        try:
            more = self._drain()
        finally:
            if more:
                self.check()

    def _drain(self) -> bool:
        """Read as much as one turn may; whether more may be there."""
        budget = READ_BYTES_PER_TURN
        for _ in range(READS_PER_TURN_MAX):
            try:
                part = self._socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return False
            budget -= self._read(part)
            # The first one woke us. The next one is asked for beforehand: an exception after each
            # last message costs more than the message.
            if self._closed or not readiness(self._socket) & READABLE:
                return False
            if budget <= 0:
                break
        return True


class SocketEventKind(enum.IntEnum):
    """What a socket's monitor tells; libzmq's numbers."""

    CONNECTED = zmq.EVENT_CONNECTED
    CONNECT_DELAYED = zmq.EVENT_CONNECT_DELAYED
    CONNECT_RETRIED = zmq.EVENT_CONNECT_RETRIED
    LISTENING = zmq.EVENT_LISTENING
    ACCEPTED = zmq.EVENT_ACCEPTED
    CLOSED = zmq.EVENT_CLOSED
    DISCONNECTED = zmq.EVENT_DISCONNECTED
    HANDSHAKE_FAILED_NO_DETAIL = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    HANDSHAKE_SUCCEEDED = zmq.EVENT_HANDSHAKE_SUCCEEDED
    HANDSHAKE_FAILED_PROTOCOL = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    HANDSHAKE_FAILED_AUTH = zmq.EVENT_HANDSHAKE_FAILED_AUTH


_WATCHED: Final = sum(SocketEventKind)
"""Not MONITOR_STOPPED: libzmq would send that one to a monitor that no longer reads. Nor
ACCEPT_FAILED: without a descriptor libzmq tries again at once, and says so each time, faster than
anybody can listen."""


@dataclass(frozen=True, slots=True)
class SocketEvent:
    """One event of a socket; ``value`` is a descriptor, an errno or a code, by kind."""

    kind: SocketEventKind
    value: int
    endpoint: str


class Monitor:
    """Tells ``heard`` the events of one socket, in their order. They are hints, never proof."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: LinkContext,
        socket: Socket,
        heard: Callable[[SocketEvent], None],
        hook: EventHook | None = None,
    ) -> None:
        name = context.fresh_name()
        self._watched = socket
        self._heard = heard
        self._hook = hook
        self._closed = False
        socket.monitor(name, _WATCHED)
        try:
            self._socket = context.socket(zmq.PAIR)
        except zmq.ZMQError:
            socket.disable_monitor()
            raise
        # libzmq's I/O thread waits where this queue is full, holding a lock that close() needs:
        # the limit is far above what a loop can leave unread, and close() empties the queue first.
        self._socket.rcvhwm = MONITOR_EVENTS_MAX
        self._socket.connect(name)
        self._reader = SocketReader(loop, self._socket, self._read)

    def close(self) -> None:
        """Stop watching; before the watched socket is closed."""
        if self._closed:
            return
        self._closed = True
        self._reader.close()
        while readiness(self._socket) & READABLE:
            self._socket.recv_multipart(zmq.NOBLOCK)
        self._watched.disable_monitor()
        self._socket.close()

    def _read(self, first: zmq.Frame) -> int:
        head, endpoint = parts_of(self._socket, first)
        number, value = _MONITOR_EVENT.unpack(head)
        event = SocketEvent(SocketEventKind(number), value, endpoint.decode(errors="replace"))
        if self._hook is not None:
            self._hook(event.kind.name, event.endpoint, str(event.value))
        self._heard(event)
        return _MONITOR_EVENT.size
