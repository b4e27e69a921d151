"""What executes a peer's requests, given any requests: CDBs, a login, a session, a live portal.

Each target takes one input and returns. One rule: whatever came, the books balance, nothing is kept
once the session is over, and another initiator is served as before.
"""

import asyncio
import errno
import random
import socket
import struct
from typing import Final

from pratima_iscsi.edges.portal import Portal
from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.iscsi.chap import Account
from pratima_iscsi.iscsi.connection import Connection
from pratima_iscsi.iscsi.initiator import InitiatorSession, LoginError
from pratima_iscsi.iscsi.pdu import REQUEST, RESERVED_TAG, SERIAL_MASK, TAIL_WORDS, Opcode
from pratima_iscsi.iscsi.session import Session
from pratima_iscsi.iscsi.ticket import Ticket
from pratima_iscsi.limits import LOGIN_EXCHANGES_MAX, LOGIN_PDU_BYTES_MAX, OUTPUT_BYTES_MAX
from tests.fuzz.reader import Reader
from tests.support.memory_storage import MemoryStorage
from tests.unit.iscsi.pair import INITIATOR, TARGET, Lab, Pair, read_10, write_10
from tests.unit.iscsi.test_any_session import check as check_books
from tests.unit.scsi.test_any_cdb import EVENTS, Run, Step

VOLUME_BYTES: Final = 1 << 18
STEPS_MAX: Final = 64
ACCOUNT: Final = Account("user", "a secret of the user's", "disk", "a secret of the disk's")
ENDS: Final = ("",) * 8 + tuple(sorted(set(EVENTS) - {""}))


# --- CDBs ----------------------------------------------------------------------------------------


