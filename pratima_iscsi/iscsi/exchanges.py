"""What an initiator may ask beside commands: NOP, text, task management, logout (RFC 7143 11).

Each handler serves one request of a session. One rule: a task management function or a logout is
answered only when every task that it aborted has settled on its volume: no write comes after it.
"""

from collections.abc import Callable, Mapping
from typing import Final

from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.iscsi.directory import PORTAL_GROUP_TAG
from pratima_iscsi.iscsi.login import AUTH_METHOD, CHAP_KEYS, DECLARED_KEYS, IDENTITY_KEYS
from pratima_iscsi.iscsi.negotiation import MAY_CHANGE, RULES, Offer
from pratima_iscsi.iscsi.pdu import (
    ASYNC_EVENT_SHIFT,
    ASYNC_LOGOUT_REQUEST,
    CONTINUE,
    FINAL,
    IMMEDIATE,
    RESERVED_TAG,
    Function,
    FunctionResponse,
    LogoutReason,
    LogoutResponse,
    Opcode,
    RejectReason,
    Request,
)
from pratima_iscsi.iscsi.session import Handler, Session
from pratima_iscsi.iscsi.text import NOT_UNDERSTOOD, REJECT, Pairs, decode, encode
from pratima_iscsi.limits import (
    IMMEDIATE_COMMANDS_MAX,
    TEXT_BYTES_MAX,
)
from pratima_iscsi.operations import Buffer
from pratima_iscsi.scsi.logical_unit import LogicalUnit
from pratima_iscsi.scsi.task import Aborted

TIME_TO_WAIT_SECONDS: Final = 2
FUNCTION_MASK: Final = 0x7F
TEXT_TAG: Final = 1
"""TTT of a text exchange that goes on; a session has one at a time."""


def nop_out(session: Session, request: Request, data: Buffer) -> None:
    """NOP-Out: echo a ping; pass over the answer to ours (RFC 7143 11.18).

    A discovery session is there for SendTargets, and for no ping of the initiator's (4.3).
    """
    if request.itt == RESERVED_TAG:
        if not request.opcode & IMMEDIATE:
            raise RemoteProtocolError("a NOP-Out without an ITT is not immediate")
        return
    if session.logged_in.target is None:
        session.reject(request, RejectReason.PROTOCOL_ERROR)
        return
    echo = bytes(data[: session.send_segment_bytes_max])
    session.send(Opcode.NOP_IN, lun=request.lun, itt=request.itt, word20=RESERVED_TAG, data=echo)


def ping(session: Session) -> None:
    """Ask the initiator whether it is there (RFC 7143 11.19)."""
    session.send(Opcode.NOP_IN, word20=TEXT_TAG, advance=False)


def request_logout(session: Session, seconds: int) -> None:
    """Ask the initiator to log out within ``seconds`` (RFC 7143 11.9.1, event 1)."""
    session.send(
        Opcode.ASYNC_MESSAGE, words=(ASYNC_LOGOUT_REQUEST << ASYNC_EVENT_SHIFT, seconds, 0)
    )


# --- text ----------------------------------------------------------------------------------------


def text(session: Session, request: Request, data: Buffer) -> None:
    """Text Request, in parts in either direction (RFC 7143 11.10 and 11.11)."""
    continues = request.word20 != RESERVED_TAG
    if continues and request.word20 != session.text_tag:
        session.reject(request, RejectReason.INVALID_FIELD)  # a tag that we have not given
        return
    if not continues:
        session.text_received = b""
        session.text_to_send = b""
    if len(session.text_received) + len(data) > TEXT_BYTES_MAX:
        session.reject(request, RejectReason.PROTOCOL_ERROR)
        raise RemoteProtocolError("the text request is too long")
    if continues and session.text_to_send:
        _send_text(session, request)
        return
    session.text_received += bytes(data)
    if request.flags & CONTINUE:
        if request.flags & FINAL:
            raise RemoteProtocolError("F and C are both set in a text request")
        _respond(session, request, 0, TEXT_TAG)
        return
    pairs = decode(session.text_received)
    session.text_received = b""
    session.text_to_send = encode(_answer_text(session, pairs))
    _send_text(session, request)


