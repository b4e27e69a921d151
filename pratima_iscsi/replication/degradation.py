"""Whether writes wait for a link's replica: the degraded mark, how it is set and how it is erased.

    waits ── a write waited too long ──► mark set on disk ──► degraded: nobody waits
      ▲                                                            │ in step and steady
      └── mark erased from disk ◄── nothing unreplicated is left ◄─┴─► returning: writes wait again

One rule: the mark is on disk before the first write completes without the replica, and until it is
erased from there again writes wait.
"""

from collections.abc import Callable

from pratima_iscsi import limits
from pratima_iscsi.replication.effects import Effect, PersistDegraded, Report
from pratima_iscsi.replication.states import Mode


class Degradation:
    """One link's. ``degraded`` is what the mark on disk says, before the change under way."""

    __slots__ = (
        "_emit",
        "_index",
        "_wanted",
        "degraded",
        "has_returned",
        "marking",
        "mode",
        "returning",
        "unreplicated",
    )

    def __init__(self, index: int, mode: Mode, emit: Callable[[Effect], None]) -> None:
        self.mode = mode
        self.degraded = mode is not Mode.ASYNC
        self.marking = False
        """A change of the mark is on its way to disk."""
        self.returning = False
        """Writes wait again, and the mark goes as soon as nothing is owed."""
        self.has_returned = False
        """Whether it ever was in step: a new link need not be steady first."""
        self.unreplicated = 0
        """Sequence of the last write that completed without the replica."""
        self._wanted = self.degraded
        self._index = index
        self._emit = emit

    def restore(self, degraded: bool, *, synced_once: bool) -> None:
        """What the mark on disk says at the start, and whether the link ever was in step."""
        self.degraded = self._wanted = degraded and self.mode is not Mode.ASYNC
        self.has_returned = synced_once

    @property
    def waits(self) -> bool:
        """Whether writes wait for the replica."""
        if self.mode is Mode.ASYNC:
            return False
        return not self.degraded or self.returning or self.marking

    def completed(self, sequence: int) -> None:
        """A write completed; where nobody waited the replica owes it."""
        if self.degraded and not self.waits:
            self.unreplicated = max(self.unreplicated, sequence)

    def degrade(self) -> bool:
        """Go on without the replica once that is on disk; whether a return was under way."""
        if self.mode is Mode.ASYNC:
            return False
        returning, self.returning = self.returning, False
        self._wanted = True
        self._persist()
        return returning

    def session_over(self) -> None:
        """A link must be in step to return."""
        self.returning = False

    def persisted(self, degraded: bool) -> None:
        """The mark is on disk as ``degraded`` says."""
        self.marking = False
        self.degraded = degraded
        self._persist()
        if degraded:
            self._report("degraded", "writes complete without the replica", alarm=True)
        else:
            self.returning = False
            self.has_returned = True
            self._report("returned", "writes wait for the replica again")

    def in_step(self, durable: int, steady_seconds: float) -> None:
        """The link has been in step for so long, its replica durable up to ``durable``."""
        if not self.degraded or self.marking:
            return
        enough = limits.RETURN_STEADY_SECONDS if self.has_returned else 0.0
        if steady_seconds >= enough:
            self.returning = True
        if self.returning and durable >= self.unreplicated:
            self._wanted = False
            self._persist()

    def _persist(self) -> None:
        if not self.marking and self._wanted is not self.degraded:
            self.marking = True
            self._emit(PersistDegraded(self._index, self._wanted))

    def _report(self, event: str, reason: str, *, alarm: bool = False) -> None:
        self._emit(Report(self._index, event, reason, alarm))
