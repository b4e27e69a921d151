"""One connection of a source to a replica's port, from dialling to its end.

A dial is used once: it becomes ready, perhaps, and then it is lost, with one reason in words;
whoever wants another connection dials anew. One rule: nothing that was handed to one dial can reach
a later connection (a fresh socket, no ZeroMQ reconnection, no linger).
"""

import asyncio
import enum
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import zmq

from pratima_iscsi.edges.link_address import LinkAddress
from pratima_iscsi.edges.link_sockets import (
    WRITABLE,
    EventHook,
    LinkContext,
    Monitor,
    Socket,
    SocketEvent,
    SocketEventKind,
    SocketReader,
    readiness,
)
from pratima_iscsi.edges.peer_probe import probe
from pratima_iscsi.limits import HANDSHAKE_SECONDS, PEER_DEAD_SECONDS
from pratima_iscsi.operations import Buffer


class LossKind(enum.Enum):
    """Why a connection is not, or no longer, there."""

    UNREACHABLE = enum.auto()
    """No connection came about."""
    REFUSED = enum.auto()
    """The peer's ZAP handler does not allow our key."""
    MECHANISM = enum.auto()
    """One side uses keys, the other does not."""
    HANDSHAKE = enum.auto()
    """The peer ended the handshake or never finished it."""
    DISCONNECTED = enum.auto()
    """The connection was good and has ended."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The end of a dial: its kind and a reason that an operator can read."""

    kind: LossKind
    reason: str


@dataclass(frozen=True, slots=True)
class DialOptions:
    """How to dial one port; ``secure`` sets the socket's keys before it connects."""

    kind: zmq.SocketType
    name: str
    """What the port is, in reasons: "control" or "data"."""
    message_bytes_max: int
    messages_unsent_max: int
    secure: Callable[[Socket], None]
    handshake_seconds: float = HANDSHAKE_SECONDS
    on_message: Callable[[Socket, zmq.Frame], int] | None = None
    """Gets the first part of each, sees to the others, and gives back the bytes of all; None: the
    socket is never read."""
    hook: EventHook | None = field(default=None)


_EXPLAINED: Final = frozenset({LossKind.REFUSED, LossKind.MECHANISM, LossKind.DISCONNECTED})
"""Losses whose reason is known; for the others the port is asked what it is."""

_MECHANISMS_DIFFER: Final = "one side uses keys and the other does not (--key, --allow)"


