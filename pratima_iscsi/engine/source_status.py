"""A source's group as ``status`` shows it: computed when asked, stored nowhere."""

import time
from collections import deque

from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.control.status import (
    Alarm,
    GroupStatus,
    Lag,
    LinkStatus,
    LogStatus,
    ResyncStatus,
    VolumeStatus,
)
from pratima_iscsi.engine.replica_status import history_status, position_status
from pratima_iscsi.engine.source_group import SourceGroup
from pratima_iscsi.limits import LAG_SAMPLE_SECONDS, LAG_SAMPLES_MAX, RECORD_OVERHEAD_BYTES
from pratima_iscsi.positions import ORIGIN, UNKNOWN
from pratima_iscsi.replication.link import Link
from pratima_iscsi.replication.states import Connection, LinkState, Role


class LagClock:
    """When the group's positions were reached: samples, so that a lag has an age."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=LAG_SAMPLES_MAX)
        self._in_step: dict[int, float] = {}

    def sample(self, group: SourceGroup, now: float) -> None:
        """Note the position, if the last note is old enough."""
        if self._samples and now - self._samples[-1][0] < LAG_SAMPLE_SECONDS:
            return
        self._samples.append((now, group.backstore.history.position.sequence))
        for link in group.backstore.links:
            if link.state is LinkState.SYNCED and not len(link.queue):
                self._in_step[link.index] = now

    def seconds(self, link: Link, now: float) -> float:
        """Age of the oldest write that the replica has not confirmed, within a sample's time."""
        if link.covered and not len(link.queue):
            return 0.0
        since = self._in_step.get(link.index, self._samples[0][0] if self._samples else now)
        if link.covered:
            for at, sequence in self._samples:
                if sequence > link.durable_sequence:
                    since = max(since, at)
                    break
        return max(0.0, now - since)


def link_status(
    link: Link, clock: LagClock, waiting: int, sent_bytes: int, now: float
) -> LinkStatus:
    """One link."""
    blocks = len(link.table)
    transaction = link.transaction
    resync = ResyncStatus()
    if transaction is not None:
        missing = link.table.copy()
        missing.update(transaction.sent)
        left, blocks = blocks, len(missing)
        total = max(transaction.blocks_total, left)
        seconds = max(now - transaction.begun_at, 1e-3)
        rate = (total - left) * BLOCK_BYTES / seconds
        resync = ResyncStatus(
            blocks_total=total,
            blocks_done=total - left,
            bytes_sent=transaction.bytes_sent,
            rate=round(rate, 1),
            seconds_left=round(left * BLOCK_BYTES / rate, 1) if rate > 0 else None,
        )
    elif link.last_resync is not None:
        resync = ResyncStatus(*link.last_resync)
    return LinkStatus(
        replica=link.options.name,
        state=link.state,
        degraded=link.degraded,
        reason=f"held: {link.held}" if link.held else link.reason,
        mode=link.options.mode.value,
        lag=Lag(
            writes=writes_behind(link),
            bytes=sum_payload(link),
            seconds=round(clock.seconds(link, now), 3),
        ),
        bwt_blocks=blocks,
        resync=resync,
        must_act=link.lost_power or link.connection is Connection.HELD,
        durable=position_status(link.base),
        heard_seconds=round(now - link.heard_at, 1) if link.heard_at else None,
        held_writes=waiting if link.waits else 0,
        sent_bytes=sent_bytes,
    )


def writes_behind(link: Link) -> int:
    """The group's writes after the replica's durable position; those of a generation whose end
    nobody knows are not counted."""
    history, base = link.group.history, link.base
    ours = history.position
    if base.generation == ours.generation:
        return max(0, ours.sequence - base.sequence)
    last = history.end_of(base.generation)
    if last is None or last == UNKNOWN:
        return ours.sequence
    return ours.sequence + max(0, last - base.sequence)


def sum_payload(link: Link) -> int:
    """Bytes of data that the link's queue holds."""
    return max(0, link.queue.bytes - len(link.queue) * RECORD_OVERHEAD_BYTES)


def source_status(
    group: SourceGroup,
    clock: LagClock,
    alarms: tuple[Alarm, ...],
    *,
    portal: str,
    front_end: str,
    trouble: str,
    target: str,
    sessions: int,
) -> GroupStatus:
    """How one group stands at its primary."""
    now = time.monotonic()
    backstore = group.backstore
    group_id, name, _, offers = backstore.offer()
    waiting = backstore.waiting_for_replica()
    failed = backstore.failed_volumes
    return GroupStatus(
        role=Role.PRIMARY,
        group=name,
        group_id=group_id.hex(),
        position=position_status(backstore.history.position),
        history=history_status(backstore.history),
        digest=backstore.digest.hex(),
        volumes=tuple(
            VolumeStatus(
                name=offer.name,
                path=str(local.volume.path),
                size=local.volume.size,
                failed="fdatasync failed: no more writes" if index in failed else "",
            )
            for index, (offer, local) in enumerate(zip(offers, group.volumes, strict=True))
        ),
        links=tuple(
            link_status(link, clock, waiting, group.sent_bytes.get(link.index, 0), now)
            for link in backstore.links
        ),
        log=LogStatus(backstore.log.bytes, backstore.log.limit),
        portal=portal,
        front_end=front_end,
        failed=trouble or group.state_trouble,
        target=target,
        sessions=sessions,
        alarms=alarms,
    )


def not_served(name: str, reason: str, alarms: tuple[Alarm, ...]) -> GroupStatus:
    """A group that should be served here and cannot be."""
    return GroupStatus(
        role=Role.PRIMARY,
        group=name,
        position=position_status(ORIGIN),
        failed=reason,
        alarms=alarms,
    )
