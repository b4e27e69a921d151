"""The 48-byte basic header segments of iSCSI and their numbers (RFC 7143 11). Layouts only.

All initiator PDUs share one layout of fields, and so do all target PDUs; what a word means depends
on the opcode and is written beside each opcode. One rule: nothing else in the package knows a byte
offset of a header.
"""

import enum
import struct
from typing import Final, NamedTuple

from pratima_iscsi.operations import Buffer

BHS_BYTES: Final = 48
DIGEST_BYTES: Final = 4
PAD: Final = (b"", b"\0", b"\0\0", b"\0\0\0")
"""Padding by its length; ``-length & 3`` bytes go after a data segment of ``length``."""

REQUEST: Final = struct.Struct(">BBHIQIIII16s")
"""opcode, flags, bytes 2-3, lengths, LUN, ITT, word 20, CmdSN, ExpStatSN, bytes 32-47"""

RESPONSE: Final = struct.Struct(">BBHIQIIIIIIII")
"""opcode, flags, bytes 2-3, lengths, LUN, ITT, word 20, StatSN, ExpCmdSN, MaxCmdSN, words 36-44"""

TAIL_WORDS: Final = struct.Struct(">IIII")
"""Bytes 32-47 of a request as words."""

SENSE_LENGTH: Final = struct.Struct(">H")
"""Precedes the sense data in the data segment of a SCSI Response (RFC 7143 11.4.7)."""

RESERVED_TAG: Final = 0xFFFF_FFFF
"""An ITT or TTT that names nothing."""

SERIAL_MASK: Final = 0xFFFF_FFFF

IMMEDIATE: Final = 0x40
OPCODE_MASK: Final = 0x3F
FINAL: Final = 0x80


class Opcode(enum.IntEnum):
    """Opcodes, the immediate bit left out (RFC 7143 11.2.1.2)."""

    NOP_OUT = 0x00
    """word 20 = TTT"""
    SCSI_COMMAND = 0x01
    """word 20 = expected data transfer length, bytes 32-47 = CDB"""
    TASK_MANAGEMENT = 0x02
    """word 20 = referenced task tag, word 32 = RefCmdSN"""
    LOGIN = 0x03
    """bytes 2-3 = version max and min, LUN = ISID and TSIH, word 20 = CID in its upper half"""
    TEXT = 0x04
    """word 20 = TTT"""
    DATA_OUT = 0x05
    """word 20 = TTT, words 36 and 40 = DataSN and buffer offset"""
    LOGOUT = 0x06
    """word 20 = CID in its upper half"""
    SNACK = 0x10
    NOP_IN = 0x20
    SCSI_RESPONSE = 0x21
    """bytes 2-3 = response and status, words 36-44 = ExpDataSN, residuals of read and of all"""
    TASK_MANAGEMENT_RESPONSE = 0x22
    """byte 2 = response"""
    LOGIN_RESPONSE = 0x23
    """as LOGIN; the upper half of word 36 = status class and detail"""
    TEXT_RESPONSE = 0x24
    DATA_IN = 0x25
    """word 20 = TTT, words 36-44 = DataSN, buffer offset, residual; byte 3 = status"""
    LOGOUT_RESPONSE = 0x26
    """byte 2 = response, word 40 = Time2Wait and Time2Retain"""
    R2T = 0x31
    """word 20 = TTT, words 36-44 = R2TSN, buffer offset, desired length"""
    ASYNC_MESSAGE = 0x32
    """word 36 = event, its code and parameter 1, word 40 = parameters 2 and 3"""
    REJECT = 0x3F
    """byte 2 = reason; data = the header of what was rejected"""


# SCSI Command (RFC 7143 11.3)
COMMAND_READ: Final = 0x40
COMMAND_WRITE: Final = 0x20

# SCSI Response and Data-In (RFC 7143 11.4 and 11.7)
RESIDUAL_OVERFLOW: Final = 0x04
RESIDUAL_UNDERFLOW: Final = 0x02
DATA_STATUS: Final = 0x01

# Login and Text (RFC 7143 11.10 to 11.13)
TRANSIT: Final = 0x80
CONTINUE: Final = 0x40


class Stage(enum.IntEnum):
    """Login stages (RFC 7143 11.12.3)."""

    SECURITY = 0
    OPERATIONAL = 1
    FULL_FEATURE = 3


class LoginStatus(enum.IntEnum):
    """Status class and detail of a login (RFC 7143 11.13.5)."""

    SUCCESS = 0x0000
    INITIATOR_ERROR = 0x0200
    AUTHENTICATION_FAILURE = 0x0201
    AUTHORIZATION_FAILURE = 0x0202
    NOT_FOUND = 0x0203
    UNSUPPORTED_VERSION = 0x0205
    TOO_MANY_CONNECTIONS = 0x0206
    MISSING_PARAMETER = 0x0207
    SESSION_TYPE_NOT_SUPPORTED = 0x0209
    SESSION_DOES_NOT_EXIST = 0x020A
    INVALID_DURING_LOGIN = 0x020B
    TARGET_ERROR = 0x0300
    OUT_OF_RESOURCES = 0x0302


