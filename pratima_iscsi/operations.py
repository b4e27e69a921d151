"""What a front end asks of a group: writes, zeroes, updates, flushes, and how they complete.

A *record* is an admitted write: it has a sequence, owns its payload, and is shared, unchanged, by
the local volume, every link's queue and the wire. One rule: a record is immutable once admitted.
"""

import enum
from collections.abc import Callable
from typing import Final, Protocol

from pratima_iscsi.frame_memory import FrameMemory

Buffer = bytes | bytearray | memoryview

Done = Callable[[OSError | None], None]
"""Told once when an operation has settled: None for success, else the cause."""

ReadDone = Callable[[Buffer | None, OSError | None], None]
"""Told once when a read has settled: the bytes, or the cause."""

Transform = Callable[[bytes], bytes | None]
"""Old bytes of a range to new bytes of the same length, or None to leave them as they are."""

UpdateDone = Callable[[bool, OSError | None], None]
"""Told once when an update has settled: whether it wrote, and the cause of a failure."""


class RecordKind(enum.IntEnum):
    """Every kind of record in a link's stream; the numbers are on the wire and in the journal."""

    WRITE = 1
    """A host's write: whole, with its data."""
    ZERO = 2
    """UNMAP or WRITE SAME of zeros: a range that reads as zeros afterwards, no data."""
    RESIZE = 3
    """A volume's new size in ``length``."""
    BOOKMARK = 4
    """A named point in the write order."""
    GENERATION = 5
    """The first record of a generation: id, parent, branch position."""
    FLUSH = 16
    """A flush marker: what stands before it is committed at once."""
    RESYNC = 17
    """Whole blocks as the primary has them now."""
    RESYNC_ZERO = 18
    """Whole blocks that the primary reads as zeros: a range, no data."""
    BEGIN = 19
    """A resync transaction begins."""
    END = 20
    """A resync transaction ends: the position and history digest that it brings the replica to."""
    VERIFY = 21
    """A range and the digests of its blocks, to be compared."""


COUNTED = frozenset({RecordKind.WRITE, RecordKind.ZERO, RecordKind.RESIZE, RecordKind.BOOKMARK})
"""Kinds that a position counts and a history digest covers."""


WRITE: Final = int(RecordKind.WRITE)
ZERO: Final = int(RecordKind.ZERO)
RESIZE: Final = int(RecordKind.RESIZE)
"""``length`` is the volume's new size; it is admitted when every side has room for it."""
FLUSH: Final = int(RecordKind.FLUSH)
UPDATE: Final = 64
"""Reads, transforms and writes; it is admitted as a WRITE. Never on the wire."""


class Operation:
    """A write, zero, update, resize or flush on its way; ``done`` is told once, with ``error``."""

    __slots__ = (
        "changed",
        "done",
        "error",
        "fua",
        "kind",
        "length",
        "lent",
        "memory",
        "offset",
        "payload",
        "payload_digest",
        "place",
        "sequence",
        "started",
        "transform",
        "update_done",
        "volume",
    )

    def __init__(
        self,
        kind: int,
        volume: int,
        offset: int,
        length: int,
        payload: Buffer = b"",
        *,
        fua: bool = False,
        done: Done | None = None,
        transform: Transform | None = None,
        update_done: UpdateDone | None = None,
    ) -> None:
        self.kind = kind
        self.volume = volume
        self.offset = offset
        self.length = length
        self.payload = payload
        self.fua = fua
        self.done = done
        self.transform = transform
        self.update_done = update_done
        self.lent: memoryview | None = None
        """Instead of a payload: a buffer of somebody else's, good until this turn of the loop ends.
        Only in a group that keeps no payload, for it has no links."""
        self.memory: FrameMemory | None = None
        """Where the payload lies as the next frame is to have it, at ``place``; its digest is known
        then."""
        self.place = 0
        self.payload_digest = b""
        self.changed = False
        self.sequence = 0
        self.started = 0.0
        self.error: OSError | None = None

    @property
    def payload_bytes(self) -> int:
        """Length of the payload that its record has."""
        return self.length if self.kind == WRITE else 0

    def own(self) -> None:
        """Copy what is only lent."""
        if self.lent is not None:
            self.payload, self.lent = bytes(self.lent), None

    def tell(self) -> None:
        """Tell whoever asked how it ended."""
        if self.update_done is not None:
            self.update_done(self.changed, self.error)
        elif self.done is not None:
            self.done(self.error)


class Storage(Protocol):
    """What a logical unit asks of its volume. Offsets and lengths are bytes.

    Every call ends in exactly one call of its ``done``, perhaps before it returns. A write's data
    is copied before the call returns, so the caller may reuse its buffer, unless it is lent.
    Overlapping operations take effect in the order of the calls.
    """

    @property
    def size(self) -> int:
        """Bytes of the volume now (it may grow)."""

    @property
    def transfer_bytes_max(self) -> int:
        """Longest write in bytes."""

    @property
    def thin(self) -> bool:
        """Whether zeroing gives space back (else UNMAP is not offered)."""

    def read(
        self, offset: int, length: int, done: ReadDone, room: memoryview | None = None
    ) -> None:
        """Read ``length`` bytes; sees every write whose ``done`` was told.

        ``room``, of that length, may be filled instead of a new buffer, and is then what ``done``
        gets; after an error nobody knows what it holds.
        """

    def write(self, offset: int, data: Buffer, fua: bool, done: Done, lent: bool = False) -> None:
        """Write all of ``data``, whole; with ``fua`` it is on stable storage when done.

        With ``lent`` a memoryview stays as it is until this turn of the loop ends, so it may be
        written from there.
        """

    def zero(self, offset: int, length: int, fua: bool, done: Done) -> None:
        """Make a range read as zeros, giving its space back where the volume can."""

    def update(
        self, offset: int, length: int, transform: Transform, fua: bool, done: UpdateDone
    ) -> None:
        """Read, transform and write one range as one atomic step (COMPARE AND WRITE, ORWRITE)."""

    def flush(self, done: Done) -> None:
        """Bring everything written before this call to stable storage."""

    def allocated(self, offset: int, length: int) -> tuple[bool, int]:
        """Whether the byte at ``offset`` has space, and for how many bytes that stays so
        (at least 1, ``length`` at the most)."""

    def settle(self, done: Callable[[], None]) -> None:
        """Tell ``done`` once every operation called before has settled LOCALLY (writes that only
        wait for a replica count as settled): what ABORT TASK and resets wait for."""
