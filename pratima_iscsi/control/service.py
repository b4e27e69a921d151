"""The daemon's side of control: one request's bytes to one answer's bytes.

One rule: an operator's error becomes an answer and never ends the daemon; what gives something up
is asked for by the name of what it gives up.
"""

from typing import Protocol

from pratima_iscsi.control.requests import (
    Answer,
    AnyRequest,
    CleanRequest,
    CreateTargetRequest,
    DeleteTargetRequest,
    DisableRequest,
    Done,
    EnableRequest,
    Failed,
    KillRequest,
    ListTargetsRequest,
    ReconnectRequest,
    ResizeRequest,
    ResyncRequest,
    decode_request,
    encode_answer,
)
from pratima_iscsi.control.sections import ServeGroupSection
from pratima_iscsi.control.status import NodeStatus
from pratima_iscsi.control.target_list import TargetList
from pratima_iscsi.errors import OperatorError, UsageError, in_words


class Daemon(Protocol):
    """What a daemon can be asked for. ``replica`` may be empty: all of the group's; so may
    ``group``: all of them for status, and for a verb the only one.

    The verbs return what was done, in a sentence for the operator, and raise OperatorError.
    """

    def status(self, group: str) -> NodeStatus:
        """How its groups stand."""

    def resync(self, group: str, replica: str, from_primary: bool) -> str:
        """Resync now; see ResyncRequest."""

    def kill(self, group: str, replica: str) -> str:
        """Drop queue and session."""

    def reconnect(self, group: str, replica: str) -> str:
        """Connect now."""

    def enable(self, group: str, replica: str) -> str:
        """Put a disabled link to work."""

    def disable(self, group: str, replica: str) -> str:
        """Stop a link."""

    def clean(self, group: str, replica: str, proof: bool) -> str:
        """Declare a link's replica equal; see CleanRequest."""

    async def create_target(self, section: ServeGroupSection) -> str:
        """Serve one more group; see CreateTargetRequest."""

    async def delete_target(self, group: str, end_sessions: bool) -> str:
        """Serve a group no more; see DeleteTargetRequest."""

    async def list_targets(self) -> TargetList:
        """The targets."""

    async def resize(self, group: str, volume: str, size: int | None, later: bool) -> str:
        """Grow a volume; see ResizeRequest."""


async def answer(daemon: Daemon, data: bytes) -> bytes:
    """The encoded answer to an encoded request."""
    result: Answer
    try:
        result = await _carry_out(daemon, decode_request(data))
    except OperatorError as error:
        result = Failed(error.problem, error.next_step, error.exit_code)
    except OSError as error:
        next_step = "see to the daemon's disk or the file, and try again"
        result = Failed(in_words(error), next_step, OperatorError.exit_code)
    return encode_answer(result)


async def _carry_out(daemon: Daemon, request: AnyRequest) -> Answer:
    match request:
        case ResyncRequest():
            return Done(daemon.resync(request.group, request.replica, request.from_primary))
        case KillRequest():
            if not request.drop_queue:
                raise UsageError(
                    "kill drops the link's queue: its replica then no longer follows the order of "
                    "the writes, but gets their blocks by a resync",
                    "say so: --drop-queue (to only connect anew: pratima reconnect)",
                )
            return Done(daemon.kill(request.group, request.replica))
        case ReconnectRequest():
            return Done(daemon.reconnect(request.group, request.replica))
        case EnableRequest():
            return Done(daemon.enable(request.group, request.replica))
        case DisableRequest():
            if not request.forget_table:
                raise UsageError(
                    "disable forgets which blocks the replica lacks: enable then compares them all",
                    "say so: --forget-table",
                )
            return Done(daemon.disable(request.group, request.replica))
        case CleanRequest():
            return Done(daemon.clean(request.group, request.replica, not request.without_proof))
        case CreateTargetRequest():
            return Done(await daemon.create_target(request.target))
        case DeleteTargetRequest():
            return Done(await daemon.delete_target(request.group, request.end_sessions))
        case ListTargetsRequest():
            return await daemon.list_targets()
        case ResizeRequest():
            return Done(
                await daemon.resize(
                    request.group, request.volume, request.size, request.replicas_later
                )
            )
        case _:
            return daemon.status(request.group)
