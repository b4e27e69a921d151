"""A client of a daemon's control socket: synchronous, for the command line and for tools.

One rule: whatever goes wrong, the error says whether a daemon runs there at all.
"""

import os
import socket
import time
from pathlib import Path
from types import TracebackType

from pratima_iscsi.control.requests import (
    Answer,
    Done,
    Failed,
    ListTargetsRequest,
    Request,
    StatusRequest,
    decode_answer,
    encode_request,
)
from pratima_iscsi.control.status import NodeStatus
from pratima_iscsi.control.target_list import TargetList
from pratima_iscsi.edges.control_socket import LENGTH, find_control_socket
from pratima_iscsi.errors import OperatorError, StateError
from pratima_iscsi.limits import CONTROL_ANSWER_SECONDS, CONTROL_BYTES_MAX

__all__ = ["ControlClient", "OperatorError", "RequestRefused"]


class RequestRefused(OperatorError):
    """The daemon did not do what it was asked."""


class ControlClient:
    """A connection to the daemon of one state directory; requests follow one another."""

    def __init__(self, state: Path, seconds: float = CONTROL_ANSWER_SECONDS) -> None:
        """Connect. Raises StateError if nobody answers there."""
        self._state = state
        self._seconds = seconds
        path = find_control_socket(state)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(seconds)
        try:
            self._socket.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            self._socket.close()
            raise StateError(
                f"nobody answers: no daemon runs on {state}",
                "start it with pratima serve or pratima replica, or name its --state",
            ) from None
        except OSError as error:
            self._socket.close()
            raise StateError(
                f"nobody answers at {path}: {error.strerror or error}",
                "ask as the user that runs the daemon",
            ) from None

    def ask(self, request: Request) -> NodeStatus | TargetList | Done:
        """The daemon's answer. Raises RequestRefused, or StateError if it gives none."""
        answer = self._exchange(encode_request(request))
        if isinstance(answer, Failed):
            raise RequestRefused(answer.problem, answer.next_step)
        return answer

    def status(self, group: str = "") -> NodeStatus:
        """How the daemon's groups stand."""
        answer = self.ask(StatusRequest(group=group))
        if not isinstance(answer, NodeStatus):
            raise StateError("the daemon gave no status", "see whether its version is this one's")
        return answer

    def targets(self) -> TargetList:
        """The daemon's targets."""
        answer = self.ask(ListTargetsRequest())
        if not isinstance(answer, TargetList):
            raise StateError("the daemon gave no list", "see whether its version is this one's")
        return answer

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def __enter__(self) -> "ControlClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _exchange(self, request: bytes) -> Answer:
        deadline = time.monotonic() + self._seconds
        try:
            self._socket.settimeout(self._seconds)
            self._socket.sendall(LENGTH.pack(len(request)) + request)
            (length,) = LENGTH.unpack(self._receive(LENGTH.size, deadline))
            if length > CONTROL_BYTES_MAX:
                raise StateError(
                    f"what answers on {self._state} is no Pratima daemon", "stop it, whatever it is"
                )
            return decode_answer(self._receive(length, deadline))
        except TimeoutError:
            raise StateError(
                f"the daemon on {self._state} did not answer within {self._seconds:g} s",
                "see whether it is stopped or its disk hangs",
            ) from None
        except OSError as error:
            raise StateError(
                f"the daemon on {self._state} hung up ({error.strerror or error})",
                "see its log for the reason, and ask again",
            ) from None

    def _receive(self, length: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < length:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            part = self._socket.recv(length - len(data))
            if not part:
                raise ConnectionResetError("connection closed")
            data += part
        return bytes(data)
