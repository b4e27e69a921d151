"""The mirrored backstore of a group: accept, order, mark, mirror, complete.

The state machine of a group's source. It gives every write its place in the one order, puts it into
each link's queue or table BEFORE the local volume sees it, and says when it completes. It does no
I/O, reads no clock and starts no thread: events and the time come in, effects go out, and the same
code runs under the daemon and under the simulator.

    operations ─► admit ─► order, log, table ─► WriteLocal ─► local_done ─► Complete
                    ▲                                            │
              barriers, room                     waits for replicas (sync, semi-sync)

One rule: log ∪ table ∪ T ∪ writes in flight ⊇ every block in which primary and replica differ.
"""

import errno
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pratima_iscsi import limits
from pratima_iscsi.block_write_table import BlockWriteTable
from pratima_iscsi.blocks import block_span
from pratima_iscsi.errors import SyncError
from pratima_iscsi.limits import BATCH_BYTES_MAX, RECORD_OVERHEAD_BYTES
from pratima_iscsi.operations import FLUSH, RESIZE, UPDATE, WRITE, ZERO, Done, Operation, RecordKind
from pratima_iscsi.ordered_log import OrderedLog
from pratima_iscsi.positions import NO_GENERATION, Ancestor, History, new_generation
from pratima_iscsi.records import (
    NO_HISTORY,
    GenerationBegin,
    make_record,
    next_history,
    seed_history,
)
from pratima_iscsi.replication import clean
from pratima_iscsi.replication.confirmations import Confirmations
from pratima_iscsi.replication.effects import (
    BlocksRead,
    Complete,
    Effect,
    FlushLocal,
    PersistGeneration,
    Report,
    Settle,
    UpdateLocal,
    WriteLocal,
)
from pratima_iscsi.replication.group import LinkOptions
from pratima_iscsi.replication.growth import Growth
from pratima_iscsi.replication.link import Link
from pratima_iscsi.replication.link_spill import flags_of, spill_of
from pratima_iscsi.replication.messages import Grown, Message, VolumeOffer
from pratima_iscsi.replication.source_state import LinkState, SourceState, StopKind, VolumeState
from pratima_iscsi.replication.states import Connection, Mode


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """A group as the operator set it up."""

    volumes: tuple[VolumeOffer, ...]
    links: tuple[LinkOptions, ...] = ()
    log_bytes: int = limits.LOG_BYTES_DEFAULT


