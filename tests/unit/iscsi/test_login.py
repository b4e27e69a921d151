"""Logins in every legal shape, and the status of each illegal one (RFC 7143 6.3 and 11.13.5)."""

from dataclasses import dataclass, field

import pytest

from pratima_iscsi.iscsi.chap import Account, AuthenticationError, Authenticator, Claimant
from pratima_iscsi.iscsi.directory import Directory, ServedTarget
from pratima_iscsi.iscsi.initiator import LoginError
from pratima_iscsi.iscsi.login import Login, LoginAnswer
from pratima_iscsi.iscsi.pdu import LoginStatus, Request
from pratima_iscsi.iscsi.text import Pairs, encode
from pratima_iscsi.limits import LOGIN_EXCHANGES_MAX, LOGIN_SECONDS_MAX, PORTAL_SESSIONS_MAX
from pratima_iscsi.scsi.target import Target
from tests.unit.iscsi.pair import ACCOUNT, INITIATOR, MUTUAL, TARGET, Lab

TRANSIT, CONTINUE = 0x80, 0x40
SECURITY_TO_OPERATIONAL = TRANSIT | 0 << 2 | 1
SECURITY_TO_FULL = TRANSIT | 0 << 2 | 3
OPERATIONAL_TO_FULL = TRANSIT | 1 << 2 | 3
IDENTITY = [("InitiatorName", INITIATOR), ("SessionType", "Normal"), ("TargetName", TARGET)]


@dataclass
class Desk:
    """A login by hand: each ``say`` is one Login Request."""

    lab: Lab = field(default_factory=Lab)

    def __post_init__(self) -> None:
        self.login = Login(self.lab.directory)

    def say(
        self,
        flags: int,
        pairs: Pairs | bytes = b"",
        *,
        isid: int = 0x800000000001,
        tsih: int = 0,
        itt: int = 7,
        version: int = 0,
    ) -> LoginAnswer:
        data = pairs if isinstance(pairs, bytes) else encode(pairs)
        lun = isid << 16 | tsih
        request = Request(0x43, flags, version, len(data), lun, itt, 0, 1, 0, bytes(16))
        return self.login.step(request, data)


def test_a_login_through_both_stages_ends_in_full_feature() -> None:
    desk = Desk()
    answer = desk.say(SECURITY_TO_OPERATIONAL, [*IDENTITY, ("AuthMethod", "CHAP,None")])
    assert answer.status == LoginStatus.SUCCESS
    assert answer.flags == SECURITY_TO_OPERATIONAL
    assert ("AuthMethod", "None") in answer.pairs
    assert ("TargetPortalGroupTag", "1") in answer.pairs
    answer = desk.say(OPERATIONAL_TO_FULL, [("InitialR2T", "No")])
    assert answer.flags == OPERATIONAL_TO_FULL
    assert dict(answer.pairs)["MaxRecvDataSegmentLength"] == "262144"
    assert desk.login.result is not None
    assert desk.login.result.target is desk.lab.target


def test_a_login_may_begin_in_the_operational_stage() -> None:
    desk = Desk()
    answer = desk.say(OPERATIONAL_TO_FULL, [*IDENTITY, ("HeaderDigest", "CRC32C")])
    assert answer.flags == OPERATIONAL_TO_FULL
    assert desk.login.result is not None and desk.login.result.parameters.header_digest


def test_a_login_may_leave_the_operational_stage_out() -> None:
    desk = Desk()
    assert desk.say(SECURITY_TO_FULL, IDENTITY).flags == SECURITY_TO_FULL
    assert desk.login.result is not None
    assert desk.login.result.parameters.receive_segment_bytes_max == 8192, "nothing was declared"


def test_stages_may_take_several_exchanges() -> None:
    desk = Desk()
    assert desk.say(0, IDENTITY).flags == 0
    assert desk.say(0, [("AuthMethod", "None")]).flags == 0
    assert desk.say(SECURITY_TO_OPERATIONAL).flags == SECURITY_TO_OPERATIONAL
    assert desk.say(1 << 2, [("InitialR2T", "Yes")]).flags == 1 << 2
    assert desk.say(OPERATIONAL_TO_FULL, [("ImmediateData", "Yes")]).flags == OPERATIONAL_TO_FULL


def test_keys_may_be_split_anywhere_over_requests() -> None:
    whole = encode([*IDENTITY, ("InitialR2T", "No"), ("HeaderDigest", "None")])
    for cut in range(1, len(whole), 7):
        desk = Desk()
        answer = desk.say(CONTINUE | 1 << 2, whole[:cut])
        assert (answer.flags, answer.pairs) == (1 << 2, []), "a request to go on"
        assert desk.say(OPERATIONAL_TO_FULL, whole[cut:]).flags == OPERATIONAL_TO_FULL


