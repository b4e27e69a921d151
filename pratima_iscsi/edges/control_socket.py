"""The control socket of a daemon: frames over a UNIX socket, for this user alone.

It lies in the state directory; where that makes its path longer than a UNIX socket's may be, in a
short runtime directory, which a file in the state directory names. One rule: whatever a client
does, it costs the daemon a bounded amount of memory and time, and that client its connection.

    length (4 bytes, big endian) | that many bytes                     both ways, one for one
"""

import asyncio
import contextlib
import hashlib
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from pratima_iscsi.errors import StateError
from pratima_iscsi.limits import (
    CONTROL_BYTES_MAX,
    CONTROL_CLIENTS_MAX,
    CONTROL_IDLE_SECONDS,
    CONTROL_REQUEST_BYTES_MAX,
)

SOCKET_PATH_BYTES_MAX: Final = 107
"""sockaddr_un holds 108 bytes, the last of them NUL."""
LENGTH: Final = struct.Struct(">I")
"""bytes that follow"""

_DIRECTORY: Final = "control"
_NAME: Final = "socket"
_POINTER: Final = "path"
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
        path = _place(state)
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
            self.path.unlink(missing_ok=True)

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
    directory = state.absolute() / _DIRECTORY
    try:
        recorded = (directory / _POINTER).read_bytes()[: SOCKET_PATH_BYTES_MAX + 1]
    except FileNotFoundError:
        return directory / _NAME
    except OSError as error:
        raise StateError(
            f"{directory} cannot be read: {error.strerror}", "ask as the user that runs the daemon"
        ) from None
    return Path(os.fsdecode(recorded))


def _place(state: Path) -> Path:
    """Where to listen, in directories of our own; recorded where it is not the usual place."""
    directory = state.absolute() / _DIRECTORY
    _own_directory(directory)
    pointer = directory / _POINTER
    path = directory / _NAME
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        pointer.unlink(missing_ok=True)
        return path
    path = _runtime_directory() / hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:32]
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise StateError(
            f"the path of the control socket is too long: {path}",
            "set XDG_RUNTIME_DIR to a directory with a shorter path",
        )
    new = directory / (_POINTER + ".new")
    new.write_bytes(os.fsencode(path))
    new.replace(pointer)
    return path


def _runtime_directory() -> Path:
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(given) and os.path.isdir(given):
        directory = Path(given) / "pratima"
    else:
        directory = Path(f"/tmp/pratima-{os.geteuid()}")  # a fixed place, whatever TMPDIR says
    _own_directory(directory)
    return directory


def _own_directory(directory: Path) -> None:
    """Make it (0700), or see that it is ours and nobody else's: no link, no other owner."""
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise StateError(
                f"{directory} is no directory of this user", "remove it; it is made anew"
            )
        if status.st_mode & 0o077:
            directory.chmod(0o700)
    except OSError as error:
        raise StateError(
            f"{directory} cannot be made: {error.strerror}", "see to the owner of the one above"
        ) from None


def _is_trusted(writer: asyncio.StreamWriter) -> bool:
    """Whether the client is this user or root (the mode of the socket says so already)."""
    connection = writer.get_extra_info("socket")
    if connection is None:
        return False
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(raw)
    return user in {0, os.geteuid()}
