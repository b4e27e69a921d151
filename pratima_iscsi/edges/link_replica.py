"""A replica daemon's endpoint: one control port and one data port for all its sessions.

Peers are told apart by ZeroMQ's id of their control connection, and known by the public key that
ZAP let in. One rule: it looks at a message's size and shape alone; what does not decode is handed
up as a violation, and the endpoint goes on.
"""

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol

import zmq

from pratima_iscsi.edges.curve import (
    CurveKeys,
    ZapHandler,
    check_public_key,
    plain_or_keys,
    reachable,
    secure_server,
    self_test,
)
from pratima_iscsi.edges.descriptors import Descriptors
from pratima_iscsi.edges.link_address import LinkAddress
from pratima_iscsi.edges.link_listener import Handshakes, Listener
from pratima_iscsi.edges.link_sockets import EventHook, LinkContext, Socket, SocketReader
from pratima_iscsi.errors import RemoteProtocolError, UsageError
from pratima_iscsi.limits import (
    CONNECTIONS_MAX,
    CONTROL_MESSAGES_MAX,
    FAREWELL_SECONDS,
    FRAME_BYTES_MAX,
    FRAMES_UNREAD_MAX,
    HANDSHAKE_SECONDS,
    HANDSHAKES_MAX,
    TO_REPLICA_BYTES_MAX,
)
from pratima_iscsi.replication.messages import Message, ToReplica, decode_to_replica, encode
from pratima_iscsi.replication.wire import FRAME_BYTES_LEAST

_FIRST_PART: Final = int(zmq.NOBLOCK | zmq.SNDMORE)


class ReplicaHandler(Protocol):
    """What a replica's endpoint tells; every call comes from the loop.

    ``user`` is the public key under which the connection was let in, None where links are plain.
    """

    def on_control(self, peer: bytes, user: str | None, message: ToReplica) -> None:
        """A source sent a control message; ``peer`` is where answers to it go."""

    def on_frame(self, frame: memoryview, user: str | None) -> None:
        """A frame of a legal size, in ZeroMQ's own memory, which lives as long as the view does."""

    def on_violation(
        self, peer: bytes | None, user: str | None, error: RemoteProtocolError
    ) -> None:
        """A peer sent what is no message or no frame (``peer`` None: on the data port)."""