def test_the_burst_bounds_the_first_one_in_whatever_order_they_stand_rfc_7143_13_14() -> None:
    offers = [("FirstBurstLength", "65536"), ("MaxBurstLength", "32768")]
    for order in (offers, offers[::-1]):
        answer = dict(Desk().say(OPERATIONAL_TO_FULL, [*IDENTITY, *order]).pairs)
        assert (answer["FirstBurstLength"], answer["MaxBurstLength"]) == ("32768", "32768")


def test_a_target_that_a_discovery_login_names_means_nothing_also_in_parts_rfc_7143_13_4() -> None:
    whole = encode([IDENTITY[0], ("SessionType", "Discovery"), IDENTITY[2]])
    for cut in (0, 9, len(whole) - 3):
        desk = Desk()
        if cut:
            assert desk.say(CONTINUE | 1 << 2, whole[:cut]).status == LoginStatus.SUCCESS
        answer = desk.say(1 << 2, whole[cut:])
        assert answer.status == LoginStatus.SUCCESS, answer.reason
        assert desk.say(1 << 2, [IDENTITY[2]]).status == LoginStatus.SUCCESS
        changed = desk.say(1 << 2, [("TargetName", "iqn.2024-01.no.such:one")])
        assert changed.status == LoginStatus.INITIATOR_ERROR


@pytest.mark.parametrize(
    ("pairs", "status"),
    [
        ([], LoginStatus.MISSING_PARAMETER),
        (IDENTITY[:2], LoginStatus.MISSING_PARAMETER),
        (IDENTITY[1:], LoginStatus.MISSING_PARAMETER),
        ([IDENTITY[0], ("SessionType", "Odd")], LoginStatus.SESSION_TYPE_NOT_SUPPORTED),
        ([*IDENTITY[:2], ("TargetName", "iqn.2024-01.no.such:one")], LoginStatus.NOT_FOUND),
        ([("InitiatorName", "a b"), *IDENTITY[1:]], LoginStatus.INITIATOR_ERROR),
        ([*IDENTITY, IDENTITY[0]], LoginStatus.INITIATOR_ERROR),
        ([*IDENTITY, ("AuthMethod", "KRB5")], LoginStatus.AUTHENTICATION_FAILURE),
        ([*IDENTITY, ("CHAP_A", "5")], LoginStatus.AUTHENTICATION_FAILURE),
        (b"no pairs at all", LoginStatus.INITIATOR_ERROR),
        (b"\xff\xff=\0", LoginStatus.INITIATOR_ERROR),
    ],
)
def test_a_wrong_identity_has_its_status(pairs: Pairs | bytes, status: LoginStatus) -> None:
    answer = Desk().say(SECURITY_TO_OPERATIONAL, pairs)
    assert answer.status == status
    assert answer.reason


@pytest.mark.parametrize(
    "flags",
    [
        TRANSIT | CONTINUE | 1,
        TRANSIT | 0,
        TRANSIT | 2,
        3 << 2,
        2 << 2,
        TRANSIT | 1 << 2 | 1,
        TRANSIT | 1 << 2 | 0,
    ],
)
def test_an_impossible_transit_is_an_initiator_error(flags: int) -> None:
    assert Desk().say(flags, IDENTITY).status == LoginStatus.INITIATOR_ERROR


def test_a_stage_that_was_not_reached_is_an_initiator_error() -> None:
    desk = Desk()
    desk.say(0, IDENTITY)
    assert desk.say(OPERATIONAL_TO_FULL).status == LoginStatus.INITIATOR_ERROR


def test_itt_and_isid_stay_the_same() -> None:
    for itt, isid, tsih in ((8, 1, 0), (7, 2, 0), (7, 1, 1)):
        desk = Desk()
        desk.say(0, IDENTITY, itt=7, isid=1)
        answer = desk.say(SECURITY_TO_FULL, itt=itt, isid=isid, tsih=tsih)
        assert answer.status == LoginStatus.INITIATOR_ERROR


def test_other_versions_are_refused() -> None:
    answer = Desk().say(SECURITY_TO_FULL, IDENTITY, version=0x0201)
    assert answer.status == LoginStatus.UNSUPPORTED_VERSION


def test_an_identity_may_be_repeated_and_not_changed() -> None:
    desk = Desk()
    desk.say(0, IDENTITY)
    assert desk.say(0, IDENTITY).status == LoginStatus.SUCCESS
    answer = desk.say(0, [("TargetName", "iqn.2024-01.other:one")])
    assert answer.status == LoginStatus.INITIATOR_ERROR


