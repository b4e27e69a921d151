"""A group at its replica: the state machine that receives, keeps, acknowledges and applies.

A frame is checked whole, written to the journal (RECEIVED), synced (durable, acknowledged), and
only then applied, never past the last mark that is itself durable; checkpoints free the journal.
It does no I/O: the storage's calls are effects, one journal job and one apply job at most under
way.

    frame ─► checks ─► WriteJournal ─► received ─► durable ─► Apply ─► Checkpoint ─► Release

One rule: what the replica acknowledges as durable it has, whatever is cut off next.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from pratima_iscsi import limits
from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.operations import RecordKind
from pratima_iscsi.positions import ORIGIN
from pratima_iscsi.replication.commit_pace import CommitPace
from pratima_iscsi.replication.messages import (
    Ack,
    Closed,
    Grow,
    Grown,
    Hello,
    Ping,
    Refused,
    VerifyAnswer,
    Welcome,
)
from pratima_iscsi.replication.record_rules import may_have
from pratima_iscsi.replication.sink_effects import (
    Apply,
    Bind,
    Checkpoint,
    MakeRoom,
    Notice,
    Release,
    SinkEffect,
    Tell,
    WriteJournal,
)
from pratima_iscsi.replication.standing import CheckedFrame, Standing
from pratima_iscsi.replication.walk import Walk
from pratima_iscsi.replication.wire import (
    PROTOCOL_VERSION,
    Batch,
    decode_batch,
    peek_session,
)


@dataclass(slots=True)
class _Session:
    peer: bytes
    user: str
    nonce: bytes
    incarnation: int
    heard_at: float


@dataclass(slots=True)
class _Unit:
    """One journal unit that is not durable yet: what holds once it is."""

    index: int
    standing: Standing
    size: int
    mark: int
    commit_now: bool


class Sink:
    """One group at one replica. All times are the caller's monotonic seconds."""

    def __init__(
        self,
        standing: Standing,
        *,
        node: bytes,
        sizes: Sequence[int],
        applied: int,
        credit: int = limits.CREDIT_BYTES_MAX,
        blank: bool = True,
        failure: str = "",
        new_nonce: Callable[[], bytes],
        journal_room: Callable[[int], int],
        staging_room: Callable[[], int],
    ) -> None:
        self.standing = standing
        """After the last checked record."""
        self.node = node
        self.capacities = tuple(sizes)
        """Bytes that each file or device has, at least those of its volume."""
        self.credit = credit
        self.blank = blank
        self.failure = failure
        self.new_nonce = new_nonce
        self.journal_room = journal_room
        self.staging_room = staging_room
        self.effects: list[SinkEffect] = []
        self.session: _Session | None = None
        self.greeting: tuple[bytes, str, Hello] | None = None
        self.binding = False
        self.making_room = False
        self.asked: Grow | None = None
        """The session's question for room, until it is answered."""
        self.dropped_frames = 0
        self.held = ""
        self.written = standing
        self.durable = standing
        self.waiting: deque[CheckedFrame] = deque()
        """Checked and not yet in the journal; bounded by the credit."""
        self.waiting_bytes = 0
        self.units: deque[_Unit] = deque()
        """In the journal file and not synced; bounded by COMMIT_BYTES and one job."""
        self.unsynced_bytes = 0
        self.unsynced_at = 0.0
        self.synced_at = 0.0
        """When the journal was last synced."""
        self._pace = CommitPace()
        self.unacknowledged_bytes = 0
        """Of frames that are RECEIVED since the last acknowledgement."""
        self._writing_bytes = 0
        """Of frames in the journal job under way."""
        self.last_index = self.durable_index = self.applied_index = applied
        self.checkpointed_index = self.applicable_index = applied
        self.last_frame_index = applied
        """Index of the last unit that holds a frame."""
        self._ack_when_written = False
        self.journal_busy = False
        self.apply_busy = False
        self.since_checkpoint = 0
        self.checkpoint_at = 0.0
        self.retry_apply_at = 0.0
        self.ack_at = 0.0
        self.heard_at: float | None = None

    def take_effects(self) -> list[SinkEffect]:
        """The effects since the last call, in order."""
        taken = list(self.effects)
        self.effects.clear()
        return taken

    # --- handshake -----------------------------------------------------------------------------

    def hello(self, peer: bytes, user: str, hello: Hello, now: float) -> None:
        """A source greets: its older session is over, and it is told where this replica stands."""
        refusal = self._refusal(hello)
        if refusal is not None:
            rule, reason = refusal
            message = Refused(PROTOCOL_VERSION, hello.attempt, rule, reason)
            self.effects.append(Tell(peer, message))
            self.effects.append(Notice("refused", f"{rule}: {reason}"))
            return
        self.session = self.asked = None
        self._drop_waiting()
        self.held = ""
        self.greeting = (peer, user, hello)
        self._schedule(now)

    def _refusal(self, hello: Hello) -> tuple[str, str] | None:
        if hello.version != PROTOCOL_VERSION:
            return "version", f"this side speaks version {PROTOCOL_VERSION}, not {hello.version}"
        if self.failure:
            return "failed", self.failure
        if self.standing.bound and hello.group != self.standing.group:
            return "group", "this replica holds another group: give it an empty state directory"
        theirs = tuple(volume.size for volume in hello.volumes)
        bound = self.standing.bound
        ours = self.standing.sizes if bound else self.capacities
        if len(theirs) != len(ours):
            return "size", f"the primary has {len(theirs)} volumes, this replica {len(ours)}"
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            if other < mine or (mine and other > mine and not bound):
                return "size", f"volume {index}: {other} bytes at the primary, {mine} here"
        if not self.standing.bound and not self.blank and not hello.overwrite:
            reason = (
                "the replica's volume has data: give an empty one, or start the primary with "
                "--overwrite to lose what is on it"
            )
            return "not blank", reason
        return None

    def _answer(self, now: float) -> None:
        """All that was received is durable: say where this replica stands."""
        assert self.greeting is not None
        peer, user, hello = self.greeting
        if self.standing.bound and self._wants_room(hello):
            # The primary has grown while this replica could not be asked, or is about to.
            self._make_room(tuple(volume.size for volume in hello.volumes))
            return
        if not self.standing.bound:
            if not self.binding:
                self.binding = True
                volumes = tuple((volume.name, volume.size) for volume in hello.volumes)
                self.effects.append(Bind(hello.group, hello.group_name, volumes))
            return
        self.greeting = None
        nonce = self.new_nonce()
        self.session = _Session(peer, user, nonce, hello.incarnation, now)
        self.heard_at = now
        self.ack_at = now + limits.HEARTBEAT_SECONDS
        standing = self.standing
        first_sync = standing.history.position == ORIGIN and not standing.consistent
        self.effects.append(
            Tell(
                peer,
                Welcome(
                    version=PROTOCOL_VERSION,
                    node=self.node,
                    attempt=hello.attempt,
                    session=nonce,
                    credit=self.credit,
                    bound=not (first_sync and not standing.transaction),
                    consistent=standing.consistent,
                    generation=standing.history.position.generation,
                    sequence=standing.history.position.sequence,
                    history=standing.digest,
                    ancestry=tuple((a.generation, a.last) for a in standing.history.ancestry),
                    incarnation=standing.incarnation,
                    durable=standing.n,
                    transaction=standing.transaction,
                    direct=standing.direct,
                    ended=standing.ended,
                    staging_bytes=max(0, self.staging_room()),
                ),
            )
        )

    def bound(self, bind: Bind, now: float) -> None:
        """The answer to Bind."""
        self.binding = False
        sizes = self.capacities = tuple(size for _, size in bind.volumes)
        self.standing = self.written = self.durable = replace(
            self.standing, group=bind.group, sizes=sizes
        )
        self._schedule(now)

    # --- room ----------------------------------------------------------------------------------

    def _wants_room(self, hello: Hello) -> bool:
        wanted = (volume.size for volume in hello.volumes)
        return any(size > room for size, room in zip(wanted, self.capacities, strict=True))

    def _make_room(self, sizes: tuple[int, ...]) -> None:
        if not self.making_room:
            self.making_room = True
            self.effects.append(MakeRoom(sizes))

    def _ask_room(self) -> None:
        """Begin what the session's question asks for, once nothing older is under way."""
        if self.asked is not None:
            sizes = [0] * len(self.capacities)
            sizes[self.asked.volume] = self.asked.size
            self._make_room(tuple(sizes))

    def room_made(
        self,
        made: MakeRoom,
        capacities: Sequence[int],
        zeros: Sequence[bool],
        refusal: str,
        now: float,
    ) -> None:
        """The answer to MakeRoom: what each file or device has now, which volumes read as zeros
        behind their present size, and why there is no room (empty: there is)."""
        self.making_room = False
        self.capacities = tuple(capacities)
        asked, session = self.asked, self.session
        if asked is not None and made.sizes[asked.volume] == asked.size:
            self.asked = None
            if session is not None and session.nonce == asked.session:
                zero = bool(zeros) and zeros[asked.volume]
                answer = Grown(session.nonce, asked.volume, asked.size, zero, refusal)
                self.effects.append(Tell(session.peer, answer))
        if self.greeting is not None and refusal and self._wants_room(self.greeting[2]):
            peer, _, hello = self.greeting
            self.greeting = None
            self.effects.append(
                Tell(peer, Refused(PROTOCOL_VERSION, hello.attempt, "size", refusal))
            )
            self.effects.append(Notice("refused", f"size: {refusal}"))
        self._ask_room()
        self._schedule(now)

    def close(self, reason: str) -> None:
        """End the session, if there is one, for a named reason."""
        if self.session is not None:
            message = Closed(self.session.nonce, reason[: limits.REASON_CHARACTERS_MAX])
            self.effects.append(Tell(self.session.peer, message))
            self.effects.append(Notice("session closed", reason))
            self.session = None
            self._drop_waiting()

    def _drop_waiting(self) -> None:
        """What was not given to the journal was never RECEIVED: the source sends it again."""
        self.waiting.clear()
        self.waiting_bytes = 0
        self.standing = self.units[-1].standing if self.units else self.written

    def fail(self, reason: str) -> None:
        """The replica cannot go on: never acknowledge again, and say so to whoever asks."""
        if not self.failure:
            self.failure = reason
            self.effects.append(Notice("failed", reason, alarm=True))
            self.close(f"failed: {reason}")

    def control(self, peer: bytes, message: Ping | Closed | Grow, now: float) -> None:
        """A message of the source's inside its session."""
        session = self.session
        if session is None or session.peer != peer or session.nonce != message.session:
            return
        session.heard_at = self.heard_at = now
        if isinstance(message, Grow):
            if message.volume >= len(self.capacities) or not may_have(message.size):
                self.close(f"no volume can have {message.size} bytes")
                return
            self.asked = message
            self._ask_room()
        elif isinstance(message, Closed):
            self.effects.append(Notice("session closed", f"by the primary: {message.reason}"))
            self.session = None
            self._drop_waiting()

    # --- frames --------------------------------------------------------------------------------

    def frame(self, frame: memoryview, user: str, now: float) -> None:
        """A frame of the data channel: checked whole, then taken or the session ended."""
        session = self.session
        try:
            _, nonce = peek_session(frame)
            if session is None or nonce != session.nonce or user != session.user:
                self.dropped_frames += 1
                return
            checked = self._check(decode_batch(frame), session)
        except RemoteProtocolError as error:
            self.dropped_frames += 1
            if session is not None:
                self.close(str(error))
            return
        session.heard_at = self.heard_at = now
        self.standing = checked.after
        self.waiting.append(checked)
        self.waiting_bytes += len(frame)
        self._schedule(now)

    def _check(self, batch: Batch, session: _Session) -> CheckedFrame:
        """``batch`` checked; raises RemoteProtocolError for what must not be taken."""
        header, before = batch.header, self.standing
        if header.group != before.group or header.incarnation != session.incarnation:
            raise RemoteProtocolError("frame of another group or incarnation")
        fresh = header.incarnation != before.incarnation
        if header.first_n != (1 if fresh else before.n + 1):
            raise RemoteProtocolError(f"gap: link sequence {header.first_n} after {before.n}")
        if fresh and batch.entries[0].kind != RecordKind.BEGIN:
            raise RemoteProtocolError("a new incarnation must begin with a transaction")
        queued = self.waiting_bytes
        if queued and queued + len(batch.frame) > self.credit + limits.FRAME_BYTES_MAX:
            raise RemoteProtocolError("frames beyond the session's credit")
        return Walk(before, header.generation, self.capacities).checked(batch)

    # --- journal -------------------------------------------------------------------------------

    def _schedule(self, now: float) -> None:
        """Start the next journal job and the next apply job, if they are due."""
        if not self.failure:
            if not self.journal_busy:
                self._next_journal_job(now)
            if not self.apply_busy:
                self._next_apply_job(now)

    def _next_journal_job(self, now: float) -> None:
        frames = self._frames_with_room()
        commit = any(frame.header.commit_now for frame in frames)
        commit = commit or any(unit.commit_now for unit in self.units)
        size = self.unsynced_bytes + sum(len(frame.frame) for frame in frames)
        waited = self.units and now - self.unsynced_at >= self._pace.delay
        sync = bool(commit or waited or size >= limits.COMMIT_BYTES or self.greeting)
        if frames:
            self._write(frames, sync, now)
        elif self.units:
            if sync:
                self._write((), True, now)
        elif self.greeting is not None:
            if not self.binding:
                self._answer(now)
        elif self._behind_mark() and (self.waiting or now >= self._mark_at()):
            # Idle, or full: a small unit carries the mark, so that the last group can be applied.
            self._write((None,), True, now)

    def _behind_mark(self) -> bool:
        """Whether a frame is durable that no durable mark covers; an empty unit needs none."""
        return self.durable_index > self.applicable_index < self.last_frame_index

    def _mark_at(self) -> float:
        """When a mark goes alone: until then the next frame may bring it."""
        return self.synced_at + limits.MARK_SECONDS

    def _frames_with_room(self) -> list[CheckedFrame]:
        frames: list[CheckedFrame] = []
        if self.retry_apply_at and not self._begins_anew():
            return frames
        room = self._room_for_waiting() if self.waiting else 0
        size = 0
        while self.waiting and size < limits.COMMIT_BYTES:
            frame_bytes = len(self.waiting[0].frame)
            size += frame_bytes + limits.JOURNAL_UNIT_BYTES
            if size > room:
                break
            frames.append(self.waiting.popleft())
            self.waiting_bytes -= frame_bytes
        if self.waiting and not frames:
            self._hold("the replica's journal is full: it waits for its volumes")
        elif self.held and not self.waiting and self.retry_apply_at == 0.0:
            self._hold("")
        return frames

    def _begins_anew(self) -> bool:
        """Whether a BEGIN waits: what finds no room to be applied may not be needed behind it."""
        here = self.units[-1].standing if self.units else self.written
        opened = ((frame.after.transaction, frame.after.direct) for frame in self.waiting)
        return any(now[0] and now != (here.transaction, here.direct) for now in opened)

    def _room_for_waiting(self) -> int:
        units = len(self.waiting) * limits.JOURNAL_UNIT_BYTES
        wanted = self.waiting_bytes + units + limits.JOURNAL_RESERVE_BYTES
        return self.journal_room(wanted) - limits.JOURNAL_RESERVE_BYTES

    def _hold(self, reason: str) -> None:
        if reason != self.held:
            self.held = reason
            self.effects.append(Notice("held", reason or "goes on", alarm=bool(reason)))
            self._acknowledge()

    def _write(self, frames: Sequence[CheckedFrame | None], sync: bool, now: float) -> None:
        self.journal_busy = True
        mark = self.durable_index
        before = self.unsynced_bytes
        if not self.units:
            self.unsynced_at = now
        self._ack_when_written = False
        for frame in frames:
            self.last_index += 1
            if frame is None:
                self.units.append(_Unit(self.last_index, self.written, 0, mark, True))
                continue
            self.last_frame_index = self.last_index
            header, size = frame.header, len(frame.frame)
            self.unsynced_bytes += size
            self.units.append(_Unit(self.last_index, frame.after, size, mark, header.commit_now))
            self._ack_when_written = self._ack_when_written or header.ack_now
        self._writing_bytes = self.unsynced_bytes - before
        if sync:
            self._pace.begin(now)
        self.effects.append(WriteJournal(tuple(frames), mark, sync, self._owes_ack()))

    def journal_written(self, now: float) -> None:
        """The frames of the job are in the journal file: RECEIVED."""
        if self.units:
            self.written = self.units[-1].standing
            self.unacknowledged_bytes += self._writing_bytes
            self._writing_bytes = 0
        if self._owes_ack():
            self._acknowledge()

    def _owes_ack(self) -> bool:
        """Whether the source is told at once what is RECEIVED: it asked, or it may run short of
        credit."""
        unacknowledged = self.unacknowledged_bytes + self._writing_bytes
        return self._ack_when_written or unacknowledged >= self.credit // 8

    def journal_done(self, synced: bool, now: float) -> None:
        """The journal job is over; ``synced``: every unit so far is durable."""
        self.journal_busy = False
        self._pace.end(now)
        if synced and self.units:
            self.synced_at = now
            last = self.units[-1]
            self.durable, self.durable_index = last.standing, last.index
            self.applicable_index = max(unit.mark for unit in self.units)
            frames = any(unit.size for unit in self.units)
            self.units.clear()
            self.unsynced_bytes = 0
            if frames:
                self._acknowledge()
        self._schedule(now)

    def _acknowledge(self) -> None:
        session = self.session
        if session is None:
            return
        self.unacknowledged_bytes = 0
        durable, position = self.durable, self.durable.history.position
        same = durable.incarnation == session.incarnation
        received = self.written.n if self.written.incarnation == session.incarnation else 0
        self.effects.append(
            Tell(
                session.peer,
                Ack(
                    session.nonce,
                    received,
                    durable.n if same else 0,
                    position.generation,
                    position.sequence,
                    durable.digest,
                    self.held,
                ),
            )
        )

    # --- apply ---------------------------------------------------------------------------------

    def _next_apply_job(self, now: float) -> None:
        if now < self.retry_apply_at:
            return
        due = self.since_checkpoint >= limits.CHECKPOINT_BYTES or (
            self.applied_index > self.checkpointed_index
            and now - self.checkpoint_at >= limits.CHECKPOINT_SECONDS
        )
        if due or (self.held and self.applied_index > self.checkpointed_index):
            self.apply_busy = True
            self.effects.append(Checkpoint())
        elif self.applicable_index > self.applied_index:
            self.apply_busy = True
            self.effects.append(Apply(self.applicable_index))

    def applied(
        self, upto: int, size: int, answers: Sequence[tuple[int, int, Sequence[int]]], now: float
    ) -> None:
        """Units up to ``upto`` are applied; answers: (transaction, verify, blocks that differ)."""
        self.apply_busy = False
        self.retry_apply_at = 0.0
        if self.applied_index == self.checkpointed_index:
            self.checkpoint_at = now
        self.applied_index = upto
        self.since_checkpoint += size
        session = self.session
        if session is not None:
            for transaction, verify, differing in answers:
                answer = VerifyAnswer(session.nonce, transaction, verify, tuple(differing))
                self.effects.append(Tell(session.peer, answer))
        self._schedule(now)

    def apply_blocked(self, reason: str, now: float) -> None:
        """There was no room to apply: nothing is lost, it is tried again, and until it succeeds
        the journal takes no frame but those up to a BEGIN."""
        self.apply_busy = False
        self.retry_apply_at = now + limits.APPLY_RETRY_SECONDS
        self._hold(reason)

    def checkpointed(self, upto: int, now: float) -> None:
        """Everything up to ``upto`` is on the volumes, and the position on disk."""
        self.apply_busy = False
        self.checkpointed_index = upto
        self.since_checkpoint = 0
        self.checkpoint_at = now
        self.effects.append(Release(upto))
        self._schedule(now)

    def released(self, now: float) -> None:
        """The journal has room again."""
        self._schedule(now)

    # --- time ----------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due at ``now``."""
        if self.session is not None:
            if now - self.session.heard_at >= limits.SILENCE_SECONDS_MAX:
                self.close(f"nothing heard for {limits.SILENCE_SECONDS_MAX:g} s")
            elif now >= self.ack_at:
                self.ack_at = now + limits.HEARTBEAT_SECONDS
                self._acknowledge()
        self._schedule(now)

    def next_timer(self, now: float) -> float:
        """When ``tick`` is due next."""
        due = now + limits.HEARTBEAT_SECONDS
        if self.failure:
            return due  # Nothing is done any more.
        if self.session is not None:
            due = min(due, self.ack_at)
        if self.units and not self.journal_busy:
            due = min(due, self.unsynced_at + self._pace.delay)
        elif self._behind_mark() and not self.journal_busy and self.greeting is None:
            due = min(due, self._mark_at())
        if self.applied_index > self.checkpointed_index and not self.apply_busy:
            due = min(due, max(self.checkpoint_at + limits.CHECKPOINT_SECONDS, self.retry_apply_at))
        if self.retry_apply_at > now:
            due = min(due, self.retry_apply_at)
        return due
