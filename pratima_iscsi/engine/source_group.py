"""A group at work at its source: the Backstore's state machine, carried out on real edges.

One turn of the wheel: operations collected in a wake-up are submitted together, the effects are
carried out in order, the links are pumped, until nothing is left to do. One rule: everything here
runs on the loop's thread; threads only get immutable bytes, and come back through the loop.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Protocol

from pratima_iscsi import limits
from pratima_iscsi.backstore import Backstore
from pratima_iscsi.edges.source_store import SourceStore
from pratima_iscsi.engine.local_volume import LocalVolume
from pratima_iscsi.operations import Buffer, Operation
from pratima_iscsi.replication import effects as fx
from pratima_iscsi.replication.growth import GrowthDone
from pratima_iscsi.replication.messages import Message
from pratima_iscsi.replication.source_state import LinkState

Listener = Callable[[fx.Report], None]
_NEVER: Final = float("inf")


class LinkEdge(Protocol):
    """What a group asks of a link's sockets."""

    def send_control(self, message: Message) -> bool:
        """Send one message, or say that there is no connection."""

    def send_frame(self, frame: Buffer) -> bool:
        """Send one frame, or say that there is no room."""

    def open_session(self) -> None:
        """Dial a fresh data channel."""

    def close_session(self) -> None:
        """Drop the data channel."""


