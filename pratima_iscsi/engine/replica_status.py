"""A replica's group as ``status`` shows it."""

import time

from pratima_iscsi.control.status import (
    Alarm,
    AncestorStatus,
    GroupStatus,
    JournalStatus,
    PositionStatus,
    VolumeStatus,
)
from pratima_iscsi.engine.replica_group import ReplicaGroup
from pratima_iscsi.positions import UNKNOWN, History, Position
from pratima_iscsi.replication.states import Role


def position_status(position: Position) -> PositionStatus:
    """A position with its generation in hexadecimal."""
    return PositionStatus(f"{position.generation:016x}", position.sequence)


def history_status(history: History) -> tuple[AncestorStatus, ...]:
    """The generations before, oldest first."""
    return tuple(
        AncestorStatus(f"{a.generation:016x}", None if a.last == UNKNOWN else a.last)
        for a in history.ancestry
    )


def replica_status(group: ReplicaGroup, alarms: tuple[Alarm, ...]) -> GroupStatus:
    """How one group stands here: consistent at its durable position, never SYNCED by itself."""
    sink, store = group.sink, group.store
    standing = sink.durable
    heard = None if sink.heard_at is None else round(time.monotonic() - sink.heard_at, 1)
    if sink.failure:
        reason = sink.failure
    elif sink.held:
        reason = sink.held
    elif not standing.bound:
        reason = "waiting for the first primary"
    elif not standing.consistent:
        reason = store.state.reason or "the first sync is under way"
    else:
        reason = f"consistent at {standing.history.position}" + (
            "" if heard is None else f", last heard {heard:g} s ago"
        )
    return GroupStatus(
        role=Role.REPLICA,
        group=group.name,
        group_id=standing.group.hex(),
        position=position_status(standing.history.position),
        history=history_status(standing.history),
        digest=standing.digest.hex(),
        volumes=tuple(
            VolumeStatus(
                name=f"{index}",
                path=str(volume.path),
                size=standing.sizes[index] if standing.bound else volume.size,
            )
            for index, volume in enumerate(group.volumes)
        ),
        journal=JournalStatus(
            bytes=store.journal_used(),
            limit=group.journal_bytes,
            unapplied=max(0, sink.last_frame_index - sink.applied_index),
            staging_free_bytes=store.staging_room(),
        ),
        consistent=standing.consistent,
        bound=standing.bound,
        failed=sink.failure,
        reason=reason,
        heard_seconds=heard,
        received_bytes=group.received_bytes,
        alarms=alarms,
    )
