"""An initiator and the portal's protocol state, joined without sockets, for tests.

``settle`` carries bytes both ways until neither side has any; time is an argument.
"""

from dataclasses import dataclass, field

from pratima_iscsi.iscsi.chap import Account
from pratima_iscsi.iscsi.connection import Connection
from pratima_iscsi.iscsi.directory import Directory, ServedTarget
from pratima_iscsi.iscsi.initiator import InitiatorSession
from pratima_iscsi.iscsi.pdu import REQUEST, RESPONSE, Opcode, Request, Response
from pratima_iscsi.iscsi.ticket import Ticket
from pratima_iscsi.scsi.logical_unit import LogicalUnit
from pratima_iscsi.scsi.target import Target
from tests.support.memory_storage import MemoryStorage

TARGET = "iqn.2024-01.test.pratima:disk"
INITIATOR = "iqn.2024-01.test.pratima:host"
VOLUME_BYTES = 16 << 20
ACCOUNT = Account("host", "a secret of the host's")
MUTUAL = Account("host", "a secret of the host's", "disk", "a secret of the disk's")


@dataclass
class Lab:
    """A directory with one target of one unit, and what tests look at."""

    storage: MemoryStorage = field(default_factory=lambda: MemoryStorage(VOLUME_BYTES))
    accounts: tuple[Account, ...] = ()
    discovery_accounts: tuple[Account, ...] = ()
    initiators: frozenset[str] | None = None

    def __post_init__(self) -> None:
        self.device = Target()
        self.unit = LogicalUnit(self.storage, serial="a-serial-of-the-lab")
        self.device.add(0, self.unit)
        self.target = ServedTarget(TARGET, self.device, self.accounts, self.initiators)
        self.directory = Directory.of([self.target], self.discovery_accounts)

    def pair(
        self,
        *,
        login: bool = True,
        target: str = TARGET,
        initiator: str = INITIATOR,
        account: Account | None = None,
        offers: dict[str, str] | None = None,
        isid: int | None = None,
    ) -> "Pair":
        """A new connection; logged in, and its unit attention cleared, unless told otherwise."""
        session = InitiatorSession(
            initiator=initiator, target=target, account=account, offers=offers, isid=isid
        )
        pair = Pair(self, session)
        if login:
            session.start_login()
            pair.settle()
            assert session.logged_in, pair.connection.closing
            if target:
                pair.run(bytes(6))
        return pair


class Pair:
    """One connection: ``initiator`` at one end, ``connection`` at the other."""

    def __init__(self, lab: Lab, initiator: InitiatorSession) -> None:
        self.lab = lab
        self.initiator = initiator
        self.wakes = 0
        self.connection = Connection(lab.directory, "127.0.0.1:3260", self._wake, 0.0)
        self.to_target = bytearray()
        self.to_initiator = bytearray()
        self.pdus: list[Response] = []
        """Every header from the target, while there are no header digests."""

    def _wake(self) -> None:
        self.wakes += 1

    @property
    def closing(self) -> str:
        """Why the portal closes the connection; empty while it does not."""
        return self.connection.closing

    def settle(self) -> None:
        """Carry bytes until nothing is left to carry."""
        while True:
            sent = self.send() + self.answer()
            if sent == 0:
                return

    def send(self, raw: bytes = b"") -> int:
        """What the initiator has queued, and ``raw``, goes to the portal; gives its length."""
        for buffer in self.initiator.out:
            self.to_target += buffer
        self.initiator.out.clear()
        self.to_target += raw
        count = len(self.to_target)
        if count and not self.closing:
            consumed = self.connection.receive(memoryview(bytes(self.to_target)))
            del self.to_target[:consumed]
            return consumed
        return 0

    def answer(self) -> int:
        """What the portal has queued goes to the initiator; gives its length."""
        fresh = b"".join(self.connection.take())
        self.connection.flushed()
        self._record(fresh)
        self.to_initiator += fresh
        if not self.to_initiator:
            return 0
        consumed = self.initiator.receive(memoryview(bytes(self.to_initiator)))
        del self.to_initiator[:consumed]
        return len(fresh)

    def _record(self, fresh: bytes) -> None:
        offset = 0
        digests = self.initiator.keys["HeaderDigest"] != "None"
        while offset + RESPONSE.size <= len(fresh) and not digests:
            response = Response._make(RESPONSE.unpack_from(fresh, offset))
            self.pdus.append(response)
            length = response.data_length
            offset += RESPONSE.size + length + (-length & 3)
            offset += 4 if length and self.initiator.keys["DataDigest"] != "None" else 0

    def of(self, opcode: Opcode) -> list[Response]:
        """The headers of one kind so far."""
        return [pdu for pdu in self.pdus if pdu.opcode == opcode]

    def submit(self, cdb: bytes, data_out: bytes = b"", data_in_bytes: int = 0) -> Ticket:
        """Queue a command for LUN 0."""
        ticket = Ticket(cdb, data_out, data_in_bytes)
        self.initiator.submit(ticket)
        return ticket

    def run(self, cdb: bytes, data_out: bytes = b"", data_in_bytes: int = 0) -> Ticket:
        """Execute a command."""
        ticket = self.submit(cdb, data_out, data_in_bytes)
        self.settle()
        return ticket

    def header(self, opcode: int, **fields: int | bytes) -> bytes:
        """A header with the current numbers, as bytes, to be changed and sent by hand."""
        values: dict[str, int | bytes] = {
            "opcode": opcode,
            "flags": 0x80,
            "word2": 0,
            "lengths": 0,
            "lun": 0,
            "itt": self.initiator.next_itt(),
            "word20": 0,
            "cmd_sn": self.initiator.cmd_sn,
            "exp_stat_sn": self.initiator.exp_stat_sn,
            "tail": bytes(16),
        }
        values.update(fields)
        return REQUEST.pack(*(values[name] for name in Request._fields))


def write_10(lba: int, blocks: int) -> bytes:
    """A WRITE(10) CDB."""
    return bytes([0x2A, 0, *lba.to_bytes(4, "big"), 0, *blocks.to_bytes(2, "big"), 0])


def read_10(lba: int, blocks: int) -> bytes:
    """A READ(10) CDB."""
    return bytes([0x28, 0, *lba.to_bytes(4, "big"), 0, *blocks.to_bytes(2, "big"), 0])
