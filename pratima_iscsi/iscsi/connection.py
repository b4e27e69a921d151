"""One connection to the portal, sans I/O: the login phase, then its session.

The edge gives it received bytes and ticks, takes what is to be sent, and closes when ``closing``
says why. One rule: before the login has ended nothing but Login Requests is served.
"""

from collections.abc import Callable
from typing import Final

from pratima_iscsi.iscsi.directory import Directory
from pratima_iscsi.iscsi.exchanges import HANDLERS, ping, request_logout
from pratima_iscsi.iscsi.login import ISID_SHIFT, Login, LoginAnswer
from pratima_iscsi.iscsi.pdu import (
    BHS_BYTES,
    OPCODE_MASK,
    PAD,
    RESPONSE,
    SERIAL_MASK,
    LoginStatus,
    Opcode,
    Request,
    decode_request,
)
from pratima_iscsi.iscsi.session import Session
from pratima_iscsi.iscsi.text import encode
from pratima_iscsi.limits import (
    LOGIN_BUFFER_BYTES,
    LOGIN_PDU_BYTES_MAX,
    LOGIN_SECONDS_MAX,
    PING_SECONDS,
    PING_TIMEOUT_SECONDS,
    QUEUE_DEPTH_MAX,
    RECEIVE_BUFFER_BYTES,
)
from pratima_iscsi.operations import Buffer

STATUS_SHIFT: Final = 16
PEER_CLOSED: Final = "the initiator closed the connection"


class Connection:
    """One TCP connection's protocol state.

    ``portal_address`` is what SendTargets tells, ``now`` a monotonic time in seconds. ``wake`` is
    called when something is to be taken that no call of the edge brought about.
    """

    __slots__ = (
        "_closing",
        "_directory",
        "_heard_at",
        "_login",
        "_out",
        "_pinged_at",
        "_received",
        "_stat_sn",
        "_wake",
        "portal_address",
        "session",
        "started",
    )

    def __init__(
        self, directory: Directory, portal_address: str, wake: Callable[[], None], now: float
    ) -> None:
        self._directory = directory
        self.portal_address = portal_address
        self._wake = wake
        self.started = now
        self.session: Session | None = None
        self._login = Login(directory)
        self._out: list[Buffer] = []
        self._closing = ""
        self._stat_sn = 1
        self._heard_at = now
        self._received = False
        self._pinged_at: float | None = None

    @property
    def closing(self) -> str:
        """Why the connection is to be closed once its answers are sent; empty while it is not."""
        return self.session.closing if self.session is not None else self._closing

    @property
    def buffer_bytes(self) -> int:
        """How much the edge's receive buffer has to hold now."""
        return LOGIN_BUFFER_BYTES if self.session is None else RECEIVE_BUFFER_BYTES

    def receive(self, view: memoryview) -> int:
        """Serve the whole PDUs in ``view``; gives the bytes consumed. Nothing of it is kept."""
        self._received = True
        session = self.session
        if session is not None:
            return session.receive(view)
        offset = 0
        while not self.closing:
            consumed = self._receive_login(view[offset:])
            if consumed == 0:
                break
            offset += consumed
            if self.session is not None:
                return offset + self.session.receive(view[offset:])
        return len(view) if self.closing else offset

    def take(self) -> list[Buffer]:
        """What is to be sent, in this order."""
        if self.session is None:
            out = self._out
            self._out = []
            return out
        if self._out:  # The response that ended the login goes before the session's answers.
            out = self._out + self.session.take()
            self._out = []
            return out
        return self.session.take()

    def flushed(self) -> None:
        """The socket has taken all that was taken from here."""
        if self.session is not None:
            self.session.flushed()

    def lost(self, reason: str) -> None:
        """The connection is gone, or has to go at once."""
        if self.session is not None:
            self.session.end(reason)
        elif not self._closing:
            self._closing = reason

    @property
    def target(self) -> str | None:
        """The name of the target that it is logged in to, "" for discovery, None before that."""
        return None if self.session is None else self.session.logged_in.key[2]

    def request_logout(self, seconds: int, reason: str) -> None:
        """Ask the initiator to log out; a connection that still logs in is closed."""
        if self.session is None:
            self.lost(reason)
            self._wake()
        elif not self.session.closing:
            request_logout(self.session, seconds)

    def excuse(self, seconds: float, now: float) -> None:
        """Our own loop was late by ``seconds``: that is no silence of the initiator's."""
        self.started = min(now, self.started + seconds)
        self._heard_at = min(now, self._heard_at + seconds)
        if self._pinged_at is not None:
            self._pinged_at = min(now, self._pinged_at + seconds)

    def tick(self, now: float) -> None:
        """Time passes: bound the login, ping a silent initiator, drop one that stays silent."""
        if self._received:
            self._received = False
            self._pinged_at = None
            self._heard_at = now
        if self.closing:
            return
        if self.session is None:
            if now - self.started > LOGIN_SECONDS_MAX:
                self._closing = f"no login within {LOGIN_SECONDS_MAX:.0f} s"
                self._wake()
            return
        silence = now - self._heard_at
        if self._pinged_at is None:
            if silence > PING_SECONDS:
                self._pinged_at = now
                ping(self.session)
        elif now - self._pinged_at > PING_TIMEOUT_SECONDS - PING_SECONDS:
            self.session.end(f"nothing heard for {silence:.0f} s, and a ping was not answered")

    # --- the login phase -------------------------------------------------------------------------

    def _receive_login(self, view: memoryview) -> int:
        if len(view) < BHS_BYTES:
            return 0
        request = decode_request(view)
        if request.opcode & OPCODE_MASK != Opcode.LOGIN:
            self._closing = f"opcode {request.opcode:#x} before the login"
            return 0
        length = request.data_length
        if request.ahs_length or length > LOGIN_PDU_BYTES_MAX:
            self._closing = f"a Login Request with {length} bytes of data, or with AHS"
            return 0
        end = BHS_BYTES + length
        following = end + (-length & 3)
        if following > len(view):
            return 0
        answer = self._login.step(request, view[BHS_BYTES:end])
        if answer.status:
            self._closing = f"login refused: {answer.reason}"
        self._respond(request, answer)
        return following

    def _respond(self, request: Request, answer: LoginAnswer) -> None:
        """A Login Response; the one that ends the login opens the session before it is sent."""
        stat_sn = self._stat_sn
        self._stat_sn = (stat_sn + 1) & SERIAL_MASK
        lun = request.lun
        result = self._login.result
        if result is not None and answer.status == LoginStatus.SUCCESS:
            self.session = Session(
                result,
                self._directory,
                HANDLERS,
                portal_address=self.portal_address,
                stat_sn=self._stat_sn,
                cmd_sn=request.cmd_sn,
                wake=self._wake,
            )
            lun = result.isid << ISID_SHIFT | self.session.tsih
        data = encode(answer.pairs)
        header = RESPONSE.pack(
            Opcode.LOGIN_RESPONSE,
            answer.flags,
            0,
            len(data),
            lun,
            request.itt,
            0,
            stat_sn,
            request.cmd_sn,
            (request.cmd_sn + QUEUE_DEPTH_MAX - 1) & SERIAL_MASK,
            answer.status << STATUS_SHIFT,
            0,
            0,
        )
        self._out += [header, data, PAD[-len(data) & 3]]