def test_too_many_exchanges_end_the_login() -> None:
    desk = Desk()
    desk.say(0, IDENTITY)
    answers = [desk.say(0) for _ in range(LOGIN_EXCHANGES_MAX)]
    assert answers[-2].status == LoginStatus.SUCCESS
    assert answers[-1].status == LoginStatus.INITIATOR_ERROR


def test_only_admitted_initiators_log_in_to_a_target() -> None:
    lab = Lab(initiators=frozenset({"iqn.2024-01.other:host"}))
    answer = Desk(lab).say(SECURITY_TO_FULL, IDENTITY)
    assert answer.status == LoginStatus.AUTHORIZATION_FAILURE
    lab = Lab(initiators=frozenset({INITIATOR.upper()}))
    assert Desk(lab).say(SECURITY_TO_FULL, IDENTITY).status == LoginStatus.SUCCESS


def test_a_portal_that_shuts_down_takes_no_logins() -> None:
    desk = Desk()
    desk.lab.directory.open_to_logins = False
    assert desk.say(SECURITY_TO_FULL, IDENTITY).status == LoginStatus.OUT_OF_RESOURCES


# --- authentication ------------------------------------------------------------------------------


@pytest.mark.parametrize("account", [ACCOUNT, MUTUAL])
@pytest.mark.parametrize("algorithms", [("5",), ("7",), ("7", "5")])
def test_chap_logs_in_one_way_and_mutually(account: Account, algorithms: tuple[str, ...]) -> None:
    pair = Lab(accounts=(MUTUAL,)).pair(login=False, account=account)
    pair.initiator._claimant = Claimant(account, algorithms)
    pair.initiator.start_login()
    pair.settle()
    assert pair.initiator.logged_in
    assert pair.initiator._claimant.proven


@pytest.mark.parametrize(
    "account",
    [
        Account("host", "not the secret"),
        Account("somebody", "a secret of the host's"),
        Account("host", "a secret of the host's", "disk", "not the disk's secret"),
        None,
    ],
)
def test_whoever_does_not_know_the_secret_stays_out(account: Account | None) -> None:
    lab = Lab(accounts=(MUTUAL,))
    pair = lab.pair(login=False, account=account)
    pair.initiator.start_login()
    with pytest.raises(LoginError) as refused:
        pair.settle()
    assert refused.value.status == LoginStatus.AUTHENTICATION_FAILURE
    assert not lab.directory.sessions


def test_the_security_stage_cannot_be_left_out_where_chap_is_due() -> None:
    for flags in (OPERATIONAL_TO_FULL, SECURITY_TO_FULL, SECURITY_TO_OPERATIONAL):
        answer = Desk(Lab(accounts=(ACCOUNT,))).say(flags, IDENTITY)
        assert answer.status == LoginStatus.AUTHENTICATION_FAILURE


def test_a_transit_before_the_proof_is_not_taken() -> None:
    desk = Desk(Lab(accounts=(ACCOUNT,)))
    answer = desk.say(SECURITY_TO_FULL, [*IDENTITY, ("AuthMethod", "CHAP")])
    assert (answer.flags, answer.status) == (0, LoginStatus.SUCCESS)
    answer = desk.say(SECURITY_TO_FULL, [("CHAP_A", "7")])
    assert (answer.flags, answer.status) == (0, LoginStatus.SUCCESS)
    answer = desk.say(SECURITY_TO_FULL)
    assert answer.flags == 0 and desk.login.result is None


@pytest.mark.parametrize("offered", ["", "6", "55", "5x", "MD5", "0x5"])
def test_chap_algorithms_are_exact_tokens(offered: str) -> None:
    with pytest.raises(AuthenticationError):
        Authenticator([ACCOUNT]).step({"CHAP_A": offered})


def test_a_reflected_challenge_is_refused() -> None:
    target = Authenticator([MUTUAL])
    challenge = dict(target.step({"CHAP_A": "7"}))
    proof = dict(Claimant(ACCOUNT).prove(challenge))
    with pytest.raises(AuthenticationError, match="came back"):
        target.step({**proof, "CHAP_I": "1", "CHAP_C": challenge["CHAP_C"]})
    assert target.account is None


@pytest.mark.parametrize("response", ["", "0x", "0x12", "zz", "0b!", "0x" + "00" * 32])
def test_a_malformed_response_is_refused(response: str) -> None:
    target = Authenticator([ACCOUNT])
    target.step({"CHAP_A": "7"})
    with pytest.raises(AuthenticationError):
        target.step({"CHAP_N": "host", "CHAP_R": response})


