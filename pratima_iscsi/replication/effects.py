"""Effects: what a source's state machine asks its engine to do, as values.

The engine carries out one call's effects in their order, before the next event: what is persisted
stands before what depends on it. One rule: an effect stands for a whole batch, never for one write
of many.

They are msgspec's structures because those are made without running Python code, as a dataclass is
not; this module is therefore not compiled.
"""

from collections.abc import Sequence

import msgspec

from pratima_iscsi.blocks import BlockRange
from pratima_iscsi.operations import Buffer, Done, Operation
from pratima_iscsi.positions import History
from pratima_iscsi.replication.messages import Message


class WriteLocal(msgspec.Struct, frozen=True):
    """Write these to their volumes, in this order; answer with ``local_done``."""

    operations: Sequence[Operation]


class UpdateLocal(msgspec.Struct, frozen=True):
    """Read the range, in order with the writes before it, and apply ``operation.transform``; answer
    with ``update_read``."""

    operation: Operation


class FlushLocal(msgspec.Struct, frozen=True):
    """Fdatasync the volume, begun now or later, off the loop; answer with ``local_done``."""

    operation: Operation


class Complete(msgspec.Struct, frozen=True):
    """Tell each operation's ``done``."""

    operations: Sequence[Operation]


class Settle(msgspec.Struct, frozen=True):
    """Tell ``done``: every operation before has settled locally."""

    done: Done


class SendControl(msgspec.Struct, frozen=True):
    """Send a control message on link ``link``."""

    link: int
    message: Message


class OpenSession(msgspec.Struct, frozen=True):
    """Open a fresh data channel; answer with ``data_ready`` or ``data_lost``."""

    link: int
    session: bytes


class CloseSession(msgspec.Struct, frozen=True):
    """Close the data channel, with whatever it still holds."""

    link: int


class SendFrame(msgspec.Struct, frozen=True):
    """Send one frame on the data channel."""

    link: int
    frame: Buffer


class ReadBlocks(msgspec.Struct, frozen=True):
    """Read ranges in order with the writes before; answer with ``blocks_read``.

    A range may be answered in part, from its beginning: with ``blocks_max`` blocks of data at the
    most, while zeros that the volume knows without reading have no such bound. With ``sweep`` only
    the page cache may answer at once; where it cannot, the answer to that range has no blocks.
    """

    link: int
    read: int
    ranges: tuple[BlockRange, ...]
    blocks_max: int
    sweep: bool = False


class BlocksRead(msgspec.Struct, frozen=True):
    """The answer for one range: its first ``blocks``; no data: they read as zeros."""

    blocks: int
    data: bytes | None = None
    error: OSError | None = None


class PersistGeneration(msgspec.Struct, frozen=True):
    """Erase the clean mark and record this history, in one step, synced; answer with
    ``generation_persisted``."""

    history: History
    digest: bytes


class PersistDegraded(msgspec.Struct, frozen=True):
    """Set or erase the link's degraded mark, synced; answer with ``degraded_persisted``."""

    link: int
    degraded: bool


class PersistLink(msgspec.Struct, frozen=True):
    """Store the link's flags as they are; nothing waits for it."""

    link: int


class GrowLocal(msgspec.Struct, frozen=True):
    """Make room for ``size`` bytes in the volume, and remember the size, both synced; answer with
    ``local_grown``. What the volume serves changes only with the RESIZE among the WriteLocals."""

    volume: int
    size: int


class Report(msgspec.Struct, frozen=True):
    """Something changed that an operator may want to know; ``link`` None: the group itself."""

    link: int | None
    event: str
    reason: str
    alarm: bool = False


Effect = (
    WriteLocal
    | UpdateLocal
    | FlushLocal
    | Complete
    | Settle
    | SendControl
    | OpenSession
    | CloseSession
    | SendFrame
    | ReadBlocks
    | PersistGeneration
    | PersistDegraded
    | PersistLink
    | GrowLocal
    | Report
)
