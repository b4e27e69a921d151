"""A SCSI command of a session, and the data-out of one whose data did not all come with it.

A command is the unit's ``Task``, so that nothing else is allocated for it. One rule of a transfer:
data-out arrives in order, each sequence exactly as long as was asked for. Out of order it fails the
command when its sequence has ended (RFC 7143 7.9); what nobody asked for ends the connection.
"""

from typing import Final, Protocol

from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.iscsi.pdu import RESERVED_TAG
from pratima_iscsi.limits import TRANSFER_BYTES_MAX
from pratima_iscsi.operations import Buffer
from pratima_iscsi.scsi.sense import Sense, SenseKey
from pratima_iscsi.scsi.task import (
    DATA_OUT_FIELDS,
    GOOD,
    Aborted,
    Nexus,
    Task,
    Unit,
)

READ_10: Final = 0x28
READ_16: Final = 0x88
READ_12: Final = 0xA8
READ_6: Final = 0x08
READ_6_ZERO_MEANS: Final = 256


class Answerer(Protocol):
    """What a command asks of its session."""

    def answer(self, command: "Command") -> None:
        """Send its status, and its data-in before."""

    def settle_aborted(self, command: "Command") -> None:
        """It was aborted and has now ended."""


class Command(Task):
    """One SCSI command from its header until its response.

    ``itt`` names it; ``edtl`` is the length the initiator expects; ``windowed`` tells that it took
    a place in the CmdSN window; ``charge`` is what it counts in bytes of data-in under way.
    """

    __slots__ = (
        "answerer",
        "charge",
        "edtl",
        "executing",
        "itt",
        "lun",
        "residual",
        "residual_flags",
        "takes_data_in",
        "transfer",
        "unit",
        "windowed",
    )

    def __init__(
        self,
        answerer: Answerer,
        nexus: Nexus,
        unit: Unit,
        lun: int,
        itt: int,
        edtl: int,
        cdb: bytes,
        windowed: bool,
    ) -> None:
        # Task.__init__ in line: this runs once for every command.
        self.nexus = nexus
        self.cdb = cdb
        self.data_out: Buffer = b""
        self.status = GOOD
        self.data_in: Buffer = b""
        self.sense = b""
        self.aborted = Aborted.NO
        self.room = None
        self.lent = False
        self.answerer = answerer
        self.unit = unit
        self.lun = lun
        self.itt = itt
        self.edtl = edtl
        self.windowed = windowed
        self.executing = False
        self.takes_data_in = False
        self.charge = 0
        self.residual_flags = 0
        self.residual = 0
        self.transfer: Transfer | None = None

    def done(self) -> None:
        """The unit has ended it."""
        if self.aborted:
            self.answerer.settle_aborted(self)
        else:
            self.answerer.answer(self)


PLAIN_WRITES: Final = frozenset({0x2A, 0x2E, 0x8A, 0x8E, 0xAA, 0xAE})
"""WRITE and WRITE AND VERIFY, whose transfer length may be cut to what the initiator sends."""


def shortened(cdb: bytes, blocks: int) -> bytes:
    """A plain write's CDB with a transfer length of ``blocks``."""
    first, width, _ = DATA_OUT_FIELDS[cdb[0]]
    return cdb[:first] + blocks.to_bytes(width, "big") + cdb[first + width :]


def write_range(cdb: bytes) -> tuple[int, int]:
    """First LBA and number of blocks of a plain write's CDB."""
    first, width, _ = DATA_OUT_FIELDS[cdb[0]]
    lba_end = LBA_END_16 if cdb[0] in WRITES_16 else LBA_END_10
    count = int.from_bytes(cdb[first : first + width], "big")
    return int.from_bytes(cdb[LBA_FIRST:lba_end], "big"), count


WRITES_16: Final = frozenset({0x8A, 0x8E})
LBA_FIRST, LBA_END_10, LBA_END_16 = 2, 6, 10


def data_in_charge(cdb: bytes, edtl: int, block_size: int) -> int:
    """Bytes of data-in to reckon with: what a READ asks for, for others what is expected.

    No unit reads more than the longest transfer, whatever a CDB says.
    """
    opcode = cdb[0]
    if opcode == READ_10:
        length = (cdb[7] << 8 | cdb[8]) * block_size
    elif opcode == READ_16:
        length = int.from_bytes(cdb[10:14], "big") * block_size
    elif opcode == READ_12:
        length = int.from_bytes(cdb[6:10], "big") * block_size
    elif opcode == READ_6:
        length = (cdb[4] or READ_6_ZERO_MEANS) * block_size
    else:
        length = edtl
    return length if length <= TRANSFER_BYTES_MAX else TRANSFER_BYTES_MAX