def test_mutual_chap_needs_a_secret_of_the_target() -> None:
    target = Authenticator([ACCOUNT])
    proof = dict(Claimant(ACCOUNT).prove(dict(target.step({"CHAP_A": "5"}))))
    with pytest.raises(AuthenticationError):
        target.step({**proof, "CHAP_I": "1", "CHAP_C": "0x1234"})


def test_challenges_are_never_the_same() -> None:
    challenges = {dict(Authenticator([ACCOUNT]).step({"CHAP_A": "7"}))["CHAP_C"] for _ in range(50)}
    assert len(challenges) == 50


def test_secrets_do_not_show() -> None:
    assert "secret" not in repr(MUTUAL)


# --- discovery -----------------------------------------------------------------------------------


def _send_targets(lab: Lab, initiator: str, account: Account | None = None) -> list[str]:
    pair = lab.pair(target="", initiator=initiator, account=account)
    itt = pair.initiator.send_text([("SendTargets", "All")])
    pair.settle()
    answer = pair.initiator.finished_texts[itt]
    return [value for key, value in answer if key == "TargetName"]


def test_discovery_shows_only_what_the_initiator_may_use() -> None:
    lab = Lab()
    only = frozenset({"iqn.2024-01.test:second"})
    lab.directory.add(ServedTarget("iqn.2024-01.test:other", Target(), (), only))
    assert _send_targets(lab, INITIATOR) == [TARGET]
    assert _send_targets(lab, "iqn.2024-01.test:second") == [TARGET, "iqn.2024-01.test:other"]


def test_discovery_may_want_an_account() -> None:
    lab = Lab(discovery_accounts=(ACCOUNT,))
    assert _send_targets(lab, INITIATOR, ACCOUNT) == [TARGET]
    with pytest.raises(LoginError):
        _send_targets(lab, INITIATOR)


# --- sessions ------------------------------------------------------------------------------------


def test_a_login_with_the_same_isid_ends_the_old_session_first() -> None:
    lab = Lab()
    old = lab.pair(isid=1)
    new = lab.pair(isid=1)
    assert "reinstated" in old.closing
    assert old.wakes, "the edge is told to close it"
    assert not new.closing
    assert len(lab.directory.sessions) == 1
    assert new.run(bytes(6)).good


def test_another_isid_is_another_session() -> None:
    lab = Lab()
    first, second = lab.pair(isid=1), lab.pair(isid=2)
    assert not first.closing and not second.closing
    assert first.initiator.tsih != second.initiator.tsih


def test_a_second_connection_of_a_session_is_refused() -> None:
    desk = Desk()
    old = desk.lab.pair(isid=5)
    answer = desk.say(SECURITY_TO_FULL, IDENTITY, isid=5, tsih=old.initiator.tsih)
    assert answer.status == LoginStatus.TOO_MANY_CONNECTIONS
    desk = Desk(desk.lab)
    answer = desk.say(SECURITY_TO_FULL, IDENTITY, isid=5, tsih=4711)
    assert answer.status == LoginStatus.SESSION_DOES_NOT_EXIST


def test_sessions_are_bounded() -> None:
    lab = Lab()
    for number in range(PORTAL_SESSIONS_MAX):
        lab.pair(isid=number)
    pair = lab.pair(login=False, isid=9999)
    pair.initiator.start_login()
    with pytest.raises(LoginError) as refused:
        pair.settle()
    assert refused.value.status == LoginStatus.OUT_OF_RESOURCES
    assert lab.pair(isid=3).run(bytes(6)).good, "reinstatement needs no more room"


def test_two_targets_have_two_names() -> None:
    from pratima_iscsi.errors import UsageError

    lab = Lab()
    with pytest.raises(UsageError):
        Directory.of([lab.target, lab.target])
    with pytest.raises(UsageError):
        ServedTarget("not a name", Target())


def test_a_login_is_bounded_in_time() -> None:
    pair = Lab().pair(login=False)
    pair.connection.tick(LOGIN_SECONDS_MAX - 1)
    assert not pair.closing
    pair.connection.tick(LOGIN_SECONDS_MAX + 1)
    assert "no login" in pair.closing
    assert pair.wakes == 1


@pytest.mark.parametrize("opcode", [0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x10, 0x1F, 0x3F, 0x41])
def test_nothing_but_logins_is_served_before_the_login(opcode: int) -> None:
    pair = Lab().pair(login=False)
    pair.send(pair.header(opcode))
    assert pair.closing
    assert not pair.connection.take()


def test_a_login_request_is_bounded_in_size() -> None:
    for lengths in (8193, 0xFFFFFF, 1 << 24):
        pair = Lab().pair(login=False)
        pair.send(pair.header(0x43, lengths=lengths))
        assert pair.closing, "closed before the data came"
