"""A link at its source: one group to one replica, with its own cursor and its own table.

The link takes admitted records, messages of the replica and the time, and gives effects. It keeps
the core rule: log ∪ table ∪ T ∪ writes in flight name every block in which primary and replica
differ.

      WAITING ── HELLO ──► GREETING ── WELCOME ──► OPENING ── data up ──► OPEN ◄──► SILENT
         ▲                    │ rules                 │                    │
         └──── back-off ──────┴───────────────────────┴──── session ends ──┘

One rule: within a session nothing is sent twice; whatever goes wrong ends the session, and the next
one begins where the replica says that it stands.
"""

from collections.abc import Iterable
from typing import Final

from pratima_iscsi import limits
from pratima_iscsi.block_write_table import BlockWriteTable
from pratima_iscsi.blocks import block_span
from pratima_iscsi.operations import RecordKind
from pratima_iscsi.ordered_log import LinkQueue
from pratima_iscsi.positions import Position
from pratima_iscsi.records import End, Record, make_record
from pratima_iscsi.replication import clean, handshake
from pratima_iscsi.replication.degradation import Degradation
from pratima_iscsi.replication.effects import (
    CloseSession,
    OpenSession,
    Report,
    SendControl,
    SendFrame,
)
from pratima_iscsi.replication.group import Group, LinkOptions
from pratima_iscsi.replication.handshake import ReplicaFacts, SourceFacts, Verdict
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
from pratima_iscsi.replication.states import Connection, LinkState, Mode, Replication, link_state
from pratima_iscsi.replication.transaction import Transaction
from pratima_iscsi.replication.watermarks import Watermarks
from pratima_iscsi.replication.window import Window
from pratima_iscsi.replication.wire import PROTOCOL_VERSION, BatchHeader, encode_batch

_LIVE: Final = frozenset({Connection.OPEN, Connection.SILENT})
_NO_SESSION: Final = b""
_REFUSALS: Final = {
    Verdict.REFUSE: Connection.REFUSED,
    Verdict.DIVERGED: Connection.DIVERGED,
    Verdict.HOLD: Connection.HELD,
}
_COMMIT_NOW: Final = frozenset({RecordKind.FLUSH, RecordKind.END, RecordKind.VERIFY})
"""Kinds that somebody waits for: the replica commits them without delay."""
_RETRIED: Final = frozenset(
    {
        Connection.WAITING,
        Connection.REFUSED,
        Connection.DIVERGED,
        Connection.FAILED,
        Connection.HELD,
    }
)