class Function(enum.IntEnum):
    """Task management functions (RFC 7143 11.5.1)."""

    ABORT_TASK = 1
    ABORT_TASK_SET = 2
    CLEAR_ACA = 3
    CLEAR_TASK_SET = 4
    LOGICAL_UNIT_RESET = 5
    TARGET_WARM_RESET = 6
    TARGET_COLD_RESET = 7
    TASK_REASSIGN = 8


class FunctionResponse(enum.IntEnum):
    """What became of a task management function (RFC 7143 11.6.1)."""

    COMPLETE = 0
    TASK_DOES_NOT_EXIST = 1
    LUN_DOES_NOT_EXIST = 2
    TASK_STILL_ALLEGIANT = 3
    REASSIGN_NOT_SUPPORTED = 4
    NOT_SUPPORTED = 5
    REJECTED = 255


class RejectReason(enum.IntEnum):
    """Why a PDU is rejected (RFC 7143 11.17.1)."""

    DATA_DIGEST_ERROR = 0x02
    SNACK = 0x03
    PROTOCOL_ERROR = 0x04
    COMMAND_NOT_SUPPORTED = 0x05
    TOO_MANY_IMMEDIATE = 0x06
    INVALID_FIELD = 0x09


class LogoutReason(enum.IntEnum):
    """Why the initiator logs out (RFC 7143 11.14.1)."""

    CLOSE_SESSION = 0
    CLOSE_CONNECTION = 1
    REMOVE_FOR_RECOVERY = 2


class LogoutResponse(enum.IntEnum):
    """What became of a logout (RFC 7143 11.15.1)."""

    SUCCESS = 0
    CID_NOT_FOUND = 1
    RECOVERY_NOT_SUPPORTED = 2


ASYNC_LOGOUT_REQUEST: Final = 1
"""The target wants the initiator to log out within parameter 3 seconds (RFC 7143 11.9.1)."""

ASYNC_EVENT_SHIFT: Final = 24

AHS_HEADER: Final = struct.Struct(">HB")
"""AHS length (without these three bytes' first two and the type) and type (RFC 7143 11.2.2)."""

AHS_EXTENDED_CDB: Final = 1


class Request(NamedTuple):
    """An initiator's header as fields; ``opcode`` still has the immediate bit."""

    opcode: int
    flags: int
    word2: int
    lengths: int
    lun: int
    itt: int
    word20: int
    cmd_sn: int
    exp_stat_sn: int
    tail: bytes

    @property
    def immediate(self) -> bool:
        """Whether the PDU is for immediate delivery and takes no CmdSN."""
        return bool(self.opcode & IMMEDIATE)

    @property
    def data_length(self) -> int:
        """Bytes of its data segment, padding left out."""
        return self.lengths & 0xFF_FFFF

    @property
    def ahs_length(self) -> int:
        """Bytes of its additional header segments."""
        return self.lengths >> 24 << 2

    def encode(self) -> bytes:
        """The 48 bytes."""
        return REQUEST.pack(*self)


class Response(NamedTuple):
    """A target's header as fields."""

    opcode: int
    flags: int
    word2: int
    lengths: int
    lun: int
    itt: int
    word20: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    word36: int
    word40: int
    word44: int

    @property
    def data_length(self) -> int:
        """Bytes of its data segment, padding left out."""
        return self.lengths & 0xFF_FFFF

    @property
    def ahs_length(self) -> int:
        """Bytes of its additional header segments."""
        return self.lengths >> 24 << 2

    @property
    def status(self) -> int:
        """SCSI status of a SCSI Response or a Data-In with S."""
        return self.word2 & 0xFF

    @property
    def response(self) -> int:
        """Byte 2: the response or reason code."""
        return self.word2 >> 8

    def encode(self) -> bytes:
        """The 48 bytes."""
        return RESPONSE.pack(*self)


def decode_request(header: Buffer, offset: int = 0) -> Request:
    """The fields of 48 bytes from an initiator; ``struct.error`` if there are fewer."""
    return Request._make(REQUEST.unpack_from(header, offset))


def decode_response(header: Buffer, offset: int = 0) -> Response:
    """The fields of 48 bytes from a target; ``struct.error`` if there are fewer."""
    return Response._make(RESPONSE.unpack_from(header, offset))


def extended_cdb(cdb: bytes, segments: Buffer) -> bytes:
    """``cdb`` with the rest of it that an extended CDB segment carries (RFC 7143 11.2.2.3).

    Segments of other types are passed over. ValueError when a segment's length is impossible.
    """
    offset = 0
    while offset < len(segments):
        if len(segments) - offset < AHS_HEADER.size + 1:
            raise ValueError("an additional header segment is cut short")
        length, kind = AHS_HEADER.unpack_from(segments, offset)
        end = offset + AHS_HEADER.size + length
        if length == 0 or end > len(segments):
            raise ValueError(f"an additional header segment of {length} bytes does not fit")
        if kind & OPCODE_MASK == AHS_EXTENDED_CDB:
            cdb += bytes(segments[offset + AHS_HEADER.size + 1 : end])
        offset = end + (-end & 3)
    return cdb


def serial_before(first: int, second: int) -> bool:
    """Whether ``first`` comes before ``second`` in 32-bit serial arithmetic (RFC 1982)."""
    return first != second and (second - first) & SERIAL_MASK < 0x8000_0000