class SourceGroup:
    """Runs one Backstore. Every method is called on the loop."""

    def __init__(
        self,
        backstore: Backstore,
        volumes: Sequence[LocalVolume],
        store: SourceStore,
        boot_id: str,
        loop: asyncio.AbstractEventLoop,
        report: Listener,
    ) -> None:
        self.backstore = backstore
        self.log = backstore.log
        self.volumes = volumes
        self.links: list[LinkEdge] = []
        self.sessions: dict[int, bytes] = {}
        self.sent_bytes: dict[int, int] = {}
        """Bytes of the frames that were sent, by link."""
        self.batch: list[Operation] = []
        """Operations of this wake-up, not submitted yet."""
        self.takes_lent = not backstore.links
        """Whether payloads may be written from where they are: nobody else wants them."""
        self.lent = False
        """Whether any of this turn's operations has its data from somebody's buffer."""
        self._store = store
        self._boot_id = boot_id
        self._loop = loop
        self._report = report
        self._state_writer = ThreadPoolExecutor(1, "state")
        self._state_reasons: dict[int, str] = {}
        """Why a job of the state thread failed that is to be tried again, by its number."""
        self._state_jobs = 0
        self._turning = False
        self._now = 0.0
        """When the turn under way began."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NEVER
        self._tick_at = _NEVER
        """When the backstore is to be ticked; the timer may be there for the log's tail alone."""
        self._closed = False
        self._carry_out: dict[type, Callable[..., None]] = {
            fx.WriteLocal: self._write_local,
            fx.UpdateLocal: self._update_local,
            fx.FlushLocal: self._flush_local,
            fx.Complete: self._complete,
            fx.Settle: lambda effect: effect.done(None),
            fx.SendControl: lambda effect: self.links[effect.link].send_control(effect.message),
            fx.OpenSession: self._open_session,
            fx.CloseSession: self._close_session,
            fx.SendFrame: self._send_frame,
            fx.ReadBlocks: self._read_blocks,
            fx.PersistGeneration: self._persist_generation,
            fx.PersistDegraded: self._persist_degraded,
            fx.PersistLink: self._persist_link,
            fx.GrowLocal: self._grow_local,
            fx.Report: report,
        }

    # --- the wheel -----------------------------------------------------------------------------

    def turn(self) -> None:
        """Submit what has come, carry out what follows from it; a front end calls this once per
        wake-up, before it sends its answers."""
        if self._turning or self._closed:
            return
        self._turning = True
        backstore, carry_out = self.backstore, self._carry_out
        now = self._now = time.monotonic()
        try:
            while True:
                if self.batch:
                    operations, self.batch = self.batch, []
                    backstore.submit(operations, now)
                if not backstore.effects:
                    if backstore.links and not self.batch:
                        backstore.pump(now)
                    if not backstore.effects and not self.batch:
                        break
                for effect in backstore.take_effects():
                    carry_out[type(effect)](effect)
        finally:
            self._turning = False
        if self.lent:
            self.lent = False
            backstore.own_waiting()
        if backstore.links or not self._timer:
            self._arm(now)

    def _arm(self, now: float) -> None:
        """See to it that what is due is done in time; a timer that is early enough is left alone,
        since most frames fill, and go, before their time."""
        log = self.backstore.log
        early = limits.TAIL_SECONDS if log.tail else limits.COALESCE_SECONDS
        if self._timer is not None and self._timer_at - now <= early:
            return
        self._tick_at = min(self._tick_at, self.backstore.next_tick(now))
        due = max(now, min(self._tick_at, log.tail_due))
        if due >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_later(max(0.0, due - now), self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        late = now - self._timer_at
        # A loop that counts in milliseconds calls a little early. What is due is due then: else it
        # would be asked for again at once, over and over.
        now = max(now, self._timer_at)
        self._timer, self._timer_at = None, _NEVER
        if late > limits.LOOP_LAG_SECONDS_MAX:
            self._report(
                fx.Report(None, "loop late", f"the loop stood still for {late:.1f} s", True)
            )
            for link in self.backstore.links:
                link.excuse(late, now)
        if now >= self._tick_at:
            self._tick_at = _NEVER
            self.backstore.tick(now)
        elif now >= self.backstore.log.tail_due:
            self.backstore.pump(now)
        else:
            self._arm(now)  # the frame that it was for has filled before its time
            return
        self.turn()

    def _later(
        self,
        prepare: Callable[[], Callable[[], None]],
        then: Callable[[], None],
        failed: Callable[[OSError], None] = lambda error: None,
    ) -> None:
        """Run the job that ``prepare`` makes in the state thread, then ``then`` and a turn on the
        loop; after an error of the disk call ``failed`` and try again later.

        The job is made anew each time: what stands in it would else be older than what was stored
        in the meantime.
        """
        number = self._state_jobs = self._state_jobs + 1

        def run(job: Callable[[], None]) -> None:
            try:
                job()
            except OSError as error:
                failure = error
                self._loop.call_soon_threadsafe(
                    lambda: self._state_failed(number, failure, again, failed)
                )
                return
            self._loop.call_soon_threadsafe(self._state_written, number, then)

        def again() -> None:
            if not self._closed:
                self._state_writer.submit(run, prepare())

        again()

    @property
    def state_trouble(self) -> str:
        """Why the state directory cannot be written now; empty while it can."""
        return next(reversed(self._state_reasons.values()), "")

    def _state_written(self, number: int, then: Callable[[], None]) -> None:
        # Not what another job left to be tried again: that there is room for a mark does not say
        # that there is room for a generation.
        if self._state_reasons.pop(number, "") and not self._state_reasons:
            self._report(fx.Report(None, "state written", "the state directory can be written"))
        self._and_turn(then)

    def _state_failed(
        self,
        number: int,
        error: OSError,
        again: Callable[[], None],
        failed: Callable[[OSError], None],
    ) -> None:
        reason = f"the state directory cannot be written: {error.strerror or error}"
        if reason not in self._state_reasons.values():
            self._report(fx.Report(None, "state failed", reason, alarm=True))
        self._state_reasons[number] = reason
        failed(error)
        self._loop.call_later(limits.STATE_RETRY_SECONDS, again)
        self.turn()

    def remember_link(self, link: LinkState) -> None:
        """Store a link's flags, after what the state thread has under way. Raises OSError."""
        self._state_writer.submit(self._store.remember_link, link).result()

    def _and_turn(self, then: Callable[[], None]) -> None:
        then()
        self.turn()

    # --- the local volume ----------------------------------------------------------------------

    def _write_local(self, effect: fx.WriteLocal) -> None:
        operations = effect.operations
        if len(self.volumes) == 1:
            self._write_volume(self.volumes[0], operations)
            return
        for index, volume in enumerate(self.volumes):
            mine = [operation for operation in operations if operation.volume == index]
            if mine:
                self._write_volume(volume, mine)

    def _write_volume(self, volume: LocalVolume, operations: Sequence[Operation]) -> None:
        if volume.write_inline(operations):
            self.backstore.local_done(operations, self._now)
        else:
            for operation in operations:
                operation.own()
            volume.queue(operations, lambda: self._written(operations))

    def _written(self, operations: Sequence[Operation]) -> None:
        self.backstore.local_done(operations, time.monotonic())
        self.turn()

    def _update_local(self, effect: fx.UpdateLocal) -> None:
        operation = effect.operation

        def done(new: bytes | None) -> None:
            self.backstore.update_read(operation, new, time.monotonic())
            self.turn()

        self.volumes[operation.volume].update(operation, done)

    def _flush_local(self, effect: fx.FlushLocal) -> None:
        operation = effect.operation

        def done(error: OSError | None) -> None:
            operation.error = error
            self.backstore.local_done((operation,), time.monotonic())
            self.turn()

        self.volumes[operation.volume].sync(done)

    @staticmethod
    def _complete(effect: fx.Complete) -> None:
        for operation in effect.operations:
            operation.tell()

    def _read_blocks(self, effect: fx.ReadBlocks) -> None:
        pieces: dict[int, list[int]] = {}
        for place, piece in enumerate(effect.ranges):
            pieces.setdefault(piece.volume, []).append(place)
        answers: list[fx.BlocksRead] = [fx.BlocksRead(0)] * len(effect.ranges)
        waiting = len(pieces)

        def answered(places: list[int], found: list[fx.BlocksRead]) -> None:
            nonlocal waiting
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
            waiting -= 1
            if not waiting:
                now = time.monotonic()
                self.backstore.blocks_read(effect.link, effect.read, answers, now)
                self.turn()

        for volume, places in pieces.items():
            self.volumes[volume].read_blocks(
                [effect.ranges[place] for place in places],
                effect.blocks_max,
                sweep=effect.sweep,
                done=lambda found, places=places: answered(places, found),  # type: ignore[misc]
            )

    # --- links ---------------------------------------------------------------------------------

    def _open_session(self, effect: fx.OpenSession) -> None:
        self.sessions[effect.link] = effect.session
        self.links[effect.link].open_session()

    def _close_session(self, effect: fx.CloseSession) -> None:
        self.sessions.pop(effect.link, None)
        self.links[effect.link].close_session()

    def _send_frame(self, effect: fx.SendFrame) -> None:
        link = effect.link
        if link not in self.sessions:
            return
        self.sent_bytes[link] = self.sent_bytes.get(link, 0) + len(effect.frame)
        if not self.links[link].send_frame(effect.frame):
            self.data_lost(link, "the data channel takes no more frames")

    def control(self, link: int, message: Message) -> None:
        """A control message of link ``link``'s replica."""
        self.backstore.control(link, message, time.monotonic())
        self.turn()

    def control_up(self, link: int) -> None:
        """The control connection stands: greet now."""
        self.backstore.links[link].reachable(time.monotonic())
        self.turn()

    def control_down(self, link: int, reason: str) -> None:
        """There is no control connection."""
        self.backstore.links[link].unreachable(reason, time.monotonic())
        self.turn()

    def violation(self, link: int, reason: str) -> None:
        """The replica sent what is no message."""
        self.backstore.links[link].break_off(reason, time.monotonic())
        self.turn()

    def data_ready(self, link: int) -> None:
        """The session's data channel is up."""
        session = self.sessions.get(link)
        if session is not None:
            self.backstore.data_ready(link, session, time.monotonic())
            self.turn()

    def data_lost(self, link: int, reason: str) -> None:
        """The session's data channel is gone."""
        session = self.sessions.pop(link, None)
        if session is not None:
            self.backstore.data_lost(link, session, reason, time.monotonic())
            self._loop.call_soon(self.turn)

    # --- persistence ---------------------------------------------------------------------------

    def _persist_generation(self, effect: fx.PersistGeneration) -> None:
        self._later(
            lambda: partial(
                self._store.begin_generation,
                effect.history,
                effect.digest,
                self._boot_id,
                self.backstore.link_flags(),
            ),
            lambda: self.backstore.generation_persisted(time.monotonic()),
            self.backstore.generation_failed,
        )

    def _persist_degraded(self, effect: fx.PersistDegraded) -> None:
        mark = self._store.mark(self.backstore.links[effect.link].options.name)
        self._later(
            lambda: partial(mark.write, effect.degraded),
            lambda: self.backstore.degraded_persisted(
                effect.link, effect.degraded, time.monotonic()
            ),
        )

    def _persist_link(self, effect: fx.PersistLink) -> None:
        self._later(
            lambda: partial(self._store.remember_link, self.backstore.link_flags()[effect.link]),
            lambda: None,
        )

    def _grow_local(self, effect: fx.GrowLocal) -> None:
        growth = self.backstore.growth
        name = self.backstore.options.volumes[effect.volume].name

        def grown(zeros: bool, failure: OSError | None) -> None:
            growth.local_grown(zeros, failure, time.monotonic())
            self.turn()

        def made(zeros: bool, failure: OSError | None) -> None:
            if failure is None:
                self._state_writer.submit(remember, zeros)
            else:
                grown(zeros, failure)

        def remember(zeros: bool) -> None:
            failure = None
            try:
                self._store.remember_size(name, effect.size)
            except OSError as error:
                failure = error
            self._loop.call_soon_threadsafe(grown, zeros, failure)

        self.volumes[effect.volume].make_room(effect.size, made)

    def grow(self, volume: int, size: int, done: GrowthDone, *, later: bool) -> None:
        """Grow a volume; ``done`` once initiators may be told, or why not. Raises OperatorError."""
        self.backstore.growth.begin(volume, size, done, time.monotonic(), later=later)
        self.turn()

    # --- stop ----------------------------------------------------------------------------------

    async def stop(self) -> bool:
        """A clean stop: settle, wait a little for acknowledgements, sync, spill, mark it clean.

        False if a disk did not let it be clean: the next start then costs a comparison.
        """
        backstore = self.backstore
        backstore.begin_stop()
        self.turn()
        deadline = time.monotonic() + limits.CLEAN_STOP_SECONDS
        while not backstore.settled or (not backstore.quiet and time.monotonic() < deadline):
            await asyncio.sleep(limits.STOP_POLL_SECONDS)
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        clean = await self._sync_volumes() and not backstore.volume_failed and await self._spill()
        self._state_writer.shutdown(wait=True)
        for volume in self.volumes:
            volume.close()
        return clean

    async def _sync_volumes(self) -> bool:
        synced = True
        for volume in self.volumes:
            ended: asyncio.Future[OSError | None] = self._loop.create_future()
            volume.sync(ended.set_result)
            if (error := await ended) is not None:
                synced = False
                self._report(fx.Report(None, "volume failed", f"fdatasync: {error}", alarm=True))
        return synced

    async def _spill(self) -> bool:
        backstore = self.backstore
        offers = backstore.options.volumes
        states = [
            volume.volume.state(offer.name)
            for volume, offer in zip(self.volumes, offers, strict=True)
        ]
        state = backstore.snapshot(states, self._boot_id)
        try:
            await self._loop.run_in_executor(self._state_writer, self._store.save_clean, state)
        except OSError as error:
            reason = f"the state directory cannot be written: {error.strerror or error}"
            self._report(fx.Report(None, "unclean stop", reason, alarm=True))
            return False
        return True