def cdb(data: bytes) -> None:
    """CDBs with their data, executed: every task ends once, legally, inside the volume."""
    reader = Reader(data)
    run = Run(random.Random(reader.number()))
    for _ in range(STEPS_MAX):
        if not reader.left:
            break
        shape = reader.number()
        length = (6, 10, 16, 12, 16, 10, 32, reader.number() if shape & 7 == 7 else 0)[shape & 7]
        command = reader.take(length)
        size = reader.choice((0, 0, 16, 24, 40, 512, 1024, 4096, 513, reader.number(2)))
        pattern = reader.take(min(size, reader.number())) or b"\0"
        content = (pattern * (size // len(pattern) + 1))[:size]
        run.step(Step(command, content, shape >> 3 & 1, shape >> 4 == 15, reader.choice(ENDS)))
    run.finish()


# --- a login -------------------------------------------------------------------------------------

FIRST: Final = (
    f"InitiatorName={INITIATOR}\0TargetName={TARGET}\0SessionType=Normal\0".encode(),
    f"InitiatorName={INITIATOR}\0TargetName={TARGET}\0AuthMethod=CHAP,None\0".encode(),
    f"InitiatorName={INITIATOR}\0SessionType=Discovery\0AuthMethod=None\0".encode(),
    b"AuthMethod=CHAP\0CHAP_A=7,5\0",
    b"CHAP_A=5\0",
    b"CHAP_N=user\0CHAP_R=0x00\0CHAP_I=1\0CHAP_C=0xaabb\0",
    b"HeaderDigest=CRC32C,None\0DataDigest=None\0MaxRecvDataSegmentLength=512\0",
    b"",
)
FLAGS: Final = (0x87, 0x81, 0x00, 0x04, 0x40, 0x83)


def login(data: bytes) -> None:
    """Login Requests of fuzzed text, with and without CHAP, until it is over."""
    reader = Reader(data)
    accounts = (ACCOUNT,) if reader.number() & 1 else ()
    lab = Lab(MemoryStorage(VOLUME_BYTES), accounts=accounts, discovery_accounts=accounts)
    connection = Connection(lab.directory, "127.0.0.1:3260", lambda: None, 0.0)
    for step in range(2 * LOGIN_EXCHANGES_MAX):
        if connection.closing or connection.session is not None or not reader.left:
            break
        odd = reader.number()
        flags = reader.choice(FLAGS) if odd < 0xE0 else reader.number()
        text = reader.choice(FIRST) + reader.take(reader.number())
        if odd & 7 == 7:
            text = (text or b"\0") * (reader.number(2) // max(len(text), 1))
        length = len(text) if odd < 0xF0 else reader.number(3)
        word2, lun = (reader.number(2), reader.number(8)) if odd == 0xFF else (0, 0x40 << 56)
        header = REQUEST.pack(
            0x43, flags, word2, length, lun, 1, 0, odd & 1 if odd > 0xF8 else 0, 0, bytes(16)
        )
        raw = header + text + bytes(-len(text) & 3)
        consumed = connection.receive(memoryview(raw))
        assert 0 <= consumed <= len(raw)
        said = sum(map(len, connection.take()))
        assert said <= 4 * LOGIN_PDU_BYTES_MAX + OUTPUT_BYTES_MAX // 64, said
        connection.tick(float(step))
    if connection.session is not None:
        assert not accounts, "nobody gets in without the secret"
        assert len(lab.directory.sessions) == 1
    connection.lost("the end")
    assert not lab.directory.sessions


# --- a session -----------------------------------------------------------------------------------

OPCODES: Final = (1, 1, 1, 1, 1, 1, 0x41, 5, 5, 5, 0, 0x40, 2, 0x42, 4, 0x44, 6, 0x46, 0x50, 3)
COMMAND_FLAGS: Final = (0xA1, 0xC1, 0x81, 0x21, 0xE1, 0x80, 0x82, 0x84, 0x85)
LENGTHS: Final = (0, 0, 512, 512, 1024, 4096, 8192, 3, 48)
EDTLS: Final = (0, 512, 512, 4096, 8192, 100, 1 << 20, 1 << 23, SERIAL_MASK)
CDBS: Final = (
    write_10(0, 1),
    read_10(0, 1),
    write_10(3, 16),
    read_10(5, 128),
    bytes(6),
    bytes([0x42, *bytes(6), 24, 0]),
    bytes([0x89, *bytes(12), 1, 0, 0]),
    bytes([0x93, 8, *bytes(11), 8, 0, 0]),
    bytes([0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0]),
    bytes([0x12, 1, 0x83, 0, 255, 0]),
)
OFFERS: Final = (
    {},
    {"InitialR2T": "Yes", "ImmediateData": "No"},
    {"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"},
    {"MaxRecvDataSegmentLength": "512", "MaxBurstLength": "512", "FirstBurstLength": "512"},
)


def fuzzed_pdu(reader: Reader, session: Session) -> bytes:
    """One PDU, its numbers near those that are due, or anything at all."""
    shape = reader.number()
    if shape > 0xF8:
        return reader.take(reader.number())
    opcode = reader.choice(OPCODES) if shape < 0xF0 else reader.number()
    flags = reader.choice(COMMAND_FLAGS) if shape & 1 else reader.number()
    length, edtl = reader.choice(LENGTHS), reader.choice(EDTLS)
    if shape & 0x0E == 0x0E:
        length = reader.number(2) | (reader.number() << 24 if shape & 0x10 else 0)
    itt = 1 + reader.number() % 6 if shape & 0x0C else RESERVED_TAG
    tail = reader.choice(CDBS) if shape & 0x20 else reader.take(16)
    tail = tail.ljust(16, b"\0")
    word20 = edtl
    if opcode & 0x3F == Opcode.DATA_OUT:
        offset = reader.choice((0, 512, 1024, 4096, SERIAL_MASK))
        tail = TAIL_WORDS.pack(0, offset // 512 & 0xFF, offset, 0)
        word20 = session._tag if shape & 0x40 else RESERVED_TAG
    elif opcode & 0x3F in (Opcode.TASK_MANAGEMENT, Opcode.TEXT):
        word20 = reader.choice((1, 2, 3, RESERVED_TAG))
    cmd_sn = session.exp_cmd_sn + (reader.number() - 128 if shape & 0x80 else 0) & SERIAL_MASK
    lun = reader.choice((0, 0, 0, 1 << 48, SERIAL_MASK))
    raw = REQUEST.pack(opcode, flags, 0, length, lun, itt, word20, cmd_sn, 0, tail)
    size = (length >> 24 << 2) + (length & 0xFFFF) if shape < 0xF0 else 0
    body = reader.take(min(reader.number(), size))
    return raw + body.ljust(size + (-size & 3), b"\0")


def session(data: bytes) -> None:
    """Any PDUs in a session, completions, failures and time in between: the books balance."""
    reader = Reader(data)
    offers = reader.choice(OFFERS)
    lab = Lab(MemoryStorage(VOLUME_BYTES))
    pair = lab.pair(offers=offers)
    served = pair.connection.session
    assert served is not None
    shape = reader.number()
    lab.storage.deferred = bool(shape & 1)
    other = lab.pair() if shape & 6 == 6 else None
    for number in range(STEPS_MAX):
        if pair.closing or not reader.left:
            break
        event = reader.number()
        if event < 0xC0:
            _serve(pair, fuzzed_pdu(reader, served))
        elif event < 0xE0:
            lab.storage.complete(event & 3)
        elif event < 0xF0:
            lab.storage.failure = OSError(errno.EIO, "on purpose") if event & 1 else None
        else:
            pair.connection.tick(float(number * (event & 15)))
        check_books(served, lab)
    lab.storage.complete()
    _drain(pair)
    lab.storage.complete()
    check_books(served, lab)
    pair.connection.lost("the end")
    assert not served.commands and served._data_out_bytes == 0
    lab.storage.failure, lab.storage.deferred = None, False
    if other is not None and not other.closing:
        assert other.run(bytes(6)).settled, "another session is served"


def _serve(pair: Pair, raw: bytes) -> None:
    pair.to_target += raw
    consumed = pair.connection.receive(memoryview(bytes(pair.to_target)))
    assert 0 <= consumed <= len(pair.to_target)
    del pair.to_target[:consumed]
    _drain(pair)


def _drain(pair: Pair) -> None:
    """The socket takes all, as often as that brings about more."""
    for _ in range(STEPS_MAX):
        if not pair.connection.take():
            return
        pair.connection.flushed()


# --- our own initiator ---------------------------------------------------------------------------


def initiator(data: bytes) -> None:
    """Whatever a target sends: our initiator raises its named error, or goes on."""
    reader = Reader(data)
    claimed = ACCOUNT if reader.number() & 1 else None
    own = InitiatorSession(initiator=INITIATOR, target=TARGET, account=claimed)
    own.start_login()
    own.out.clear()
    received = b""
    if reader.number() & 1 and claimed is None:
        received = _logged_in(own)
        own.submit(Ticket(read_10(0, 2), b"", 1024))
        own.submit(Ticket(write_10(0, 2), b"w" * 1024, 0))
    for _ in range(STEPS_MAX):
        if not reader.left:
            break
        received += _from_target(reader)
        own.out.clear()
        try:
            consumed = own.receive(memoryview(received))
        except (RemoteProtocolError, LoginError):
            return
        assert 0 <= consumed <= len(received)
        received = received[consumed:]


def _logged_in(own: InitiatorSession) -> bytes:
    """Log ``own`` in to a target of a lab; what is left of the target's bytes."""
    pair = Pair(Lab(MemoryStorage(VOLUME_BYTES)), own)
    own.start_login()
    pair.settle()
    return b""


def _from_target(reader: Reader) -> bytes:
    shape = reader.number()
    if shape > 0xF0:
        return reader.take(reader.number())
    opcode = reader.choice((0x23, 0x21, 0x25, 0x31, 0x20, 0x24, 0x26, 0x32, 0x3F, 0x22, shape))
    flags, word2 = reader.number(), reader.number(2)
    length = reader.choice((0, 48, 512, 1024, reader.number()))
    itt = reader.choice((0, 1, 2, 3, RESERVED_TAG))
    words = [reader.number() for _ in range(7)]
    header = struct.pack(">BBHIQI7I", opcode, flags, word2, length, 0, itt, *words)
    body = reader.take(min(reader.number(), length))
    return header + body.ljust(length + (-length & 3), b"\0")


# --- a live portal -------------------------------------------------------------------------------


class Accepted(socket.socket):
    """One end of a socket pair, as the portal's listener would give it."""

    def getsockname(self) -> tuple[str, int]:
        """An address as TCP has it."""
        return ("127.0.0.1", 3260)

    def setsockopt(self, *arguments: object) -> None:
        """A pair has no TCP options."""


class LivePortal:
    """A portal on socket pairs, whose loop turns when it is told to."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.errors: list[str] = []
        self.loop.set_exception_handler(
            lambda loop, context: self.errors.append(
                repr(context.get("exception") or context.get("message"))
            )
        )
        self.portal = self.loop.run_until_complete(self._begin())

    async def _begin(self) -> Portal:
        return Portal(Lab(MemoryStorage(VOLUME_BYTES)).directory)

    def fresh(self) -> Lab:
        """A volume, and a target, that nobody has used."""
        lab = Lab(MemoryStorage(VOLUME_BYTES))
        self.portal.directory = lab.directory
        return lab

    def turn(self) -> None:
        """Serve what is there."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()
        assert not self.errors, self.errors

    def connect(self) -> socket.socket:
        """A connection to the portal."""
        ours, theirs = socket.socketpair()
        self.portal._admit(Accepted(fileno=theirs.detach()), "fuzz")
        ours.setblocking(False)
        return ours


_live: list[LivePortal] = []


def portal(data: bytes) -> None:
    """Bytes on a socket of a live portal, in pieces, before and after a login."""
    if not _live:
        _live.append(LivePortal())
    live = _live[0]
    lab = live.fresh()
    reader = Reader(data)
    pair = Pair(lab, InitiatorSession(initiator=INITIATOR, target=TARGET))
    first = reader.number()
    with live.connect() as connection:
        if first & 1:
            pair.initiator.start_login()
            while not pair.initiator.logged_in:
                _exchange(live, connection, pair)
        sessions = [entry[1] for entry in lab.directory.sessions.values()]
        for _ in range(STEPS_MAX):
            if not reader.left or live.errors:
                break
            if sessions and isinstance(sessions[0], Session):
                raw = fuzzed_pdu(reader, sessions[0])
            else:
                raw = reader.take(reader.number(2) & 0xFFF)
            cut = reader.number() * len(raw) // 255
            for piece in (raw[:cut], raw[cut:]):
                _send(connection, piece)
                live.turn()
            if _swallow(connection):
                break
    for _ in range(STEPS_MAX):
        if not live.portal.connections:
            break
        live.turn()
    assert not live.portal.connections, "a connection outlives its socket"
    assert not lab.directory.sessions, "a session outlives its connection"


def _exchange(live: LivePortal, connection: socket.socket, pair: Pair) -> None:
    for buffer in pair.initiator.out:
        _send(connection, bytes(buffer))
    pair.initiator.out.clear()
    live.turn()
    try:
        pair.to_initiator += connection.recv(1 << 16)
    except BlockingIOError:
        return
    consumed = pair.initiator.receive(memoryview(bytes(pair.to_initiator)))
    del pair.to_initiator[:consumed]


def _send(connection: socket.socket, raw: bytes) -> None:
    try:
        connection.send(raw)
    except (BlockingIOError, ConnectionError):
        return


def _swallow(connection: socket.socket) -> bool:
    """Read what the portal said; True when it has ended its direction."""
    try:
        while connection.recv(1 << 20):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True
