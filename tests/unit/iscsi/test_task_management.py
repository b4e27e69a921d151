"""Task management, logout and reinstatement: no response for what was aborted, no ghost write."""

import pytest

from pratima_iscsi.iscsi.pdu import Function, FunctionResponse, Opcode
from pratima_iscsi.iscsi.ticket import Ticket
from pratima_iscsi.limits import IMMEDIATE_COMMANDS_MAX, QUEUE_DEPTH_MAX
from tests.unit.iscsi.pair import Lab, Pair, read_10, write_10

SOLICITED = {"InitialR2T": "Yes", "ImmediateData": "No"}
UNIT_WIDE = [
    Function.ABORT_TASK_SET,
    Function.CLEAR_TASK_SET,
    Function.LOGICAL_UNIT_RESET,
    Function.TARGET_WARM_RESET,
]


def waiting_for_disk(pair: Pair) -> Ticket:
    """A write that the volume has taken and not yet settled."""
    pair.lab.storage.deferred = True
    ticket = pair.submit(write_10(0, 1), b"a" * 512)
    pair.settle()
    assert not ticket.settled
    return ticket


def waiting_for_data(pair: Pair) -> Ticket:
    """A write whose data was asked for and has not come."""
    pair.initiator.answer_r2ts = False
    ticket = pair.submit(write_10(0, 1), b"a" * 512)
    pair.settle()
    assert not ticket.settled
    return ticket


def manage(pair: Pair, function: Function, ticket: Ticket | None = None, lun: int = 0) -> int:
    """Send a function and carry bytes; gives its ITT."""
    itt = pair.initiator.manage(function, lun, ticket)
    pair.settle()
    return itt


@pytest.mark.parametrize("function", [Function.ABORT_TASK, *UNIT_WIDE])
def test_the_answer_waits_until_aborted_writes_have_settled(function: Function) -> None:
    lab = Lab()
    pair = lab.pair()
    ticket = waiting_for_disk(pair)
    itt = manage(pair, function, ticket)
    assert pair.initiator.functions[itt] == -1, "the write may still reach the volume"
    lab.storage.complete()
    pair.settle()
    assert pair.initiator.functions[itt] == FunctionResponse.COMPLETE
    assert not ticket.settled, "an aborted task gives no response"
    assert pair.initiator.window == QUEUE_DEPTH_MAX, "its place in the window is free"


@pytest.mark.parametrize("function", [Function.ABORT_TASK, *UNIT_WIDE])
def test_a_write_that_waits_for_data_never_happens(function: Function) -> None:
    lab = Lab()
    pair = lab.pair(offers=SOLICITED)
    ticket = waiting_for_data(pair)
    r2t = pair.of(Opcode.R2T)[-1]
    itt = manage(pair, function, ticket)
    assert pair.initiator.functions[itt] == FunctionResponse.COMPLETE
    pair.initiator._send_data(ticket, r2t.word20, 0, 512, 0)
    pair.settle()
    assert not ticket.settled and not pair.closing
    assert not any(call[0] == "write" for call in lab.storage.calls)
    assert bytes(lab.storage.data[:512]) == bytes(512)


def test_aborting_what_does_not_exist_says_so() -> None:
    pair = Lab().pair()
    ticket = pair.run(bytes(6))
    itt = manage(pair, Function.ABORT_TASK, ticket)
    assert pair.initiator.functions[itt] == FunctionResponse.TASK_DOES_NOT_EXIST
    itt = manage(pair, Function.ABORT_TASK, lun=5)
    assert pair.initiator.functions[itt] == FunctionResponse.LUN_DOES_NOT_EXIST
    itt = manage(pair, Function.LOGICAL_UNIT_RESET, lun=5)
    assert pair.initiator.functions[itt] == FunctionResponse.LUN_DOES_NOT_EXIST


@pytest.mark.parametrize(
    ("function", "response"),
    [
        (Function.CLEAR_ACA, FunctionResponse.NOT_SUPPORTED),
        (Function.TASK_REASSIGN, FunctionResponse.REASSIGN_NOT_SUPPORTED),
    ],
)
def test_functions_that_are_not_offered(function: Function, response: FunctionResponse) -> None:
    pair = Lab().pair()
    assert pair.initiator.functions[manage(pair, function)] == response


def test_abort_task_set_leaves_other_sessions_alone() -> None:
    lab = Lab()
    ours, theirs = lab.pair(), lab.pair()
    other = waiting_for_disk(theirs)
    mine = waiting_for_disk(ours)
    manage(ours, Function.ABORT_TASK_SET)
    lab.storage.complete()
    ours.settle()
    theirs.settle()
    assert other.good and not mine.settled


