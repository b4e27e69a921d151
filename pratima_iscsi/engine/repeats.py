"""What is noted of one place again and again is told once, and then once in a while.

A replica that can be reached in part only is sought with back-off for as long as that lasts, and
every attempt says the same: welcomed, and then not reached. One rule: kept back is only what an
attempt says, while there is nothing new between, and never what lasts.
"""

import math
from dataclasses import dataclass
from typing import Final

from pratima_iscsi.limits import REPEAT_LASTS_SECONDS, REPEAT_SECONDS, REPEATS_KEPT
from pratima_iscsi.replication.handshake import RULES

ATTEMPTS: Final = frozenset(
    {"waiting", "welcome", "refused", "failed", "diverged", "digest", "session", "session closed"}
    | {rule.name for rule in RULES if rule.alarm}
)
"""Events of attempts at a session, at a source and at a replica; a session that came about says
more than these, and so does a replica that has recovered."""


@dataclass(frozen=True, slots=True)
class Note:
    """One change at a place."""

    event: str
    reason: str
    alarm: bool


@dataclass(slots=True)
class _Told:
    """When something was told, and how often it was kept back since."""

    at: float
    kept_back: int = 0


class Place:
    """A group, a link of it, or a part of the node that is no group's."""

    def __init__(self) -> None:
        self._last: Note | None = None
        self._told: dict[Note, _Told] = {}
        """The attempts since there was something else. At most REPEATS_KEPT."""
        self.due = math.inf
        """When the last note, which was kept back, has lasted long enough to be told."""
        self.is_watched = False
        """Whether somebody looks then."""

    def note(self, note: Note, now: float) -> Note | None:
        """What to tell of it: if it is not the first time, with a count."""
        if note == self._last:
            return None
        self._last, self.due = note, math.inf
        if note.event not in ATTEMPTS:
            self._told.clear()
            return note
        told = self._told.setdefault(note, _Told(-math.inf))
        told.kept_back += 1
        if now < told.at + REPEAT_SECONDS:
            self.due = now + REPEAT_LASTS_SECONDS
            return None
        return self._tell(note, now)

    def look(self, now: float) -> Note | None:
        """What was kept back and has lasted."""
        return None if self._last is None or now < self.due else self._tell(self._last, now)

    def _tell(self, note: Note, now: float) -> Note:
        self.due = math.inf
        times = self._told.pop(note).kept_back
        self._told[note] = _Told(now)
        if len(self._told) > REPEATS_KEPT:
            del self._told[next(iter(self._told))]
        if times == 1:
            return note
        return Note(note.event, f"{note.reason} (again, {times} times)", note.alarm)
