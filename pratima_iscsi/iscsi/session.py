"""A session in its full feature phase, sans I/O: the hot path of the portal.

``receive`` decodes every PDU that a buffer holds, executes the commands in it and queues the
answers; ``take`` gives them to the edge, which calls ``flushed`` when the socket has taken all.
Answers that come later call ``wake`` once. One rule: commands reach their units in CmdSN order,
those that wait for data-out or for room excepted, and nothing waits without a bound in limits.py.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.iscsi.answers import Answers
from pratima_iscsi.iscsi.command import (
    PLAIN_WRITES,
    Command,
    Transfer,
    data_in_charge,
    shortened,
    write_range,
)
from pratima_iscsi.iscsi.digests import digest
from pratima_iscsi.iscsi.directory import Directory
from pratima_iscsi.iscsi.login import LoggedIn
from pratima_iscsi.iscsi.pdu import (
    BHS_BYTES,
    COMMAND_READ,
    COMMAND_WRITE,
    DIGEST_BYTES,
    FINAL,
    OPCODE_MASK,
    REQUEST,
    RESERVED_TAG,
    RESIDUAL_OVERFLOW,
    RESIDUAL_UNDERFLOW,
    RESPONSE,
    SERIAL_MASK,
    TAIL_WORDS,
    Opcode,
    RejectReason,
    Request,
    extended_cdb,
    serial_before,
)
from pratima_iscsi.limits import (
    DATA_IN_BYTES_MAX,
    DATA_OUT_BYTES_MAX,
    IMMEDIATE_COMMANDS_MAX,
    TRANSFER_BYTES_MAX,
)
from pratima_iscsi.operations import Buffer
from pratima_iscsi.scsi.task import TASK_ABORTED, Aborted, Unit, data_out_length

DATA_SEGMENT_MASK: Final = 0xFF_FFFF
ADDITIONAL_HEADER: Final = 1 << 24
"""The least value of the lengths word that tells of additional header segments."""

RESIDUAL_MAX: Final = 0xFFFF_FFFF
"""What a response can tell: a CDB can ask for more than its field holds."""

TASK_IN_PROGRESS: Final = 0x07
"""Reject reason for an ITT in use (RFC 7143 11.17.1)."""

Handler = Callable[["Session", Request, Buffer], None]
"""What serves one kind of request beside commands and data."""


class Session(Answers):
    """One session, its one connection, and its I_T nexus.

    ``wake`` is called when answers are queued outside of ``receive`` and none were waiting, or
    when ``closing`` was set: then the edge takes, sends, and closes where ``closing`` says why.
    """

    __slots__ = (
        "_data_out_bytes",
        "_device",
        "_handlers",
        "_parked",
        "_soliciting",
        "_tag",
        "closing",
        "directory",
        "functions",
        "portal_address",
        "text_received",
        "text_tag",
        "text_to_send",
        "tsih",
    )

    def __init__(
        self,
        logged_in: LoggedIn,
        directory: Directory,
        handlers: Mapping[int, Handler],
        *,
        portal_address: str,
        stat_sn: int,
        cmd_sn: int,
        wake: Callable[[], None],
    ) -> None:
        super().__init__(logged_in, stat_sn=stat_sn, cmd_sn=cmd_sn, wake=wake)
        self.directory = directory
        self.portal_address = portal_address
        self.closing = ""
        """Why the connection is to be closed; empty while it is not."""
        self.functions = 0
        """Task management functions and logouts that wait for tasks to settle."""
        self.text_received = b""
        """What has come of a text request in parts."""
        self.text_to_send = b""
        """What is left to send of an answer in parts."""
        self.text_tag = RESERVED_TAG
        """The TTT under which a text exchange may go on; reserved: none is open."""
        self._handlers = handlers
        self._device = logged_in.target.device if logged_in.target else None
        self._parked: deque[Command] = deque()
        self._soliciting: deque[Command] = deque()
        self._data_out_bytes = 0
        self._tag = 0
        self.tsih = directory.open(logged_in.key, self)
        if self._device is not None:
            self._device.attach(self)

    def __str__(self) -> str:
        target = self.logged_in.target
        return f"{self.port} logged in to {target.name if target else 'discovery'}"

    # --- the edge's side -------------------------------------------------------------------------

    def flushed(self) -> None:
        """The socket has taken all that was queued: reads that waited for room go on."""
        self.queued = 0
        if self._parked:
            self._unpark()

    def end(self, reason: str) -> None:
        """Abort every command, give up nexus and TSIH; the connection is to be closed."""
        if not self.closing:
            self.closing = reason
            self.abort_all()
            if self._device is not None:
                self._device.detach(self)
            self.directory.close(self.tsih)
            self.out_ready()

    # --- receiving -------------------------------------------------------------------------------

    def receive(self, view: memoryview) -> int:
        """Serve every whole PDU in ``view``; gives the bytes consumed.

        Nothing of ``view`` is kept. The edge takes the answers afterwards: ``wake`` is not called.
        """
        self._dispatched = True
        try:
            return self._receive(view)
        except RemoteProtocolError as error:
            self.end(str(error))
            return len(view)

    def _receive(self, view: memoryview) -> int:
        end = len(view)
        offset = 0
        unpack = REQUEST.unpack_from
        header_digest = self.header_digest
        data_digest = self.data_digest
        commands = self.commands
        segment_max = self.parameters.receive_segment_bytes_max
        # Declared, for else the compiled loop would take them for objects of any kind.
        opcode: int
        flags: int
        lengths: int
        lun: int
        itt: int
        word20: int
        cmd_sn: int
        tail: bytes
        while end - offset >= BHS_BYTES:
            opcode, flags, word2, lengths, lun, itt, word20, cmd_sn, exp_stat_sn, tail = unpack(
                view, offset
            )
            length = lengths & DATA_SEGMENT_MASK
            start = offset + BHS_BYTES
            if lengths >= ADDITIONAL_HEADER:
                start += lengths >> 24 << 2
            if header_digest:
                if end < start + DIGEST_BYTES:
                    break
                if digest(view[offset:start]) != view[start : start + DIGEST_BYTES]:
                    raise RemoteProtocolError("header digest error")
                start += DIGEST_BYTES
            if length > segment_max:
                raise RemoteProtocolError(f"data segment of {length} bytes is over {segment_max}")
            stop = start + length
            following = stop + (-length & 3)
            if data_digest and length:
                following += DIGEST_BYTES
            if following > end:
                break
            if data_digest and length:
                covered = following - DIGEST_BYTES
                if digest(view[start:covered]) != view[covered:following]:
                    request = Request._make(unpack(view, offset))
                    self.reject(request, RejectReason.DATA_DIGEST_ERROR)
                    raise RemoteProtocolError("data digest error")
            if (
                opcode == Opcode.SCSI_COMMAND
                and cmd_sn == self.exp_cmd_sn
                and self.free
                and lengths < ADDITIONAL_HEADER
                and itt not in commands
                and itt != RESERVED_TAG
            ):
                self.exp_cmd_sn = (cmd_sn + 1) & SERIAL_MASK
                self.free -= 1
                self._command(flags, lun, itt, word20, tail, view[start:stop], True)
            elif opcode == Opcode.DATA_OUT:
                self._data_out(flags, itt, word20, tail, view[start:stop])
            else:
                request = Request(
                    opcode, flags, word2, lengths, lun, itt, word20, cmd_sn, exp_stat_sn, tail
                )
                segments = view[offset + BHS_BYTES : start - header_digest]
                self._other(request, segments, view[start:stop])
            offset = following
            if self.closing:
                return end
        return offset

    def _other(self, request: Request, segments: memoryview, data: memoryview) -> None:
        """Whatever is not a plain command in its order and no Data-Out."""
        opcode = request.opcode & OPCODE_MASK
        if opcode == Opcode.SCSI_COMMAND:
            self._unusual_command(request, segments, data)
            return
        handler = self._handlers.get(opcode)
        immediate = request.immediate
        if handler is None:
            if not immediate and request.cmd_sn == self.exp_cmd_sn:
                self.admit(request.cmd_sn)  # rejected or not, what comes next has the next number
            self.reject(request, RejectReason.COMMAND_NOT_SUPPORTED)
        elif immediate or opcode == Opcode.SNACK or self.admit(request.cmd_sn):
            handler(self, request, data)  # a SNACK has no CmdSN

    def admit(self, cmd_sn: int) -> bool:
        """Whether a non-immediate PDU is in its order; then it takes its CmdSN.

        Outside of the window, and a second time, it is passed over in silence (RFC 7143 4.2.2.1).
        A gap cannot close on a session's only connection.
        """
        if cmd_sn == self.exp_cmd_sn and self.free:
            self.exp_cmd_sn = (cmd_sn + 1) & SERIAL_MASK
            return True
        beyond = (self.exp_cmd_sn + self.free) & SERIAL_MASK
        if not serial_before(cmd_sn, self.exp_cmd_sn) and serial_before(cmd_sn, beyond):
            raise RemoteProtocolError(f"CmdSN {cmd_sn}, {self.exp_cmd_sn} is due")
        return False

    # --- commands --------------------------------------------------------------------------------

    def _unusual_command(self, request: Request, segments: memoryview, data: memoryview) -> None:
        """A command that is immediate, out of its order, or has additional header segments."""
        immediate = request.immediate
        if not immediate and not self.admit(request.cmd_sn):
            return
        if request.itt in self.commands or request.itt == RESERVED_TAG:
            self.reject(request, TASK_IN_PROGRESS)
            return
        if immediate and self._immediate >= IMMEDIATE_COMMANDS_MAX:
            self.reject(request, RejectReason.TOO_MANY_IMMEDIATE)
            return
        try:
            cdb = extended_cdb(request.tail, segments)
        except ValueError as error:
            self.reject(request, RejectReason.INVALID_FIELD)
            raise RemoteProtocolError(str(error)) from error
        if immediate:
            self._immediate += 1
        else:
            self.free -= 1
        self._command(
            request.flags, request.lun, request.itt, request.word20, cdb, data, not immediate
        )

    def _command(
        self,
        flags: int,
        lun: int,
        itt: int,
        edtl: int,
        cdb: bytes,
        data: memoryview,
        windowed: bool,
    ) -> None:
        device = self._device
        if device is None:
            raise RemoteProtocolError("a SCSI command in a discovery session")
        unit = device.unit(lun)
        command = Command(self, self, unit, lun, itt, edtl, cdb, windowed)
        self.commands[itt] = command
        if flags & COMMAND_WRITE:
            self._begin_write(command, flags, cdb, data)
            return
        if not flags & FINAL or data:
            raise RemoteProtocolError("data-out with a command that has none")
        if flags & COMMAND_READ:
            command.takes_data_in = True
        elif edtl:
            command.edtl = 0
        charge = data_in_charge(cdb, command.edtl, unit.block_size)
        if charge:
            under_way = self._reading + self.queued
            if under_way and under_way + charge > DATA_IN_BYTES_MAX:
                self._parked.append(command)
                return
            command.charge = charge
            self._reading += charge
        command.executing = True
        unit.execute(command)

    def _begin_write(self, command: Command, flags: int, cdb: bytes, data: memoryview) -> None:
        edtl = command.edtl
        length = len(data)
        wanted = data_out_length(cdb, command.unit.block_size)
        parameters = self.parameters
        if length and not parameters.immediate_data:
            raise RemoteProtocolError("immediate data, which was not agreed on")
        if length > edtl:
            raise RemoteProtocolError("more immediate data than is expected")
        if not flags & FINAL and parameters.initial_r2t:
            raise RemoteProtocolError("unsolicited data, which was not agreed on")
        if flags & COMMAND_READ:
            command.takes_data_in = True
        if wanted < edtl:
            command.residual_flags = RESIDUAL_UNDERFLOW
            command.residual = edtl - wanted
        elif wanted > edtl:
            command.residual_flags = RESIDUAL_OVERFLOW
            command.residual = min(wanted - edtl, RESIDUAL_MAX)
        if wanted != edtl:
            wanted = self._fit(command, cdb, wanted)
        if flags & FINAL and length >= wanted:
            if length > parameters.first_burst_bytes_max:
                raise RemoteProtocolError("more immediate data than FirstBurstLength")
            command.data_out = data if length == wanted else data[:wanted]
            command.executing = True
            command.unit.execute(command)
            return
        transfer = Transfer(wanted, edtl, parameters.first_burst_bytes_max)
        command.transfer = transfer
        transfer.take_immediate(data)
        if flags & FINAL:
            self._solicit(command, transfer)
        else:
            transfer.expect_unsolicited()

    def _fit(self, command: Command, cdb: bytes, wanted: int) -> int:
        """What a command is given whose length is not the one that the initiator expects.

        A plain write does the whole blocks that both lengths cover (FCP-4 9.5.8, which SAM-5 has
        no opinion on), unless its CDB as sent is to be refused: then nothing is asked for, and
        nothing written. Any other command gets all that is sent and judges it.
        """
        edtl = command.edtl
        if cdb[0] not in PLAIN_WRITES:
            return edtl
        if wanted < edtl:
            return wanted
        if not command.unit.takes(*write_range(cdb)):
            return 0
        blocks = edtl // command.unit.block_size
        command.cdb = shortened(cdb, blocks)
        return blocks * command.unit.block_size

    def _data_out(self, flags: int, itt: int, tag: int, tail: bytes, data: memoryview) -> None:
        command = self.commands.get(itt)
        if command is None or command.transfer is None or command.executing or command.aborted:
            return  # Its command has ended before: aborted, or it failed without its data.
        transfer = command.transfer
        _, data_sn, offset, _ = TAIL_WORDS.unpack(tail)
        if not transfer.take(data, tag, data_sn, offset, bool(flags & FINAL)):
            return
        if transfer.failure is not None:
            command.fail(transfer.failure)
            transfer.buffer = bytearray()
            self._release_data_out(transfer)
            return
        if not transfer.complete:
            self._solicit(command, transfer)
            return
        self._execute_transferred(command, transfer)

    def _execute_transferred(self, command: Command, transfer: Transfer) -> None:
        command.executing = True
        command.data_out = transfer.data()
        command.unit.execute(command)
        command.data_out = b""
        transfer.buffer = bytearray()
        self._release_data_out(transfer)

    def _solicit(self, command: Command, transfer: Transfer) -> None:
        """Ask for the next sequence, or wait for room to ask for the first."""
        if transfer.granted:
            self._request_transfer(command, transfer)
        elif transfer.wanted > TRANSFER_BYTES_MAX:
            # No unit takes so much: it will say so without the data.
            command.executing = True
            command.unit.execute(command)
        elif self._soliciting or (
            self._data_out_bytes and self._data_out_bytes + transfer.wanted > DATA_OUT_BYTES_MAX
        ):
            self._soliciting.append(command)
        else:
            self._grant(command, transfer)

    def _grant(self, command: Command, transfer: Transfer) -> None:
        transfer.grant()
        self._data_out_bytes += transfer.granted
        self._request_transfer(command, transfer)

    def _request_transfer(self, command: Command, transfer: Transfer) -> None:
        """Send an R2T (RFC 7143 11.8)."""
        self._tag = (self._tag + 1) % RESERVED_TAG
        r2t_sn = transfer.r2t_sn
        offset = transfer.received
        length = transfer.solicit(self._tag, self.parameters.burst_bytes_max)
        self._push(
            RESPONSE.pack(
                Opcode.R2T,
                FINAL,
                0,
                0,
                command.lun,
                command.itt,
                self._tag,
                self.stat_sn,
                self.exp_cmd_sn,
                self.max_cmd_sn,
                r2t_sn,
                offset,
                length,
            )
        )

    def _release_data_out(self, transfer: Transfer) -> None:
        self._data_out_bytes -= transfer.granted
        transfer.granted = 0
        while self._soliciting:
            command = self._soliciting[0]
            waiting = command.transfer
            assert waiting is not None
            if not command.aborted:
                room = DATA_OUT_BYTES_MAX - self._data_out_bytes
                if self._data_out_bytes and waiting.wanted > room:
                    return
                self._grant(command, waiting)
            self._soliciting.popleft()

    def _unpark(self) -> None:
        """Execute reads that waited for room, oldest first."""
        while self._parked and not self.closing:
            command = self._parked[0]
            if not command.aborted:
                unit = command.unit
                charge = data_in_charge(bytes(command.cdb), command.edtl, unit.block_size)
                under_way = self._reading + self.queued
                if under_way and under_way + charge > DATA_IN_BYTES_MAX:
                    return
                command.charge = charge
                self._reading += charge
                command.executing = True
                self._parked.popleft()
                unit.execute(command)
            else:
                self._parked.popleft()

    # --- aborting --------------------------------------------------------------------------------

    def abort_tasks(self, unit: Unit, how: Aborted) -> None:
        """Abort every command of ``unit`` (see ``Nexus``)."""
        for command in list(self.commands.values()):
            if command.unit is unit:
                self.abort(command, how)

    def abort_all(self) -> None:
        """Abort every command in silence: the session ends."""
        for command in list(self.commands.values()):
            self.abort(command, Aborted.SILENT)

    def abort(self, command: Command, how: Aborted) -> None:
        """Abort one command: at once if it waits, else as soon as its unit has ended it."""
        if how == Aborted.REPORTED and command.executing:
            command.aborted = how
            return
        command.aborted = how
        if how == Aborted.REPORTED:
            command.status = TASK_ABORTED
            self.answer(command)
        else:
            self._retire(command)
        if not command.executing and command.transfer is not None:
            command.transfer.buffer = bytearray()
            self._release_data_out(command.transfer)

    def _retire(self, command: Command) -> None:
        del self.commands[command.itt]
        if command.windowed:
            self.free += 1
        else:
            self._immediate -= 1

    def settle_aborted(self, command: Command) -> None:
        """An aborted command's unit has ended it: it is answered only if another nexus did it."""
        if command.aborted == Aborted.REPORTED and self.commands.get(command.itt) is command:
            command.status = TASK_ABORTED
            command.sense = b""
            command.data_in = b""
            self.answer(command)
            return
        self._reading -= command.charge
        if self._parked:
            self._unpark()