@pytest.mark.parametrize("function", [Function.CLEAR_TASK_SET, Function.LOGICAL_UNIT_RESET])
def test_other_sessions_are_told_that_their_tasks_were_aborted(function: Function) -> None:
    lab = Lab()
    ours, theirs = lab.pair(), lab.pair()
    other = waiting_for_disk(theirs)
    manage(ours, function)
    assert not other.settled, "not before it has settled"
    lab.storage.complete()
    ours.settle()
    theirs.settle()
    assert other.status == 0x40, "TASK ABORTED"
    assert theirs.initiator.window == QUEUE_DEPTH_MAX


def test_other_sessions_tasks_that_wait_for_data_are_aborted_too() -> None:
    lab = Lab()
    ours, theirs = lab.pair(), lab.pair(offers=SOLICITED)
    other = waiting_for_data(theirs)
    manage(ours, Function.LOGICAL_UNIT_RESET)
    theirs.settle()
    assert other.status == 0x40
    assert not any(call[0] == "write" for call in lab.storage.calls)


def test_a_cold_reset_ends_every_session_of_the_target() -> None:
    lab = Lab()
    ours, theirs = lab.pair(), lab.pair()
    itt = manage(ours, Function.TARGET_COLD_RESET)
    assert ours.initiator.functions[itt] == FunctionResponse.COMPLETE
    assert ours.closing == theirs.closing == "target cold reset"
    assert not lab.directory.sessions


def test_functions_under_way_are_bounded() -> None:
    lab = Lab()
    pair = lab.pair()
    waiting_for_disk(pair)
    itts = [manage(pair, Function.ABORT_TASK_SET) for _ in range(IMMEDIATE_COMMANDS_MAX + 1)]
    assert pair.initiator.functions[itts[-1]] == FunctionResponse.REJECTED
    lab.storage.complete()
    pair.settle()
    assert all(pair.initiator.functions[itt] == 0 for itt in itts[:-1])


def test_an_itt_may_be_used_again_after_its_abort() -> None:
    lab = Lab()
    pair = lab.pair()
    ticket = waiting_for_disk(pair)
    held = pair.initiator.manage(Function.ABORT_TASK, 0, ticket)
    pair.settle()
    pair.initiator.forget([ticket])
    again = Ticket(read_10(0, 1), b"", 512)
    pair.initiator._itt = ticket.itt - 1
    pair.initiator.submit(again)
    assert again.itt == ticket.itt
    pair.settle()
    lab.storage.complete()
    pair.settle()
    assert again.good and pair.initiator.functions[held] == 0


# --- logout and the end --------------------------------------------------------------------------


def test_a_logout_waits_for_writes_under_way() -> None:
    lab = Lab()
    pair = lab.pair()
    ticket = waiting_for_disk(pair)
    pair.initiator.start_logout()
    pair.settle()
    assert not pair.of(Opcode.LOGOUT_RESPONSE)
    lab.storage.complete()
    pair.settle()
    assert pair.initiator.logged_out and not ticket.settled
    assert pair.closing == "logged out"


@pytest.mark.parametrize(("reason", "cid", "response"), [(2, 0, 2), (1, 9, 1)])
def test_other_logouts_are_answered_and_the_session_stays(
    reason: int, cid: int, response: int
) -> None:
    pair = Lab().pair()
    pair.send(pair.header(0x46, flags=0x80 | reason, word20=cid << 16))
    pair.settle()
    assert pair.of(Opcode.LOGOUT_RESPONSE)[-1].response == response
    assert not pair.closing


def test_a_lost_connection_frees_session_and_nexus_and_writes_nothing_more() -> None:
    lab = Lab()
    pair = lab.pair(offers=SOLICITED)
    waiting_for_data(pair)
    pair.connection.lost("gone")
    assert not lab.directory.sessions
    lab.storage.complete()
    assert not any(call[0] == "write" for call in lab.storage.calls)


def test_completions_after_the_end_reach_nobody() -> None:
    lab = Lab()
    pair = lab.pair()
    waiting_for_disk(pair)
    pair.connection.lost("gone")
    pair.connection.take()
    lab.storage.complete()
    assert not pair.connection.take()


def test_reinstatement_aborts_what_the_old_session_had_begun() -> None:
    lab = Lab()
    old = lab.pair(isid=1, offers=SOLICITED)
    waiting_for_data(old)
    new = lab.pair(isid=1)
    assert old.closing and not any(call[0] == "write" for call in lab.storage.calls)
    assert new.run(write_10(0, 1), b"n" * 512).good