def _send_text(session: Session, request: Request) -> None:
    """The next part of the answer, as much as the initiator takes in one PDU."""
    part = session.text_to_send[: session.send_segment_bytes_max]
    session.text_to_send = session.text_to_send[len(part) :]
    if session.text_to_send:
        flags, tag = CONTINUE, TEXT_TAG
    elif request.flags & FINAL:
        flags, tag = FINAL, RESERVED_TAG
    else:
        flags, tag = 0, TEXT_TAG
    _respond(session, request, flags, tag, part)


def _respond(session: Session, request: Request, flags: int, tag: int, data: bytes = b"") -> None:
    session.text_tag = tag
    session.send(Opcode.TEXT_RESPONSE, flags=flags, itt=request.itt, word20=tag, data=data)


LOGIN_KEYS: Final = IDENTITY_KEYS | CHAP_KEYS | {AUTH_METHOD} | (frozenset(RULES) - {MAY_CHANGE})
"""Keys that we understand, and whose use ends with the login (RFC 7143 13)."""


def _answer_text(session: Session, pairs: Pairs) -> Pairs:
    answer: Pairs = []
    for key, value in pairs:
        if key == "SendTargets":
            answer += _send_targets(session, value)
        elif key == MAY_CHANGE:
            offer = Offer()
            offer.answer(key, value)
            session.send_segment_bytes_max = offer.parameters.send_segment_bytes_max
        elif key not in DECLARED_KEYS:
            answer.append((key, REJECT if key in LOGIN_KEYS else NOT_UNDERSTOOD))
    return answer


def _send_targets(session: Session, value: str) -> Pairs:
    """The targets that the initiator may use, each with this portal (RFC 7143 Appendix C).

    A normal session hears of its own target only; a discovery session has to name one, or All.
    """
    own = session.logged_in.target
    visible = session.directory.visible_to(session.initiator)
    if value == "All":
        if own is not None:
            return [("SendTargets", REJECT)]
        named = visible
    elif value == "":
        if own is None:
            return [("SendTargets", REJECT)]
        named = [own]
    else:
        named = [target for target in visible if target.name == value.lower()]
        if own is not None:
            named = [target for target in named if target is own]
    answer: Pairs = []
    for target in named:
        answer.append(("TargetName", target.name))
        answer.append(("TargetAddress", f"{session.portal_address},{PORTAL_GROUP_TAG}"))
    return answer


# --- task management -----------------------------------------------------------------------------


def task_management(session: Session, request: Request, data: Buffer) -> None:
    """Task Management Function Request (RFC 7143 11.5 and 11.6)."""
    target = session.logged_in.target
    if target is None:
        session.reject(request, RejectReason.PROTOCOL_ERROR)
        return
    itt = request.itt
    function = request.flags & FUNCTION_MASK
    if session.functions >= IMMEDIATE_COMMANDS_MAX:
        _function_response(session, itt, FunctionResponse.REJECTED)
        return

    def settled() -> None:
        session.functions -= 1
        if not session.closing:
            _function_response(session, itt, FunctionResponse.COMPLETE)
            if function == Function.TARGET_COLD_RESET:
                session.directory.end_all(target.name, "target cold reset")

    if function in (Function.TARGET_WARM_RESET, Function.TARGET_COLD_RESET):
        session.functions += 1
        target.device.reset(session, settled)
        return
    if function not in UNIT_FUNCTIONS:
        reassign = function == Function.TASK_REASSIGN
        _function_response(
            session,
            itt,
            FunctionResponse.REASSIGN_NOT_SUPPORTED if reassign else FunctionResponse.NOT_SUPPORTED,
        )
        return
    unit = target.device.unit(request.lun)
    if not isinstance(unit, LogicalUnit):
        _function_response(session, itt, FunctionResponse.LUN_DOES_NOT_EXIST)
    elif function == Function.ABORT_TASK:
        _abort_task(session, request, unit, settled)
    else:
        session.functions += 1
        UNIT_FUNCTIONS[function](unit, session, settled)


