"""The command ring that the kernel shares with us (linux/target_core_user.h, version 2).

The mapping holds a mailbox, the ring of entries and the data area that the entries' iovecs point
into. The kernel moves the head, we the tail. A response is written over the request at the tail
(out-of-order completion): which command it answers is said by its id, not by its place. One rule:
nothing that the ring holds is used before it is known to lie where it may, and what decides later
(CDB, iovecs, places of entries) is private memory by then, for a response may overlay it.

``take`` gives what the last ``look`` has seen and nothing newer, so that the age of a command has a
bound that is known before it is executed: ``since``.
"""

import enum
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pratima_iscsi.errors import PratimaError
from pratima_iscsi.operations import Buffer
from pratima_iscsi.scsi.cdb import LONGEST_FIXED_CDB
from pratima_iscsi.scsi.task import CHECK_CONDITION

MAILBOX = struct.Struct("=HHIII")
"""version, flags, offset of the ring, its size, head"""
MAILBOX_BYTES: Final = 128
HEAD_WORD: Final = 12 // 4
TAIL_WORD: Final = 64 // 4
"""The head and the tail as indices of 32-bit words; each has a cache line of its own."""
VERSION: Final = 2

REQUEST = struct.Struct("=IHBBIIIIQ")
"""operation and length, command's id, the kernel's flags, our flags; iovecs, further ones of
bidirectional and of protection data; padding; the CDB's place"""
IOVEC = struct.Struct("=QQ")
"""place in the mapping, length"""
IOVECS_AT: Final = 48
PLAIN_REQUEST = struct.Struct("=IHBBIIIIQ16xQQ48x16s")
"""The same with one iovec, and a CDB of up to 16 bytes where the kernel puts it behind that."""
PLAIN_CDB_AT: Final = 112
NOTICE = struct.Struct("=IHBBB3xI")
"""as far as our flags; what is asked, ids"""
IDS_AT: Final = 32
GOOD_RESPONSE = struct.Struct("=HBBB3xI")
"""id, flags of the kernel and ours, status, length of data-in; from RESPONSE_AT on"""
RESPONSE = struct.Struct("=HBBB3xI96s")
"""as above, and the sense data"""
RESPONSE_AT: Final = 4
COMMAND_BYTES_MIN: Final = 112
"""A command's entry has room for its response."""
ALIGNMENT: Final = 8
OPERATION_MASK: Final = 0x7

CDB_BYTES: Final = (6, 10, 10, 12, 16, 12, 10, 10)
"""By group code, as Linux reckons (scsi_command_size_tbl)."""
VARIABLE_LENGTH: Final = 0x7F
PLACE_BITS: Final = 30
PLACE_MASK: Final = (1 << PLACE_BITS) - 1
"""Places in a ring and around it have so many bits: two of them are one small number."""


class Feature(enum.IntFlag):
    """The mailbox's flags: what this kernel can do."""

    OUT_OF_ORDER = 1
    READ_LENGTH = 2
    TASK_MANAGEMENT = 4
    KEEP_BUFFER = 8


PAD: Final = 0
COMMAND: Final = 1
TASK_MANAGEMENT: Final = 2
"""What an entry is: the low bits of its first word."""

READ_LENGTH_FLAG: Final = 0x02
"""Of our flags in a response: the length of data-in is valid."""


class RingError(PratimaError):
    """The ring holds what no kernel puts there; the device is given up until it is reset."""


@dataclass(frozen=True, slots=True)
class TaskManagement:
    """A notice: commands that the kernel wants to be rid of (their answers are thrown away)."""

    function: int
    ids: tuple[int, ...]


class Request:
    """A command as it stood in the ring: ``iovecs`` lie in the data area, ``length`` is their sum;
    the CDB is filled up to the longest that has a fixed length, with whatever lies behind it.

    ``bidirectional`` tells that there is data for both directions, which no command of ours has.
    """

    __slots__ = ("bidirectional", "cdb", "id", "iovecs", "length")

    def __init__(
        self,
        number: int,
        cdb: bytes,
        iovecs: tuple[tuple[int, int], ...],
        length: int,
        bidirectional: bool,
    ) -> None:
        self.id = number
        self.cdb = cdb
        self.iovecs = iovecs
        self.length = length
        self.bidirectional = bidirectional


def no_barrier() -> None:
    """Loads and stores of x86 stay in their order."""


