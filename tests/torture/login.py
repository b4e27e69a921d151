"""A small iSCSI initiator that shares no line with the project: RFC 7143, one connection, no
digests, no authentication.

For the oracle: it answers when the status was read, not earlier, and knows nothing that the wire
does not say. One rule: anything unexpected ends the session with ConnectionError.
"""

import asyncio
import contextlib
import itertools
import secrets
import struct
from dataclasses import dataclass, field
from typing import Final

from tests.torture.workload import CommandFailed, Outcome

INITIATOR: Final = "iqn.2026-11.invalid.torture:initiator"
SEGMENT_BYTES: Final = 262144
LOGIN_SECONDS: Final = 30.0
NO_TAG: Final = 0xFFFF_FFFF

LOGIN: Final = struct.Struct(">BBBBI6sHIHHII16x")
"""opcode, flags, versions, data length, ISID, TSIH, ITT, CID, reserved, CmdSN, ExpStatSN"""
COMMAND: Final = struct.Struct(">BBHIQIIII16s")
"""opcode, flags, reserved, data length, LUN, ITT, expected length, CmdSN, ExpStatSN, CDB"""
OTHER: Final = struct.Struct(">BBHIQIIII16x")
"""opcode, flags, reserved, data length, LUN, ITT, TTT, CmdSN, ExpStatSN: text, logout, NOP-out"""
DATA_OUT: Final = struct.Struct(">BBHIQIIIIIIII")
"""opcode, flags, reserved, data length, LUN, ITT, TTT, 0, ExpStatSN, 0, DataSN, offset, 0"""
ANSWER: Final = struct.Struct(">BBBBIQIIIIIIII")
"""opcode, flags, response, status, data length, LUN, ITT, TTT, StatSN, ExpCmdSN, MaxCmdSN,
DataSN, buffer offset, desired length"""
AT_ONCE: Final = 0x40
NOP_IN, SCSI_RESPONSE, LOGIN_RESPONSE, TEXT_RESPONSE = 0x20, 0x21, 0x23, 0x24
DATA_IN, LOGOUT_RESPONSE, R2T, ASYNC = 0x25, 0x26, 0x31, 0x32

GOOD, CHECK_CONDITION, BUSY, TASK_SET_FULL = 0x00, 0x02, 0x08, 0x28
UNIT_ATTENTION, MISCOMPARE = 0x6, 0xE


@dataclass(slots=True)
class _Task:
    """A command under way."""

    done: "asyncio.Future[int]"
    data_out: bytes
    data_in: bytearray = field(default_factory=bytearray)
    sense: bytes = b""


