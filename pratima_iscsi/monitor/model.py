"""What a monitor knows of the daemons that it hears: events in, values for the picture out.

No I/O and no clock: the time of each event's arrival comes with it. One rule: everything is
bounded, whatever a daemon sends.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pratima_iscsi import limits
from pratima_iscsi.control.events import (
    AnyEvent,
    ChangeEvent,
    ControlEvent,
    SocketEvent,
    StartEvent,
    StatusEvent,
    StopEvent,
)
from pratima_iscsi.control.status import (
    ACT,
    BEHIND,
    Alarm,
    GroupStatus,
    LinkStatus,
    group_exit_code,
    link_exit_code,
)
from pratima_iscsi.replication.states import LinkState, Role

_ROOM: Final = limits.MONITOR_SAMPLES_MAX
_AWAY: Final = frozenset({LinkState.CONNECTING, LinkState.STALE})


@dataclass(slots=True)
class Rate:
    """A counter's growth per second, from one look to the next, and its latest values."""

    samples: deque[float] = field(default_factory=lambda: deque(maxlen=_ROOM))
    _last: tuple[float, int] | None = None

    def count(self, total: int, at: float) -> None:
        """The counter stood at ``total``; one that went back was begun anew."""
        last, self._last = self._last, (at, total)
        if last is not None and at > last[0]:
            grown = total - last[1] if total >= last[1] else total
            self.samples.append(grown / (at - last[0]))

    @property
    def now(self) -> float:
        """The latest rate, 0 before there are two looks."""
        return self.samples[-1] if self.samples else 0.0


@dataclass(slots=True)
class LinkView:
    """One link of a primary: its last status, and how it came there."""

    status: LinkStatus
    lag: deque[float] = field(default_factory=lambda: deque(maxlen=_ROOM))
    """Seconds behind."""
    sent: Rate = field(default_factory=Rate)


@dataclass(slots=True)
class GroupView:
    """One group at one daemon."""

    status: GroupStatus
    heard_at: float
    writes: Rate = field(default_factory=Rate)
    received: Rate = field(default_factory=Rate)
    links: dict[str, LinkView] = field(default_factory=dict)

    def take(self, status: GroupStatus, at: float, now: float) -> None:
        """A newer status; ``at`` by the daemon's clock."""
        if status.position.generation == self.status.position.generation:
            self.writes.count(status.position.sequence, at)
        self.status, self.heard_at = status, now
        self.received.count(status.received_bytes, at)
        before, self.links = self.links, {}
        for link in status.links[: limits.LINKS_MAX]:
            view = before.get(link.replica) or LinkView(link)
            view.status = link
            view.lag.append(link.lag.seconds)
            view.sent.count(link.sent_bytes, at)
            self.links[link.replica] = view


@dataclass(frozen=True, slots=True)
class Change:
    """One line of what happened."""

    at: float
    """Time of day at the daemon."""
    source: str
    group: str
    replica: str
    text: str
    alarm: bool = False


@dataclass(slots=True)
class Source:
    """One daemon."""

    name: str
    since: float
    """When the monitor began to listen."""
    heard_at: float | None = None
    run: str = ""
    role: Role | None = None
    stopped: bool = False
    """It said that it stops."""
    missed: int = 0
    """Events that did not reach us, or were left out."""
    misunderstood: str = ""
    """Why its last event could not be read; empty: it could."""
    groups: dict[str, GroupView] = field(default_factory=dict)
    alarms: tuple[Alarm, ...] = ()
    """Those that belong to no group of it."""
    _number: int = 0

    def silent_for(self, now: float) -> float | None:
        """Seconds without a word, None while there are words."""
        silent = now - (self.since if self.heard_at is None else self.heard_at)
        return silent if silent >= limits.MONITOR_SILENT_SECONDS or self.stopped else None

    def heard(self, event: AnyEvent, now: float) -> int:
        """Every event says that it lives, and how many came before; how many first events of a
        new run did not reach us: a daemon that starts again speaks before we are back with it."""
        late = 0
        if event.run != self.run:
            late = max(0, event.number - 1) if self.run else 0
            self.run, self._number, self.stopped = event.run, 0, False
            self.groups.clear()
            self.alarms = ()
        if self._number and event.number > self._number + 1:
            self.missed += event.number - self._number - 1
        self.missed += late
        self._number = max(self._number, event.number)
        self.heard_at = now
        self.misunderstood = ""
        return late


