"""A daemon's event sockets, and the socket of who watches them.

A daemon publishes on an ipc endpoint in its state directory, plain and for its user alone, and, if
it is given an address, on a TCP port. They have a context, an I/O thread and an allow-list of their
own, so that no subscriber comes near a link's. The sockets are XPUB in manual mode: of what a
subscriber may ask for, only "everything" is granted, and nothing that it says is kept. One rule: a
subscriber that does not keep up loses events and never holds the daemon up.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zmq

from pratima_iscsi.edges.curve import (
    CurveKeys,
    ZapHandler,
    check_public_key,
    plain_or_keys,
    reachable,
    secure_client,
    secure_server,
    self_test,
)
from pratima_iscsi.edges.descriptors import Descriptors
from pratima_iscsi.edges.link_address import LinkAddress
from pratima_iscsi.edges.link_listener import Listener
from pratima_iscsi.edges.link_sockets import LinkContext, Socket, SocketReader, parts_of
from pratima_iscsi.edges.socket_place import find_socket, socket_place
from pratima_iscsi.errors import UsageError
from pratima_iscsi.limits import (
    BACKOFF_SECONDS_MIN,
    EVENT_BYTES_MAX,
    EVENT_RECONNECT_SECONDS_MAX,
    EVENT_REQUEST_BYTES_MAX,
    EVENT_SUBSCRIBERS_MAX,
    EVENTS_UNREAD_MAX,
    EVENTS_UNSENT_MAX,
    FAREWELL_SECONDS,
    HANDSHAKE_SECONDS,
    READS_PER_TURN_MAX,
)

_NAME: Final = "events"
_SUBSCRIBE_ALL: Final = b"\x01"
"""One, and the topic that everything begins with."""


def find_event_socket(state: Path) -> LinkAddress:
    """Where the daemon of ``state`` publishes, or would. Raises StateError."""
    return LinkAddress("", 0, str(find_socket(state, _NAME)))


class EventPublisher:
    """The sockets of one daemon. Raises UsageError at once for keys that cannot be."""

    def __init__(
        self,
        *,
        descriptors: Descriptors | None = None,
        keys: CurveKeys | None = None,
        allowed: Iterable[str] = (),
        on_subscriber: Callable[[], None] = lambda: None,
        on_refused: Callable[[str], None] = lambda who: None,
        handshake_seconds: float = HANDSHAKE_SECONDS,
    ) -> None:
        self._keys = keys
        self._allowed = frozenset(map(check_public_key, allowed))
        if (keys is None) != (not self._allowed):
            raise UsageError(
                "events need both the node's key pair and the public keys of who may watch",
                "give --key and --allow",
            )
        self._on_subscriber = on_subscriber
        self._on_refused = on_refused
        self._descriptors = descriptors or Descriptors(spare=False)
        self._handshake_seconds = handshake_seconds
        self._context = LinkContext()
        self._sockets: list[Socket] = []
        self._readers: list[SocketReader] = []
        self._listeners: list[Listener] = []
        self._zap: ZapHandler | None = None
        self._path: Path | None = None
        self.port: LinkAddress | None = None
        """Where other machines can listen; None: nowhere."""

    def open_local(self, state: Path) -> LinkAddress:
        """Publish on the ipc endpoint of ``state``, which the caller holds locked.

        Raises StateError.
        """
        path = socket_place(state, _NAME)
        path.unlink(missing_ok=True)
        self._path = path
        return self._open(LinkAddress("", 0, str(path)), None).address

    async def open(self, address: LinkAddress) -> LinkAddress:
        """Publish on ``address``, too; returns when the allow-list has been seen to hold.

        Raises StateError for a port that is taken or a list that does not hold, and UsageError for
        an address that is not this machine's or wants keys; nothing is left open there then.
        """
        plain_or_keys(address, self._keys)
        listener = self._open(address, self._keys)
        if self._keys is not None:
            ports = [(zmq.SocketType.SUB, reachable(listener.address))]
            try:
                await self_test(self._context, ports, self._keys.public, self._handshake_seconds)
            except BaseException:
                self._close_last()
                raise
        self.port = listener.address
        return listener.address

    def publish(self, event: bytes) -> None:
        """Hand one event to every subscriber that has room for it."""
        for socket in self._sockets:
            with contextlib.suppress(zmq.Again):
                socket.send(event, zmq.NOBLOCK)
        for reader in self._readers:
            reader.check()

    def close(self) -> None:
        """Stop publishing; what was published just before has FAREWELL_SECONDS to leave."""
        while self._sockets:
            self._close_last()
        if self._zap is not None:
            self._zap.close()
            self._zap = None
        self._context.close(FAREWELL_SECONDS)
        if self._path is not None:
            with contextlib.suppress(OSError):  # a socket that is left tells nobody anything
                self._path.unlink()

    def _open(self, address: LinkAddress, keys: CurveKeys | None) -> Listener:
        if self._zap is None:
            # The list is there before a port is: there is no moment without it.
            self._zap = ZapHandler(self._context, self._allowed, self._refused)
        socket = self._context.socket(zmq.SocketType.XPUB)
        socket.xpub_manual = 1
        socket.sndhwm = EVENTS_UNSENT_MAX
        socket.maxmsgsize = EVENT_REQUEST_BYTES_MAX
        socket.handshake_ivl = int(self._handshake_seconds * 1000)
        socket.linger = int(FAREWELL_SECONDS * 1000)
        socket.ipv6 = address.is_ipv6
        secure_server(socket, keys)
        listener = Listener(self._context, socket, None, self._descriptors, EVENT_SUBSCRIBERS_MAX)
        try:
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
        loop = asyncio.get_running_loop()
        self._readers.append(SocketReader(loop, socket, lambda first: self._read(socket, first)))
        self._sockets.append(socket)
        self._listeners.append(listener)
        return listener

    def _refused(self, event: str, address: str, what: str) -> None:
        if self.port is not None:  # before that it is the key that the list is tried with
            self._on_refused(f"{address}: {what}")

    def _close_last(self) -> None:
        self._readers.pop().close()
        self._sockets.pop()
        self._listeners.pop().close()

    def _read(self, socket: Socket, first: zmq.Frame) -> int:
        said = parts_of(socket, first)
        if said == [_SUBSCRIBE_ALL]:
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            self._on_subscriber()
        return sum(map(len, said))


@dataclass(frozen=True, slots=True)
class Watched:
    """One daemon to watch: what to call it, where it publishes, its public key (None: plain)."""

    name: str
    address: LinkAddress
    peer_key: str | None = None


class EventSubscriber:
    """Hears several daemons at once, each over a connection that is sought again by itself."""

    def __init__(self, daemons: Iterable[Watched], keys: CurveKeys | None = None) -> None:
        """Raises UsageError for an address that wants keys."""
        self._context = LinkContext()
        self._poller = zmq.Poller()
        self._names: Mapping[Socket, str] = {}
        names: dict[Socket, str] = {}
        try:
            for daemon in daemons:
                names[self._connect(daemon, keys)] = daemon.name
        except BaseException:
            self.close()
            raise
        self._names = names

    def _connect(self, daemon: Watched, keys: CurveKeys | None) -> Socket:
        mine = None if daemon.peer_key is None else keys
        plain_or_keys(daemon.address, mine)
        socket = self._context.socket(zmq.SocketType.SUB)
        socket.rcvhwm = EVENTS_UNREAD_MAX
        socket.maxmsgsize = EVENT_BYTES_MAX
        socket.reconnect_ivl = int(BACKOFF_SECONDS_MIN * 1000)
        socket.reconnect_ivl_max = int(EVENT_RECONNECT_SECONDS_MAX * 1000)
        socket.handshake_ivl = int(HANDSHAKE_SECONDS * 1000)
        # A daemon that vanished without a word is sought again once its machine stays silent.
        socket.heartbeat_ivl = int(HANDSHAKE_SECONDS * 1000)
        socket.ipv6 = daemon.address.is_ipv6
        secure_client(socket, mine, daemon.peer_key)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(daemon.address.endpoint)
        self._poller.register(socket, zmq.POLLIN)
        return socket

    def wait(self, seconds: float) -> list[tuple[str, bytes]]:
        """Events that arrive within ``seconds``, each with the name of who sent it.

        Returns as soon as there are some, and with a bounded number of them.
        """
        heard: list[tuple[str, bytes]] = []
        for socket, _ in self._poller.poll(max(0, int(seconds * 1000))):
            for _ in range(READS_PER_TURN_MAX):
                try:
                    parts = socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                if len(parts) == 1:
                    heard.append((self._names[socket], parts[0]))
        return heard

    def close(self) -> None:
        """Hear nobody any more."""
        self._context.close()
