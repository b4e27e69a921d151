"""A link at its source: one group to one replica, with its own cursor and its own table.

The link takes admitted records, messages of the replica and the time, and gives effects. What it
knows of the replica's copy is its cover (``link_cover.py``); here are its sessions.

      WAITING ── HELLO ──► GREETING ── WELCOME ──► OPENING ── data up ──► OPEN ◄──► SILENT
         ▲                    │ rules                 │                    │
         └──── back-off ──────┴───────────────────────┴──── session ends ──┘

One rule: within a session nothing is sent twice; whatever goes wrong ends the session, and the next
one begins where the replica says that it stands.
"""

from typing import Final

from pratima_iscsi import limits
from pratima_iscsi.operations import Buffer, RecordKind
from pratima_iscsi.positions import LinkSequence, Position
from pratima_iscsi.records import End, make_record
from pratima_iscsi.replication import clean, handshake
from pratima_iscsi.replication.effects import (
    CloseSession,
    OpenSession,
    PersistLink,
    Report,
    SendControl,
    SendFrame,
)
from pratima_iscsi.replication.group import Group, LinkOptions
from pratima_iscsi.replication.handshake import Doubt, ReplicaFacts, SourceFacts, Verdict
from pratima_iscsi.replication.link_cover import NO_SESSION, LinkCover, resync_bytes
from pratima_iscsi.replication.messages import (
    Ack,
    Closed,
    Grown,
    Hello,
    Message,
    Ping,
    Refused,
    VerifyAnswer,
    Welcome,
)
from pratima_iscsi.replication.resync import Resync
from pratima_iscsi.replication.source_state import LinkState as SavedLink
from pratima_iscsi.replication.states import Connection, LinkState, Mode, Replication
from pratima_iscsi.replication.wire import (
    PROTOCOL_VERSION,
    BatchHeader,
    encode_around,
    encode_batch,
    payloads_of,
)
from pratima_iscsi.sent_batch import SentBatch

_REFUSALS: Final = {
    Verdict.REFUSE: Connection.REFUSED,
    Verdict.DIVERGED: Connection.DIVERGED,
    Verdict.HOLD: Connection.HELD,
}
_NO_MARKS: Final[frozenset[int]] = frozenset()
_COMMIT_NOW: Final = frozenset({RecordKind.FLUSH, RecordKind.END, RecordKind.VERIFY})
"""Kinds that somebody waits for: the replica commits them without delay."""
_RETRIED: Final = (
    Connection.WAITING,
    Connection.REFUSED,
    Connection.DIVERGED,
    Connection.FAILED,
    Connection.HELD,
)
"""No set: a member's hash is Python code, and this is asked at every turn."""