class ReplicaEndpoint:
    """Both ports. Raises UsageError at once for addresses and keys that cannot be."""

    def __init__(
        self,
        context: LinkContext,
        handler: ReplicaHandler,
        control: LinkAddress,
        data: LinkAddress | None = None,
        *,
        descriptors: Descriptors | None = None,
        keys: CurveKeys | None = None,
        allowed: Iterable[str] = (),
        hook: EventHook | None = None,
        handshake_seconds: float = HANDSHAKE_SECONDS,
        connections_max: int = CONNECTIONS_MAX,
        handshakes_max: int = HANDSHAKES_MAX,
    ) -> None:
        self._wanted = (control, control.above() if data is None else data)
        for address in self._wanted:
            plain_or_keys(address, keys)
        self._allowed = frozenset(map(check_public_key, allowed))
        if (keys is None) != (not self._allowed):
            raise UsageError(
                "a replica needs both its key pair and the public keys that it allows, or neither",
                "give --key and --allow",
            )
        self._context = context
        self._handler = handler
        self._keys = keys
        self._hook = hook
        self._descriptors = descriptors or Descriptors(spare=False)
        self._handshake_seconds = handshake_seconds
        self._connections_max = connections_max
        self._handshakes_max = handshakes_max
        self._closing: list[ZapHandler | SocketReader | Listener] = []

    @property
    def control_address(self) -> LinkAddress:
        """Where the control port listens."""
        return self._control_listener.address

    @property
    def data_address(self) -> LinkAddress:
        """Where the data port listens."""
        return self._data_listener.address

    async def open(self) -> None:
        """Listen on both ports; returns when the allow-list has been seen to hold.

        Raises StateError for a port that is taken or a list that does not hold, and UsageError for
        an address that is not this machine's; nothing is left open then.
        """
        try:
            self._listen()
            if self._keys is not None:
                await self._test_list(self._keys)
        except BaseException:
            self.close()
            raise

    def send_control(self, peer: bytes, message: Message) -> bool:
        """Send one message; False when that peer is gone or its queue is full."""
        try:
            # Not send_multipart, which joins its flags anew for each part, in Python.
            answer = encode(message)
            self._control.send(peer, _FIRST_PART)
            self._control.send(answer, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            return False
        finally:
            self._control_reader.check()
        return True

    def close(self) -> None:
        """Stop listening and end every connection; answers just sent have FAREWELL_SECONDS."""
        while self._closing:
            self._closing.pop().close()

    def _listen(self) -> None:
        # The list is there before a port is: there is no moment without it.
        self._closing.append(ZapHandler(self._context, self._allowed, self._hook))
        self._control = self._make_socket(zmq.ROUTER)
        self._control.router_mandatory = 1
        self._control.linger = int(FAREWELL_SECONDS * 1000)
        self._control.maxmsgsize = TO_REPLICA_BYTES_MAX
        self._control.sndhwm = self._control.rcvhwm = CONTROL_MESSAGES_MAX
        self._control_listener = self._bind(self._control, self._wanted[0], self._connections_max)
        self._data = self._make_socket(zmq.PULL)
        self._data.maxmsgsize = FRAME_BYTES_MAX
        self._data.rcvhwm = FRAMES_UNREAD_MAX
        self._data_listener = self._bind(self._data, self._wanted[1], self._handshakes_max)
        loop = asyncio.get_running_loop()
        self._control_reader = SocketReader(loop, self._control, self._read_control)
        self._closing.append(self._control_reader)
        self._closing.append(SocketReader(loop, self._data, self._read_data))

    def _make_socket(self, kind: zmq.SocketType) -> Socket:
        socket = self._context.socket(kind)
        socket.handshake_ivl = int(self._handshake_seconds * 1000)
        secure_server(socket, self._keys)
        return socket

    def _bind(self, socket: Socket, address: LinkAddress, handshakes_max: int) -> Listener:
        socket.ipv6 = address.is_ipv6
        handshakes = Handshakes(handshakes_max, self._handshake_seconds)
        listener = Listener(
            self._context,
            socket,
            self._hook,
            self._descriptors,
            self._connections_max,
            handshakes,
        )
        self._closing.append(listener)
        listener.bind(address)
        return listener

    async def _test_list(self, keys: CurveKeys) -> None:
        ports: list[tuple[zmq.SocketType, LinkAddress]] = [
            (zmq.DEALER, reachable(self.control_address)),
            (zmq.PUSH, reachable(self.data_address)),
        ]
        await self_test(self._context, ports, keys.public, self._handshake_seconds)

    def _read_control(self, first: zmq.Frame) -> int:
        parts = self._control.recv_multipart(zmq.NOBLOCK, copy=False) if first.more else []
        self._receive(first.bytes, parts)
        return len(first) + sum(map(len, parts))

    def _receive(self, peer: bytes, parts: list[zmq.Frame]) -> None:
        user = None if not parts else self._user(parts[0])
        try:
            if len(parts) != 1:
                raise RemoteProtocolError(f"control message of {len(parts)} parts")
            message = decode_to_replica(parts[0].bytes)
        except RemoteProtocolError as error:
            self._handler.on_violation(peer, user, error)
            return
        self._handler.on_control(peer, user, message)

    def _read_data(self, frame: zmq.Frame) -> int:
        user = self._user(frame)
        view = frame.buffer
        parts = self._skip_parts(frame)
        if parts == 1 and FRAME_BYTES_LEAST <= len(view) <= FRAME_BYTES_MAX:
            self._handler.on_frame(view, user)
        else:
            error = RemoteProtocolError(f"data message of {parts} parts, {len(view)} bytes")
            self._handler.on_violation(None, user, error)
        return len(view)

    def _skip_parts(self, frame: zmq.Frame) -> int:
        """Parts of the message that began with ``frame``; the others, which no frame of ours has,
        are dropped. ZeroMQ delivers a message whole, so they are all there."""
        parts = 1
        more = frame.more
        while more:
            more = self._data.recv(zmq.NOBLOCK, copy=False).more
            parts += 1
        return parts

    def _user(self, frame: zmq.Frame) -> str | None:
        if self._keys is None:
            return None
        user = frame.get("User-Id")
        return user if isinstance(user, str) else None
