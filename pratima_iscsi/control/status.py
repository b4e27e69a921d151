"""Status: what a daemon says of its groups, as typed values, and the exit code that they make.

``pratima status --json`` prints exactly these. One rule: everything here is computed when asked;
nothing is stored for status.
"""

from typing import Final, Literal

import msgspec

from pratima_iscsi.replication.states import LinkState, Role

OK: Final = 0
"""All links are SYNCED and none is degraded; a replica is consistent and hears its source."""
BEHIND: Final = 1
"""Something is behind or degraded, and mends itself."""
ACT: Final = 2
"""Somebody must act, or nobody answers."""

_ACT: Final = frozenset({LinkState.REFUSED, LinkState.DIVERGED, LinkState.FAILED})


class PositionStatus(msgspec.Struct, frozen=True):
    """A position; the generation as 16 hexadecimal digits."""

    generation: str
    sequence: int


class AncestorStatus(msgspec.Struct, frozen=True):
    """An earlier generation and its last sequence, None: unknown, it did not stop cleanly."""

    generation: str
    last: int | None


class VolumeStatus(msgspec.Struct, frozen=True):
    """One volume of a group; ``size`` in bytes."""

    name: str
    path: str
    size: int
    failed: str = ""
    """Why it takes no more writes; empty: it does."""


class Lag(msgspec.Struct, frozen=True):
    """What a replica has not yet confirmed; ``seconds`` is the age of the oldest of it."""

    writes: int = 0
    bytes: int = 0
    seconds: float = 0.0


class ResyncStatus(msgspec.Struct, frozen=True):
    """The running or last resync; ``rate`` in bytes a second, ``seconds_left`` None: unknown."""

    blocks_total: int = 0
    blocks_done: int = 0
    bytes_sent: int = 0
    rate: float = 0.0
    seconds_left: float | None = None


class LinkStatus(msgspec.Struct, frozen=True):
    """One link of a primary."""

    replica: str
    """Its address."""
    state: LinkState
    degraded: bool
    reason: str
    mode: str = "async"
    lag: Lag = Lag()
    bwt_blocks: int = 0
    """4 KiB blocks in the table or sent in the open transaction."""
    resync: ResyncStatus = ResyncStatus()
    must_act: bool = False
    """It waits for an operator although its state would mend itself (a held resync)."""
    durable: PositionStatus | None = None
    """The replica's durable position."""
    heard_seconds: float | None = None
    """Since its last message; None: never in this run."""
    held_writes: int = 0
    """Writes that wait for this replica."""
    sent_bytes: int = 0
    """Bytes of the frames that were sent in this run."""


class LogStatus(msgspec.Struct, frozen=True):
    """The ordered log's bytes now and at the most."""

    bytes: int = 0
    limit: int = 0


class JournalStatus(msgspec.Struct, frozen=True):
    """A replica's journal: what it holds that no checkpoint covers, its quota; and staging."""

    bytes: int = 0
    limit: int = 0
    unapplied: int = 0
    """Batches that are in the journal and not yet on the volumes."""
    staged_bytes: int = 0
    staging_free_bytes: int = 0


class Alarm(msgspec.Struct, frozen=True):
    """Something that an operator should know; ``seconds`` ago."""

    event: str
    reason: str
    seconds: float = 0.0
    place: str = ""
    """Of a node's own alarm: which part of it, ``events``, ``kernel`` or
    ``descriptors``."""


class GroupStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One group at one node."""

    role: Role
    group: str
    group_id: str = ""
    position: PositionStatus
    history: tuple[AncestorStatus, ...] = ()
    digest: str = ""
    """History digest at the position, hexadecimal."""
    volumes: tuple[VolumeStatus, ...] = ()
    links: tuple[LinkStatus, ...] = ()
    log: LogStatus | None = None
    """Of a primary."""
    journal: JournalStatus | None = None
    """Of a replica."""
    consistent: bool = True
    """Of a replica: whether recovery gives a consistent prefix."""
    bound: bool = True
    """Of a replica: whether it belongs to a group yet."""
    failed: str = ""
    """Why the group cannot go on; empty: it can."""
    reason: str = ""
    resync: ResyncStatus | None = None
    """Of a replica: the transaction under way."""
    heard_seconds: float | None = None
    """Of a replica: since its source's last message; None: never in this run."""
    received_bytes: int = 0
    """Of a replica: bytes of the frames that went into its journal in this run."""
    portal: str = ""
    """Of a primary: where it is served."""
    front_end: str = ""
    """Of a primary: what serves it, and why that."""
    target: str = ""
    """Of a primary: its iSCSI name."""
    sessions: int = 0
    """Of a primary: iSCSI sessions."""
    alarms: tuple[Alarm, ...] = ()


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="status"):
    """The answer of one daemon."""

    version: str
    pid: int
    uptime_seconds: float
    groups: tuple[GroupStatus, ...] = ()
    node_alarms: tuple[Alarm, ...] = ()
    """Those that belong to no group. Like a group's they are told, and change no exit code."""


def link_exit_code(link: LinkStatus) -> Literal[0, 1, 2]:
    """One link's share of the exit code."""
    if link.must_act or link.state in _ACT:
        return ACT
    if link.degraded or link.state is not LinkState.SYNCED:
        return BEHIND
    return OK


def group_exit_code(group: GroupStatus) -> Literal[0, 1, 2]:
    """One group's share of the exit code."""
    if group.failed or any(volume.failed for volume in group.volumes):
        return ACT
    if group.role is Role.REPLICA and not (
        group.bound and group.consistent and group.heard_seconds is not None
    ):
        return BEHIND
    return max((link_exit_code(link) for link in group.links), default=OK)


def exit_code(status: NodeStatus) -> Literal[0, 1, 2]:
    """What ``pratima status`` exits with."""
    return max((group_exit_code(group) for group in status.groups), default=OK)
