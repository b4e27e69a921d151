"""The login phase, the target's side (RFC 7143 6.3): one exchange at a time, sans I/O.

    SECURITY ──T──► OPERATIONAL ──T──► FULL FEATURE
        └───────────────T──────────────────┘        (a login may begin in SECURITY or OPERATIONAL)

One rule: every way out is either the full feature phase, with all that the initiator had to prove
proved, or a status that tells why not, after which the connection is closed.
"""

from dataclasses import dataclass
from typing import Final

from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.iscsi.chap import Account, AuthenticationError, Authenticator
from pratima_iscsi.iscsi.directory import PORTAL_GROUP_TAG, Directory, ServedTarget, SessionKey
from pratima_iscsi.iscsi.names import normalized_initiator
from pratima_iscsi.iscsi.negotiation import FIRST_BURST, Offer, Parameters
from pratima_iscsi.iscsi.pdu import CONTINUE, TRANSIT, LoginStatus, Request, Stage
from pratima_iscsi.iscsi.text import NONE, Pairs, decode
from pratima_iscsi.limits import LOGIN_EXCHANGES_MAX, TEXT_BYTES_MAX
from pratima_iscsi.operations import Buffer

CHAP: Final = "CHAP"
AUTH_METHOD: Final = "AuthMethod"
CHAP_KEYS: Final = frozenset({"CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"})
IDENTITY_KEYS: Final = frozenset({"InitiatorName", "SessionType", "TargetName"})
DECLARED_KEYS: Final = frozenset({"InitiatorAlias"})
ISID_SHIFT: Final = 16
TSIH_MASK: Final = 0xFFFF
NEXT_STAGES: Final = {
    Stage.SECURITY: (Stage.OPERATIONAL, Stage.FULL_FEATURE),
    Stage.OPERATIONAL: (Stage.FULL_FEATURE,),
}


