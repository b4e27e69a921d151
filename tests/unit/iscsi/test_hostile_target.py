"""Our initiator against a target that breaks the rules: a named error, and nothing grows."""

import pytest

from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.iscsi.initiator import InitiatorSession, LoginError
from pratima_iscsi.iscsi.pdu import CONTINUE, RESPONSE, TRANSIT, Opcode
from pratima_iscsi.limits import TEXT_BYTES_MAX
from tests.unit.iscsi.pair import ACCOUNT, INITIATOR, TARGET, Lab

PART = b"X-" * 4096


def logging_in(*, chap: bool = False) -> InitiatorSession:
    """A session that has sent its first Login Request."""
    account = ACCOUNT if chap else None
    session = InitiatorSession(initiator=INITIATOR, target=TARGET, account=account)
    session.start_login()
    return session


def response(opcode: Opcode, flags: int, itt: int, data: bytes = b"") -> memoryview:
    """A PDU of the target's with nothing else in it."""
    header = RESPONSE.pack(opcode, flags, 0, len(data), 0, itt, 1, 1, 1, 1, 0, 0, 0)
    return memoryview(header + data + bytes(-len(data) & 3))


@pytest.mark.parametrize("stage", [0, 2])
def test_a_login_that_goes_on_to_no_later_stage(stage: int) -> None:
    session = logging_in()
    operational = 1
    session._stage = type(session._stage)(operational)
    with pytest.raises(RemoteProtocolError, match=f"login stage {stage}"):
        session.receive(response(Opcode.LOGIN_RESPONSE, TRANSIT | stage, session._itt))


@pytest.mark.parametrize(
    "challenge",
    [
        b"CHAP_A=7\0CHAP_I=1\0CHAP_C=zz\0",
        b"CHAP_A=7\0CHAP_I=999\0CHAP_C=0x00\0",
        b"CHAP_A=1\0CHAP_I=1\0CHAP_C=0x00\0",
        b"CHAP_C=0x00\0",
    ],
)
def test_a_challenge_that_is_none(challenge: bytes) -> None:
    session = logging_in(chap=True)
    with pytest.raises(LoginError):
        session.receive(response(Opcode.LOGIN_RESPONSE, 0, session._itt, challenge))


def test_a_login_text_without_end() -> None:
    session = logging_in()
    with pytest.raises(RemoteProtocolError, match="does not end"):
        for _ in range(TEXT_BYTES_MAX // len(PART) + 1):
            session.receive(response(Opcode.LOGIN_RESPONSE, CONTINUE, session._itt, PART))


def test_an_answer_to_a_text_without_end() -> None:
    session = Lab().pair().initiator
    itt = session.send_text([("SendTargets", "")])
    with pytest.raises(RemoteProtocolError, match="does not end"):
        for _ in range(TEXT_BYTES_MAX // len(PART) + 1):
            session.receive(response(Opcode.TEXT_RESPONSE, CONTINUE, itt, PART))