class Model:
    """All daemons of one monitor. Times named ``now`` are the caller's monotonic seconds."""

    def __init__(self, sources: Sequence[str], now: float) -> None:
        self.sources = {name: Source(name, now) for name in sources}
        self.changes: deque[Change] = deque(maxlen=limits.MONITOR_CHANGES_KEPT)

    def misunderstood(self, source: str, problem: str) -> None:
        """An event of ``source`` could not be read."""
        self.sources[source].misunderstood = problem

    def take(self, source: str, event: AnyEvent, now: float) -> None:
        """An event of ``source`` arrived."""
        known = self.sources[source]
        late = known.heard(event, now)
        if late:
            counted = "first event" if late == 1 else f"first {late} events"
            self._note(known, event, "", "", f"a new run, whose {counted} did not reach us")
        match event:
            case StatusEvent():
                self._status(known, event, now)
            case StartEvent():
                known.role = event.role
                self._note(known, event, "", "", f"{event.role.value} starts, pid {event.pid}")
            case StopEvent():
                known.stopped = True
                self._note(known, event, "", "", "stops")
            case ChangeEvent():
                text = f"{event.event}: {event.reason}"
                self._note(known, event, event.group, event.replica, text, alarm=event.alarm)
            case ControlEvent():
                self._note(known, event, event.group, event.replica, f"command: {event.verb}")
            case SocketEvent():
                pass  # for --json: too many of them to be read as they come

    def _status(self, source: Source, event: StatusEvent, now: float) -> None:
        source.alarms = event.node_alarms
        status = event.group
        if status is None:
            source.groups.clear()
            return
        source.role = status.role
        view = source.groups.get(status.group)
        if view is None:
            if len(source.groups) >= limits.MONITOR_GROUPS_MAX:
                return
            view = source.groups[status.group] = GroupView(status, now)
        view.take(status, event.at, now)
        gone = [
            name
            for name, other in source.groups.items()
            if now - other.heard_at >= limits.MONITOR_SILENT_SECONDS
        ]
        for name in gone:
            del source.groups[name]

    def _note(
        self,
        source: Source,
        event: AnyEvent,
        group: str,
        replica: str,
        text: str,
        *,
        alarm: bool = False,
    ) -> None:
        self.changes.append(Change(event.at, source.name, group, replica, text, alarm))

    # --- what must be seen ---------------------------------------------------------------------

    def groups(self) -> list[tuple[Source, GroupView]]:
        """Every group at every daemon, what is worst first."""
        found = [
            (source, view) for source in self.sources.values() for view in source.groups.values()
        ]
        return sorted(
            found,
            key=lambda one: (
                -group_exit_code(one[1].status),
                one[1].status.group,
                one[1].status.role is Role.REPLICA,
                one[0].name,
            ),
        )

    def troubles(self, now: float) -> list[str]:
        """What is wrong now, in a sentence each."""
        return [*self._silent(now), *self._standing()]

    def _silent(self, now: float) -> Iterator[str]:
        for source in self.sources.values():
            silent = source.silent_for(now)
            if source.misunderstood:
                yield f"{source.name}: not understood: {source.misunderstood}"
            if silent is None:
                continue
            if source.heard_at is None:
                yield f"{source.name}: no word yet, for {silent:.0f} s"
            else:
                stopped = " (it was stopped)" if source.stopped else ""
                yield f"{source.name}: no word since {silent:.0f} s{stopped}"

    def _standing(self) -> Iterator[str]:
        for source, view in self.groups():
            status = view.status
            place = f"{source.name} {status.group}"
            if status.failed:
                yield f"{place}: FAILED: {status.failed}"
            for volume in status.volumes:
                if volume.failed:
                    yield f"{place} volume {volume.name}: {volume.failed}"
            for link in status.links:
                if link_exit_code(link) == ACT or link.state in _AWAY:
                    yield f"{place} → {link.replica}: {link.state.value}: {link.reason}"
                elif link.degraded and link.mode != "async":
                    yield f"{place} → {link.replica}: degraded: writes do not wait for it"

    def alarms(self) -> list[tuple[str, Alarm]]:
        """Recent alarms, the newest first, each with its place."""
        found = [
            (f"{source.name} {view.status.group}", alarm)
            for source, view in self.groups()
            for alarm in view.status.alarms
        ]
        found += [
            (f"{source.name} {alarm.place}", alarm)
            for source in self.sources.values()
            for alarm in source.alarms
        ]
        recent = (one for one in found if one[1].seconds <= limits.MONITOR_ALARM_SECONDS)
        return sorted(recent, key=lambda one: one[1].seconds)

    def worst(self, now: float) -> int:
        """What ``status`` would exit with, over all."""
        codes = [group_exit_code(view.status) for _, view in self.groups()]
        silent = any(source.silent_for(now) is not None for source in self.sources.values())
        return ACT if silent else max(codes, default=BEHIND)