class LoginRefusedError(Exception):
    """Ends the login with a status."""

    def __init__(self, status: LoginStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class LoginAnswer:
    """What goes into one Login Response: flags with the stages, text, status."""

    flags: int
    pairs: Pairs
    status: LoginStatus = LoginStatus.SUCCESS
    reason: str = ""
    """Why the login was refused, for the log."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """What a login has established."""

    initiator: str
    isid: int
    cid: int
    target: ServedTarget | None
    """None in a discovery session."""
    parameters: Parameters

    @property
    def key(self) -> SessionKey:
        """What the directory knows the session by."""
        return (self.initiator, self.isid, self.target.name if self.target else "")


class Login:
    """One login: ``step`` for each request, until ``result`` is there or a status refuses it."""

    __slots__ = (
        "_authenticated",
        "_authenticator",
        "_directory",
        "_exchanges",
        "_first",
        "_initiator",
        "_named",
        "_offer",
        "_partial",
        "_stage",
        "_target",
        "result",
    )

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._first: Request | None = None
        self._exchanges = 0
        self._stage = Stage.SECURITY
        self._partial = b""
        self._initiator = ""
        self._named = ""
        """The target that was named first; to a discovery session it means nothing."""
        self._target: ServedTarget | None = None
        self._authenticated = False
        self._authenticator: Authenticator | None = None
        self._offer = Offer()
        self.result: LoggedIn | None = None

    def step(self, request: Request, data: Buffer) -> LoginAnswer:
        """Answer one Login Request."""
        try:
            return self._step(request, data)
        except LoginRefusedError as refusal:
            return LoginAnswer(0, [], refusal.status, str(refusal))
        except RemoteProtocolError as error:
            return LoginAnswer(0, [], LoginStatus.INITIATOR_ERROR, str(error))
        except AuthenticationError as error:
            return LoginAnswer(0, [], LoginStatus.AUTHENTICATION_FAILURE, str(error))

    def _step(self, request: Request, data: Buffer) -> LoginAnswer:
        current = request.flags >> 2 & 3
        self._check_header(request, current)
        if len(self._partial) + len(data) > TEXT_BYTES_MAX:
            raise RemoteProtocolError("the login text is too long")
        text = self._partial + bytes(data)
        if request.flags & CONTINUE:
            self._partial = text
            return LoginAnswer(current << 2, [])
        self._partial = b""
        keys = decode(text)
        names = [key for key, _ in keys]
        if len(set(names)) != len(names):
            raise RemoteProtocolError("a key stands twice in one request")
        pairs: Pairs = []
        if not self._initiator:
            pairs += self._identify(request, dict(keys))
            self._named = dict(keys).get("TargetName", "").lower()
        pairs += self._answer(dict(keys))
        return self._conclude(request, pairs)

    def _check_header(self, request: Request, current: int) -> None:
        self._exchanges += 1
        if self._exchanges > LOGIN_EXCHANGES_MAX:
            raise RemoteProtocolError(f"the login took more than {LOGIN_EXCHANGES_MAX} exchanges")
        if request.word2 & 0xFF:
            raise LoginRefusedError(LoginStatus.UNSUPPORTED_VERSION, "only version 0 is supported")
        if self._first is None:
            if current not in NEXT_STAGES:
                raise RemoteProtocolError(f"a login cannot begin in stage {current}")
            self._first = request
            self._stage = Stage(current)
        first = self._first
        if (request.itt, request.lun, request.word20 >> 16) != (
            first.itt,
            first.lun,
            first.word20 >> 16,
        ):
            raise RemoteProtocolError("ITT, ISID, TSIH or CID changed during the login")
        if current != self._stage:
            raise RemoteProtocolError(f"stage {current} in a request, {self._stage} was reached")
        if request.flags & TRANSIT:
            if request.flags & CONTINUE:
                raise RemoteProtocolError("T and C are both set")
            if request.flags & 3 not in NEXT_STAGES[self._stage]:
                raise RemoteProtocolError(f"no transit from {current} to {request.flags & 3}")

    # --- who and what ----------------------------------------------------------------------------

    def _identify(self, request: Request, keys: dict[str, str]) -> Pairs:
        """Learn who logs in to what, from the first whole request."""
        if "InitiatorName" not in keys:
            raise LoginRefusedError(LoginStatus.MISSING_PARAMETER, "InitiatorName is missing")
        try:
            initiator = normalized_initiator(keys["InitiatorName"])
        except ValueError as error:
            raise RemoteProtocolError(str(error)) from error
        kind = keys.get("SessionType", "Normal")
        if kind not in ("Normal", "Discovery"):
            raise LoginRefusedError(
                LoginStatus.SESSION_TYPE_NOT_SUPPORTED, f"SessionType is {kind[:32]!r}"
            )
        if not self._directory.open_to_logins:
            raise LoginRefusedError(LoginStatus.OUT_OF_RESOURCES, "the portal is shutting down")
        pairs: Pairs = []
        if kind == "Normal":
            self._target = self._find_target(initiator, keys)
            if self._target.alias:
                pairs.append(("TargetAlias", self._target.alias))
            pairs.append(("TargetPortalGroupTag", str(PORTAL_GROUP_TAG)))
        self._offer = Offer(discovery=kind == "Discovery")
        self._initiator = initiator
        self._check_tsih(request)
        self._authenticated = not self._accounts
        if self._stage == Stage.OPERATIONAL and not self._authenticated:
            raise AuthenticationError("authentication is due and its stage was left out")
        return pairs

    def _find_target(self, initiator: str, keys: dict[str, str]) -> ServedTarget:
        name = keys.get("TargetName", "").lower()
        if not name:
            raise LoginRefusedError(LoginStatus.MISSING_PARAMETER, "TargetName is missing")
        target = self._directory.targets.get(name)
        if target is None:
            raise LoginRefusedError(LoginStatus.NOT_FOUND, f"there is no target {name[:223]!r}")
        if not target.admits(initiator):
            raise LoginRefusedError(
                LoginStatus.AUTHORIZATION_FAILURE, f"{initiator} may not use {name}"
            )
        return target

    def _check_tsih(self, request: Request) -> None:
        """A TSIH other than 0 would add a connection to a session (RFC 7143 6.3.1).

        MaxConnections is 1, so that a known session has no room for one.
        """
        tsih = request.lun & TSIH_MASK
        if tsih == 0:
            return
        if tsih == self._directory.tsih_of(self._key(request)):
            raise LoginRefusedError(
                LoginStatus.TOO_MANY_CONNECTIONS, "the session has its one connection"
            )
        raise LoginRefusedError(
            LoginStatus.SESSION_DOES_NOT_EXIST, f"there is no session with TSIH {tsih}"
        )

    def _key(self, request: Request) -> SessionKey:
        target = self._target.name if self._target else ""
        return (self._initiator, request.lun >> ISID_SHIFT, target)

    @property
    def _accounts(self) -> tuple[Account, ...]:
        return self._target.accounts if self._target else self._directory.discovery_accounts

    # --- the keys --------------------------------------------------------------------------------

    def _answer(self, keys: dict[str, str]) -> Pairs:
        pairs: Pairs = []
        # What bounds a first burst is settled before it, wherever in the text it stands.
        for key, value in sorted(keys.items(), key=lambda pair: pair[0] == FIRST_BURST):
            if key in IDENTITY_KEYS:
                if self._exchanges > 1 and not self._is_first(key, value):
                    raise RemoteProtocolError(f"{key} changed during the login")
            elif key in CHAP_KEYS or key in DECLARED_KEYS:
                continue
            elif key == AUTH_METHOD:
                pairs.append((key, self._choose_method(value)))
            else:
                answer = self._offer.answer(key, value)
                if answer is not None:
                    pairs.append((key, answer))
        pairs += self._authenticate(keys)
        if self._stage == Stage.OPERATIONAL:
            pairs += self._offer.declare()
        return pairs

    def _is_first(self, key: str, value: str) -> bool:
        """Whether a repeated identity key says what the first one said."""
        if key == "InitiatorName":
            return value.lower() == self._initiator
        if key == "TargetName":
            return value.lower() == self._named
        return value == ("Normal" if self._target else "Discovery")

    def _choose_method(self, value: str) -> str:
        if self._stage != Stage.SECURITY or self._authenticator is not None:
            raise RemoteProtocolError("AuthMethod out of its place")
        offered = value.split(",")
        if self._authenticated:
            if NONE in offered:
                return NONE
            raise AuthenticationError("AuthMethod None is not offered, and no account is set")
        if CHAP not in offered:
            raise AuthenticationError("AuthMethod CHAP is required")
        self._authenticator = Authenticator(self._accounts)
        return CHAP

    def _authenticate(self, keys: dict[str, str]) -> Pairs:
        chap = {key: value for key, value in keys.items() if key in CHAP_KEYS}
        if not chap:
            return []
        if self._authenticator is None or self._stage != Stage.SECURITY:
            raise AuthenticationError("CHAP keys without AuthMethod=CHAP")
        pairs = self._authenticator.step(chap)
        self._authenticated = self._authenticator.account is not None
        return pairs

    # --- the way on ------------------------------------------------------------------------------

    def _conclude(self, request: Request, pairs: Pairs) -> LoginAnswer:
        current = int(self._stage) << 2
        if not request.flags & TRANSIT:
            return LoginAnswer(current, pairs)
        if not self._authenticated:
            if self._authenticator is None:
                raise AuthenticationError("authentication is due and was not begun")
            return LoginAnswer(current, pairs)
        following = Stage(request.flags & 3)
        if following == Stage.FULL_FEATURE:
            if not self._directory.has_room(self._key(request)):
                raise LoginRefusedError(LoginStatus.OUT_OF_RESOURCES, "there are too many sessions")
            self.result = LoggedIn(
                self._initiator,
                request.lun >> ISID_SHIFT,
                request.word20 >> 16,
                self._target,
                self._offer.concluded(),
            )
        self._stage = following
        return LoginAnswer(TRANSIT | current | int(following), pairs)