class Ring:
    """The ring of one device, in ``area``, its whole mapping.

    ``barrier`` keeps loads and stores before it from being seen after those behind it.
    """

    def __init__(self, area: memoryview, barrier: Callable[[], None] = no_barrier) -> None:
        if len(area) < MAILBOX_BYTES or len(area) % ALIGNMENT:
            raise RingError(f"a mapping of {len(area)} bytes holds no ring")
        self._area = area
        self._words = area.cast("I")
        self._barrier = barrier
        version, flags, offset, size, _ = MAILBOX.unpack_from(area)
        if version != VERSION:
            raise RingError(f"version {version} of the ring is not known, {VERSION} is")
        if not flags & Feature.OUT_OF_ORDER:
            raise RingError("this kernel takes answers only in their order")
        if offset < MAILBOX_BYTES or offset % ALIGNMENT or size % ALIGNMENT or not size:
            raise RingError(f"a ring of {size} bytes at {offset}")
        if offset + size > len(area):
            raise RingError(f"a ring of {size} bytes at {offset} goes beyond the mapping")
        if offset + size > PLACE_MASK:
            raise RingError(f"a ring of {size} bytes at {offset} is larger than any")
        self.features = Feature(flags)
        self._start = offset
        self._size = size
        self._data_start = offset + size
        self._parsed = self._place(self._words[TAIL_WORD], "tail")
        """Where the next entry begins that was not taken, from the ring's start on."""
        self._tail = self._parsed
        """Where the tail is to be: everything before it is done with."""
        self._published = self._parsed
        self._head = self._parsed
        """The head as it was last looked at, known to be a place in the ring."""
        self._looked = self.since = 0.0
        """When that was, and when the look before: what is seen and not taken came since then."""
        self._open: deque[int] = deque()
        """The entries that wait for an answer, one for each command: the place in the mapping, and
        in the low PLACE_BITS where the tail is to be when it is answered."""

    def _place(self, value: int, what: str) -> int:
        if value >= self._size or value % ALIGNMENT:
            raise RingError(f"the {what} is at {value} of {self._size}")
        return value

    @property
    def waiting(self) -> bool:
        """Whether the kernel has put in more than was taken."""
        return self._words[HEAD_WORD] != self._parsed

    @property
    def seen(self) -> bool:
        """Whether ``take`` has something to give."""
        return self._head != self._parsed

    @property
    def outstanding(self) -> int:
        """Commands that were taken out and not answered."""
        return len(self._open)

    # --- requests --------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """See what the kernel has put in, once all that was seen before is taken. Raises RingError.

        ``now`` was read from the clock before this call.
        """
        if self._head != self._parsed:
            return
        self.since, self._looked = self._looked, now
        head = self._words[HEAD_WORD]
        if head != self._head:
            self._barrier()
            self._head = self._place(head, "head")

    def take(self) -> Request | TaskManagement | None:
        """The next entry that was seen; None when there is none. Raises RingError."""
        words, head = self._words, self._head
        while True:
            parsed = self._parsed
            if head == parsed:
                return None
            at = self._start + parsed
            word = words[at >> 2]
            operation = word & OPERATION_MASK
            length = word - operation
            end = parsed + length
            if not length or end > (head if head > parsed else self._size):
                raise RingError(f"an entry of {length} bytes at {parsed}, the head at {head}")
            after = end if end != self._size else 0
            if operation == COMMAND:
                request = self._command(at, length)
                self._open.append(at << PLACE_BITS | after)
                self._parsed = after
                return request
            notice = self._other(operation, at, length)
            self._parsed = after
            self._pass_over(after)
            if notice is not None:
                return notice

    def _other(self, operation: int, at: int, length: int) -> TaskManagement | None:
        if operation == TASK_MANAGEMENT:
            return self._task_management(at, length)
        if operation != PAD:
            raise RingError(f"an entry of kind {operation}")
        return None

    def _pass_over(self, after: int) -> None:
        """An entry without an answer: the tail goes over it with the command before it."""
        if self._open:
            self._open[-1] = self._open[-1] >> PLACE_BITS << PLACE_BITS | after
        else:
            self._tail = after

    def _command(self, at: int, length: int) -> Request:
        area = self._area
        if length < COMMAND_BYTES_MIN:
            raise RingError(f"a command in {length} bytes")
        end = at + length
        if length >= PLAIN_REQUEST.size:  # the common case
            fields = PLAIN_REQUEST.unpack_from(area, at)
            _, number, _, _, count, bidirectional, protection, _, cdb_at, place, total, cdb = fields
            one_piece = count == 1 and not bidirectional and not protection
            if one_piece and cdb_at == at + PLAIN_CDB_AT and cdb[0] != VARIABLE_LENGTH:
                self._check_iovec(place, total)
                return Request(number, cdb, ((place, total),), total, False)
        _, number, _, _, count, bidirectional, protection, _, cdb_at = REQUEST.unpack_from(area, at)
        iovecs_end = at + IOVECS_AT + IOVEC.size * (count + bidirectional + protection)
        if iovecs_end > end:
            raise RingError(f"{count + bidirectional + protection} iovecs in {length} bytes")
        if not at + IOVECS_AT <= cdb_at < end:
            raise RingError(f"the CDB of the entry at {at} is at {cdb_at}")
        cdb = self._cdb(cdb_at, end)
        total = 0
        iovecs = []
        for index in range(count):
            place, size = IOVEC.unpack_from(area, at + IOVECS_AT + IOVEC.size * index)
            self._check_iovec(place, size)
            iovecs.append((place, size))
            total += size
        if total > len(area):
            raise RingError(f"iovecs of {total} bytes in all")
        return Request(number, cdb, tuple(iovecs), total, bidirectional > 0)

    def _check_iovec(self, place: int, size: int) -> None:
        if place < self._data_start or place + size > len(self._area):
            raise RingError(f"an iovec of {size} bytes at {place}")

    def _cdb(self, at: int, end: int) -> bytes:
        area = self._area
        opcode = area[at]
        if opcode == VARIABLE_LENGTH:
            length = area[at + 7] + 8 if at + 8 <= end else 8
        else:
            length = CDB_BYTES[opcode >> 5]
        if at + length > end:
            raise RingError(f"a CDB of {length} bytes goes beyond its entry")
        return bytes(area[at : at + length]).ljust(LONGEST_FIXED_CDB, b"\0")

    def _task_management(self, at: int, length: int) -> TaskManagement:
        if length < IDS_AT:
            raise RingError(f"task management in {length} bytes")
        *_, function, count = NOTICE.unpack_from(self._area, at)
        if IDS_AT + 2 * count > length:
            raise RingError(f"{count} ids in {length} bytes")
        ids = struct.unpack_from(f"={count}H", self._area, at + IDS_AT)
        return TaskManagement(function, ids)

    # --- data ------------------------------------------------------------------------------------

    def data_out(self, request: Request) -> Buffer:
        """What the initiator sends with a command; valid until the command is answered."""
        whole = self.room(request)
        if whole is not None:
            return whole
        return b"".join(self._area[place : place + size] for place, size in request.iovecs)

    def room(self, request: Request) -> memoryview | None:
        """Where all data of a command lies, or is to be put, if that is one place."""
        if len(request.iovecs) != 1:
            return None
        place, size = request.iovecs[0]
        return self._area[place : place + size]

    def put_data_in(self, request: Request, data: Buffer) -> int:
        """Give ``data`` to the initiator, cut to what it expects; gives the bytes that went.

        What ``data`` does not fill is zeroed: the pages held another command's data before.
        """
        area = self._area
        length = len(data)
        if len(request.iovecs) == 1:
            place, size = request.iovecs[0]
            if length == size:
                area[place : place + size] = data
                return size
        view = memoryview(data)
        done = 0
        for place, size in request.iovecs:
            piece = view[done : done + size]
            filled = len(piece)
            area[place : place + filled] = piece
            if filled < size:
                area[place + filled : place + size] = bytes(size - filled)
            done += filled
        return done

    # --- answers ---------------------------------------------------------------------------------

    def answer(self, number: int, status: int, data_in: int, sense: bytes, trimmed: bool) -> None:
        """Answer command ``number``; with ``trimmed`` the initiator gets ``data_in`` bytes only.

        The kernel sees it after ``publish``. Each command is answered once: a second answer, or
        one to an unknown id, breaks the ring.
        """
        entry = self._open.popleft()
        at = (entry >> PLACE_BITS) + RESPONSE_AT
        self._tail = entry & PLACE_MASK
        flags = READ_LENGTH_FLAG if trimmed and data_in else 0
        if status == CHECK_CONDITION:
            RESPONSE.pack_into(self._area, at, number, 0, flags, status, data_in, sense)
        else:
            GOOD_RESPONSE.pack_into(self._area, at, number, 0, flags, status, data_in)

    @property
    def unpublished(self) -> bool:
        """Whether the kernel has yet to be told of answers."""
        return self._tail != self._published

    def publish(self) -> None:
        """Let the kernel see all answers; it looks when it is told to."""
        self._barrier()
        self._words[TAIL_WORD] = self._published = self._tail

    def close(self) -> None:
        """Let go of the mapping."""
        self._words.release()
        self._area.release()
