"""Daemons that exist only as the events that a monitor hears of them."""

import itertools
from typing import Any, Final

import msgspec

from pratima_iscsi.control.events import AnyEvent, ChangeEvent, StatusEvent
from pratima_iscsi.control.status import (
    Alarm,
    GroupStatus,
    JournalStatus,
    Lag,
    LinkStatus,
    LogStatus,
    PositionStatus,
    ResyncStatus,
)
from pratima_iscsi.replication.states import LinkState, Role

CLOCK: Final = 1_800_000_000.0
SYNCED = LinkStatus(
    replica="10.0.0.2:7010", state=LinkState.SYNCED, degraded=False, reason="in step since 1:7"
)
RESYNCING = msgspec.structs.replace(
    SYNCED,
    state=LinkState.RESYNCING,
    reason="1000 blocks to bring over",
    bwt_blocks=1000,
    lag=Lag(12, 48 << 10, 3.5),
    resync=ResyncStatus(1000, 430, 1 << 20, 51 << 20, 12.0),
)
AWAY = msgspec.structs.replace(
    SYNCED, state=LinkState.CONNECTING, reason="connection refused", lag=Lag(7, 0, 9.0)
)
REFUSED = msgspec.structs.replace(SYNCED, state=LinkState.REFUSED, reason="size: too small")


def primary(*links: LinkStatus, name: str = "db", **more: Any) -> GroupStatus:
    """One group at its primary."""
    return GroupStatus(
        role=Role.PRIMARY,
        group=name,
        position=more.pop("position", PositionStatus("00000000000000ab", 7)),
        links=links,
        log=LogStatus(1 << 20, 256 << 20),
        **more,
    )


def replica(name: str = "db", **more: Any) -> GroupStatus:
    """The same at its replica."""
    return GroupStatus(
        role=Role.REPLICA,
        group=name,
        position=PositionStatus("00000000000000ab", 7),
        journal=JournalStatus(4 << 20, 256 << 20, 3),
        heard_seconds=more.pop("heard_seconds", 0.2),
        **more,
    )


class Voice:
    """One daemon's events, in the order of its run."""

    def __init__(self, run: str = "run1") -> None:
        self.run = run
        self._numbers = itertools.count(1)
        self.at = CLOCK

    def skip(self, count: int) -> None:
        """So many events that nobody gets."""
        for _ in range(count):
            next(self._numbers)

    def stamped(self, event: AnyEvent) -> AnyEvent:
        """The event with this run's next number."""
        return msgspec.structs.replace(
            event, node="ab", run=self.run, number=next(self._numbers), at=self.at
        )

    def status(self, group: GroupStatus) -> AnyEvent:
        """How a group stands."""
        return self.stamped(StatusEvent(version="1", pid=1, uptime_seconds=1.0, group=group))

    def change(self, reason: str, *, alarm: bool = False, event: str = "open") -> AnyEvent:
        """A change of the group ``db``."""
        return self.stamped(
            ChangeEvent(group="db", replica="r:1", event=event, reason=reason, alarm=alarm)
        )


def alarm(reason: str, seconds: float) -> Alarm:
    """An alarm, so long ago."""
    return Alarm("overflow", reason, seconds)