class _Connection:
    """PDUs in and out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.stat_sn = 0

    async def receive(self) -> tuple[tuple[int, ...], bytes]:
        """One PDU: its header's fields and its data."""
        header = await self._reader.readexactly(ANSWER.size)
        fields = ANSWER.unpack(header)
        additional, length = fields[4] >> 24, fields[4] & 0xFFFFFF
        await self._reader.readexactly(4 * additional)
        data = await self._reader.readexactly((length + 3) // 4 * 4)
        return fields, data[:length]

    def send(self, header: bytes, data: bytes = b"") -> None:
        """Queue one PDU."""
        if self._writer.transport.is_closing():
            raise ConnectionError("the connection is closed")
        self._writer.write(header + data + bytes(-len(data) % 4))

    async def drain(self) -> None:
        """Wait while the socket is full."""
        await self._writer.drain()

    def abort(self) -> None:
        """Drop the connection."""
        self._writer.transport.abort()

    async def log_in(self, keys: dict[str, str]) -> dict[str, str]:
        """From nothing to the full feature phase; the target's keys."""
        text = encode({"InitiatorName": INITIATOR, **keys})
        isid = bytes([0x80]) + secrets.token_bytes(3) + bytes(2)
        flags = 0x80 | 1 << 2 | 3
        self.send(LOGIN.pack(0x43, flags, 0, 0, len(text), isid, 0, 1, 0, 0, 1, 0), text)
        fields, data = await self.receive()
        if fields[0] != LOGIN_RESPONSE or data_class(fields) != 0 or not fields[1] & 0x80:
            raise ConnectionError(f"login refused: {fields}")
        self.stat_sn = fields[8]
        return decode(data)


def data_class(fields: tuple[int, ...]) -> int:
    """Status class and detail of a login response (bytes 36 and 37)."""
    return fields[11] >> 16


def encode(keys: dict[str, str]) -> bytes:
    """Text keys as they stand in a PDU."""
    return "".join(f"{key}={value}\0" for key, value in keys.items()).encode()


def decode(data: bytes) -> dict[str, str]:
    """Text keys of a PDU."""
    pairs = (pair.partition("=") for pair in data.decode().split("\0") if pair)
    return {key: value for key, _, value in pairs}


async def login(port: int) -> "IscsiSession":
    """Discover the first target of a portal on 127.0.0.1 and log in to it."""
    async with asyncio.timeout(LOGIN_SECONDS):
        discovery = _Connection(*await asyncio.open_connection("127.0.0.1", port))
        await discovery.log_in({"SessionType": "Discovery"})
        text = encode({"SendTargets": "All"})
        discovery.send(
            OTHER.pack(0x04 | AT_ONCE, 0x80, 0, len(text), 0, 2, NO_TAG, 1, discovery.stat_sn + 1),
            text,
        )
        fields, data = await discovery.receive()
        discovery.abort()
        target = decode(data).get("TargetName")
        if fields[0] != TEXT_RESPONSE or target is None:
            raise ConnectionError(f"no target: {data!r}")
        connection = _Connection(*await asyncio.open_connection("127.0.0.1", port))
        keys = await connection.log_in(
            {
                "SessionType": "Normal",
                "TargetName": target,
                "HeaderDigest": "None",
                "DataDigest": "None",
                "InitialR2T": "Yes",
                "ImmediateData": "Yes",
                "MaxRecvDataSegmentLength": str(SEGMENT_BYTES),
                "MaxBurstLength": str(SEGMENT_BYTES),
                "FirstBurstLength": str(SEGMENT_BYTES),
                "DefaultTime2Wait": "0",
                "DefaultTime2Retain": "0",
                "ErrorRecoveryLevel": "0",
            }
        )
        session = IscsiSession(connection, keys)
        await session.start()
        return session


class IscsiSession:
    """A logical unit behind a login (a ``workload.Session``)."""

    def __init__(self, connection: _Connection, keys: dict[str, str]) -> None:
        self.block_bytes = 0
        self.blocks = 0
        self._connection = connection
        self._segment = int(keys.get("MaxRecvDataSegmentLength", "8192"))
        self._immediate = min(
            self._segment if keys.get("ImmediateData") == "Yes" else 0,
            int(keys.get("FirstBurstLength", "65536")),
        )
        self._tags = itertools.count(16)
        self._command = 1
        self._window_end = 1
        self._window = asyncio.Condition()
        self._tasks: dict[int, _Task] = {}
        self._lost: Exception | None = None

    async def start(self) -> None:
        """Read answers from now on; clear unit attentions; learn the size."""
        self._reading = asyncio.create_task(self._read())
        for _ in range(8):
            if await self.execute(bytes(6)) is Outcome.GOOD:
                break
        else:
            raise ConnectionError("the unit does not become ready")
        capacity = bytes([0x9E, 0x10]) + bytes(8) + (32).to_bytes(4, "big") + bytes(2)
        data = bytearray()
        await self.execute(capacity, data_in=data, expected=32)
        last, self.block_bytes = struct.unpack_from(">QI", data)
        self.blocks = last + 1

    async def write(self, lba: int, data: bytes) -> Outcome:
        """WRITE(16)."""
        return await self.execute(
            struct.pack(">BBQIBB", 0x8A, 0, lba, len(data) // self.block_bytes, 0, 0), data
        )

    async def zero(self, lba: int, count: int, *, unmap: bool) -> Outcome:
        """UNMAP, or WRITE SAME(16) with a block of zeros."""
        if unmap:
            parameters = struct.pack(">HH4xQI4x", 22, 16, lba, count)
            return await self.execute(struct.pack(">B6xHB", 0x42, len(parameters), 0), parameters)
        return await self.execute(
            struct.pack(">BBQIBB", 0x93, 0, lba, count, 0, 0), bytes(self.block_bytes)
        )

    async def compare_and_write(self, lba: int, expected: bytes, data: bytes) -> Outcome:
        """COMPARE AND WRITE."""
        count = len(data) // self.block_bytes
        return await self.execute(
            struct.pack(">BBQ3xBBB", 0x89, 0, lba, count, 0, 0), expected + data
        )

    async def close(self) -> None:
        """Log out if nothing is under way, and close."""
        if self._lost is None and not self._tasks:
            logout = OTHER.pack(
                0x06 | AT_ONCE, 0x80, 0, 0, 0, 1, 0, self._command, self._expected()
            )
            with contextlib.suppress(TimeoutError, OSError, EOFError):
                self._connection.send(logout)
                await asyncio.wait_for(self._connection.drain(), LOGIN_SECONDS)
                await asyncio.wait_for(asyncio.shield(self._reading), LOGIN_SECONDS)
        self._reading.cancel()
        self._connection.abort()

    async def execute(
        self,
        cdb: bytes,
        data_out: bytes = b"",
        *,
        data_in: bytearray | None = None,
        expected: int = 0,
    ) -> Outcome:
        """Send a command and wait for its status. CommandFailed names any that is unexpected."""
        async with self._window:
            await self._window.wait_for(
                lambda: self._lost is not None or self._command != self._window_end + 1
            )
            if self._lost is not None:
                raise ConnectionError(f"the session is lost: {self._lost}")
            tag = next(self._tags) & 0x7FFF_FFFF
            task = _Task(asyncio.get_running_loop().create_future(), data_out)
            task.done.add_done_callback(_told)
            self._tasks[tag] = task
            first = data_out[: self._immediate]
            flags = 0x80 | (0x20 if data_out else 0) | (0x40 if expected else 0) | 1
            self._connection.send(
                COMMAND.pack(
                    0x01,
                    flags,
                    0,
                    len(first),
                    0,
                    tag,
                    len(data_out) or expected,
                    self._command,
                    self._expected(),
                    cdb.ljust(16, b"\0"),
                ),
                first,
            )
            self._command = (self._command + 1) & 0xFFFF_FFFF
        await self._connection.drain()
        status = await task.done
        if data_in is not None:
            data_in += task.data_in
        return outcome(cdb, status, task.sense)

    def _expected(self) -> int:
        return (self._connection.stat_sn + 1) & 0xFFFF_FFFF

    async def _read(self) -> None:
        """Take answers until the connection ends."""
        problem: Exception
        try:
            while True:
                fields, data = await self._connection.receive()
                if fields[0] == LOGOUT_RESPONSE:
                    problem = ConnectionError("logged out")
                    break
                await self._take(fields, data)
        except (OSError, EOFError) as caught:
            problem = caught
        self._lost = problem
        for task in self._tasks.values():
            if not task.done.done():
                task.done.set_exception(ConnectionError(f"the session is lost: {problem}"))
        self._tasks.clear()
        async with self._window:
            self._window.notify_all()

    async def _take(self, fields: tuple[int, ...], data: bytes) -> None:
        opcode, flags, _, status, _, lun, tag, transfer, stat_sn, _, window_end, _, offset, _ = (
            fields
        )
        if (window_end - self._window_end) & 0xFFFF_FFFF < 1 << 31:
            async with self._window:
                self._window_end = window_end
                self._window.notify_all()
        if opcode == DATA_IN:
            task = self._task(tag)
            task.data_in[offset : offset + len(data)] = data
            if flags & 0x01:
                self._finish(tag, status, stat_sn)
        elif opcode == SCSI_RESPONSE:
            self._task(tag).sense = data[2:]
            self._finish(tag, status if not fields[2] else BUSY_TARGET, stat_sn)
        elif opcode == R2T:
            self._send_data(tag, transfer, offset, fields[13], lun)
            await self._connection.drain()
        elif opcode == NOP_IN:
            if transfer != NO_TAG:
                self._connection.send(
                    OTHER.pack(
                        AT_ONCE, 0x80, 0, 0, lun, NO_TAG, transfer, self._command, self._expected()
                    )
                )
        else:
            raise ConnectionError(f"a PDU of opcode {opcode:#x}: {data[:100]!r}")

    def _task(self, tag: int) -> _Task:
        if tag not in self._tasks:
            raise ConnectionError(f"an answer to {tag:#x}, which is not under way")
        return self._tasks[tag]

    def _finish(self, tag: int, status: int, stat_sn: int) -> None:
        self._connection.stat_sn = stat_sn
        task = self._tasks.pop(tag)
        if not task.done.done():
            task.done.set_result(status)

    def _send_data(self, tag: int, transfer: int, offset: int, length: int, lun: int) -> None:
        """The data-out that an R2T asks for."""
        wanted = self._task(tag).data_out[offset : offset + length]
        if len(wanted) != length:
            raise ConnectionError(f"an R2T for {offset}+{length}, past the data")
        for number, at in enumerate(range(0, length, self._segment)):
            part = wanted[at : at + self._segment]
            final = 0x80 if at + len(part) == length else 0
            self._connection.send(
                DATA_OUT.pack(
                    0x05,
                    final,
                    0,
                    len(part),
                    lun,
                    tag,
                    transfer,
                    0,
                    self._expected(),
                    0,
                    number,
                    offset + at,
                    0,
                ),
                part,
            )


def _told(done: "asyncio.Future[int]") -> None:
    """A command that nobody waits for any more may end as it likes."""
    if not done.cancelled():
        done.exception()


BUSY_TARGET: Final = 0x100
"""The target failed before the command had a status."""


def outcome(cdb: bytes, status: int, sense: bytes) -> Outcome:
    """What a status means for the recorder. Raises CommandFailed."""
    if status == GOOD:
        return Outcome.GOOD
    if status in (BUSY, TASK_SET_FULL):
        return Outcome.RETRY
    if status == CHECK_CONDITION and len(sense) >= 3:
        key = sense[1] & 0xF if sense[0] & 0x7F in (0x72, 0x73) else sense[2] & 0xF
        if key == UNIT_ATTENTION:
            return Outcome.RETRY
        if key == MISCOMPARE:
            return Outcome.UNCHANGED
    raise CommandFailed(f"CDB {cdb.hex()}: status {status:#x}, sense {sense.hex()}")
