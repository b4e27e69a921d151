"""The embedded portal's sockets: accept, drain, answer with one system call.

The loop's own readers and writers are used and no transports: a transport would join the buffers
that ``sendmsg`` takes as they are, and would stand between the socket and the one receive buffer
that PDUs are served from. Each wake-up of a connection does, in this order: receive what is there,
serve every whole PDU in it, ``on_drained`` (which submits what they asked of the volumes), send all
answers. One rule: nothing here waits, and nothing queues without a bound.
"""

import asyncio
import ipaddress
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from pratima_iscsi.edges.descriptors import SHORTAGES, Descriptors
from pratima_iscsi.errors import StateError
from pratima_iscsi.iscsi.connection import PEER_CLOSED, Connection
from pratima_iscsi.iscsi.directory import Directory
from pratima_iscsi.limits import (
    ACCEPT_PAUSE_SECONDS,
    LISTEN_BACKLOG,
    LOGOUT_GRACE_SECONDS,
    LOOP_LAG_SECONDS_MAX,
    OUTPUT_BYTES_MAX,
    PORTAL_CONNECTIONS_MAX,
    PORTAL_LOGINS_MAX,
    RECEIVE_SEGMENT_BYTES_MAX,
    SEND_BUFFERS_MAX,
)
from pratima_iscsi.operations import Buffer

LOG: Final = logging.getLogger(__name__)
TICK_SECONDS: Final = 1.0
JOIN_BYTES_MAX: Final = 16384
"""Answers that together are no longer are joined: cheaper than a list for ``sendmsg``."""
PDU_ROOM_BYTES: Final = RECEIVE_SEGMENT_BYTES_MAX + 2048
"""Room for the longest PDU with its headers and digests."""
NO_BUFFER: Final = memoryview(b"")
"""Of a connection that is closed."""
ACCEPTS_MAX: Final = 16
"""Connections accepted in one wake-up."""


def nothing() -> None:
    """An ``on_drained`` for storages that submit at once."""


