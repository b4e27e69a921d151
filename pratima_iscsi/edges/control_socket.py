"""The control socket of a daemon: frames over a UNIX socket, for this user alone.

It lies in the state directory (``socket_place``). One rule: whatever a client does, it costs the
daemon a bounded amount of memory and time, and that client its connection.

    length (4 bytes, big endian) | that many bytes                     both ways, one for one
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from pratima_iscsi.edges.socket_place import find_socket, socket_place
from pratima_iscsi.errors import StateError
from pratima_iscsi.limits import (
    CONTROL_BYTES_MAX,
    CONTROL_CLIENTS_MAX,
    CONTROL_IDLE_SECONDS,
    CONTROL_REQUEST_BYTES_MAX,
)

LENGTH: Final = struct.Struct(">I")
"""bytes that follow"""

_NAME: Final = "socket"
_CREDENTIALS: Final = struct.Struct("3i")
"""pid, uid, gid (SO_PEERCRED)"""

Answer = Callable[[bytes], Awaitable[bytes]]
"""From a request's bytes to the answer's."""


class ControlServer:
    """Listens beside a state directory that the caller holds locked."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._server: asyncio.AbstractServer | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self.path: Path | None = None

    async def open(self, state: Path) -> Path:
        """Listen; gives the socket's path. Raises StateError."""
        path = socket_place(state, _NAME)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        try:
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listening.bind(os.fspath(path))
            path.chmod(0o600)
            self._server = await asyncio.start_unix_server(self._accept, sock=listening)
        except OSError as error:
            raise StateError(
                f"the control socket {path} cannot be made: {error.strerror}",
                "see to the directory's owner and the disk's space",
            ) from None
        self.path = path
        return path

    async def close(self) -> None:
        """Stop listening, drop the clients, remove the socket; a second call does nothing."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        clients = tuple(self._clients)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await server.wait_closed()
        if self.path is not None:
            with contextlib.suppress(OSError):  # a socket that is left tells nobody anything
                self.path.unlink()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._clients) >= CONTROL_CLIENTS_MAX or not _is_trusted(writer):
            writer.close()
            return
        self._clients.add(task)
        try:
            await self._converse(reader, writer)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # the client went away, or said nothing in time
        finally:
            self._clients.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while self._server is not None:
            async with asyncio.timeout(CONTROL_IDLE_SECONDS):
                (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                if length > CONTROL_REQUEST_BYTES_MAX:
                    return
                request = await reader.readexactly(length)
            answer = await self._answer(request)
            assert len(answer) <= CONTROL_BYTES_MAX
            writer.write(LENGTH.pack(len(answer)) + answer)
            async with asyncio.timeout(CONTROL_IDLE_SECONDS):
                await writer.drain()


def find_control_socket(state: Path) -> Path:
    """Where the daemon of ``state`` listens, or would. Raises StateError."""
    return find_socket(state, _NAME)


def _is_trusted(writer: asyncio.StreamWriter) -> bool:
    """Whether the client is this user or root (the mode of the socket says so already)."""
    connection = writer.get_extra_info("socket")
    if connection is None:
        return False
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(raw)
    return user in {0, os.geteuid()}