class Link(LinkCover):
    """The state of one link. All times are the caller's monotonic seconds."""

    def __init__(
        self,
        group: Group,
        index: int,
        options: LinkOptions,
        saved: SavedLink | None,
        *,
        links: int = 1,
    ) -> None:
        super().__init__(group, index, options, saved, links=links)
        self.resync = Resync(self)

    # --- time ----------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due at ``now``."""
        if self.connection in _RETRIED:
            if now >= self.retry_at:
                self._greet(now)
        elif self.connection in (Connection.GREETING, Connection.OPENING):
            if self.reached and now >= self.deadline:
                self.lose("the replica does not answer", now)
        elif self.live:
            self._keep_alive(now)
        if self.connection is Connection.OPEN:
            self.pump(now)

    def next_timer(self, now: float) -> float:
        """When ``tick`` is due next."""
        if self.connection in _RETRIED:
            return self.retry_at
        if self.connection in (Connection.GREETING, Connection.OPENING):
            return self.deadline if self.reached else now + limits.BACKOFF_SECONDS_MAX
        if self.live:
            due = min(self.ping_at, self.heard_at + limits.PEER_DEAD_SECONDS)
            if self.connection is Connection.SILENT:
                due = self.ping_at
            elif self.queue.has_backlog and self._takes and not self.window.is_full(self.queue):
                due = min(due, self.queue.unsent_at + limits.COALESCE_SECONDS)
            return min(due, self.resync.next_timer(now))
        return now + limits.BACKOFF_SECONDS_MAX

    def _greet(self, now: float) -> None:
        group_id, name, node, volumes = self.group.offer()
        position = self.group.history.position
        self.attempt += 1
        self.deadline = now + limits.HANDSHAKE_SECONDS
        if self.connection is Connection.WAITING:
            self.connection = Connection.GREETING
        else:
            # A refusal stays visible until it is replaced by something better.
            self.connection, self.reason = Connection.GREETING, self.reason
        ancestry = tuple((a.generation, a.last) for a in self.group.history.ancestry)
        self._tell(
            Hello(
                version=PROTOCOL_VERSION,
                group=group_id,
                group_name=name,
                node=node,
                incarnation=self.group.incarnation,
                volumes=volumes,
                generation=position.generation,
                sequence=position.sequence,
                ancestry=ancestry,
                attempt=self.attempt,
                overwrite=self.options.overwrite,
            )
        )

    def _keep_alive(self, now: float) -> None:
        if now - self.heard_at >= limits.PEER_DEAD_SECONDS and self.connection is Connection.OPEN:
            self.connect_state(
                Connection.SILENT, f"nothing heard for {limits.PEER_DEAD_SECONDS:g} s", alarm=True
            )
        if now - self.heard_at >= limits.SILENCE_SECONDS_MAX:
            self.lose(f"nothing heard for {limits.SILENCE_SECONDS_MAX:g} s", now)
            return
        stalled = not self.held and self.window.stalled(now)
        if stalled and self.connection is Connection.OPEN:
            self.lose("frames sent, but the replica receives none", now)
            return
        if now >= self.ping_at:
            self.ping_at = now + limits.HEARTBEAT_SECONDS
            position = self.group.history.position
            self._tell(Ping(self.session, position.generation, position.sequence))

    def excuse(self, seconds: float, now: float) -> None:
        """Our own loop was late by ``seconds``: that is no silence of the peer's."""
        self.heard_at = min(now, self.heard_at + seconds)
        self.window.progress_at = min(now, self.window.progress_at + seconds)

    def _tell(self, message: Message) -> None:
        self.group.emit(SendControl(self.index, message))

    # --- session -------------------------------------------------------------------------------

    def lose(self, reason: str, now: float, *, tell: bool = True) -> None:
        """The session, or the attempt at one, is over; the next one comes after the back-off."""
        if self.connection is Connection.DISABLED:
            return
        if self.session and tell:
            self._tell(Closed(self.session, reason[: limits.REASON_CHARACTERS_MAX]))
        self._end_session(now)
        self.connect_state(Connection.WAITING, reason)

    def _end_session(self, now: float) -> None:
        if self.session:
            self.group.emit(CloseSession(self.index))
        self.session = NO_SESSION
        self.window.close()
        self.held = ""
        self.degradation.session_over()
        self.resync.session_lost()
        self.retry_at = now + self.backoff
        self.backoff = min(self.backoff * 2, limits.BACKOFF_SECONDS_MAX)
        self.group.confirmed(now)

    def stand_back(
        self, connection: Connection, reason: str, now: float, *, alarm: bool = True
    ) -> None:
        """No session for a reason that time alone may not mend; ask again, but rarely."""
        if self.session:
            self._tell(Closed(self.session, reason[: limits.REASON_CHARACTERS_MAX]))
        self._end_session(now)
        self.retry_at = now + limits.BACKOFF_SECONDS_MAX
        self.connect_state(connection, reason, alarm=alarm)

    def control(self, message: Message, now: float) -> None:
        """A message of the replica's; whatever belongs to another session is dropped."""
        if isinstance(message, Welcome):
            if self.connection is Connection.GREETING and message.attempt == self.attempt:
                self._welcome(message, now)
        elif isinstance(message, Refused):
            if self.connection is Connection.GREETING and message.attempt == self.attempt:
                self._refused(message, now)
        elif self.session and getattr(message, "session", None) == self.session:
            self._heard(now)
            if isinstance(message, Ack):
                self._acknowledge(message, now)
            elif isinstance(message, VerifyAnswer):
                self.resync.answered(message, now)
            elif isinstance(message, Grown):
                self.group.grown(self.index, message, now)
            elif isinstance(message, Closed):
                self.lose(f"the replica closed the session: {message.reason}", now, tell=False)
        if self.connection is Connection.OPEN:
            self.pump(now)

    def _heard(self, now: float) -> None:
        self.heard_at = now
        if self.connection is Connection.SILENT:
            self.window.progress_at = now
            self.connect_state(Connection.OPEN, "heard again")

    def _refused(self, message: Refused, now: float) -> None:
        connection = Connection.FAILED if message.rule == "failed" else Connection.REFUSED
        self.stand_back(connection, f"{message.rule}: {message.reason}", now, alarm=True)

    def _welcome(self, message: Welcome, now: float) -> None:
        self.session = message.session
        self._learn(message, now)
        replica = ReplicaFacts(
            bound=message.bound,
            consistent=message.consistent,
            history=handshake.history_of(message.generation, message.sequence, message.ancestry),
            digest=message.history,
            incarnation=message.incarnation,
            durable=message.durable,
            transaction=message.transaction,
            direct=message.direct,
            ended=message.ended,
        )
        rule = handshake.decide(self._facts(message.transaction), replica)
        if rule.alarm:
            self.group.emit(Report(self.index, rule.name, rule.reason, alarm=True))
        again = rule.verdict is Verdict.FIRST_SYNC and self.synced_once
        if self.clean is not None and not self.clean.proof and (rule.alarm or again):
            self.clean.fail(f"the word was about another state of the replica: {rule.reason}")
        if rule.verdict in _REFUSALS:
            self.stand_back(_REFUSALS[rule.verdict], rule.reason, now, alarm=rule.alarm)
            return
        self._apply(rule.verdict, rule.reason, now)
        self.watermarks.acknowledged = LinkSequence(message.incarnation, message.durable)
        self.sender = self.group.incarnation
        same = message.incarnation == self.group.incarnation
        self.queue.rewind(message.durable + 1 if same else 1)
        self.window.highest_n = self.queue.next_n - 1
        self.connection = Connection.OPENING
        self.reason = rule.reason
        self.deadline = now + limits.HANDSHAKE_SECONDS
        self.group.emit(Report(self.index, "welcome", f"{rule.name}: {rule.reason}"))
        self.group.emit(OpenSession(self.index, self.session))

    def _learn(self, message: Welcome, now: float) -> None:
        """Take in what the replica has durably, before any rule looks at it."""
        self.window.give(min(message.credit, limits.CREDIT_BYTES_MAX, self.group.log.limit // 2))
        self.staging_bytes = message.staging_bytes
        self.replica_direct = not message.consistent
        if message.incarnation == self.group.incarnation:
            self._confirm(message.durable, now)
        position = Position(message.generation, message.sequence)
        transaction = self.transaction
        if transaction is not None and message.ended == transaction.id:
            # Its END was dropped here while it was already durable there.
            self.resync.cancel(now)
            self.ended_id = transaction.id
            self.transaction = None
            self.watermarks.ended_unseen(position, message.history)
            self.replicate_by(Replication.TABLE, "the replica has the END of the transaction")
            self._is_whole()
        if message.consistent and self.watermarks.contradicted_by(position, message.history):
            self.doubt = Doubt.HISTORIES
            self.group.emit(Report(self.index, "digest", "the write histories differ", alarm=True))
            if self.clean is not None and not self.clean.proof:
                self.clean.fail("the write histories differ")

    def _facts(self, replica_transaction: int) -> SourceFacts:
        transaction = self.transaction
        return SourceFacts(
            history=self.group.history,
            incarnation=self.group.incarnation,
            transaction=transaction.id if transaction else 0,
            direct=transaction.id if transaction and transaction.direct else self.direct_id,
            comparing=transaction is not None
            and transaction.comparing
            and transaction.id == replica_transaction,
            table_empty=not self.table and transaction is None,
            first_n=self.queue.first_n,
            next_n=max(self.queue.next_n, self.window.highest_n + 1),
            base=self.base,
            base_history=self.watermarks.base_history,
            acknowledged=self.watermarks.acknowledged,
            sender=self.sender,
            doubt=self.doubt,
            ended=self.ended_id,
            held=self.lost_power,
        )

    def _apply(self, verdict: Verdict, reason: str, now: float) -> None:
        if verdict is Verdict.CONTINUE:
            return
        if verdict is Verdict.REPLAY:
            self.replicate_by(Replication.STREAM, reason)
            return
        self.fold(now)
        self.watermarks.in_transaction = False
        self.watermarks.forget()
        if verdict in (Verdict.FIRST_SYNC, Verdict.COMPARE):
            self.direct_id = 0
            self.table.fill(self.group.sizes)
            self.doubt = Doubt.NONE
            self.unverified.clear()
            if verdict is Verdict.COMPARE:
                self.unverified.fill(self.group.sizes)
        self.replicate_by(Replication.TABLE, reason)

    def data_ready(self, session: bytes, now: float) -> None:
        """The data channel of ``session`` is up."""
        if self.connection is not Connection.OPENING or session != self.session:
            return
        self.heard_at = self.opened_at = self.window.progress_at = now
        self.ping_at = now + limits.HEARTBEAT_SECONDS
        self.queue.unsent_at = now
        self.connect_state(Connection.OPEN, self.reason)
        self.pump(now)

    def data_lost(self, session: bytes, reason: str, now: float) -> None:
        """The data channel of ``session`` is gone."""
        if self.session and session == self.session:
            self.lose(reason, now)

    def sought(self) -> None:
        """A control connection is dialled from now on; ``reachable`` or ``unreachable`` follows."""
        self.reached = False

    def reachable(self, now: float) -> None:
        """The control connection stands: greet now; what was sent before it stood is lost."""
        self.reached = True
        if self.connection in (Connection.WAITING, Connection.GREETING):
            self.connection = Connection.WAITING
            self.retry_at = now

    def unreachable(self, reason: str, now: float) -> None:
        """There is no control connection."""
        self.reached = False
        self.break_off(reason, now)

    def break_off(self, reason: str, now: float) -> None:
        """No session can be had for now, nor can one go on."""
        if self.connection is Connection.WAITING:
            self.connect_state(Connection.WAITING, reason)
        elif self.live or self.connection in (Connection.GREETING, Connection.OPENING):
            self.lose(reason, now, tell=False)

    # --- acknowledgements ----------------------------------------------------------------------

    def _acknowledge(self, ack: Ack, now: float) -> None:
        if ack.received > self.window.highest_n or ack.durable > ack.received:
            self.lose("the replica acknowledges what was never sent", now)
            return
        if ack.held != self.held:
            self.held = ack.held
            self.window.progress_at = now
            if ack.held:
                self.group.emit(Report(self.index, "held", ack.held, alarm=True))
        self.watermarks.frame_received(self.window.received(ack.received, now))
        self._confirm(ack.durable, now)
        self.watermarks.acknowledge(self.group.incarnation, ack.durable)
        position = Position(ack.generation, ack.sequence)
        if self.watermarks.contradicted_by(position, ack.history):
            self.doubt = Doubt.HISTORIES
            self.stand_back(Connection.FAILED, "the write histories differ", now, alarm=True)
            return
        if self.state is LinkState.SYNCED:
            self.backoff = limits.BACKOFF_SECONDS_MIN
        self.group.confirmed(now)

    def _confirm(self, durable: int, now: float) -> None:
        """Everything up to link sequence ``durable`` is durable at the replica."""
        confirmed = self.queue.confirm(min(durable, self.queue.next_n - 1))
        if not confirmed:
            return
        if self.resync_unconfirmed:
            marks = [batch.records for batch in confirmed if not batch.plain]
            self.resync_unconfirmed -= sum(map(resync_bytes, marks))
        for end in self.watermarks.confirm(confirmed, self.group.history.position.generation):
            self._ended(end, now)

    def _ended(self, end: End, now: float) -> None:
        transaction = self.transaction
        assert transaction is not None and transaction.id == end.transaction
        self.resync.cancel(now)
        total = transaction.blocks_total
        self.last_resync = (total, total, transaction.bytes_sent)
        self.ended_id = transaction.id
        self.transaction = None
        self.replica_direct = False
        self.overflows = 0
        self.reason = f"in step since {end.history.position}"
        self.group.emit(Report(self.index, "resynced", f"consistent at {end.history.position}"))
        self._is_whole()

    def _is_whole(self) -> None:
        """An END is durable at the replica."""
        if self.lost_power or not self.synced_once:
            self.lost_power, self.synced_once = False, True
            self.group.emit(PersistLink(self.index))
        clean.ended(self)

    # --- controls --------------------------------------------------------------------------------

    def reconnect(self, now: float) -> None:
        """Connect now, without waiting for the back-off."""
        if self.connection in _RETRIED:
            self.backoff = limits.BACKOFF_SECONDS_MIN
            self.retry_at = now

    def kill(self, now: float) -> None:
        """Drop queue and session at once; what they held goes into the table. A link that was
        DISABLED before its ``clean`` is so again."""
        if self.connection is Connection.DISABLED:
            return
        reason = "killed by the operator"
        if self.clean is not None and self.clean.was_disabled:
            self.disable(now, reason)
            return
        clean.give_up(self, reason)
        self.lose(reason, now)
        self.fold(now)
        self.replicate_by(Replication.TABLE, reason)

    def disable(self, now: float, reason: str = "disabled by the operator") -> None:
        """Stop the link and forget its table; ``enable`` then starts from a comparison."""
        clean.give_up(self, reason)
        self.lose(reason, now)
        self.fold(now)
        self.table.clear()
        self.unverified.clear()
        self.doubt = Doubt.FORGOTTEN
        self.replicate_by(Replication.TABLE, reason)
        self.connect_state(Connection.DISABLED, reason)
        self.degrade(now)

    def enable(self, now: float) -> None:
        """Put a disabled link to work: nothing is known of what the replica lacks."""
        if self.clean is not None:
            self.clean.was_disabled = False
        if self.connection is Connection.DISABLED:
            self.table.fill(self.group.sizes)
            self.doubt = Doubt.FORGOTTEN
            self.connect_state(Connection.WAITING, "enabled by the operator")
            self.retry_at = now

    def resync_from_primary(self, now: float) -> None:
        """The operator declares the primary's content the truth after it lost power."""
        if self.lost_power:
            self.lost_power = False
            self.group.emit(PersistLink(self.index))  # nobody has to say it twice
            self.group.emit(Report(self.index, "resync from primary", "declared by the operator"))
        self.reconnect(now)

    # --- sending -------------------------------------------------------------------------------

    def pump(self, now: float) -> None:
        """Bring the resync on, and send what is due."""
        if self.connection is not Connection.OPEN:
            return
        if self.clean is not None and self.clean.failure:
            clean.carry_out_failure(self, now)
            return
        if self.replication is not Replication.STREAM:
            self.resync.pump(now)
        self.send(now)

    @property
    def _takes(self) -> bool:
        """Whether the replica takes what comes next. One that holds us takes a BEGIN: that frees
        what it has staged, and may be what lets it go on."""
        return not self.held or self.queue.begins

    def _is_due(self, now: float) -> bool:
        """Whether what is unsent fills a batch, has waited as long as it may, or goes alone: where
        writes wait, a frame need not be full before several are under way."""
        queue, window = self.queue, self.window
        eager = 0 if self.options.mode is Mode.ASYNC else limits.FRAMES_EAGER_MAX
        return (
            len(window.frames) < eager
            or queue.unsent_bytes >= window.batch_bytes
            or now >= queue.due_at
        )

    def send(self, now: float, *, at_once: bool = False) -> None:
        """Send whole batches, and a part of one when it has waited long enough."""
        if self.connection is not Connection.OPEN or not self._takes:
            return
        queue, window = self.queue, self.window
        while queue.unsent_count and (at_once or self._is_due(now)) and not window.is_full(queue):
            if queue.sends_tail and self.transaction is None:
                first_n, generation, writes = queue.take_tail(window.batch_bytes)
                frame = self._send_batch(first_n, generation, writes, now)
                writes.keep(payloads_of(frame, writes.count))
                queue.log.tail_at = now
            else:
                first_n, generation, batch = queue.take_batch(window.batch_bytes)
                self._send_batch(first_n, generation, batch, now)
                queue.unsent_at = now
                if self.held:
                    return

    def _send_batch(self, first_n: int, generation: int, batch: SentBatch, now: float) -> Buffer:
        """Send one batch of the queue's: its frame."""
        kinds = _NO_MARKS if batch.plain else {record.entry[0] for record in batch.records}
        sequence, _ = batch.last_counted
        transaction = self.transaction
        if transaction is not None:
            sequence = 0
            transaction.bytes_sent += resync_bytes(batch.records)
            if not transaction.direct:
                transaction.sent.add_entries(batch.entries)
        header = BatchHeader(
            group=self.group.offer()[0],
            session=self.session,
            incarnation=self.group.incarnation,
            first_n=first_n,
            generation=generation,
            commit_now=(self.waits and self.options.mode is Mode.SYNC)
            or not kinds.isdisjoint(_COMMIT_NOW),
            ack_now=self.waits and self.options.mode is Mode.SEMI_SYNC,
        )
        frame: Buffer
        if batch.area is None:
            frame = encode_batch(header, batch.entries, batch.payloads)
        else:
            frame = encode_around(header, batch.entries, batch.area)
        self.window.sent(first_n + batch.count - 1, len(frame), sequence, now)
        self.group.emit(SendFrame(self.index, frame))
        return frame

    def flush(self, now: float) -> None:
        """A FLUSH waits for this link: mark its place, so that the replica commits at once."""
        if self.replication is Replication.STREAM and self.group.log.fits(0):
            self.take(make_record(RecordKind.FLUSH), now)
        self.send(now, at_once=True)

    # --- degrade and return --------------------------------------------------------------------

    def degrade(self, now: float) -> None:
        """A write has waited too long: go on without the replica once that is on disk."""
        if self.degradation.degrade():
            self.opened_at = now
        self.group.confirmed(now)

    def degraded_persisted(self, degraded: bool, now: float) -> None:
        """The degraded mark is on disk as ``degraded`` says."""
        self.degradation.persisted(degraded)
        self.group.confirmed(now)

    def try_return(self, now: float) -> None:
        """Let writes wait again once the link is steady, and nothing is owed."""
        if self.degraded and self.state is LinkState.SYNCED:
            self.degradation.in_step(self.durable_sequence, now - self.opened_at)
