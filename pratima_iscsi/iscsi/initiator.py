"""The initiator's side of a session, sans I/O: login, commands, text, task management, logout.

It shares the portal's layouts and negotiation keys, and serves the quick start, the oracle and the
tests; it is no general initiator (one connection, error recovery level 0). ``receive`` takes bytes
and answers R2Ts and pings; ``out`` holds what is to be sent. One rule: a ``Ticket`` is settled when
its response came or the connection ended.
"""

import secrets
from collections.abc import Iterable
from typing import Final

from pratima_iscsi.errors import PratimaError, RemoteProtocolError
from pratima_iscsi.iscsi.chap import Account, AuthenticationError, Claimant
from pratima_iscsi.iscsi.digests import digest
from pratima_iscsi.iscsi.pdu import (
    BHS_BYTES,
    COMMAND_READ,
    COMMAND_WRITE,
    CONTINUE,
    DATA_STATUS,
    DIGEST_BYTES,
    FINAL,
    IMMEDIATE,
    OPCODE_MASK,
    PAD,
    RESERVED_TAG,
    RESIDUAL_OVERFLOW,
    RESIDUAL_UNDERFLOW,
    SENSE_LENGTH,
    SERIAL_MASK,
    TAIL_WORDS,
    TRANSIT,
    Function,
    LoginStatus,
    LogoutReason,
    Opcode,
    Request,
    Response,
    Stage,
    decode_response,
    serial_before,
)
from pratima_iscsi.iscsi.text import NONE, Pairs, decode, decode_number, encode
from pratima_iscsi.iscsi.ticket import Ticket
from pratima_iscsi.limits import (
    BURST_BYTES_MAX,
    FIRST_BURST_BYTES_MAX,
    LOGIN_PDU_BYTES_MAX,
    RECEIVE_SEGMENT_BYTES_MAX,
    TEXT_ANSWER_KEYS_MAX,
    TEXT_BYTES_MAX,
)
from pratima_iscsi.operations import Buffer

SIMPLE: Final = 1
"""Task attribute SIMPLE (RFC 7143 11.3.1)."""

CDB_BYTES: Final = 16
STATUS_SHIFT: Final = 16
STAGES: Final = frozenset(int(stage) for stage in Stage)
DISCOVERY_OFFERS: Final[dict[str, str]] = {
    "HeaderDigest": NONE,
    "DataDigest": NONE,
    "MaxRecvDataSegmentLength": str(RECEIVE_SEGMENT_BYTES_MAX),
    "ErrorRecoveryLevel": "0",
}
OFFERS: Final[dict[str, str]] = {
    **DISCOVERY_OFFERS,
    "MaxConnections": "1",
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxBurstLength": str(BURST_BYTES_MAX),
    "FirstBurstLength": str(FIRST_BURST_BYTES_MAX),
    "DefaultTime2Wait": "2",
    "DefaultTime2Retain": "0",
    "MaxOutstandingR2T": "1",
    "DataPDUInOrder": "Yes",
    "DataSequenceInOrder": "Yes",
}
"""What is offered in the operational stage, unless ``offers`` says otherwise."""

RFC_DEFAULTS: Final[dict[str, str]] = {
    "HeaderDigest": NONE,
    "DataDigest": NONE,
    "InitialR2T": "Yes",
    "ImmediateData": "Yes",
    "MaxBurstLength": "262144",
    "FirstBurstLength": "65536",
}
"""What holds of a key that neither side named (RFC 7143 13)."""


class LoginError(PratimaError):
    """The target refused the login: ``status`` is its class and detail."""

    def __init__(self, status: int, reason: str = "") -> None:
        super().__init__(reason or f"login refused with status {status:04x}")
        self.status = status