class Portal:
    """The listening sockets and connections of one portal.

    ``on_drained`` is called after the PDUs of each wake-up have been executed and before their
    answers are sent: completions that it brings about go with them.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        descriptors: Descriptors | None = None,
        on_drained: Callable[[], None] = nothing,
    ) -> None:
        self.directory = directory
        self._descriptors = descriptors or Descriptors(spare=False)
        self.on_drained = on_drained
        self.connections: set[PortalConnection] = set()
        self.addresses: list[tuple[str, int]] = []
        """Where it listens: host and port."""
        self._loop = asyncio.get_running_loop()
        self._listeners: list[socket.socket] = []
        self._ticker: asyncio.TimerHandle | None = None
        self._tick_at = 0.0
        """When the ticker is due."""
        self._fewer: asyncio.Event = asyncio.Event()
        """Set whenever a connection is closed."""

    def listen(self, host: str, port: int) -> tuple[str, int]:
        """Listen on one more address, port 0 for a free one; gives the address that it is.

        ``StateError`` when the address cannot be had.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(LISTEN_BACKLOG)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise StateError(
                f"the portal cannot listen on {host}:{port}: {error.strerror}",
                "choose another address with --portal, or stop what uses it",
            ) from error
        self._listeners.append(listener)
        self._loop.add_reader(listener, self._accept, listener)
        if self._ticker is None:
            self._tick_later()
        bound = listener.getsockname()[:2]
        address = (str(bound[0]), int(bound[1]))
        self.addresses.append(address)
        return address

    async def close(self, grace_seconds: float = LOGOUT_GRACE_SECONDS) -> None:
        """Accept no more, ask every initiator to log out, drop those that do not in time."""
        self.directory.open_to_logins = False
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()
        await self._end(list(self.connections), "the portal is shutting down", grace_seconds)
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None

    async def withdraw(self, target: str, grace_seconds: float = LOGOUT_GRACE_SECONDS) -> None:
        """Serve one target no more; its sessions end as in ``close``, the others go on.

        Who logs in just now is let go too, since it may be to this target: it tries again.
        """
        self.directory.remove(target)
        reason = f"target {target} is served no more"
        leaving = [one for one in self.connections if one.state.target in (None, target)]
        await self._end(leaving, reason, grace_seconds)

    async def _end(
        self, leaving: list["PortalConnection"], reason: str, grace_seconds: float
    ) -> None:
        """Ask for logouts, wait for them a little, drop the rest."""
        for connection in leaving:
            connection.state.request_logout(max(1, round(grace_seconds)), reason)
            connection.flush()
        deadline = self._loop.time() + grace_seconds
        while self.connections.intersection(leaving):
            self._fewer.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._fewer.wait()
            except TimeoutError:
                break
        left = self.connections.intersection(leaving)
        if left:
            LOG.info("%d connections did not log out in time", len(left))
        for connection in left:
            connection.drop(reason)

    def forget(self, connection: "PortalConnection") -> None:
        """A connection is closed."""
        self.connections.discard(connection)
        self._fewer.set()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_MAX):
            try:
                accepted, peer = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in SHORTAGES:
                    self._pause(listener, error.errno)
                else:
                    LOG.warning("cannot accept a connection: %s", error)
                return
            self._admit(accepted, f"{peer[0]}:{peer[1]}")

    def _pause(self, listener: socket.socket, lacking: int) -> None:
        """Look away from a listener for a while: it stays readable, and would wake us at once."""
        self._descriptors.ran_out(lacking)
        self._loop.remove_reader(listener)
        self._loop.call_later(ACCEPT_PAUSE_SECONDS, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._listeners:  # else the portal was closed meanwhile
            self._loop.add_reader(listener, self._accept, listener)

    def _admit(self, accepted: socket.socket, peer: str) -> None:
        if not self._descriptors.lets_in(accepted.fileno()):
            accepted.close()
            return
        if len(self.connections) >= PORTAL_CONNECTIONS_MAX:
            LOG.warning("%s refused: %d connections are the most", peer, PORTAL_CONNECTIONS_MAX)
            accepted.close()
            return
        logging_in = [one for one in self.connections if one.state.session is None]
        if len(logging_in) >= PORTAL_LOGINS_MAX:
            oldest = min(logging_in, key=lambda one: one.state.started)
            oldest.drop("too many connections log in at once")
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.connections.add(PortalConnection(self, self._loop, accepted, peer))

    def _tick(self) -> None:
        now = self._loop.time()
        late = now - self._tick_at
        for connection in list(self.connections):
            if late > LOOP_LAG_SECONDS_MAX:
                connection.state.excuse(late, now)
            connection.tick(now)
        self._tick_later()

    def _tick_later(self) -> None:
        self._tick_at = self._loop.time() + TICK_SECONDS
        self._ticker = self._loop.call_later(TICK_SECONDS, self._tick)


class PortalConnection:
    """One accepted socket: its receive buffer, what is still to be sent, its protocol state."""

    __slots__ = (
        "_backlog",
        "_backlog_bytes",
        "_buffer",
        "_end",
        "_ended",
        "_flush_due",
        "_give_up_at",
        "_logged_in",
        "_loop",
        "_paused",
        "_portal",
        "_socket",
        "_start",
        "peer",
        "state",
    )

    def __init__(
        self,
        portal: Portal,
        loop: asyncio.AbstractEventLoop,
        accepted: socket.socket,
        peer: str,
    ) -> None:
        self._portal = portal
        self._loop = loop
        self._socket = accepted
        self.peer = peer
        self.state = Connection(portal.directory, _address(accepted), self._wake, loop.time())
        self._buffer = memoryview(bytearray(self.state.buffer_bytes))
        self._start = 0
        self._end = 0
        self._backlog: deque[Buffer] = deque()
        self._backlog_bytes = 0
        self._flush_due = False
        self._paused = False
        self._logged_in = False
        self._ended = False
        """The last answer was sent and only the peer's end is awaited."""
        self._give_up_at: float | None = None
        loop.add_reader(accepted, self._readable)

    # --- receiving -------------------------------------------------------------------------------

    def _readable(self) -> None:
        buffer = self._buffer
        try:
            count = self._socket.recv_into(buffer[self._end :])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.drop(f"receiving failed: {error.strerror}")
            return
        if count == 0:
            self.drop(PEER_CLOSED)
            return
        if self._ended:
            return  # Nothing is served any more: what comes is only drained.
        end = self._end + count
        start = self._start
        try:
            start += self.state.receive(buffer[start:end])
            self._portal.on_drained()
        except BaseException:
            # A bug of ours. What it left half done must not be served again.
            self.drop("internal error")
            raise
        if start == end:
            start = end = 0
        self._start = start
        self._end = end
        if not self._logged_in:
            self._while_logging_in()
        elif len(buffer) - end < PDU_ROOM_BYTES:
            self._compact()
        self._flush()

    def _compact(self) -> None:
        """Bring the rest, less than one PDU, to the front."""
        left = self._end - self._start
        self._buffer[:left] = bytes(self._buffer[self._start : self._end])
        self._start = 0
        self._end = left

    def _while_logging_in(self) -> None:
        if self.state.session is None:
            self._compact()
            return
        self._logged_in = True
        LOG.info("%s: %s", self.peer, self.state.session)
        whole = memoryview(bytearray(self.state.buffer_bytes))
        left = self._end - self._start
        whole[:left] = self._buffer[self._start : self._end]
        self._buffer = whole
        self._start = 0
        self._end = left

    # --- sending ---------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Answers came outside of a receive: send them once in this turn of the loop."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what is queued."""
        self._flush_due = False
        if self._socket.fileno() >= 0:
            self._flush()

    def _flush(self) -> None:
        state = self.state
        while True:
            out = state.take()
            if self._backlog:
                self._queue(out)
                return
            if not out:
                break
            if not self._send(out):
                return
            state.flushed()
        if state.closing and not self._ended:
            self._finish()

    def _send(self, out: list[Buffer]) -> bool:
        """Send all of ``out``; False when the socket did not take all: the rest is queued."""
        while out:
            batch = out if len(out) <= SEND_BUFFERS_MAX else out[:SEND_BUFFERS_MAX]
            total = sum(map(len, batch))
            try:
                if total <= JOIN_BYTES_MAX:
                    sent = self._socket.send(batch[0] if len(batch) == 1 else b"".join(batch))
                else:
                    sent = self._socket.sendmsg(batch)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self.drop(f"sending failed: {error.strerror}")
                return False
            if sent < total:
                self._queue(_rest(batch, sent) + out[len(batch) :])
                return False
            out = out[len(batch) :] if batch is not out else []
        return True

    def _queue(self, out: list[Buffer]) -> None:
        """Keep ``out`` until the socket is writable; read no more while it is too much."""
        if not out:
            return
        if not self._backlog:
            self._loop.add_writer(self._socket, self._writable)
        self._backlog.extend(out)
        self._backlog_bytes += sum(map(len, out))
        if self._backlog_bytes > OUTPUT_BYTES_MAX and not self._paused:
            self._paused = True
            self._loop.remove_reader(self._socket)

    def _writable(self) -> None:
        batch = [self._backlog[index] for index in range(min(len(self._backlog), SEND_BUFFERS_MAX))]
        try:
            sent = self._socket.sendmsg(batch)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.drop(f"sending failed: {error.strerror}")
            return
        self._backlog_bytes -= sent
        for buffer in batch:
            if sent < len(buffer):
                if sent:
                    self._backlog[0] = memoryview(buffer)[sent:]
                break
            sent -= len(buffer)
            self._backlog.popleft()
        if self._backlog:
            return
        self._loop.remove_writer(self._socket)
        if self._paused:
            self._paused = False
            self._loop.add_reader(self._socket, self._readable)
        self.state.flushed()
        self._flush()

    # --- the end ---------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Time passes: an initiator that neither takes its last answers nor closes is dropped."""
        self.state.tick(now)
        if not self.state.closing:
            return
        if self._give_up_at is None:
            self._give_up_at = now + LOGOUT_GRACE_SECONDS
        elif now > self._give_up_at:
            self._close()

    def _finish(self) -> None:
        """All is sent: end our direction, and wait a little for the peer's end.

        Closing at once would reset the connection where data lies unread, and with it the answer
        that tells why.
        """
        LOG.info("%s: %s", self.peer, self.state.closing)
        self._ended = True
        self._start = self._end = 0
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._close()

    def drop(self, reason: str) -> None:
        """Close now."""
        if not self._ended:
            LOG.info("%s: %s", self.peer, self.state.closing or reason)
        self.state.lost(reason)
        self._close()

    def _close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
            self._backlog.clear()
            # Its session and it refer to each other: what is large must not wait for the collector.
            self._buffer = NO_BUFFER
            self._portal.forget(self)


def _address(accepted: socket.socket) -> str:
    """The local address as SendTargets gives it.

    An IPv4 peer at a portal on ``::`` is told IPv4: it cannot reach the mapped form (RFC 4291
    2.5.5.2) that the socket has.
    """
    host, port = accepted.getsockname()[:2]
    if ":" not in host:
        return f"{host}:{port}"
    mapped = ipaddress.IPv6Address(host).ipv4_mapped
    return f"[{host}]:{port}" if mapped is None else f"{mapped}:{port}"


def _rest(batch: list[Buffer], sent: int) -> list[Buffer]:
    """What of ``batch`` is left after its first ``sent`` bytes."""
    for index, buffer in enumerate(batch):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *batch[index + 1 :]]
        sent -= len(buffer)
    return []
