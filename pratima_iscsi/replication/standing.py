"""Where a replica stands after a record, and a frame that was checked to follow such a place.

One rule: a standing is a value; a frame that is rejected in its middle has moved nothing.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from pratima_iscsi.operations import Buffer
from pratima_iscsi.positions import ORIGIN, History
from pratima_iscsi.records import NO_HISTORY
from pratima_iscsi.replication.wire import BatchHeader, Entry

_NOTHING_WRITTEN: Final = History(ORIGIN)


class Standing(msgspec.Struct, frozen=True):
    """Where a replica stands after a record; position and digest are the old consistent point's
    while a transaction is open."""

    group: bytes = bytes(16)
    """Zeros: bound to no group yet."""
    consistent: bool = False
    history: History = _NOTHING_WRITTEN
    digest: bytes = NO_HISTORY
    incarnation: int = 0
    n: int = 0
    transaction: int = 0
    direct: bool = False
    ended: int = 0
    sizes: tuple[int, ...] = ()
    """Bytes of each volume of the group; its file or device may have more."""

    @property
    def bound(self) -> bool:
        """Whether a group was ever bound."""
        return self.group != bytes(16)


class CheckedFrame(msgspec.Struct, frozen=True):
    """A frame that may be taken, and where the replica stands after it."""

    header: BatchHeader
    frame: Buffer
    writes: Sequence[Entry]
    """Its records, if it holds nothing but writes outside a transaction; else none."""
    before: bytes
    """History digest of the place where it was checked: it may follow nothing else."""
    after: Standing