def _abort_task(
    session: Session, request: Request, unit: LogicalUnit, settled: Callable[[], None]
) -> None:
    """ABORT TASK: a task that has been answered, or never was, does not exist."""
    command = session.commands.get(request.word20)
    if command is None or command.unit is not unit or command.aborted:
        _function_response(session, request.itt, FunctionResponse.TASK_DOES_NOT_EXIST)
        return
    session.functions += 1
    executing = command.executing
    session.abort(command, Aborted.SILENT)
    if executing:
        unit.abort_task(command, settled)
    else:
        settled()


UNIT_FUNCTIONS: Final[Mapping[int, Callable[[LogicalUnit, Session, Callable[[], None]], None]]] = {
    Function.ABORT_TASK: lambda unit, session, done: done(),  # served by _abort_task
    Function.ABORT_TASK_SET: LogicalUnit.abort_task_set,
    Function.CLEAR_TASK_SET: LogicalUnit.clear_task_set,
    Function.LOGICAL_UNIT_RESET: LogicalUnit.reset,
}


def _function_response(session: Session, itt: int, response: FunctionResponse) -> None:
    session.send(Opcode.TASK_MANAGEMENT_RESPONSE, word2=response << 8, itt=itt)


# --- logout --------------------------------------------------------------------------------------


def logout(session: Session, request: Request, data: Buffer) -> None:
    """Logout Request: abort what is left, answer when it has settled, close (RFC 7143 11.14)."""
    reason = request.flags & FUNCTION_MASK
    if reason == LogoutReason.REMOVE_FOR_RECOVERY:
        _logout_response(session, request.itt, LogoutResponse.RECOVERY_NOT_SUPPORTED)
        return
    if reason not in (LogoutReason.CLOSE_SESSION, LogoutReason.CLOSE_CONNECTION):
        session.reject(request, RejectReason.INVALID_FIELD)
        return
    if reason == LogoutReason.CLOSE_CONNECTION and request.word20 >> 16 != session.logged_in.cid:
        _logout_response(session, request.itt, LogoutResponse.CID_NOT_FOUND)
        return
    if session.functions >= IMMEDIATE_COMMANDS_MAX:
        session.reject(request, RejectReason.TOO_MANY_IMMEDIATE)
        return
    units = {command.unit: None for command in session.commands.values() if command.executing}
    left = 1 + len(units)

    def settled() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            session.functions -= 1
            if not session.closing:
                _logout_response(session, request.itt, LogoutResponse.SUCCESS)
                session.end(LOGGED_OUT)

    session.functions += 1
    session.abort_all()
    for unit in units:
        if isinstance(unit, LogicalUnit):
            unit.abort_task_set(session, settled)
        else:
            settled()
    settled()


LOGGED_OUT: Final = "logged out"


def _logout_response(session: Session, itt: int, response: LogoutResponse) -> None:
    session.send(
        Opcode.LOGOUT_RESPONSE,
        word2=response << 8,
        itt=itt,
        words=(0, TIME_TO_WAIT_SECONDS << 16, 0),
    )


def snack(session: Session, request: Request, data: Buffer) -> None:
    """SNACK: there is no recovery at error recovery level 0 (RFC 7143 11.16)."""
    session.reject(request, RejectReason.SNACK)


HANDLERS: Final[Mapping[int, Handler]] = {
    Opcode.NOP_OUT: nop_out,
    Opcode.TASK_MANAGEMENT: task_management,
    Opcode.TEXT: text,
    Opcode.LOGOUT: logout,
    Opcode.SNACK: snack,
}
"""By opcode: what serves each request beside commands and data."""
