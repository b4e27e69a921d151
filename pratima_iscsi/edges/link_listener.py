"""One listening port of a replica: bound once, watched, with a cap on its connections.

One rule: a connection beyond the cap is shut before it can cost more than its descriptor. libzmq
has no such limit, but its monitor tells each accepted descriptor. It takes as much before the
handshake has ended as afterwards, so how many are in one is limited as well. What cannot be
accepted for want of a descriptor libzmq tries again at once, for ever; and it cannot rest, for an
``unbind`` ends the connections of that port. So room is made to accept it, and it is shut.
"""

import asyncio
import errno
import os
import re
import select
import socket as sockets
import stat
import time
from typing import Final

import zmq

from pratima_iscsi.edges.descriptors import Descriptors
from pratima_iscsi.edges.link_address import LinkAddress
from pratima_iscsi.edges.link_sockets import (
    EventHook,
    LinkContext,
    Monitor,
    Socket,
    SocketEvent,
    SocketEventKind,
)
from pratima_iscsi.errors import StateError, UsageError
from pratima_iscsi.limits import ACCEPT_PAUSE_SECONDS, CONNECTIONS_MAX

_PORT: Final = re.compile(r":(\d+)$")


class Handshakes:
    """Which connections of a port may still be in their handshake.

    libzmq tells that one has ended well and not whose, so it counts as that of the connection which
    came last; and it ends each that has lasted for ``seconds``, so an older connection is through.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit = limit
        self._seconds = seconds
        self._until: dict[int, float] = {}
        """Descriptors in the order in which they were accepted, and when each is through."""

    def began(self, descriptor: int, now: float) -> bool:
        """A connection was accepted; False: it is one too many."""
        self._until = {known: until for known, until in self._until.items() if until > now}
        self._until[descriptor] = now + self._seconds
        return len(self._until) <= self.limit

    def succeeded(self) -> None:
        """One has ended well."""
        if self._until:
            self._until.popitem()

    def closed(self, descriptor: int) -> None:
        """A connection is gone."""
        self._until.pop(descriptor, None)


class Listener:
    """Watches one listening socket from before its ``bind`` to its ``close``."""

    def __init__(
        self,
        context: LinkContext,
        socket: Socket,
        hook: EventHook | None,
        descriptors: Descriptors,
        connections_max: int = CONNECTIONS_MAX,
        handshakes: Handshakes | None = None,
    ) -> None:
        self._socket = socket
        self._handshakes = handshakes
        self._hook = hook
        self._descriptors = descriptors
        self._connections_max = connections_max
        self._connections: set[int] = set()
        self._address: LinkAddress | None = None
        self._listening = select.poll()
        """Of the descriptor that listens, once there is one."""
        self._loop = asyncio.get_running_loop()
        self._monitor = Monitor(self._loop, context, socket, self._heard, hook)
        self._timer = self._loop.call_later(ACCEPT_PAUSE_SECONDS, self._look)

    @property
    def address(self) -> LinkAddress:
        """Where it listens, the port filled in."""
        assert self._address is not None
        return self._address

    def bind(self, address: LinkAddress) -> None:
        """Listen; raises StateError for a port or path that is taken, UsageError for an address
        that this machine does not have."""
        if address.path:
            self._bind_path(address)
            return
        try:
            self._socket.bind(address.endpoint)
        except zmq.ZMQError as error:
            raise _bind_error(address, error) from None
        found = _PORT.search(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))
        assert found is not None
        self._address = LinkAddress(address.host, int(found[1]))

    def close(self) -> None:
        """Stop listening and end every connection."""
        self._timer.cancel()
        self._monitor.close()
        self._socket.close()

    def _bind_path(self, address: LinkAddress) -> None:
        # libzmq would take the path from whoever listens there.
        _check_path_free(address.path)
        before = os.umask(0o077)
        try:
            self._socket.bind(address.endpoint)
        except zmq.ZMQError as error:
            raise _bind_error(address, error) from None
        finally:
            os.umask(before)
        self._address = address

    def _heard(self, event: SocketEvent) -> None:
        handshakes = self._handshakes
        if event.kind is SocketEventKind.DISCONNECTED:
            self._connections.discard(event.value)
            if handshakes is not None:
                handshakes.closed(event.value)
        elif event.kind is SocketEventKind.HANDSHAKE_SUCCEEDED:
            if handshakes is not None:
                handshakes.succeeded()
        elif event.kind is SocketEventKind.LISTENING:
            self._listening.register(event.value, select.POLLIN)
        elif event.kind is SocketEventKind.ACCEPTED:
            self._connections.add(event.value)
            if not self._descriptors.lets_in(event.value):
                self._shut(event.value, "too few descriptors are left")
            elif handshakes is not None and not handshakes.began(event.value, time.monotonic()):
                self._shut(event.value, f"more than {handshakes.limit} handshakes")
            elif len(self._connections) > self._connections_max:
                self._shut(event.value, f"more than {self._connections_max} connections")

    def _look(self) -> None:
        """See whether a connection waits for want of a descriptor; libzmq is not asked to say so,
        for it would do nothing else."""
        if self._listening.poll(0) and (lacking := self._descriptors.lacking()):
            self._descriptors.ran_out(lacking)
        self._timer = self._loop.call_later(ACCEPT_PAUSE_SECONDS, self._look)

    def _shut(self, descriptor: int, limit: str) -> None:
        """Shut a connection through a descriptor of our own, if it still is one of this port.

        Where there is no descriptor for that, it is done through libzmq's own: should that become
        another connection in this very moment, then that one has to be made anew.
        """
        try:
            number = os.dup(descriptor)
        except OSError as error:
            if error.errno != errno.EMFILE:
                return  # gone in the meantime
            number = descriptor
        try:
            connection = sockets.socket(fileno=number)
        except OSError:
            return  # the same
        try:
            if not self._is_ours(connection):
                return
            connection.shutdown(sockets.SHUT_RDWR)
        except OSError:
            return
        finally:
            if number == descriptor:
                connection.detach()
            connection.close()
        if self._hook is not None:
            self._hook("CONNECTION_SHUT", str(self.address), limit)

    def _is_ours(self, connection: sockets.socket) -> bool:
        name = connection.getsockname()
        if self.address.path:
            return bool(name == self.address.path)
        return isinstance(name, tuple) and name[1] == self.address.port


def _check_path_free(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise StateError(f"{path} is there and is no socket", "give another ipc path")
    except FileNotFoundError:
        return
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as attempt:
        attempt.settimeout(0)
        if attempt.connect_ex(path) in (0, errno.EAGAIN):
            raise StateError(
                f"another process listens on {path}", "stop it, or give another ipc path"
            )


def _bind_error(address: LinkAddress, error: zmq.ZMQError) -> StateError | UsageError:
    if error.errno == errno.EADDRINUSE:
        return StateError(
            f"port {address.port} on {address.host} is taken",
            f"stop what uses it (ss -ltnp 'sport = :{address.port}'), or listen on another",
        )
    if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
        return UsageError(
            f"{address.host} is no address of this machine", "listen on an address that ip addr has"
        )
    return StateError(f"cannot listen on {address}: {error}")