class Link:
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
        volumes = len(group.sizes)
        self.group = group
        self.index = index
        self.options = options
        self.connection = Connection.WAITING
        self.reason = "not connected yet"
        self.replication = Replication.TABLE
        self.queue = LinkQueue(group.log)
        self.window = Window(group.log.limit // (links + 1))
        self.watermarks = Watermarks()
        self.degradation = Degradation(index, options.mode, group.emit)
        self.transaction: Transaction | None = None
        self.clean: clean.Clean | None = None
        self.resync = Resync(self)
        self.session = _NO_SESSION
        self.attempt = 0
        self.retry_at = 0.0
        self.backoff = limits.BACKOFF_SECONDS_MIN
        self.deadline = 0.0
        self.heard_at = 0.0
        self.ping_at = 0.0
        self.opened_at = 0.0
        self.held = ""
        self.replica_direct = False
        self.staging_bytes = 0
        self.resync_unconfirmed = 0
        self.overflowed_at = -limits.OVERFLOW_DWELL_SECONDS
        self.overflows = 0
        self.overflow_blocks = 0
        self.last_resync: tuple[int, int, int] | None = None
        """Blocks in all, blocks done and bytes sent of the last transaction that ended."""
        self.ever_sync = options.mode is not Mode.ASYNC
        self._restore(saved, volumes)

    def _restore(self, saved: SavedLink | None, volumes: int) -> None:
        self.table = BlockWriteTable(volumes)
        self.unverified = BlockWriteTable(volumes)
        self.synced_once = False
        self.direct_id = 0
        self.ended_id = 0
        """The last transaction of this run that ended: the replica remembers it, too."""
        self.must_compare = True
        self.lost_power = False
        if saved is None:
            self.table.fill(self.group.sizes)
            return
        self.ever_sync |= saved.ever_sync
        self.degradation.restore(saved.degraded)
        self.lost_power = saved.lost_power
        self.synced_once = saved.synced_once
        if not saved.enabled:
            self._connect_state(Connection.DISABLED, "disabled by the operator")
        if saved.table:
            self.table = BlockWriteTable.deserialize(saved.table)
            self.unverified = BlockWriteTable.deserialize(saved.unverified)
            self.watermarks.base = saved.base
            self.watermarks.base_history = saved.base_history
            self.direct_id = saved.direct_transaction
            self.must_compare = False
        else:
            self.table.fill(self.group.sizes)

    # --- what status shows ---------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Whether a session lasts: what was sent may still arrive."""
        return self.connection in _LIVE

    @property
    def covered(self) -> bool:
        """Whether table and transaction are empty: the log holds all that the replica lacks."""
        return self.transaction is None and not self.table

    @property
    def state(self) -> LinkState:
        """The one word of status."""
        return link_state(self.connection, self.replication, covered=self.covered)

    @property
    def waits(self) -> bool:
        """Whether writes wait for this link."""
        return self.degradation.waits

    @property
    def degraded(self) -> bool:
        """Whether the degraded mark stands."""
        return self.degradation.degraded

    @property
    def durable_sequence(self) -> int:
        """Up to which sequence of the group's generation the replica's effective image is."""
        return self.watermarks.durable

    @property
    def base(self) -> Position:
        """The replica's durable position at the last acknowledgement."""
        return self.watermarks.base

    def cover(self) -> BlockWriteTable:
        """Every block that the replica may lack, but for local writes in flight."""
        table = self.table.copy()
        if self.transaction is not None:
            table.update(self.transaction.sent)
        table.add_records(self.queue.sent)
        table.add_records(self.queue.unsent)
        return table

    def _connect_state(self, connection: Connection, reason: str, *, alarm: bool = False) -> None:
        if connection is not self.connection or reason != self.reason:
            self.connection, self.reason = connection, reason
            self.group.emit(Report(self.index, connection.name.lower(), reason, alarm))

    def replicate_by(self, replication: Replication, reason: str, *, alarm: bool = False) -> None:
        """Move to another replication state, for a named reason."""
        if replication is not self.replication or alarm:
            self.replication, self.reason = replication, reason
            self.group.emit(Report(self.index, replication.name.lower(), reason, alarm))

    # --- writes --------------------------------------------------------------------------------

    def wants(self, volume: int, first: int, end: int) -> bool:
        """Whether a write of these blocks goes into the queue; if not, they are in the table."""
        if self.replication is Replication.STREAM:
            return True
        if self.replication is Replication.TRANSACTION:
            assert self.transaction is not None
            self.transaction.note_write(volume, first, end)
            return self.transaction.proof or not self.table.holds(volume, first, end)
        if self.connection is not Connection.DISABLED:
            self.table.add(volume, first, end)
            if self.clean is not None:
                self.clean.note_write(volume, first, end)
        return False

    @property
    def streams(self) -> bool:
        """Whether every write goes into the queue, and nobody waits for it: then it may stand in
        the log's tail first."""
        return self.replication is Replication.STREAM and self.options.mode is Mode.ASYNC

    def admit(self, record: Record, now: float) -> None:
        """Take a write that the log has room for into the queue, or into the table."""
        if self.wants(record.volume, *record.blocks):
            self.take(record, now)

    def take(self, record: Record, now: float) -> None:
        """Queue a record that ``wants`` asked for and that the log has room for."""
        self.queue.append(record, now)

    def _is_due(self, now: float) -> bool:
        """Whether what is unsent fills a batch, or has waited as long as it may."""
        queue = self.queue
        return (
            queue.unsent_bytes >= self.window.batch_bytes
            or self.options.mode is not Mode.ASYNC
            or now >= queue.unsent_at + limits.COALESCE_SECONDS
        )

    def resize(self, record: Record, old: int, now: float, *, zeros: bool) -> None:
        """A volume grows from ``old`` bytes at ``record``; unless what it grows by is known to read
        as ``zeros`` on both sides, the replica may lack that."""
        if self.connection is Connection.DISABLED:
            return
        first, end = block_span(old, record.length - old)
        if self.transaction is not None:
            self.transaction.note_write(record.volume, first, end)
        if self.clean is not None:
            self.clean.note_write(record.volume, first, end)
            if self.clean.proof and not zeros:
                self.clean.fail("a volume has grown by what may differ")
        if not zeros:
            self.table.add(record.volume, first, end)
            if self.replication is Replication.STREAM:
                self.replicate_by(Replication.TABLE, "what a volume has grown by is brought over")
        if self.replication is Replication.TABLE:
            return  # The next BEGIN says the sizes.
        if self.group.log.fits(0):
            self.take(record, now)
            if self.replication is Replication.TRANSACTION and self.transaction is not None:
                self.transaction.resized(record.volume, record.length)
        else:
            self.overflow(now)

    def _tell_sizes(self, dropped: Iterable[Record], now: float) -> None:
        """The log was dropped: what the open transaction has to know of the volumes' sizes is
        queued again (inside it no sequence counts), or it gives way to one whose BEGIN says it."""
        transaction = self.transaction
        if self.replication is not Replication.TRANSACTION or transaction is None:
            return
        for record in dropped:
            if record.entry[0] == RecordKind.RESIZE:
                transaction.resized(record.volume, 0)
        for volume, size in enumerate(self.group.sizes):
            if transaction.sizes[volume] == size:
                continue
            if not self.group.log.fits(0):
                self.abandon_transaction("a RESIZE was dropped with the log", now)
                self.replicate_by(Replication.TABLE, "a RESIZE was dropped with the log")
                return
            sequence = self.group.history.position.sequence
            self.take(make_record(RecordKind.RESIZE, volume, 0, size, sequence=sequence), now)
            transaction.resized(volume, size)

    def begin_generation(self, record: Record, now: float) -> None:
        """The group's generation begins; END carries it where a transaction is open."""
        self.watermarks.forget()
        if self.replication is Replication.STREAM:
            self.take(record, now)

    def overflow(self, now: float, reason: str = "the ordered log is full") -> None:
        """Drop from the log what may be dropped, its blocks into the table first."""
        dropped_all = not self.live
        if dropped_all:
            self.table.add_records(self.queue.sent)
        self.table.add_records(self.queue.unsent)
        dropped = self.queue.drop(sent_too=dropped_all)
        self.overflowed_at = now
        self._count_overflow()
        self.resync_unconfirmed = _resync_bytes(self.queue.sent)
        kinds = {record.entry[0] for record in dropped}
        if RecordKind.VERIFY in kinds:
            self.resync.forget_verifies(dropped)
        if self.clean is not None and self.clean.proof and not self._end_is_safe(kinds):
            self.clean.fail(f"{reason}, and a proof copies nothing")
        if self.transaction is None:
            self.replicate_by(Replication.TABLE, reason)
        elif RecordKind.BEGIN in kinds:
            self.abandon_transaction("its BEGIN was dropped with the log", now)
            self.replicate_by(Replication.TABLE, reason)
        elif RecordKind.END in kinds:
            self.transaction.end = None
            self.replicate_by(
                Replication.TRANSACTION, "its END was dropped with the log: open again"
            )
        elif self.transaction.end is not None:
            self.replicate_by(Replication.TABLE, reason)
        self._tell_sizes(dropped, now)

    def _end_is_safe(self, dropped: set[int]) -> bool:
        """Whether the open transaction's END is queued or sent, and is not among ``dropped``."""
        ended = self.transaction is not None and self.transaction.end is not None
        return ended and RecordKind.END not in dropped

    def _count_overflow(self) -> None:
        blocks = len(self.table)
        self.overflows = self.overflows + 1 if blocks >= self.overflow_blocks else 1
        self.overflow_blocks = blocks
        if self.overflows == limits.OVERFLOWS_ALARM:
            self.group.emit(Report(self.index, "overflow", "writer faster than link", alarm=True))

    def mark(self, volume: int, first: int, end: int) -> None:
        """A write found no room in the log even after the overflow: its blocks go to the table."""
        self.table.add(volume, first, end)

    def mark_failed(self, record: Record) -> None:
        """The local write of ``record`` failed: the replica may have what the primary has not."""
        self.table.add_records((record,))
        if self.clean is not None:
            self.clean.note_write(record.volume, *record.blocks)
            if self.clean.proof:
                self.clean.fail("a local write failed")
        if self.transaction is not None:
            self.transaction.note_write(record.volume, *record.blocks)
        if self.replication is Replication.STREAM:
            self.replicate_by(Replication.TABLE, "a local write failed", alarm=True)

    def abandon_transaction(self, reason: str, now: float) -> None:
        """The open transaction ends without END: what it sent is missing again."""
        transaction = self.transaction
        if transaction is None:
            return
        self.table.update(transaction.sent)
        if transaction.comparing:
            self.unverified.update(transaction.sent)
        self.resync.cancel(now)
        self.transaction = None
        if self.clean is not None and not self.clean.proof:
            self.clean.fail("its transaction was abandoned, and a word is not given twice")
        self.group.emit(Report(self.index, "transaction abandoned", reason))

    def fold(self, now: float) -> None:
        """Everything that the replica may lack goes into the table; the queue is empty then."""
        self.abandon_transaction("a new handshake begins anew", now)
        self.table.add_records(self.queue.sent)
        self.table.add_records(self.queue.unsent)
        self.queue.drop(sent_too=True)
        self.resync_unconfirmed = 0

    # --- time ----------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due at ``now``."""
        if self.connection in _RETRIED:
            if now >= self.retry_at:
                self._greet(now)
        elif self.connection in (Connection.GREETING, Connection.OPENING):
            if now >= self.deadline:
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
            return self.deadline
        if self.live:
            due = min(self.ping_at, self.heard_at + limits.PEER_DEAD_SECONDS)
            if self.connection is Connection.SILENT:
                due = self.ping_at
            if self.queue.has_backlog and not self.window.is_full(self.queue):
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
            self._connect_state(
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
        self._connect_state(Connection.WAITING, reason)

    def _end_session(self, now: float) -> None:
        if self.session:
            self.group.emit(CloseSession(self.index))
        self.session = _NO_SESSION
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
        self._connect_state(connection, reason, alarm=alarm)

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
            self._connect_state(Connection.OPEN, "heard again")

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
            self.synced_once = True
            clean.ended(self)
        if message.consistent and self.watermarks.contradicted_by(position, message.history):
            self.must_compare = True
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
            compare=self.must_compare,
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
            self.must_compare = False
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
        self._connect_state(Connection.OPEN, self.reason)
        self.pump(now)

    def data_lost(self, session: bytes, reason: str, now: float) -> None:
        """The data channel of ``session`` is gone."""
        if self.session and session == self.session:
            self.lose(reason, now)

    def reachable(self, now: float) -> None:
        """The control connection stands: greet now; what was sent before it stood is lost."""
        if self.connection in (Connection.WAITING, Connection.GREETING):
            self.connection = Connection.WAITING
            self.retry_at = now

    def unreachable(self, reason: str, now: float) -> None:
        """There is no control connection."""
        if self.connection is Connection.WAITING:
            self._connect_state(Connection.WAITING, reason)
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
        position = Position(ack.generation, ack.sequence)
        if self.watermarks.contradicted_by(position, ack.history):
            self.must_compare = True
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
            self.resync_unconfirmed -= _resync_bytes(confirmed)
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
        self.synced_once = True
        self.lost_power = False
        self.replica_direct = False
        self.overflows = 0
        self.reason = f"in step since {end.history.position}"
        self.group.emit(Report(self.index, "resynced", f"consistent at {end.history.position}"))
        clean.ended(self)

    # --- controls --------------------------------------------------------------------------------

    def reconnect(self, now: float) -> None:
        """Connect now, without waiting for the back-off."""
        if self.connection in _RETRIED:
            self.backoff = limits.BACKOFF_SECONDS_MIN
            self.retry_at = now

    def kill(self, now: float) -> None:
        """Drop queue and session at once; what they held goes into the table."""
        if self.connection is Connection.DISABLED:
            return
        clean.give_up(self, "killed by the operator")
        self.lose("killed by the operator", now)
        self.fold(now)
        self.replicate_by(Replication.TABLE, "killed by the operator")

    def disable(self, now: float, reason: str = "disabled by the operator") -> None:
        """Stop the link and forget its table; ``enable`` then starts from a comparison."""
        clean.give_up(self, reason)
        self.lose(reason, now)
        self.fold(now)
        self.table.clear()
        self.unverified.clear()
        self.must_compare = True
        self.replicate_by(Replication.TABLE, reason)
        self._connect_state(Connection.DISABLED, reason)
        self.degrade(now)

    def enable(self, now: float) -> None:
        """Put a disabled link to work: nothing is known of what the replica lacks."""
        if self.clean is not None:
            self.clean.was_disabled = False
        if self.connection is Connection.DISABLED:
            self.table.fill(self.group.sizes)
            self.must_compare = True
            self._connect_state(Connection.WAITING, "enabled by the operator")
            self.retry_at = now

    def resync_from_primary(self, now: float) -> None:
        """The operator declares the primary's content the truth after it lost power."""
        if self.lost_power:
            self.lost_power = False
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

    def append_mark(self, record: Record, now: float) -> None:
        """Queue a record of the link's own."""
        self.take(record, now)

    def send(self, now: float, *, at_once: bool = False) -> None:
        """Send whole batches, and a part of one when it has waited long enough."""
        if self.connection is not Connection.OPEN or self.held:
            return
        queue, window = self.queue, self.window
        while queue.unsent and (at_once or self._is_due(now)) and not window.is_full(queue):
            self._send_batch(now)

    def _send_batch(self, now: float) -> None:
        first_n, generation, batch = self.queue.take_batch(self.window.batch_bytes)
        kinds = {record.entry[0] for record in batch}
        transaction = self.transaction
        if transaction is not None:
            transaction.bytes_sent += _resync_bytes(batch)
            if not transaction.direct:
                transaction.sent.add_records(batch)
        sequence = 0 if transaction is not None else _last_sequence(batch)
        header = BatchHeader(
            group=self.group.offer()[0],
            session=self.session,
            incarnation=self.group.incarnation,
            first_n=first_n,
            generation=generation,
            commit_now=(self.waits and self.options.mode is Mode.SYNC)
            or not kinds.isdisjoint(_COMMIT_NOW),
            ack_now=self.waits,
        )
        frame = encode_batch(header, batch)
        self.window.sent(first_n + len(batch) - 1, len(frame), sequence, now)
        self.queue.unsent_at = now
        self.group.emit(SendFrame(self.index, frame))

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


def _resync_bytes(records: Iterable[Record]) -> int:
    return sum(len(r.payload) for r in records if r.entry[0] == RecordKind.RESYNC)


def _last_sequence(batch: list[Record]) -> int:
    """Sequence of the last counted record, 0 if there is none."""
    return next((sequence for record in reversed(batch) if (sequence := record.sequence)), 0)
