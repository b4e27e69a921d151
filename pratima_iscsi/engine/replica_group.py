"""A group at work at its replica: the Sink's state machine over the real store and its two threads.

One lane writes and syncs the journal, another applies and checkpoints; each has one job at a time.
What only writes a little to the page cache is done on the loop, what may wait in the lane's thread.
One rule: an error of the disk makes the group FAILED and never an acknowledgement, until its store
is opened again; only a lack of room is waited for.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from pratima_iscsi import limits
from pratima_iscsi.edges.files import NO_ROOM
from pratima_iscsi.edges.replica_store import Applied, ReplicaStore
from pratima_iscsi.edges.volume import Volume
from pratima_iscsi.engine.lane import Event, Lane
from pratima_iscsi.engine.standing import standing_of
from pratima_iscsi.errors import PratimaError
from pratima_iscsi.replication import sink_effects as fx
from pratima_iscsi.replication.messages import Closed, Grow, Hello, Message, Ping
from pratima_iscsi.replication.sink import Sink

PLAIN: Final = "the primary"
"""Whoever connects without keys, in reasons."""

Tell = Callable[[bytes, Message], None]
Listener = Callable[[str, fx.Notice], None]


class ReplicaGroup:
    """Runs one Sink. Every method is called on the loop."""

    def __init__(
        self,
        name: str,
        recover: Callable[[], ReplicaStore],
        volumes: Sequence[Volume],
        *,
        node: bytes,
        blank: bool,
        credit: int,
        journal_bytes: int,
        loop: asyncio.AbstractEventLoop,
        tell: Tell,
        notice: Listener,
        allowed: Mapping[str, str],
    ) -> None:
        """``allowed``: name by public key of those who may connect."""
        self.name = name
        self._allowed = allowed
        self.store = recover()
        self.volumes = volumes
        self.node = node
        self.journal_bytes = journal_bytes
        self.received_bytes = 0
        """Bytes of the frames that went into the journal in this run."""
        self._loop = loop
        self._tell = tell
        self._notice = notice
        self._journal = Lane(loop, f"{name}-journal")
        self._apply = Lane(loop, f"{name}-apply")
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._turning = False
        self._applied_here = False
        """Some of the journal was applied on the loop in this turn."""
        self._closed = False
        self._session: object | None = None
        self._appended = False
        """The frames of a journal job are in the file, and the sink was not told yet."""
        self._recover = recover
        self._credit = credit
        self._blank = blank
        self._mend_after = limits.MEND_SECONDS_MIN
        self._mending: asyncio.TimerHandle | None = None
        self.sink = self._new_sink()
        self._durable = self.sink.durable
        if not self._waits_for_recovery() and self.store.abandoned:
            self._report("recovered", self._recovered())

    def _new_sink(self) -> Sink:
        state = self.store.state
        return Sink(
            standing_of(state),
            node=self.node,
            sizes=[volume.size for volume in self.volumes],
            applied=state.applied,
            credit=self._credit,
            blank=self._blank,
            failure=self.store.unrecovered or state.failed,
            new_nonce=lambda: secrets.token_bytes(16),
            journal_room=self.store.journal_room,
            staging_room=self.store.staging_room,
        )

    # --- events --------------------------------------------------------------------------------

    def hello(self, peer: bytes, user: str, message: Hello) -> None:
        """A source greets this group."""
        self.sink.hello(peer, user, message, time.monotonic())
        self.turn()

    def control(self, peer: bytes, message: Ping | Closed | Grow) -> None:
        """A message inside a session."""
        self.sink.control(peer, message, time.monotonic())
        self.turn()

    def frame(self, frame: memoryview, user: str) -> None:
        """A frame of the data channel."""
        self.sink.frame(frame, user, time.monotonic())
        self.turn()

    def violation(self, reason: str) -> None:
        """The peer of the session sent what is no message."""
        self.sink.close(reason)
        self.turn()

    def turn(self) -> None:
        """Carry out the effects, and see to the next tick."""
        if self._turning or self._closed:
            return
        self._turning = True
        try:
            while effects := self.sink.take_effects():
                for effect in effects:
                    self._carry_out(effect)
        finally:
            self._turning = self._applied_here = False
        self._tell_changes()
        self._arm()

    def _tell_changes(self) -> None:
        """Report what an operator looks for in the log: sessions, and each change of standing."""
        sink, before, now = self.sink, self._durable, self.sink.durable
        if sink.session is not self._session:
            self._session = sink.session
            if sink.session is not None:
                user = sink.session.user
                self._report("session", f"open with {self._allowed.get(user) or user or PLAIN}")
        if now is before:
            return
        self._durable = now
        if now.bound and not before.bound:
            self._report("bound", "to the primary's group: no other one is accepted")
        if now.transaction and now.transaction != before.transaction:
            old = f"{now.history.position} stays the consistent point"
            self._report("resync", "no consistent point before its end" if now.direct else old)
        if now.ended != before.ended and now.consistent:
            self._report("resynced", f"consistent at {now.history.position}")

    def _report(self, event: str, reason: str, *, alarm: bool = False) -> None:
        self._notice(self.name, fx.Notice(event, reason, alarm))

    def _arm(self) -> None:
        now = time.monotonic()
        due = self.sink.next_timer(now)
        if due >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_later(max(0.0, due - now), self._tick)

    def _tick(self) -> None:
        now = max(time.monotonic(), self._timer_at)  # as in the source's group: not too early
        self._timer, self._timer_at = None, float("inf")
        self._tell_written()
        self.sink.tick(now)
        self.turn()

    def _tell_written(self) -> None:
        """Once for each journal job. A wake-up of the loop in the middle of a job costs a write
        that waits for its end, so where nobody asked for it this comes later."""
        if self._appended:
            self._appended = False
            self.sink.journal_written(time.monotonic())

    def _journal_done(self, effect: fx.WriteJournal) -> None:
        self._tell_written()
        self.sink.journal_done(effect.sync, time.monotonic())

    # --- effects -------------------------------------------------------------------------------

    def _carry_out(self, effect: fx.SinkEffect) -> None:
        match effect:
            case fx.Tell():
                self._tell(effect.peer, effect.message)
                # A write may wait for it, and nobody for what follows. Where the thread that
                # carries it has no processor of its own, it would have its turn after that.
                os.sched_yield()
            case fx.Notice():
                self._notice(self.name, effect)
            case fx.WriteJournal():
                self._append(effect)
            case fx.Release():
                self._journal.submit(partial(self._release, effect.upto), self._and_turn)
            case fx.Bind():
                self._journal.submit(partial(self._bind, effect), self._and_turn)
            case fx.Apply():
                self._apply_some(effect.upto)
            case fx.Checkpoint():
                self._apply.submit(self._checkpoint, self._and_turn)
            case fx.MakeRoom():
                self._apply.submit(partial(self._make_room, effect), self._and_turn)

    def _append(self, effect: fx.WriteJournal) -> None:
        sizes = [len(taken.frame) for taken in effect.frames if taken]
        self.received_bytes += sum(sizes)

        job = partial(self._write_journal, effect)
        if effect.sync or not self._is_short(sizes) or not self._journal.try_here(job):
            self._journal.submit(job, self._and_turn)

    def _is_short(self, sizes: Sequence[int]) -> bool:
        """Whether to append frames of these lengths is to write a little to a file that is there;
        nobody knows while the lane is at work."""
        little = sum(sizes) <= limits.INLINE_BYTES_MAX
        return little and self._journal.is_idle and self.store.is_prepared(sizes)

    def _apply_some(self, upto: int) -> None:
        """Apply on the loop what one turn may, where that costs writes alone; else all of it, in
        the thread."""
        if self._applied_here:
            self._loop.call_soon(self._apply_next, upto)  # the loop's other work comes first
        elif self.store.keeps_next and self._apply.try_here(partial(self._apply_kept, upto)):
            self._applied_here = True
        else:
            self._apply.submit(partial(self._apply_upto, upto), self._and_turn)

    def _apply_next(self, upto: int) -> None:
        if not (self._closed or self.sink.failure):
            self._apply_some(upto)
            self.turn()

    def _and_turn(self, event: Event) -> None:
        event()
        self.turn()

    def _failed(self, what: str, error: Exception) -> Event:
        reason = f"{what}: {getattr(error, 'strerror', None) or error}"
        return lambda: self._fail(reason[: limits.REASON_CHARACTERS_MAX])

    def _fail(self, reason: str) -> None:
        self.sink.fail(reason)
        self._mend_later()

    def _mend_later(self) -> None:
        if self._mending is None and not self.store.state.failed:
            self._mending = self._loop.call_later(self._mend_after, self._mend)
            self._mend_after = min(self._mend_after * 2, limits.MEND_SECONDS_MAX)

    def _mend(self) -> None:
        """Open the store again: what was durable is recovered, and goes on from there.

        Nobody knows what a failed sync left behind, so nothing of the old store is used.
        """
        self._mending = None
        if not self._closed:
            self._journal.submit(self._reopen, self._and_turn)

    def _reopen(self) -> Event:
        self._apply.wait()
        try:
            self.store.close()
            store = self._recover()
        except (OSError, PratimaError) as error:
            return self._failed("the replica cannot be recovered", error)
        return lambda: self._reopened(store)

    def _reopened(self, store: ReplicaStore) -> None:
        self.store = store
        self._appended = False
        self.sink = self._new_sink()
        self._durable = self.sink.durable
        self._session = None
        if self._waits_for_recovery():
            return
        if store.state.consistent:
            self._mend_after = limits.MEND_SECONDS_MIN
        self._report("recovered", self._recovered(), alarm=not store.state.consistent)

    def _waits_for_recovery(self) -> bool:
        """Whether the store that was opened could not be recovered, and is to be opened again."""
        if self.store.unrecovered:
            self._report("failed", self.store.unrecovered, alarm=True)
            self._mend_later()
        return bool(self.store.unrecovered)

    def _recovered(self) -> str:
        """What a recovery brought, in the operator's words."""
        state = self.store.state
        if state.failed:
            return state.failed
        if not state.consistent:
            return f"recovered, not consistent: {state.reason}"
        lost = self.store.abandoned
        begins = f"; the open resync begins anew ({lost})" if lost else ""
        return f"recovered at {state.history.position}{begins}"

    # Jobs of the journal's lane.

    def _write_journal(self, effect: fx.WriteJournal) -> Event:
        try:
            for taken in effect.frames:
                self.store.append(taken, effect.mark)
            self._appended = True
            if effect.sync:
                if effect.wanted:
                    self._loop.call_soon_threadsafe(self._and_turn, self._tell_written)
                self.store.sync()
        except (OSError, PratimaError) as error:
            return self._failed("the journal cannot be written", error)
        return lambda: self._journal_done(effect)

    def _release(self, upto: int) -> Event:
        try:
            self.store.release(upto)
        except (OSError, PratimaError) as error:
            return self._failed("the journal cannot be reused", error)
        return lambda: self.sink.released(time.monotonic())

    def _bind(self, effect: fx.Bind) -> Event:
        try:
            for volume, (_, size) in zip(self.volumes, effect.volumes, strict=True):
                if volume.size != size:
                    volume.truncate(size)
            self.store.bind(effect.group, effect.name, effect.volumes, self.node)
        except (OSError, PratimaError) as error:
            return self._failed("the replica cannot be bound", error)
        return lambda: self.sink.bound(effect, time.monotonic())

    # Jobs of the volumes' lane.

    def _apply_kept(self, upto: int) -> Event:
        return self._apply_by(lambda: self.store.apply_kept(upto, limits.INLINE_BYTES_MAX))

    def _apply_upto(self, upto: int) -> Event:
        return self._apply_by(lambda: self.store.apply(upto))

    def _apply_by(self, apply: Callable[[], Applied]) -> Event:
        try:
            applied = apply()
        except OSError as error:
            if error.errno not in NO_ROOM:
                return self._failed("the replica's volume cannot be written", error)
            reason = f"the replica has no room: {error.strerror}"
            return lambda: self.sink.apply_blocked(reason, time.monotonic())
        except PratimaError as error:
            return self._failed("the journal cannot be applied", error)
        answers = [(a.transaction, a.verify, a.differing) for a in applied.answers]
        return lambda: self.sink.applied(
            applied.index, applied.frame_bytes, answers, time.monotonic()
        )

    def _make_room(self, effect: fx.MakeRoom) -> Event:
        zeros: tuple[bool, ...] = ()
        refusal = ""
        try:
            zeros = self.store.make_room(effect.sizes)
        except (OSError, PratimaError) as error:
            refusal = f"{getattr(error, 'strerror', None) or error}"[: limits.REASON_CHARACTERS_MAX]
        sizes = [volume.size for volume in self.volumes]
        return lambda: self.sink.room_made(effect, sizes, zeros, refusal, time.monotonic())

    def _checkpoint(self) -> Event:
        try:
            self.store.heard(time.time_ns())
            upto = self.store.checkpoint()
        except (OSError, PratimaError) as error:
            return self._failed("the replica's volume cannot be synced", error)
        return lambda: self.sink.checkpointed(upto, time.monotonic())

    # --- the end -------------------------------------------------------------------------------

    def begin_close(self) -> None:
        """End the session and take nothing more."""
        self.sink.close("the replica stops")
        self.turn()
        self._closed = True
        if self._mending is not None:
            self._mending.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def finish(self) -> str:
        """Off the loop, after ``begin_close``: let the jobs under way end, checkpoint, release.
        Why the checkpoint failed; empty: it did not."""
        failure = ""
        self._journal.finish()
        self._apply.finish()
        if self.store.state.bound and not self.sink.failure:
            try:
                self.store.checkpoint()
            except (OSError, PratimaError) as error:
                failure = f"last checkpoint: {error}"
        self.store.close()
        for volume in self.volumes:
            volume.close()
        return failure


def is_blank(volume: Volume, bytes_max: int = limits.BLANK_BYTES_MAX) -> bool:
    """Whether a volume reads as zeros, as far as a look of ``bytes_max`` bytes can tell.

    A file's holes cost nothing to pass; of a device, only the first bytes and the last are read.
    """
    at = read = 0
    while at < volume.size and read < bytes_max:
        allocated, length = volume.allocated(at, volume.size - at)
        if allocated:
            length = min(length, limits.MIB)
            read += length
            if volume.pread(length, at).strip(b"\0"):
                return False
        at += length
    tail = min(volume.size, limits.MIB)
    return not volume.pread(tail, volume.size - tail).strip(b"\0")