class Dial:
    """One connection to ``address``; tells ``on_ready`` at most once and ``on_lost`` at most once.

    Neither is told after ``close``. A peer that is not there is a loss; zmq.ZMQError is raised only
    when this process has no room for another socket.
    """

    def __init__(
        self,
        context: LinkContext,
        address: LinkAddress,
        options: DialOptions,
        on_ready: Callable[[], None],
        on_lost: Callable[[Loss], None],
    ) -> None:
        self.ready = False
        self._address = address
        self._options = options
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._connected = False
        self._open = True
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._socket = self._make_socket(context)
        try:
            self._monitor = Monitor(self._loop, context, self._socket, self._heard, options.hook)
        except zmq.ZMQError:
            self._socket.close()
            raise
        self._reader: SocketReader | None = None
        if options.on_message is not None:
            read = options.on_message
            self._reader = SocketReader(
                self._loop, self._socket, lambda first: read(self._socket, first)
            )
        # A name that does not resolve makes no event at all: the timer is what ends that dial.
        self._timer = self._loop.call_later(options.handshake_seconds, self._expired)
        self._socket.connect(address.endpoint)

    def send(self, message: Buffer) -> bool:
        """Hand one message over, copied; False when the socket is not ready or is full."""
        if not self.ready:
            return False
        sent = self._try_send(message)
        if not sent and readiness(self._socket) & WRITABLE:
            # While sending, libzmq looks only now and then at what its I/O thread has told it: room
            # in the queue, or the connection itself. EVENTS made it look.
            sent = self._try_send(message)
        if self._reader is not None:
            self._reader.check()
        return sent

    def close(self, farewell_seconds: float = 0.0) -> None:
        """End the connection; what was not sent within ``farewell_seconds`` is dropped."""
        self._release(farewell_seconds)
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _make_socket(self, context: LinkContext) -> Socket:
        options = self._options
        milliseconds = int(options.handshake_seconds * 1000)
        socket = context.socket(options.kind)
        socket.reconnect_ivl = -1
        socket.immediate = 1
        socket.sndhwm = options.messages_unsent_max
        socket.rcvhwm = options.messages_unsent_max
        socket.maxmsgsize = options.message_bytes_max
        socket.handshake_ivl = milliseconds
        socket.connect_timeout = milliseconds
        # A peer that vanished without a word is found by what it does not acknowledge.
        socket.tcp_maxrt = int(PEER_DEAD_SECONDS * 2000)
        socket.ipv6 = self._address.is_ipv6
        options.secure(socket)
        self._mechanism = "NULL" if socket.mechanism == zmq.NULL else "CURVE"
        return socket

    def _try_send(self, message: Buffer) -> bool:
        try:
            self._socket.send(message, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _heard(self, event: SocketEvent) -> None:
        match event.kind:
            case SocketEventKind.CONNECTED:
                self._connected = True
            case SocketEventKind.HANDSHAKE_SUCCEEDED:
                self._become_ready()
            case SocketEventKind.CLOSED | SocketEventKind.CONNECT_RETRIED:
                self._lose(LossKind.UNREACHABLE, "no connection came about")
            case SocketEventKind.HANDSHAKE_FAILED_AUTH:
                self._lose(LossKind.REFUSED, _refusal(event.value))
            case SocketEventKind.HANDSHAKE_FAILED_PROTOCOL:
                self._lose_protocol(event.value)
            case SocketEventKind.HANDSHAKE_FAILED_NO_DETAIL:
                self._lose(LossKind.HANDSHAKE, f"handshake failed: {os.strerror(event.value)}")
            case SocketEventKind.DISCONNECTED:
                if self.ready:
                    self._lose(LossKind.DISCONNECTED, "the connection has ended")
                else:
                    self._lose(LossKind.HANDSHAKE, "the peer ended the handshake")

    def _become_ready(self) -> None:
        if self.ready or not self._open:
            return
        self._timer.cancel()
        self.ready = True
        self._on_ready()

    def _expired(self) -> None:
        if self._connected:
            self._lose(LossKind.HANDSHAKE, "the peer did not finish the handshake")
        else:
            self._lose(LossKind.UNREACHABLE, "no connection came about")

    def _lose_protocol(self, code: int) -> None:
        if code == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
            self._lose(LossKind.MECHANISM, _MECHANISMS_DIFFER)
        else:
            self._lose(LossKind.HANDSHAKE, f"handshake failed: protocol error {code:#x}")

    def _lose(self, kind: LossKind, reason: str) -> None:
        if not self._open:
            return
        self._release(0.0)
        if kind in _EXPLAINED:
            self._tell(kind, reason)
        else:
            self._task = self._loop.create_task(self._explain(kind, reason))

    async def _explain(self, kind: LossKind, reason: str) -> None:
        finding = await probe(self._address)
        self._task = None
        if finding.problem:
            self._on_lost(Loss(kind, f"{self._options.name} port: {finding.problem}"))
        elif finding.mechanism not in ("", self._mechanism):
            # The peer saw it first, and hung up before its greeting could be read.
            self._tell(LossKind.MECHANISM, _MECHANISMS_DIFFER)
        elif kind is LossKind.HANDSHAKE:
            reason += "; it does speak ZeroMQ: is this its port, and its public key?"
            self._tell(kind, reason)
        else:
            self._tell(kind, reason)

    def _tell(self, kind: LossKind, reason: str) -> None:
        self._on_lost(Loss(kind, f"{self._options.name} port {self._address}: {reason}"))

    def _release(self, farewell_seconds: float) -> None:
        if not self._open:
            return
        self._open = False
        self.ready = False
        self._timer.cancel()
        if self._reader is not None:
            self._reader.close()
        self._monitor.close()
        self._socket.close(linger=int(farewell_seconds * 1000))


def _refusal(status: int) -> str:
    if status == 400:
        return "the peer does not allow our key: add our public key there (--allow)"
    return f"the peer could not check our key (status {status})"