class Backstore:
    """One group at its source. All times are the caller's monotonic seconds."""

    def __init__(
        self,
        options: GroupOptions,
        state: SourceState,
        *,
        new_id: Callable[[], int] = new_generation,
    ) -> None:
        self.options = options
        self.sizes = tuple(volume.size for volume in options.volumes)
        self.new_id = new_id
        self.incarnation = new_id()
        self.log = OrderedLog(options.log_bytes, len(options.links) * limits.MARKS_BYTES)
        self.effects: list[Effect] = []
        self.emit: Callable[[Effect], None] = self.effects.append
        self._state = state
        clean = state.stop in (StopKind.CLEAN, StopKind.NONE)
        self.unclean = not clean
        self._history: History = state.history
        self._sequence = state.history.position.sequence
        self.log.digest = state.digest
        if self.unclean and state.history.position.generation != NO_GENERATION:
            # Nobody knows where the old generation ended: nothing may be said in its name.
            self.history = state.history.begin(new_id(), clean=False)
            self.digest = seed_history(self.history.position.generation, NO_HISTORY)
        self._next = (self.history, self.digest)
        self._begun = False
        self._beginning = False
        self._waiting: deque[Operation] = deque()
        """Operations that no barrier has let in yet."""
        self._barrier: object | None = None
        self._in_flight: dict[int, Operation] = {}
        self._settlers: list[tuple[set[int], Done]] = []
        self._failed_volumes: set[int] = set()
        self._stopping = False
        self.growth = Growth(self)
        saved = {link.name: link for link in state.links}
        self.links = [
            Link(self, index, link, saved.get(link.name), links=len(options.links))
            for index, link in enumerate(options.links)
        ]
        self._confirmations = Confirmations(self.links)
        if self.unclean:
            for link in self.links:
                link.lost_power |= state.stop is StopKind.POWER_LOST and link.ever_sync
        self.may_wait = any(link.options.mode is not Mode.ASYNC for link in self.links)
        """Whether a write may ever have to wait for a replica."""
        self.transfer_bytes_max = min(limits.TRANSFER_BYTES_MAX, options.log_bytes // 4)

    @property
    def digest(self) -> bytes:
        """The history digest at the group's position."""
        return self.log.digest

    @digest.setter
    def digest(self, digest: bytes) -> None:
        self.log.digest = digest

    @property
    def history(self) -> History:
        """Where the group stands; a value for the links, kept as one number for the writes."""
        if self._history.position.sequence != self._sequence:
            self._history = self._history.at(self._sequence)
        return self._history

    @history.setter
    def history(self, history: History) -> None:
        self._history = history
        self._sequence = history.position.sequence

    def take_effects(self) -> list[Effect]:
        """The effects since the last call, in order."""
        taken = self.effects.copy()
        self.effects.clear()
        return taken

    # --- what links ask ------------------------------------------------------------------------

    def offer(self) -> tuple[bytes, str, bytes, tuple[VolumeOffer, ...]]:
        """Group id, group name, node id, volumes."""
        state = self._state
        return state.group, state.name, state.node, self.options.volumes

    def history_begun(self) -> bool:
        """After an unclean stop a generation begins before the first resync: END starts a new
        history whose initial image is this volume, and the old generation's end is unknown."""
        if self._begun or not self.unclean or self.history.position.generation == NO_GENERATION:
            return True
        self._begin_generation()
        return False

    def hold_writes(self) -> bool:
        """Admit nothing until ``release_writes``; False if something else holds them already."""
        if self._barrier is not None or self._waiting:
            return False
        self._barrier = self
        return True

    def release_writes(self, now: float) -> None:
        """Lift the hold, and admit what has waited."""
        if self._barrier is self:
            self._barrier = None
            self._admit_waiting(now)

    # --- operations ----------------------------------------------------------------------------

    def submit(self, operations: Sequence[Operation], now: float) -> None:
        """Writes, zeroes, updates and flushes as they arrived, in order."""
        if self._stopping:
            self._refuse(operations, errno.ESHUTDOWN)
            return
        if len(self._waiting) + len(operations) > limits.ADMISSIONS_MAX:
            self._refuse(operations, errno.EBUSY)
            return
        for operation in operations:
            operation.started = now
        self._waiting.extend(operations)
        self._admit_waiting(now)

    def own_waiting(self) -> None:
        """What was lent to an operation that still waits is copied: its turn is over."""
        for operation in self._waiting:
            operation.own()

    def _refuse(self, operations: Sequence[Operation], code: int) -> None:
        for operation in operations:
            operation.error = OSError(code, "the group takes no more operations now")
        self.emit(Complete(list(operations)))

    def _admit_waiting(self, now: float) -> None:
        """Admit from the front of the line until something holds the rest back."""
        waiting = self._waiting
        admitted: list[Operation] = []
        while waiting and self._barrier is None:
            if self._begun and (run := self._order_run(now)):
                admitted += run
                continue
            operation = waiting[0]
            if operation.volume in self._failed_volumes:
                waiting.popleft()
                operation.error = OSError(errno.EIO, "the volume failed and takes no writes")
                self._settled(operation)
                self.emit(Complete((operation,)))
                continue
            if operation.kind == FLUSH:
                waiting.popleft()
                self._write_out(admitted)
                self._flush(operation, now)
                continue
            if not self._begun:
                self._begin_generation()
                break
            if operation.kind == UPDATE:
                waiting.popleft()
                self._barrier = operation
                self._in_flight[id(operation)] = operation
                self._write_out(admitted)
                self.emit(UpdateLocal(operation))
                break
            if operation.kind == RESIZE:
                if not self._resize(operation, now):
                    break
                admitted.append(waiting.popleft())
                continue
            if not self._make_room(operation.payload_bytes, now):
                break
            if not self.log.fits(operation.payload_bytes):
                self._order_past_log(waiting.popleft(), now)
                admitted.append(operation)
        self._write_out(admitted)

    def _write_out(self, admitted: list[Operation]) -> None:
        if admitted:
            self.emit(WriteLocal(admitted.copy()))
            admitted.clear()

    def _order_run(self, now: float) -> list[Operation]:
        """Give the writes at the front of the line, as many as the log has room for, their
        positions, and put them into the log or into the links' tables. The hot path."""
        waiting, failed, in_flight = self._waiting, self._failed_volumes, self._in_flight
        room = self.log.room - self.log.bytes if self.links else sys.maxsize
        sequence = self._sequence
        run: list[Operation] = []
        cost = 0
        for operation in waiting:
            if operation.kind > ZERO or operation.volume in failed:
                break
            size = operation.payload_bytes + RECORD_OVERHEAD_BYTES
            if cost + size > room:
                break
            cost += size
            sequence += 1
            operation.sequence = sequence
            in_flight[id(operation)] = operation
            run.append(operation)
        for _ in run:
            waiting.popleft()
        self._sequence = sequence
        if self.links and run:
            self._log_run(run, cost, now)
        return run

    def _log_run(self, run: list[Operation], cost: int, now: float) -> None:
        log, links = self.log, self.links
        for link in links:
            if not link.streams:
                break
        else:
            log.admit(run, cost, now)
            return
        log.seal()
        for link in links:
            if not link.only_marks:
                break
        else:
            # An outage must not be felt: no record is made that no queue would hold.
            entries = log.pass_by(run)
            for link in links:
                link.mark_run(entries)
            return
        records = log.records_of(run)
        for link in links:
            link.admit_run(records, now)

    def _order_past_log(self, operation: Operation, now: float) -> None:
        """Give a write its position that finds no room in the log, though it was made: what was
        sent holds it all. The write is dropped before it was queued, and stands in the tables."""
        self.log.seal()
        self._sequence += 1
        operation.sequence = self._sequence
        self._in_flight[id(operation)] = operation
        (record,) = self.log.records_of((operation,))
        for link in self.links:
            if link.wants(operation.volume, *record.blocks):
                link.overflow(now)
                link.mark(operation.volume, *record.blocks)

    def admit_resize(self, operation: Operation, now: float) -> None:
        """Take a RESIZE into the order: every side has room."""
        operation.started = now
        self._waiting.append(operation)
        self._admit_waiting(now)

    def _resize(self, operation: Operation, now: float) -> bool:
        """Give a RESIZE its position: from here on the volume has its new size. False when it must
        wait for room in the log, as a write must."""
        if self.links and not self.log.fits(0) and not self._make_room(0, now):
            return False
        volume, size, old = operation.volume, operation.length, self.sizes[operation.volume]
        offers = list(self.options.volumes)
        offers[volume] = VolumeOffer(offers[volume].name, size)
        self.options = replace(self.options, volumes=tuple(offers))
        self.sizes = tuple(offer.size for offer in offers)
        sequence = operation.sequence = self._sequence = self._sequence + 1
        self._in_flight[id(operation)] = operation
        if self.links:
            record = make_record(RecordKind.RESIZE, volume, 0, size, sequence=sequence)
            self.digest = record.history = next_history(self.digest, record.entry, record.payload)
            for link in self.links:
                link.resize(record, old, now, zeros=self.growth.reads_zeros(link))
        self.emit(Report(None, "resized", f"volume {offers[volume].name}: {old} to {size} bytes"))
        return True

    def _make_room(self, payload_bytes: int, now: float) -> bool:
        """Overflow the links that may; False when a waiting link must first confirm something."""
        for link in sorted(self.links, key=lambda link: -link.queue.bytes):
            if self.log.fits(payload_bytes):
                return True
            if not link.waits and link.queue.bytes:
                link.overflow(now)
        if self.log.fits(payload_bytes):
            return True
        return not any(link.waits and link.queue.bytes for link in self.links)

    def _begin_generation(self) -> None:
        if self._beginning or self._begun:
            return
        self._beginning = True
        if not self.unclean or self.history.position.generation == NO_GENERATION:
            generation = self.new_id()
            history = self.history.begin(generation)
            self._next = (history, seed_history(generation, self.digest))
        self.emit(PersistGeneration(*self._next))

    def generation_persisted(self, now: float) -> None:
        """The clean mark is erased and the generation on disk: writes may be admitted."""
        self.history, self.digest = self._next
        self._begun, self._beginning = True, False
        ancestry = self.history.ancestry
        parent = ancestry[-1] if ancestry else Ancestor(NO_GENERATION, 0)
        generation = self.history.position.generation
        begin = GenerationBegin(generation, parent.generation, parent.last)
        record = make_record(RecordKind.GENERATION, payload=begin.encode())
        record.history = self.digest
        for link in self.links:
            link.begin_generation(record, now)
        self.emit(Report(None, "generation", f"{self.history.position}"))
        self._admit_waiting(now)
        self.pump(now)

    def generation_failed(self, error: OSError) -> None:
        """The generation could not be stored, and it is tried again: what waits for it fails now,
        rather than hang until an operator has seen to the disk."""
        waiting, self._waiting = list(self._waiting), deque()
        for operation in waiting:
            operation.error = error
            self._settled(operation)
        if waiting:
            self.emit(Complete(waiting))

    def update_read(self, operation: Operation, new: bytes | None, now: float) -> None:
        """The outcome of an update's read: the bytes to write, or None (``error`` may say why)."""
        assert self._barrier is operation
        self._barrier = None
        del self._in_flight[id(operation)]
        if new is None or operation.error is not None:
            self._settled(operation)
            self.emit(Complete((operation,)))
        else:
            operation.changed = True
            operation.kind, operation.payload, operation.transform = WRITE, new, None
            self._waiting.appendleft(operation)
        self._admit_waiting(now)

    def local_done(self, operations: Sequence[Operation], now: float) -> None:
        """These are on their volume (writes) or on stable storage (flushes), or carry an error."""
        finished: list[Operation] = []
        waits = self.may_wait and any(link.waits for link in self.links)
        in_flight = self._in_flight
        for operation in operations:
            in_flight.pop(id(operation), None)
            if self._settlers:
                self._settled(operation)
            if operation.kind == FLUSH and operation.volume in self._failed_volumes:
                # After one failed fdatasync a success of the next proves nothing.
                operation.error = operation.error or OSError(errno.EIO, "the volume failed")
            if operation.error is not None:
                self._local_failed(operation)
                finished.append(operation)
            elif not waits:
                finished.append(operation)
            else:
                self._confirmations.add(operation)
        if finished:
            self._complete(finished)
        if waits:
            self.confirmed(now)

    def _local_failed(self, operation: Operation) -> None:
        if operation.kind == FLUSH or isinstance(operation.error, SyncError):
            self.fail_volume(operation.volume)
        if operation.kind == FLUSH:
            return
        reason = f"a write to volume {operation.volume} failed: {operation.error}"
        self.emit(Report(None, "write failed", reason, alarm=True))
        self.log.seal()
        for link in self.links:
            link.mark_failed(operation)

    def fail_volume(self, volume: int) -> None:
        """A sync failed: nobody knows what is durable there, so it takes no more writes."""
        if volume not in self._failed_volumes:
            self._failed_volumes.add(volume)
            reason = f"fdatasync of volume {volume} failed: it takes no more writes"
            self.emit(Report(None, "volume failed", reason, alarm=True))

    @property
    def volume_failed(self) -> bool:
        """Whether a flush failed: this run then counts as an unclean stop."""
        return bool(self._failed_volumes)

    @property
    def failed_volumes(self) -> frozenset[int]:
        """Volumes whose fdatasync failed."""
        return frozenset(self._failed_volumes)

    def _complete(self, operations: list[Operation]) -> None:
        if self.may_wait:
            for link in self.links:
                link.degradation.completed(operations[-1].sequence)
        self.emit(Complete(operations))

    # --- flush and settle ----------------------------------------------------------------------

    def _flush(self, operation: Operation, now: float) -> None:
        # Before the first write of a generation, what went before it must be there.
        operation.sequence = self._sequence if self._begun else 0
        self._in_flight[id(operation)] = operation
        self.emit(FlushLocal(operation))
        for link in self.links:
            if link.waits:
                link.flush(now)

    def settle(self, done: Done) -> None:
        """Tell ``done`` when every operation before this call is written locally, or has failed."""
        open_now = {*self._in_flight, *(id(operation) for operation in self._waiting)}
        if open_now:
            self._settlers.append((open_now, done))
        else:
            self.emit(Settle(done))

    def _settled(self, operation: Operation) -> None:
        for settler in self._settlers.copy():
            settler[0].discard(id(operation))
            if not settler[0]:
                self._settlers.remove(settler)
                self.emit(Settle(settler[1]))

    # --- waiting for replicas ------------------------------------------------------------------

    def confirmed(self, now: float) -> None:
        """Complete what no longer waits: watermarks moved, or a link is no longer waited for."""
        if len(self._confirmations) and (finished := self._confirmations.take(self._sequence)):
            self._complete(finished)
        if self._waiting and self._barrier is None and self._begun:
            self._admit_waiting(now)

    def _watch_waits(self, now: float) -> None:
        """Degrade the links for which the oldest waiting write has waited too long."""
        if not self.may_wait:
            return
        oldest = self._confirmations.since(now)
        if self._waiting:
            oldest = min(oldest, self._waiting[0].started)
        for link in self.links:
            patient = link.options.block or now - oldest < link.options.sync_timeout
            if link.waits and not patient and self._owes(link):
                link.degrade(now)
            link.try_return(now)

    def _owes(self, link: Link) -> bool:
        """Whether something waits for this link in particular."""
        if self._waiting and self._barrier is None:
            return True
        return self._confirmations.beyond(link.durable_sequence)

    # --- events of links -----------------------------------------------------------------------

    def control(self, link: int, message: Message, now: float) -> None:
        """A control message of the replica of link ``link``."""
        self.links[link].control(message, now)

    def data_ready(self, link: int, session: bytes, now: float) -> None:
        """The data channel of a session is up."""
        self.links[link].data_ready(session, now)

    def data_lost(self, link: int, session: bytes, reason: str, now: float) -> None:
        """The data channel of a session is gone."""
        self.links[link].data_lost(session, reason, now)

    def blocks_read(self, link: int, read: int, answers: Sequence[BlocksRead], now: float) -> None:
        """The answer to a ReadBlocks."""
        self.links[link].resync.blocks_read(read, answers, now)

    def degraded_persisted(self, link: int, degraded: bool, now: float) -> None:
        """The answer to a PersistDegraded."""
        self.links[link].degraded_persisted(degraded, now)

    def grown(self, link: int, answer: Grown, now: float) -> None:
        """A replica answers whether it has room for a volume that is to grow."""
        self.growth.answered(link, answer, now)

    def pump(self, now: float) -> None:
        """Send what is due: once per wake-up, after everything that it brought."""
        log = self.log
        if log.tail and log.tail_bytes < BATCH_BYTES_MAX and now < log.tail_due:
            return  # every link streams: whatever else is due is so by an event of the link's own
        for link in self.links:
            link.pump(now)
        if log.tail and now >= log.tail_due:
            log.seal()  # It cannot be sent now: it waits in the queues, where no timer is due.

    def tick(self, now: float) -> None:
        """Do what is due at ``now``."""
        for link in self.links:
            link.tick(now)
        self.growth.tick(now)
        self._watch_waits(now)

    def next_timer(self, now: float) -> float:
        """When ``tick`` is due next, at the latest, be it for the log's tail alone."""
        return min(self.next_tick(now), self.log.tail_due)

    def next_tick(self, now: float) -> float:
        """When something else is due than the log's tail, which ``pump`` alone sees to."""
        due = now + limits.IDLE_TICK_SECONDS
        for link in self.links:
            due = min(due, link.next_timer(now))
        due = self.growth.next_timer(due)
        if len(self._confirmations) or self._waiting:
            due = min(due, now + limits.SYNC_TIMEOUT_SECONDS_MIN / 5)
        return due

    # --- controls and stop ---------------------------------------------------------------------

    def resync_from_primary(self, now: float) -> None:
        """The operator says that the primary's content is the truth after a power cut."""
        for link in self.links:
            link.resync_from_primary(now)

    def reconnect(self, link: int, now: float) -> None:
        """Connect link ``link`` now."""
        self.links[link].reconnect(now)

    def kill(self, link: int, now: float) -> None:
        """Drop the queue and session of link ``link``."""
        self.links[link].kill(now)

    def disable(self, link: int, now: float) -> None:
        """Stop link ``link`` and forget its table."""
        self.links[link].disable(now)

    def enable(self, link: int, now: float) -> None:
        """Put link ``link`` to work again."""
        self.links[link].enable(now)

    def clean(self, link: int, now: float, *, proof: bool) -> bool:
        """Declare the replica of link ``link`` equal, with nothing copied; False: nothing to do."""
        return clean.declare(self.links[link], self.in_flight_cover(), now, proof=proof)

    def begin_stop(self) -> None:
        """Refuse new operations from now on; safe to call twice."""
        self._stopping = True
        self.growth.stop()

    @property
    def quiet(self) -> bool:
        """Whether nothing is in flight or waits, and every link that can has confirmed all."""
        busy = self._in_flight or len(self._confirmations) or self._waiting
        owed = any(link.connection is Connection.OPEN and len(link.queue) for link in self.links)
        return not busy and not owed

    @property
    def settled(self) -> bool:
        """Whether every admitted operation is written locally."""
        return not self._in_flight

    def snapshot(self, volumes: Sequence[VolumeState], boot_id: str) -> SourceState:
        """What a clean stop spills; the caller has synced every volume."""
        state = self._state
        return SourceState(
            group=state.group,
            name=state.name,
            node=state.node,
            history=self.history,
            digest=self.digest,
            volumes=tuple(volumes),
            links=tuple(map(spill_of, self.links)),
            boot_id=boot_id,
            stop=StopKind.CLEAN,
        )

    def link_flags(self) -> tuple[LinkState, ...]:
        """What must be known of each link after any stop."""
        return tuple(map(flags_of, self.links))

    def in_flight_cover(self) -> BlockWriteTable:
        """Blocks of operations that are admitted and not yet written locally."""
        table = BlockWriteTable(len(self.sizes))
        for operation in self._in_flight.values():
            if operation.kind in (WRITE, ZERO):
                table.add(operation.volume, *block_span(operation.offset, operation.length))
        return table

    def waiting_for_replica(self) -> int:
        """Operations that are written locally and wait for a replica."""
        return len(self._confirmations)
