"""A small initiator over a blocking socket: the quick start, the oracle and the tests use it.

    with Initiator.connect("127.0.0.1", 3260, target="iqn.…") as initiator:
        blocks, block_size = initiator.read_capacity()
        initiator.write(0, b"x" * 4096)            # raises CommandError unless GOOD
        data = initiator.read(0, 8)                # 8 blocks from LBA 0
        initiator.flush()

At queue depth N, with the time of issue and of acknowledgement of each command:

    def done(ticket): print(ticket.tag, ticket.good, ticket.issued_ns, ticket.settled_ns)
    for number in range(1000):
        while initiator.in_flight >= 32:
            initiator.poll()                       # serves what came, waits for something to come
        initiator.submit(write_16(lba, 8), data_out=block, done=done, tag=number)
    initiator.drain()                              # until nothing is in flight

``discover(host, port)`` lists targets. ``account=chap.Account(name, secret[, mutual name, mutual
secret])`` logs in with CHAP; ``offers={"HeaderDigest": "CRC32C", …}`` overrides what is negotiated.
``send_raw(bytes)`` sends whatever it is given, for tests of malformed PDUs; ``session`` is the
protocol state (``iscsi.initiator``). One rule: every wait has the one ``timeout``, after which
``TimeoutError`` is raised; a lost connection raises ``ConnectionError``, and whatever was in flight
is told done with its ``failure``.
"""

import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self

from pratima_iscsi.errors import PratimaError
from pratima_iscsi.iscsi.chap import Account
from pratima_iscsi.iscsi.initiator import InitiatorSession, LoginError
from pratima_iscsi.iscsi.pdu import Function, FunctionResponse
from pratima_iscsi.iscsi.ticket import Ticket
from pratima_iscsi.limits import INITIATOR_TASKS_MAX, RECEIVE_BUFFER_BYTES, SEND_BUFFERS_MAX
from pratima_iscsi.operations import Buffer

__all__ = ["CommandError", "Initiator", "LoginError", "Ticket", "discover"]

NAME: Final = "iqn.2024-01.test.pratima:initiator"
TIMEOUT_SECONDS: Final = 15.0
LUN_SPACE_SHIFT: Final = 48

READ_16 = struct.Struct(">BBQIBB")
"""opcode, flags, LBA, transfer length, group number, control"""
UNMAP_HEADER = struct.Struct(">HH4x")
UNMAP_DESCRIPTOR = struct.Struct(">QI4x")
CAPACITY_16 = struct.Struct(">QI")
FUA: Final = 0x08
UNMAP_BIT: Final = 0x08


class CommandError(PratimaError):
    """A command did not end in GOOD: ``ticket`` has status and sense."""

    def __init__(self, ticket: Ticket) -> None:
        key, asc, ascq = ticket.sense_triple
        told = ticket.failure or f"status {ticket.status:#04x}, sense {key:x}/{asc:02x}/{ascq:02x}"
        super().__init__(f"command {ticket.cdb[0]:#04x}: {told}")
        self.ticket = ticket


def read_16(lba: int, blocks: int) -> bytes:
    """A READ(16) CDB."""
    return READ_16.pack(0x88, 0, lba, blocks, 0, 0)


def write_16(lba: int, blocks: int, *, fua: bool = False) -> bytes:
    """A WRITE(16) CDB."""
    return READ_16.pack(0x8A, FUA if fua else 0, lba, blocks, 0, 0)


def write_same_16(lba: int, blocks: int, *, unmap: bool = False) -> bytes:
    """A WRITE SAME(16) CDB."""
    return READ_16.pack(0x93, UNMAP_BIT if unmap else 0, lba, blocks, 0, 0)


def synchronize_cache_10() -> bytes:
    """A SYNCHRONIZE CACHE(10) CDB for the whole volume."""
    return bytes([0x35, *bytes(9)])


def compare_and_write_16(lba: int, blocks: int) -> bytes:
    """A COMPARE AND WRITE CDB; data-out is the expected blocks, then the new ones."""
    return struct.pack(">BBQ3xBBB", 0x89, 0, lba, blocks, 0, 0)


def unmap_parameters(extents: Iterable[tuple[int, int]]) -> bytes:
    """An UNMAP parameter list of (LBA, blocks)."""
    descriptors = b"".join(UNMAP_DESCRIPTOR.pack(lba, blocks) for lba, blocks in extents)
    return UNMAP_HEADER.pack(len(descriptors) + 6, len(descriptors)) + descriptors


def discover(
    host: str, port: int, *, initiator: str = NAME, account: Account | None = None
) -> list[tuple[str, str]]:
    """The targets that a portal shows: name and address ("host:port,tag") of each."""
    session = InitiatorSession(initiator=initiator, account=account)
    with Initiator(session, host, port) as connected:
        name = ""
        found = []
        for key, value in connected.text([("SendTargets", "All")]):
            if key == "TargetName":
                name = value
            elif key == "TargetAddress":
                found.append((name, value))
        return found


