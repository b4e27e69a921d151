"""The answering half of a session: its numbers, its window, and what is queued for the socket.

Data-in, status, R2T and every other PDU of the target leave here with the StatSN that is due, their
digests and their padding. One rule: a PDU is complete when it is queued, and what is queued is sent
in that order.
"""

from collections.abc import Callable
from typing import Final

from pratima_iscsi.iscsi.command import Command
from pratima_iscsi.iscsi.digests import digest
from pratima_iscsi.iscsi.login import LoggedIn
from pratima_iscsi.iscsi.names import isid_text
from pratima_iscsi.iscsi.negotiation import Parameters
from pratima_iscsi.iscsi.pdu import (
    DATA_STATUS,
    DIGEST_BYTES,
    FINAL,
    PAD,
    RESERVED_TAG,
    RESIDUAL_OVERFLOW,
    RESIDUAL_UNDERFLOW,
    RESPONSE,
    SENSE_LENGTH,
    SERIAL_MASK,
    Opcode,
    Request,
)
from pratima_iscsi.limits import QUEUE_DEPTH_MAX
from pratima_iscsi.operations import Buffer
from pratima_iscsi.scsi.task import GOOD, Nexus


class Answers(Nexus):
    """What a session sends. ``wake`` is called when something is queued and nothing was before."""

    __slots__ = (
        "_dispatched",
        "_immediate",
        "_reading",
        "commands",
        "data_digest",
        "digests",
        "exp_cmd_sn",
        "free",
        "header_digest",
        "logged_in",
        "out",
        "parameters",
        "queued",
        "send_segment_bytes_max",
        "stat_sn",
        "wake",
    )

    def __init__(
        self, logged_in: LoggedIn, *, stat_sn: int, cmd_sn: int, wake: Callable[[], None]
    ) -> None:
        device = logged_in.target.device if logged_in.target else NOTHING
        super().__init__(logged_in.initiator, isid_text(logged_in.isid), device)
        parameters = logged_in.parameters
        self.logged_in = logged_in
        self.parameters: Parameters = parameters
        self.send_segment_bytes_max = parameters.send_segment_bytes_max
        self.header_digest = DIGEST_BYTES if parameters.header_digest else 0
        self.data_digest = DIGEST_BYTES if parameters.data_digest else 0
        self.digests = bool(self.header_digest or self.data_digest)
        self.stat_sn = stat_sn
        """StatSN of the next answer that has one."""
        self.exp_cmd_sn = cmd_sn
        self.free = QUEUE_DEPTH_MAX
        """Places in the window: MaxCmdSN is ExpCmdSN + free - 1."""
        self.wake = wake
        self.out: list[Buffer] = []
        self.queued = 0
        """Bytes of data-in that the socket has not taken yet."""
        self.commands: dict[int, Command] = {}
        """By ITT: every command not yet answered, and not silently aborted."""
        self._dispatched = False
        """Whether the edge knows that there is something to take."""
        self._immediate = 0
        """Commands for immediate delivery, which have no place in the window."""
        self._reading = 0
        """Bytes of data-in that commands under way may bring."""

    def take(self) -> list[Buffer]:
        """The answers queued so far, to be sent in this order."""
        out = self.out
        self.out = []
        self._dispatched = False
        return out

    def out_ready(self) -> None:
        """Tell the edge, once, that there is something to take."""
        if not self._dispatched:
            self._dispatched = True
            self.wake()

    @property
    def max_cmd_sn(self) -> int:
        """The last CmdSN of the window."""
        return (self.exp_cmd_sn + self.free - 1) & SERIAL_MASK

    def answer(self, command: Command) -> None:
        """Send a command's data-in and its status."""
        del self.commands[command.itt]
        if command.windowed:
            self.free += 1
        else:
            self._immediate -= 1
        self._reading -= command.charge
        if command.takes_data_in:
            if self._send_data_in(command):
                return
        elif command.data_in:
            command.residual_flags = RESIDUAL_OVERFLOW
            command.residual = len(command.data_in)
        self._send_status(command, 0)

    def _send_status(self, command: Command, data_sn: int) -> None:
        """A SCSI Response (RFC 7143 11.4); ``data_sn`` Data-In PDUs went before it."""
        data = b""
        if command.sense:
            data = SENSE_LENGTH.pack(len(command.sense)) + command.sense
        if command.transfer is not None:
            data_sn += command.transfer.r2t_sn
        stat_sn = self.stat_sn
        self.stat_sn = (stat_sn + 1) & SERIAL_MASK
        header = RESPONSE.pack(
            Opcode.SCSI_RESPONSE,
            FINAL | command.residual_flags,
            command.status,
            len(data),
            0,
            command.itt,
            0,
            stat_sn,
            self.exp_cmd_sn,
            (self.exp_cmd_sn + self.free - 1) & SERIAL_MASK,
            data_sn,
            0,
            command.residual,
        )
        if data or self.digests:
            self._push(header, data)
            return
        self.out.append(header)
        if not self._dispatched:
            self._dispatched = True
            self.wake()

    def _send_data_in(self, command: Command) -> bool:
        """Send data-in; True when its last PDU carried the status."""
        data = command.data_in
        length = len(data)
        edtl = command.edtl
        if length < edtl:
            command.residual_flags = RESIDUAL_UNDERFLOW
            command.residual = edtl - length
        elif length > edtl:
            command.residual_flags = RESIDUAL_OVERFLOW
            command.residual = length - edtl
            length = edtl
            data = memoryview(data)[:edtl]
        if length == 0:
            return False
        collapsed = command.status == GOOD
        self.queued += length
        if length <= self.send_segment_bytes_max and length <= self.parameters.burst_bytes_max:
            self._push_data_in(command, data, 0, 0, length, FINAL, collapsed)
            data_sn = 1
        else:
            data_sn = self._split_data_in(command, memoryview(data), collapsed)
        if not collapsed:
            self._send_status(command, data_sn)
        return True

    def _split_data_in(self, command: Command, data: memoryview, collapsed: bool) -> int:
        """Data-In PDUs no longer than a segment, in sequences no longer than a burst."""
        length = len(data)
        burst = self.parameters.burst_bytes_max
        data_sn = 0
        offset = 0
        while offset < length:
            burst_end = min(length, offset - offset % burst + burst)
            stop = min(burst_end, offset + self.send_segment_bytes_max)
            flags = FINAL if stop == burst_end else 0
            last = stop == length
            self._push_data_in(
                command,
                data[offset:stop],
                data_sn,
                offset,
                stop - offset,
                flags,
                collapsed and last,
            )
            data_sn += 1
            offset = stop
        return data_sn

    def _push_data_in(
        self,
        command: Command,
        data: Buffer,
        data_sn: int,
        offset: int,
        length: int,
        flags: int,
        with_status: bool,
    ) -> None:
        stat_sn = 0
        residual = 0
        if with_status:
            stat_sn = self.stat_sn
            self.stat_sn = (stat_sn + 1) & SERIAL_MASK
            flags |= DATA_STATUS | command.residual_flags
            residual = command.residual
        header = RESPONSE.pack(
            Opcode.DATA_IN,
            flags,
            0,
            length,
            0,
            command.itt,
            RESERVED_TAG,
            stat_sn,
            self.exp_cmd_sn,
            (self.exp_cmd_sn + self.free - 1) & SERIAL_MASK,
            data_sn,
            offset,
            residual,
        )
        if self.digests or length & 3:
            self._push(header, data)
            return
        out = self.out
        out.append(header)
        out.append(data)
        if not self._dispatched:
            self._dispatched = True
            self.wake()

    def _push(self, header: bytes, data: Buffer = b"") -> None:
        """Queue one PDU with its digests and padding."""
        out = self.out
        out.append(header)
        if self.header_digest:
            out.append(digest(header))
        if len(data):
            pad = PAD[-len(data) & 3]
            out.append(data)
            if pad:
                out.append(pad)
            if self.data_digest:
                out.append(digest(data, pad))
        if not self._dispatched:
            self._dispatched = True
            self.wake()

    def send(
        self,
        opcode: int,
        *,
        flags: int = FINAL,
        word2: int = 0,
        lun: int = 0,
        itt: int = RESERVED_TAG,
        word20: int = 0,
        words: tuple[int, int, int] = (0, 0, 0),
        data: Buffer = b"",
        advance: bool = True,
    ) -> None:
        """Queue a PDU that is neither a command's status nor data; ``advance``: it has a StatSN."""
        stat_sn = self.stat_sn
        if advance:
            self.stat_sn = (stat_sn + 1) & SERIAL_MASK
        header = RESPONSE.pack(
            opcode,
            flags,
            word2,
            len(data),
            lun,
            itt,
            word20,
            stat_sn,
            self.exp_cmd_sn,
            self.max_cmd_sn,
            *words,
        )
        self._push(header, data)

    def reject(self, request: Request, reason: int) -> None:
        """Reject a PDU; its header goes back with the reason (RFC 7143 11.17)."""
        self.send(Opcode.REJECT, word2=reason << 8, data=request.encode())


class _Nothing:
    """The inventory of a discovery session."""

    luns: tuple[int, ...] = ()


NOTHING: Final = _Nothing()
