"""The kernel's side of a TCMU ring in a bytearray, as drivers/target/target_core_user.c does it.

It puts commands in and takes answers out under the kernel's rules, and is as strict as it: an
answer to a command that is not there, a tail beyond the head, is an AssertionError. Data blocks are
used again without being cleared, as the kernel's are.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from pratima_iscsi.tcmu import ring as layout
from pratima_iscsi.tcmu.ring import Feature

RING_BYTES = 4096 - layout.MAILBOX_BYTES
DATA_BYTES = 1 << 16
BLOCK_BYTES = 4096
ALL = int(Feature.OUT_OF_ORDER | Feature.READ_LENGTH | Feature.TASK_MANAGEMENT)
HEADER = struct.Struct("=IHBB")
"""operation and length, command's id, the kernel's flags, the handler's"""
STALE = 0xA5
"""What never-written data pages hold: another command's bytes."""


@dataclass
class Sent:
    """A command in the ring."""

    iovecs: list[tuple[int, int]]
    reads: bool


@dataclass
class Answer:
    """What came back for a command."""

    status: int
    data: bytes
    sense: bytes
    residual: int = 0


@dataclass
class Kernel:
    """One device's mailbox, ring and data area."""

    features: int = ALL
    ring_bytes: int = RING_BYTES
    data_bytes: int = DATA_BYTES
    answers: dict[int, Answer] = field(default_factory=dict)
    commands: dict[int, Sent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.area = bytearray(layout.MAILBOX_BYTES + self.ring_bytes)
        self.data_start = len(self.area)
        self.area += bytes([STALE]) * self.data_bytes
        layout.MAILBOX.pack_into(self.area, 0, 2, self.features, 128, self.ring_bytes, 0)
        self.cleaned = 0
        self.next_id = 1
        self.free = list(range(self.data_bytes // BLOCK_BYTES))

    @property
    def view(self) -> memoryview:
        """The mapping, as the handler gets it."""
        return memoryview(self.area)

    @property
    def head(self) -> int:
        """Where the next entry goes: within the ring whatever the mailbox says, as the kernel's."""
        return int.from_bytes(self.area[12:16], "little") % self.ring_bytes

    @head.setter
    def head(self, value: int) -> None:
        self.area[12:16] = value.to_bytes(4, "little")

    @property
    def tail(self) -> int:
        """What the handler has published."""
        return int.from_bytes(self.area[64:68], "little")

    def room(self, length: int) -> bool:
        """Whether an entry fits, with the pad that it may need, as ``is_ring_space_avail`` has."""
        head, used = self.head, (self.head - self.cleaned) % self.ring_bytes
        needed = length
        if self.ring_bytes - head < length:
            needed += self.ring_bytes - head
        return self.ring_bytes - used - 1 >= needed

    def _enter(self, entry: bytes) -> None:
        assert self.room(len(entry)), "the test put in more than the ring holds"
        left = self.ring_bytes - self.head
        if left < len(entry):
            self._store(struct.pack("=IHBB", left | layout.PAD, 0, 0, 0), left)
        self._store(entry, len(entry))

    def _store(self, entry: bytes, length: int) -> None:
        at = layout.MAILBOX_BYTES + self.head
        self.area[at : at + len(entry)] = entry
        self.head = (self.head + length) % self.ring_bytes

    def command_bytes(self, cdb: bytes, iovecs: int) -> int:
        """How long the entry of a command is."""
        return max(48 + 16 * iovecs, 112) + (len(cdb) + 7) // 8 * 8

    def send(self, cdb: bytes, *, expect: int = 0, data: bytes | None = None) -> int:
        """Put a command in that expects ``expect`` bytes of data-in or brings ``data``; its id."""
        length = expect if data is None else len(data)
        blocks = [self.free.pop(0) for _ in range(-(-length // BLOCK_BYTES))]
        iovecs = []
        for index, block in enumerate(blocks):
            place = self.data_start + block * BLOCK_BYTES
            size = min(BLOCK_BYTES, length - index * BLOCK_BYTES)
            if data is not None:
                start = index * BLOCK_BYTES
                self.area[place : place + size] = data[start : start + size]
            if iovecs and sum(iovecs[-1]) == place:
                iovecs[-1] = (iovecs[-1][0], iovecs[-1][1] + size)
            else:
                iovecs.append((place, size))
        number = self.next_id
        self.next_id = self.next_id % 0xFFFF + 1
        self._enter(self.entry(number, cdb, iovecs))
        self.commands[number] = Sent(iovecs, data is None)
        return number

    def entry(self, number: int, cdb: bytes, iovecs: Sequence[tuple[int, int]]) -> bytes:
        """A command's entry for the ring's present head (and the pad before it)."""
        length = self.command_bytes(cdb, len(iovecs))
        head = self.head if self.ring_bytes - self.head >= length else 0
        cdb_at = layout.MAILBOX_BYTES + head + max(48 + 16 * len(iovecs), 112)
        word = length | layout.COMMAND
        request = layout.REQUEST.pack(word, number, 0, 0, len(iovecs), 0, 0, 0, cdb_at)
        body = request.ljust(48, b"\0") + b"".join(layout.IOVEC.pack(*one) for one in iovecs)
        return (body.ljust(max(48 + 16 * len(iovecs), 112), b"\0") + cdb).ljust(length, b"\0")

    def notify(self, function: int, ids: Sequence[int]) -> None:
        """Put a task management notice in."""
        length = (layout.IDS_AT + 2 * len(ids) + 7) // 8 * 8
        word = length | layout.TASK_MANAGEMENT
        head = layout.NOTICE.pack(word, 0, 0, 0, function, len(ids))
        self._enter((head.ljust(32, b"\0") + struct.pack(f"={len(ids)}H", *ids)).ljust(length))

    def collect(self) -> dict[int, Answer]:
        """Take the published answers out, as ``tcmu_handle_completions`` does; those by id."""
        found: dict[int, Answer] = {}
        while self.cleaned != self.tail:
            at = layout.MAILBOX_BYTES + self.cleaned
            word, number, _, flags = HEADER.unpack_from(self.area, at)
            length, operation = word & ~7, word & 7
            assert length and self.cleaned != self.head, "the tail is beyond the head"
            if operation == layout.COMMAND:
                assert number in self.commands, f"id {number} not found, the ring is broken"
                found[number] = self._answer(at, self.commands.pop(number), flags)
            self.cleaned = (self.cleaned + length) % self.ring_bytes
        self.answers |= found
        return found

    def _answer(self, at: int, sent: Sent, flags: int) -> Answer:
        status = self.area[at + 8]
        read_length = int.from_bytes(self.area[at + 12 : at + 16], "little")
        valid = flags & layout.READ_LENGTH_FLAG and read_length and self.features & 2
        data = b"".join(bytes(self.area[place : place + size]) for place, size in sent.iovecs)
        residual = 0
        if valid and sent.reads and read_length < len(data):
            residual = len(data) - read_length
            data = data[:read_length]
        for place, size in sent.iovecs:
            first = (place - self.data_start) // BLOCK_BYTES
            self.free += range(first, first - (-size // BLOCK_BYTES))
        sense = bytes(self.area[at + 16 : at + 112]) if status == 2 else b""
        return Answer(
            status, data if sent.reads and (status != 2 or valid) else b"", sense, residual
        )