class Initiator:
    """One session over one socket. Not for use from several threads at once."""

    def __init__(
        self,
        session: InitiatorSession,
        host: str,
        port: int,
        *,
        lun: int = 0,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self.session = session
        self.lun = lun
        self.timeout = timeout
        self.block_size = 512
        """Bytes of a logical block, once ``read_capacity`` was called."""
        self.socket = socket.create_connection((host, port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.closed = False
        self._buffer = memoryview(bytearray(2 * RECEIVE_BUFFER_BYTES))
        self._start = 0
        self._end = 0
        self._unsent: deque[Buffer] = deque()
        try:
            session.start_login()
            self._until(lambda: session.logged_in)
        except BaseException:
            self.close()
            raise

    @classmethod
    def connect(
        cls,
        host: str,
        port: int,
        *,
        target: str,
        lun: int = 0,
        initiator: str = NAME,
        account: Account | None = None,
        offers: dict[str, str] | None = None,
        isid: int | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Self:
        """Log in to a target.

        ``LoginError`` when it refuses. Clears the unit attention that a new session meets.
        """
        session = InitiatorSession(
            initiator=initiator, target=target, account=account, offers=offers, isid=isid
        )
        connected = cls(session, host, port, lun=lun, timeout=timeout)
        connected.execute(bytes(6), check=False)
        return connected

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and not self.closed:
            self.logout()
        self.close()

    # --- commands one at a time ------------------------------------------------------------------

    def execute(
        self, cdb: bytes, *, data_out: Buffer = b"", data_in_bytes: int = 0, check: bool = True
    ) -> Ticket:
        """Execute one command and wait for it; ``CommandError`` unless GOOD or not ``check``."""
        ticket = self.submit(cdb, data_out=data_out, data_in_bytes=data_in_bytes)
        self.wait(ticket)
        if check and not ticket.good:
            raise CommandError(ticket)
        return ticket

    def inquiry(self, page: int | None = None) -> bytes:
        """INQUIRY data: standard, or a VPD page."""
        evpd = 0 if page is None else 1
        cdb = struct.pack(">BBBHB", 0x12, evpd, page or 0, 255, 0)
        return bytes(self.execute(cdb, data_in_bytes=255).data)

    def read_capacity(self) -> tuple[int, int]:
        """Number of blocks, and bytes of a block."""
        cdb = struct.pack(">BBQIBB", 0x9E, 0x10, 0, 32, 0, 0)
        last, self.block_size = CAPACITY_16.unpack_from(self.execute(cdb, data_in_bytes=32).data)
        return last + 1, self.block_size

    def report_luns(self) -> list[int]:
        """The LUNs of the target (single-level peripheral or flat addressing)."""
        cdb = struct.pack(">B5xIxx", 0xA0, 4096)
        data = self.execute(cdb, data_in_bytes=4096).data
        fields = struct.unpack_from(f">{(len(data) - 8) // 8}Q", data, 8)
        return [field >> LUN_SPACE_SHIFT & 0x3FFF for field in fields]

    def read(self, lba: int, blocks: int) -> bytes:
        """Read blocks."""
        length = blocks * self.block_size
        return bytes(self.execute(read_16(lba, blocks), data_in_bytes=length).data)

    def write(self, lba: int, data: Buffer, *, fua: bool = False) -> None:
        """Write whole blocks."""
        self.execute(write_16(lba, len(data) // self.block_size, fua=fua), data_out=data)

    def flush(self) -> None:
        """SYNCHRONIZE CACHE."""
        self.execute(synchronize_cache_10())

    def unmap(self, extents: Iterable[tuple[int, int]]) -> None:
        """UNMAP (LBA, blocks) ranges."""
        parameters = unmap_parameters(extents)
        self.execute(struct.pack(">B6xHB", 0x42, len(parameters), 0), data_out=parameters)

    def write_same(self, lba: int, blocks: int, block: Buffer, *, unmap: bool = False) -> None:
        """Write one block's data to every block of a range."""
        self.execute(write_same_16(lba, blocks, unmap=unmap), data_out=block)

    def compare_and_write(self, lba: int, expected: bytes, new: bytes) -> bool:
        """Write ``new`` if ``expected`` is there; whether it was."""
        cdb = compare_and_write_16(lba, len(new) // self.block_size)
        ticket = self.execute(cdb, data_out=expected + new, check=False)
        if not ticket.good and ticket.sense_triple[0] != 0x0E:
            raise CommandError(ticket)
        return ticket.good

    def manage(self, function: Function, ticket: Ticket | None = None) -> FunctionResponse:
        """Task management, and its response; an aborted ticket is told done ("aborted")."""
        itt = self.session.manage(function, self.lun, ticket)
        self._until(lambda: self.session.functions[itt] >= 0)
        response = FunctionResponse(self.session.functions.pop(itt))
        if ticket is not None and response == FunctionResponse.COMPLETE:
            self.session.forget([ticket])
        return response

    def ping(self, data: bytes = b"") -> bytes:
        """NOP-Out; gives the echo."""
        itt = self.session.ping(data)
        self._until(lambda: itt in self.session.echoes)
        return self.session.echoes.pop(itt)

    def text(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """A text request and its whole answer."""
        itt = self.session.send_text(pairs)
        self._until(lambda: itt in self.session.finished_texts)
        return self.session.finished_texts.pop(itt)

    def logout(self) -> None:
        """Log out and close."""
        self.session.start_logout()
        self._until(lambda: self.session.logged_out)
        self.close()

    # --- many at a time --------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Commands that have not been answered."""
        return len(self.session.tickets)

    def submit(
        self,
        cdb: bytes,
        *,
        data_out: Buffer = b"",
        data_in_bytes: int = 0,
        done: Callable[[Ticket], None] | None = None,
        tag: object = None,
        lun: int | None = None,
    ) -> Ticket:
        """Send one command and return at once, or as soon as the CmdSN window has room.

        ``done(ticket)`` is called by a later ``poll``, ``wait`` or ``drain``. ``data_out`` must
        stay as it is until then.
        """
        ticket = Ticket(cdb, data_out, data_in_bytes, done, tag)
        if self.session.window_closed or self.in_flight >= INITIATOR_TASKS_MAX:
            self._until(
                lambda: not self.session.window_closed and self.in_flight < INITIATOR_TASKS_MAX
            )
        ticket.issued_ns = time.monotonic_ns()
        self.session.submit(ticket, self.lun if lun is None else lun)
        self._send()
        return ticket

    def wait(self, ticket: Ticket) -> None:
        """Serve until ``ticket`` has settled."""
        self._until(lambda: ticket.settled)

    def drain(self) -> None:
        """Serve until nothing is in flight."""
        self._until(lambda: not self.session.tickets)

    def poll(self, timeout: float | None = None) -> bool:
        """Send what is due and serve what has come; False when nothing came in time.

        ``timeout`` in seconds; None: the initiator's own, and ``TimeoutError`` after it.
        """
        self._send()
        wanted: list[socket.socket] = [self.socket] if self._unsent else []
        limit = self.timeout if timeout is None else timeout
        readable, writable, _ = select.select([self.socket], wanted, [], limit)
        if not readable and not writable:
            if timeout is None:
                raise TimeoutError(f"nothing came in {limit} s")
            return False
        if readable:
            self._receive()
        self._send()
        return True

    def send_raw(self, data: Buffer) -> None:
        """Send bytes as they are, behind whatever is queued."""
        self._send()
        self._unsent.append(data)
        self._send()

    def close(self) -> None:
        """Close the socket; what was in flight has failed."""
        self._lost("the connection was closed")

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.timeout
        while not condition():
            if self.closed:
                raise ConnectionError("the connection is closed")
            self.poll(max(0.0, deadline - time.monotonic()))
            if not condition() and time.monotonic() >= deadline:
                raise TimeoutError(f"no answer in {self.timeout} s")

    def _send(self) -> None:
        if self.session.out:
            self._unsent.extend(self.session.out)
            self.session.out.clear()
        while self._unsent and not self.closed:
            count = min(len(self._unsent), SEND_BUFFERS_MAX)
            batch = [self._unsent[index] for index in range(count)]
            try:
                sent = self.socket.sendmsg(batch)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if self._drained_after_reset():
                    return
                self._lost(f"sending failed: {error.strerror}")
                raise ConnectionError(f"sending failed: {error.strerror}") from error
            for buffer in batch:
                if sent < len(buffer):
                    if sent:
                        self._unsent[0] = memoryview(buffer)[sent:]
                    break
                sent -= len(buffer)
                self._unsent.popleft()

    def _drained_after_reset(self) -> bool:
        """Whether answers still lie in the socket: they tell more than the failure to send."""
        readable, _, _ = select.select([self.socket], [], [], 0)
        if not readable:
            return False
        self._unsent.clear()
        return True

    def _receive(self) -> None:
        try:
            count = self.socket.recv_into(self._buffer[self._end :])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(f"receiving failed: {error.strerror}")
            raise ConnectionError(f"receiving failed: {error.strerror}") from error
        if count == 0:
            self._lost("the target closed the connection")
            raise ConnectionError("the target closed the connection")
        self._end += count
        self.session.received_ns = time.monotonic_ns()
        self._start += self.session.receive(self._buffer[self._start : self._end])
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start > RECEIVE_BUFFER_BYTES:
            left = self._end - self._start
            self._buffer[:left] = bytes(self._buffer[self._start : self._end])
            self._start, self._end = 0, left

    def _lost(self, reason: str) -> None:
        if not self.closed:
            self.closed = True
            self.socket.close()
            self.session.lost(reason)