OUT_OF_ORDER: Final = Sense(SenseKey.ABORTED_COMMAND, 0x47, 0x05)
"""Protocol service CRC error: data-out is missing or repeated (RFC 7143 11.4.7.2)."""

INCORRECT_AMOUNT: Final = Sense(SenseKey.ABORTED_COMMAND, 0x0C, 0x0D)
"""A sequence ended before or after its length (RFC 7143 11.4.7.2)."""


class Transfer:
    """The data-out of one command: what came, what is asked for, what comes next.

    ``wanted``: bytes that the command is given. ``expected``: bytes that may come, more than
    ``wanted`` where the initiator means to send more than the CDB asks for. The buffer holds
    ``unsolicited_max`` bytes until ``grant``, so that what nobody asked for stays bounded.
    """

    __slots__ = (
        "buffer",
        "data_sn",
        "failure",
        "granted",
        "r2t_sn",
        "received",
        "sequence_end",
        "tag",
        "unsolicited_max",
        "wanted",
    )

    def __init__(self, wanted: int, expected: int, unsolicited_max: int) -> None:
        self.wanted = wanted
        self.unsolicited_max = min(expected, unsolicited_max)
        self.buffer = bytearray(min(wanted, self.unsolicited_max))
        self.received = 0
        self.data_sn = 0
        self.failure: Sense | None = None
        """Why the command is to fail when the sequence has ended."""
        self.tag = RESERVED_TAG
        """The TTT of the sequence that is due; ``RESERVED_TAG`` for unsolicited data."""
        self.sequence_end = 0
        """Offset at which the sequence that is due ends; ``received`` when none is due."""
        self.r2t_sn = 0
        self.granted = 0
        """Bytes that count against the session's bound."""

    @property
    def complete(self) -> bool:
        """Whether all that the command wants is there."""
        return self.received >= self.wanted

    def take_immediate(self, data: Buffer) -> None:
        """The data segment of the command itself."""
        if len(data) > self.unsolicited_max:
            raise RemoteProtocolError(f"{len(data)} bytes of immediate data are too many")
        self._store(data)

    def expect_unsolicited(self) -> None:
        """F was not set in the command: unsolicited Data-Out follows."""
        self.sequence_end = self.unsolicited_max

    def grant(self) -> None:
        """There is room for the whole: make the buffer hold it."""
        self.granted = self.wanted
        if len(self.buffer) < self.wanted:
            whole = bytearray(self.wanted)
            whole[: self.received] = memoryview(self.buffer)[: self.received]
            self.buffer = whole

    def solicit(self, tag: int, burst_bytes_max: int) -> int:
        """Begin the next solicited sequence; gives its length."""
        length = min(burst_bytes_max, self.wanted - self.received)
        self.tag = tag
        self.data_sn = 0
        self.sequence_end = self.received + length
        self.r2t_sn += 1
        return length

    def take(self, data: Buffer, tag: int, data_sn: int, offset: int, final: bool) -> bool:
        """One Data-Out; True when it ended its sequence."""
        if tag != self.tag:
            raise RemoteProtocolError(f"Data-Out for TTT {tag:#x}, {self.tag:#x} is due")
        if offset + len(data) > self.sequence_end:
            raise RemoteProtocolError("Data-Out goes beyond what was asked for")
        if data_sn != self.data_sn or offset != self.received:
            self.failure = OUT_OF_ORDER
        if self.failure is None:
            self._store(data)
            self.data_sn += 1
            whole = self.received == self.sequence_end
            if final != whole and (whole or self.tag != RESERVED_TAG):
                self.failure = INCORRECT_AMOUNT
        return final

    def _store(self, data: Buffer) -> None:
        """Keep what the command wants of ``data``; count all of it."""
        offset = self.received
        self.received += len(data)
        if offset < self.wanted:
            end = min(self.received, self.wanted)
            self.buffer[offset:end] = memoryview(data)[: end - offset]

    def data(self) -> memoryview:
        """What the command is given."""
        return memoryview(self.buffer)[: self.wanted]
