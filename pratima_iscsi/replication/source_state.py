"""What a source remembers over a restart: identity and history always, tables after a clean stop.

One rule: tables, positions and the link's base are believed only when ``stop`` is CLEAN; the
store that loads a state decides that (clean mark, ids, sizes, inode, mtime, checksum), and in
doubt says no.
"""

import enum
from dataclasses import dataclass, field

from pratima_iscsi.positions import NO_RECORD, ORIGIN, History, LinkSequence, Position
from pratima_iscsi.records import NO_HISTORY


class StopKind(enum.Enum):
    """How the source's last run ended."""

    NONE = "none"
    """There was no run before: a new group."""
    CLEAN = "clean"
    """By a clean stop whose spill was believed."""
    CRASHED = "crashed"
    """Not cleanly, on the boot that still runs: the page cache survived."""
    POWER_LOST = "power lost"
    """Not cleanly, on an earlier boot."""


@dataclass(frozen=True, slots=True)
class VolumeState:
    """One volume at a clean stop; inode and mtime are 0 for a block device."""

    name: str
    size: int
    inode: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class LinkState:
    """One link. ``table`` and ``unverified`` are serialised bitmaps, one per volume."""

    name: str
    ever_sync: bool = False
    """Whether the link ever was in semi-sync or sync mode."""
    lost_power: bool = False
    """Whether the primary lost power and no operator has yet said that its content is the truth."""
    synced_once: bool = False
    """Whether an END was ever confirmed."""
    degraded: bool = True
    """The degraded mark, as its own file had it at the start; a new link is degraded."""
    enabled: bool = True
    base: Position = ORIGIN
    """The replica's durable position at the last acknowledgement."""
    base_history: bytes = NO_HISTORY
    acknowledged: LinkSequence = NO_RECORD
    """The last record that the replica said it has durably."""
    sender: int = 0
    """The incarnation that had the last session with the replica, 0: none."""
    direct_transaction: int = 0
    """The first sync under way, 0: none."""
    table: tuple[bytes, ...] = ()
    unverified: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceState:
    """A group at its source."""

    group: bytes
    """16 bytes, the group's id."""
    name: str
    node: bytes
    """16 bytes, this node's id."""
    history: History = field(default_factory=lambda: History(ORIGIN))
    """After an unclean stop the position's sequence says nothing."""
    digest: bytes = NO_HISTORY
    """History digest at the position."""
    volumes: tuple[VolumeState, ...] = ()
    links: tuple[LinkState, ...] = ()
    boot_id: str = ""
    stop: StopKind = StopKind.NONE