class InitiatorSession:
    """One session. ``target`` empty: a discovery session. ``offers`` overrides ``OFFERS``."""

    def __init__(
        self,
        *,
        initiator: str,
        target: str = "",
        account: Account | None = None,
        offers: dict[str, str] | None = None,
        isid: int | None = None,
    ) -> None:
        self.initiator = initiator
        self.target = target
        self.isid = isid if isid is not None else 0x80 << 40 | secrets.randbits(40)
        self.tsih = 0
        self.keys: dict[str, str] = dict(RFC_DEFAULTS)
        """Every key's value that holds."""
        self.out: list[Buffer] = []
        self.logged_in = False
        self.logged_out = False
        self.tickets: dict[int, Ticket] = {}
        self.functions: dict[int, int] = {}
        """Task management responses by ITT; -1 while one is awaited."""
        self.texts: dict[int, bytearray] = {}
        self.finished_texts: dict[int, Pairs] = {}
        self.echoes: dict[int, bytes] = {}
        """Data of NOP-Ins that answered our pings, by ITT."""
        self.events: list[Response] = []
        """Asynchronous messages."""
        self.rejects: list[tuple[int, bytes]] = []
        """Reasons of Reject PDUs, each with the header that was rejected."""
        self.received_ns = 0
        """When the edge received what is being served."""
        self.answer_pings = True
        self.answer_r2ts = True
        self.cmd_sn = 1
        self.exp_cmd_sn = 1
        self.max_cmd_sn = 1
        self.exp_stat_sn = 0
        self._itt = 0
        self._offers = (OFFERS if target else DISCOVERY_OFFERS) | (offers or {})
        self._claimant = Claimant(account) if account else None
        self._stage = Stage.SECURITY
        self._sent_proof = False
        self._operational_sent = False
        self._login_text = bytearray()
        self._segment_bytes_max = LOGIN_PDU_BYTES_MAX
        self._digest_header = 0
        self._digest_data = 0

    # --- login -----------------------------------------------------------------------------------

    def start_login(self) -> None:
        """Queue the first Login Request."""
        identity = [
            ("InitiatorName", self.initiator),
            ("SessionType", "Normal" if self.target else "Discovery"),
        ]
        if self.target:
            identity.append(("TargetName", self.target))
        methods = "CHAP" if self._claimant else NONE
        self.send_login([*identity, ("AuthMethod", methods)], self._security_flags())

    def _security_flags(self) -> int:
        transit = not self._claimant or self._sent_proof
        return (TRANSIT | Stage.OPERATIONAL if transit else 0) | Stage.SECURITY << 2

    def send_login(self, pairs: Pairs, flags: int) -> None:
        """Queue one Login Request with these pairs."""
        header = Request(
            Opcode.LOGIN | IMMEDIATE,
            flags,
            0,
            0,
            self.isid << 16 | self.tsih,
            self._itt,
            0,
            self.cmd_sn,
            self.exp_stat_sn,
            bytes(16),
        )
        self.push(header, encode(pairs))

    def _login_response(self, response: Response, data: bytes) -> None:
        status = response.word36 >> STATUS_SHIFT
        if status != LoginStatus.SUCCESS:
            raise LoginError(status)
        self._window(response)
        if len(self._login_text) + len(data) > TEXT_BYTES_MAX:
            raise RemoteProtocolError("the target's login text does not end")
        self._login_text += data
        if response.flags & CONTINUE:
            self.send_login([], self._stage << 2)
            return
        pairs = decode(self._login_text)
        self._login_text = bytearray()
        self.keys.update(pairs)
        if response.flags & TRANSIT:
            self._stage = self._next_stage(response.flags & 3)
        if self._stage == Stage.FULL_FEATURE:
            self._full_feature(response)
        elif self._stage == Stage.OPERATIONAL:
            self._negotiate()
        else:
            self._prove(dict(pairs))

    def _next_stage(self, stage: int) -> Stage:
        """Where the target says that the login goes on."""
        if stage not in STAGES or stage < self._stage:
            raise RemoteProtocolError(f"the target goes on to login stage {stage}")
        return Stage(stage)

    def _prove(self, keys: dict[str, str]) -> None:
        if self._claimant is None:
            raise LoginError(LoginStatus.AUTHENTICATION_FAILURE, "the target wants CHAP")
        if keys.get("AuthMethod") == "CHAP":
            self.send_login(self._claimant.offer(), self._security_flags())
        elif "CHAP_C" in keys and not self._sent_proof:
            self._sent_proof = True
            try:
                proof = self._claimant.prove(keys)
            except AuthenticationError as error:
                raise LoginError(LoginStatus.AUTHENTICATION_FAILURE, str(error)) from error
            self.send_login(proof, self._security_flags())
        else:
            raise LoginError(LoginStatus.AUTHENTICATION_FAILURE, "the target broke off CHAP")

    def _negotiate(self) -> None:
        if self._claimant is not None:
            try:
                self._claimant.check(self.keys)
            except AuthenticationError as error:
                raise LoginError(LoginStatus.AUTHENTICATION_FAILURE, str(error)) from error
        pairs = [] if self._operational_sent else list(self._offers.items())
        self._operational_sent = True
        flags = TRANSIT | Stage.OPERATIONAL << 2 | Stage.FULL_FEATURE
        self.send_login(pairs, flags)

    def _full_feature(self, response: Response) -> None:
        self.logged_in = True
        self.tsih = response.lun & 0xFFFF
        self._itt += 1
        self._segment_bytes_max = decode_number(
            self.keys.get("MaxRecvDataSegmentLength", str(LOGIN_PDU_BYTES_MAX))
        )
        self._digest_header = DIGEST_BYTES if self.keys["HeaderDigest"] == "CRC32C" else 0
        self._digest_data = DIGEST_BYTES if self.keys["DataDigest"] == "CRC32C" else 0

    # --- requests --------------------------------------------------------------------------------

    @property
    def window(self) -> int:
        """Commands that may be submitted now."""
        return (self.max_cmd_sn - self.cmd_sn + 1) & SERIAL_MASK if not self.window_closed else 0

    @property
    def window_closed(self) -> bool:
        """Whether the next command has to wait for an answer."""
        return serial_before(self.max_cmd_sn, self.cmd_sn)

    def submit(self, ticket: Ticket, lun: int = 0) -> None:
        """Queue a command; the window must be open."""
        assert not self.window_closed
        itt = self.next_itt()
        ticket.itt = itt
        self.tickets[itt] = ticket
        data = memoryview(ticket.data_out)
        length = len(data)
        first = self._first_burst(length)
        immediate = 0
        if self.keys["ImmediateData"] == "Yes":
            immediate = min(first, self._segment_bytes_max)
        unsolicited = first if self.keys["InitialR2T"] == "No" else immediate
        flags = SIMPLE
        if length:
            flags |= COMMAND_WRITE
        if len(ticket.data):
            flags |= COMMAND_READ
        if unsolicited == immediate:
            flags |= FINAL
        header = Request(
            Opcode.SCSI_COMMAND,
            flags,
            0,
            0,
            lun << 48,
            itt,
            length or len(ticket.data),
            self.take_cmd_sn(),
            self.exp_stat_sn,
            ticket.cdb.ljust(CDB_BYTES, b"\0"),
        )
        self.push(header, data[:immediate])
        if unsolicited > immediate:
            self._send_data(ticket, RESERVED_TAG, immediate, unsolicited, lun << 48)

    def _first_burst(self, length: int) -> int:
        burst = min(
            decode_number(self.keys["FirstBurstLength"]), decode_number(self.keys["MaxBurstLength"])
        )
        return min(length, burst)

    def _send_data(self, ticket: Ticket, tag: int, offset: int, end: int, lun: int) -> None:
        """Data-Out of one sequence."""
        data = memoryview(ticket.data_out)
        data_sn = 0
        while offset < end:
            stop = min(end, offset + self._segment_bytes_max)
            header = Request(
                Opcode.DATA_OUT,
                FINAL if stop == end else 0,
                0,
                0,
                lun,
                ticket.itt,
                tag,
                0,
                self.exp_stat_sn,
                TAIL_WORDS.pack(0, data_sn, offset, 0),
            )
            self.push(header, data[offset:stop])
            offset = stop
            data_sn += 1

    def manage(
        self,
        function: Function,
        lun: int = 0,
        ticket: Ticket | None = None,
        *,
        immediate: bool = True,
    ) -> int:
        """Queue a task management function; its response comes into ``functions`` by this ITT."""
        itt = self.next_itt()
        self.functions[itt] = -1
        header = Request(
            Opcode.TASK_MANAGEMENT | (IMMEDIATE if immediate else 0),
            FINAL | function,
            0,
            0,
            lun << 48,
            itt,
            ticket.itt if ticket else RESERVED_TAG,
            self.cmd_sn if immediate else self.take_cmd_sn(),
            self.exp_stat_sn,
            bytes(16),
        )
        self.push(header)
        return itt

    def send_text(self, pairs: Pairs) -> int:
        """Queue a text request; the answer comes into ``finished_texts`` by this ITT."""
        itt = self.next_itt()
        self.texts[itt] = bytearray()
        self._push_text(itt, RESERVED_TAG, encode(pairs))
        return itt

    def _push_text(self, itt: int, tag: int, data: bytes) -> None:
        cmd_sn = self.take_cmd_sn()
        header = Request(Opcode.TEXT, FINAL, 0, 0, 0, itt, tag, cmd_sn, self.exp_stat_sn, bytes(16))
        self.push(header, data)

    def ping(self, data: bytes = b"") -> int:
        """Queue a NOP-Out; its answer comes into ``echoes`` by this ITT."""
        itt = self.next_itt()
        self._push_nop(itt, RESERVED_TAG, 0, data)
        return itt

    def _push_nop(self, itt: int, tag: int, lun: int, data: bytes = b"") -> None:
        opcode = Opcode.NOP_OUT | IMMEDIATE
        header = Request(
            opcode, FINAL, 0, 0, lun, itt, tag, self.cmd_sn, self.exp_stat_sn, bytes(16)
        )
        self.push(header, data)

    def start_logout(self, reason: int = LogoutReason.CLOSE_SESSION) -> None:
        """Queue a Logout Request; ``logged_out`` tells when it was answered."""
        itt = self.next_itt()
        header = Request(
            Opcode.LOGOUT | IMMEDIATE,
            FINAL | reason,
            0,
            0,
            0,
            itt,
            0,
            self.cmd_sn,
            self.exp_stat_sn,
            bytes(16),
        )
        self.push(header)

    def next_itt(self) -> int:
        """An ITT that is not in use."""
        while True:
            self._itt = (self._itt + 1) % RESERVED_TAG
            if self._itt not in self.tickets and self._itt not in self.functions:
                return self._itt

    def take_cmd_sn(self) -> int:
        """The CmdSN of a request that is not immediate."""
        cmd_sn = self.cmd_sn
        self.cmd_sn = (cmd_sn + 1) & SERIAL_MASK
        return cmd_sn

    def push(self, header: Request, data: Buffer = b"") -> None:
        """Queue one PDU, with its lengths, padding and digests filled in."""
        encoded = header._replace(lengths=len(data)).encode()
        self.out.append(encoded)
        if self._digest_header:
            self.out.append(digest(encoded))
        if len(data):
            pad = PAD[-len(data) & 3]
            self.out.append(data)
            if pad:
                self.out.append(pad)
            if self._digest_data:
                self.out.append(digest(data, pad))

    # --- answers ---------------------------------------------------------------------------------

    def receive(self, view: memoryview) -> int:
        """Serve the whole PDUs in ``view``; gives the bytes consumed.

        ``RemoteProtocolError`` and ``LoginError`` end the session.
        """
        offset = 0
        while len(view) - offset >= BHS_BYTES:
            response = decode_response(view, offset)
            start = offset + BHS_BYTES + response.ahs_length
            header = view[offset:start]
            if self._digest_header:
                if len(view) < start + DIGEST_BYTES:
                    break
                if digest(header) != view[start : start + DIGEST_BYTES]:
                    raise RemoteProtocolError("header digest error")
                start += DIGEST_BYTES
            end = start + response.data_length
            following = end + (-response.data_length & 3)
            if self._digest_data and response.data_length:
                following += DIGEST_BYTES
            if following > len(view):
                break
            if self._digest_data and response.data_length:
                covered = following - DIGEST_BYTES
                if digest(view[start:covered]) != view[covered:following]:
                    raise RemoteProtocolError("data digest error")
            self._serve(response, view[start:end])
            offset = following
        return offset

    def _serve(self, response: Response, data: memoryview) -> None:
        opcode = response.opcode & OPCODE_MASK
        if opcode == Opcode.LOGIN_RESPONSE and not self.logged_in:
            self._login_response(response, bytes(data))
            return
        if not self.logged_in:
            raise RemoteProtocolError(f"opcode {opcode:#x} during the login")
        self._window(response)
        if opcode == Opcode.DATA_IN:
            self._data_in(response, data)
        elif opcode == Opcode.SCSI_RESPONSE:
            self._scsi_response(response, bytes(data))
        elif opcode == Opcode.R2T:
            ticket = self._ticket(response)
            if self.answer_r2ts:
                end = response.word40 + response.word44
                self._send_data(ticket, response.word20, response.word40, end, response.lun)
        elif opcode == Opcode.NOP_IN:
            if response.itt != RESERVED_TAG:
                self.echoes[response.itt] = bytes(data)
            elif response.word20 != RESERVED_TAG and self.answer_pings:
                self._push_nop(RESERVED_TAG, response.word20, response.lun)
        elif opcode == Opcode.TASK_MANAGEMENT_RESPONSE:
            self.functions[response.itt] = response.response
        elif opcode == Opcode.TEXT_RESPONSE:
            self._text_response(response, bytes(data))
        elif opcode == Opcode.LOGOUT_RESPONSE:
            self.logged_out = True
        elif opcode == Opcode.ASYNC_MESSAGE:
            self.events.append(response)
        elif opcode == Opcode.REJECT:
            self._rejected(response, bytes(data))
        else:
            raise RemoteProtocolError(f"opcode {opcode:#x} from a target")

    def _window(self, response: Response) -> None:
        if not serial_before(response.max_cmd_sn, self.max_cmd_sn):
            self.max_cmd_sn = response.max_cmd_sn
        self.exp_cmd_sn = response.exp_cmd_sn
        carries_status = (
            response.opcode != Opcode.R2T
            and not (response.opcode == Opcode.DATA_IN and not response.flags & DATA_STATUS)
            and not (response.opcode == Opcode.NOP_IN and response.itt == RESERVED_TAG)
        )
        if carries_status:
            self.exp_stat_sn = (response.stat_sn + 1) & SERIAL_MASK

    def _ticket(self, response: Response) -> Ticket:
        ticket = self.tickets.get(response.itt)
        if ticket is None:
            raise RemoteProtocolError(f"an answer for ITT {response.itt:#x}, which is unknown")
        return ticket

    def _data_in(self, response: Response, data: memoryview) -> None:
        ticket = self._ticket(response)
        offset = response.word40
        if offset != ticket.received or offset + len(data) > len(ticket.data):
            raise RemoteProtocolError("Data-In out of its place")
        ticket.data[offset : offset + len(data)] = data
        ticket.received += len(data)
        if response.flags & DATA_STATUS:
            self._finish(ticket, response)

    def _scsi_response(self, response: Response, data: bytes) -> None:
        ticket = self._ticket(response)
        if len(data) >= SENSE_LENGTH.size:
            length = SENSE_LENGTH.unpack_from(data)[0]
            ticket.sense = data[SENSE_LENGTH.size : SENSE_LENGTH.size + length]
        self._finish(ticket, response)

    def _finish(self, ticket: Ticket, response: Response) -> None:
        del self.tickets[ticket.itt]
        ticket.status = response.status
        ticket.settled_ns = self.received_ns
        if response.flags & RESIDUAL_UNDERFLOW:
            ticket.residual = response.word44
        elif response.flags & RESIDUAL_OVERFLOW:
            ticket.residual = -response.word44
        ticket.settle()

    def _text_response(self, response: Response, data: bytes) -> None:
        text = self.texts.get(response.itt)
        if text is None:
            raise RemoteProtocolError("a text response that nobody asked for")
        if len(text) + len(data) > TEXT_BYTES_MAX:
            raise RemoteProtocolError("the target's text does not end")
        text += data
        if response.flags & FINAL:
            del self.texts[response.itt]
            self.finished_texts[response.itt] = decode(text, TEXT_ANSWER_KEYS_MAX)
        else:
            self._push_text(response.itt, response.word20, b"")

    def _rejected(self, response: Response, header: bytes) -> None:
        self.rejects.append((response.response, header))
        if len(header) >= BHS_BYTES:
            itt = int.from_bytes(header[16:20], "big")
            ticket = self.tickets.pop(itt, None)
            if ticket is not None:
                ticket.settle(f"rejected with reason {response.response:#04x}")

    def forget(self, tickets: Iterable[Ticket]) -> None:
        """Commands that were aborted: no response comes for them."""
        for ticket in tickets:
            if self.tickets.pop(ticket.itt, None) is not None:
                ticket.settle("aborted")

    def lost(self, reason: str) -> None:
        """The connection is gone: whatever was under way has failed."""
        tickets = list(self.tickets.values())
        self.tickets.clear()
        for ticket in tickets:
            ticket.settle(reason)
