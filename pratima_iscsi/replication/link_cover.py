"""What a link knows of its replica's copy: its queue, its table, its transaction.

Every admitted write passes here, into the queue or into the table, and whatever leaves the queue
unconfirmed goes into the table. One rule, the core's: log ∪ table ∪ T ∪ writes in flight name every
block in which primary and replica differ.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from pratima_iscsi import limits
from pratima_iscsi.block_write_table import BlockWriteTable
from pratima_iscsi.blocks import block_span
from pratima_iscsi.operations import RESIZE, Operation, RecordKind
from pratima_iscsi.ordered_log import LinkQueue
from pratima_iscsi.positions import Position
from pratima_iscsi.records import Record, make_record
from pratima_iscsi.replication.clean import Clean
from pratima_iscsi.replication.degradation import Degradation
from pratima_iscsi.replication.effects import Report
from pratima_iscsi.replication.group import Group, LinkOptions
from pratima_iscsi.replication.handshake import Doubt
from pratima_iscsi.replication.source_state import LinkState as SavedLink
from pratima_iscsi.replication.states import Connection, LinkState, Mode, Replication, link_state
from pratima_iscsi.replication.transaction import Transaction
from pratima_iscsi.replication.watermarks import Watermarks
from pratima_iscsi.replication.window import Window

if TYPE_CHECKING:
    from pratima_iscsi.replication.resync import Resync

_LIVE: Final = (Connection.OPEN, Connection.SILENT)
NO_SESSION: Final = b""
_RESYNC: Final = int(RecordKind.RESYNC)


class LinkCover:
    """What a link knows of its replica's copy. All times are the caller's monotonic seconds."""

    resync: "Resync"

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
        self.reached = True
        """Whether a control connection stands, as far as was told; while none does, it is for who
        dials to say how that ends, and why."""
        self.replication = Replication.TABLE
        self.queue = LinkQueue(group.log)
        self.window = Window(group.log.limit // (links + 1))
        self.watermarks = Watermarks()
        self.degradation = Degradation(index, options.mode, group.emit)
        self.transaction: Transaction | None = None
        self.clean: Clean | None = None
        self.session = NO_SESSION
        self.attempt = group.incarnation >> 2
        """Names the last HELLO. It counts on from where no other run of this source does: a WELCOME
        that was meant for an older run answers none of this one's."""
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
        self.sender = 0
        """The incarnation that had the last session with the replica, 0: none that is known."""
        self.direct_id = 0
        self.ended_id = 0
        """The last transaction of this run that ended: the replica remembers it, too."""
        self.doubt = Doubt.UNCLEAN_STOP if self.group.unclean else Doubt.FORGOTTEN
        self.lost_power = False
        if saved is None:
            self.table.fill(self.group.sizes)
            return
        self.ever_sync |= saved.ever_sync
        self.lost_power = saved.lost_power
        self.synced_once = saved.synced_once
        self.degradation.restore(saved.degraded, synced_once=saved.synced_once)
        if not saved.enabled:
            self.connect_state(Connection.DISABLED, "disabled by the operator")
        if saved.table:
            self.table = BlockWriteTable.deserialize(saved.table)
            self.unverified = BlockWriteTable.deserialize(saved.unverified)
            self.watermarks.base = saved.base
            self.watermarks.base_history = saved.base_history
            self.watermarks.acknowledged = saved.acknowledged
            self.sender = saved.sender
            self.direct_id = saved.direct_transaction
            self.doubt = Doubt.NONE
        else:
            self.table.fill(self.group.sizes)

    # --- what status shows ---------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Whether a session lasts: what was sent may still arrive."""
        return self.connection in _LIVE

    @property
    def must_compare(self) -> bool:
        """Whether the table is not to be believed, so that the next handshake compares."""
        return self.doubt is not Doubt.NONE

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
        table.add_entries(self.queue.entries)
        return table

    def connect_state(self, connection: Connection, reason: str, *, alarm: bool = False) -> None:
        """Move to another state of the connection, for a named reason."""
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

    @property
    def only_marks(self) -> bool:
        """Whether nothing is kept of a write but its blocks, in the table."""
        stale = self.replication is Replication.TABLE and self.connection is not Connection.DISABLED
        return stale and self.clean is None

    def admit_run(self, records: Sequence[Record], now: float) -> None:
        """Take writes of one wake-up, in their order."""
        if self.only_marks:
            self.table.add_records(records)
            return
        for record in records:
            self.admit(record, now)

    def mark_run(self, entries: bytes) -> None:
        """Mark the blocks of writes, by their table entries, where ``only_marks``."""
        self.table.add_entries(entries)

    def take(self, record: Record, now: float) -> None:
        """Queue a write that ``wants`` asked for, or a record of the link's own; the log has room
        for it."""
        self.queue.append(record, now)

    def resize(self, record: Record, old: int, now: float, *, zeros: bool) -> None:
        """A volume grows from ``old`` bytes at ``record``; unless what it grows by is known to read
        as ``zeros`` on both sides, the replica may lack that."""
        if self.connection is Connection.DISABLED:
            return
        # With the last block, where that was short: whoever is reading it reads it again.
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
            self.table.add_entries(self.queue.sent_entries)
        self.table.add_entries(self.queue.unsent_entries)
        dropped = self.queue.drop(sent_too=dropped_all)
        self.overflowed_at = now
        self._count_overflow()
        self.resync_unconfirmed = resync_bytes(self.queue.sent_marks)
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
        self._tell_sizes(dropped if RecordKind.RESIZE in kinds else (), now)

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

    def mark_failed(self, write: Operation) -> None:
        """The local ``write`` failed: the replica may have what the primary has not."""
        volume, blocks = write.volume, block_span(write.offset, write.length)
        if write.kind != RESIZE:  # which changes no block
            self.table.add(volume, *blocks)
        if self.clean is not None:
            self.clean.note_write(volume, *blocks)
            if self.clean.proof:
                self.clean.fail("a local write failed")
        if self.transaction is not None:
            self.transaction.note_write(volume, *blocks)
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
        self.table.add_entries(self.queue.entries)
        self.queue.drop(sent_too=True)
        self.resync_unconfirmed = 0


def resync_bytes(records: Iterable[Record]) -> int:
    """Payload of the resync records among ``records``."""
    return sum([len(record.payload) for record in records if record.entry[0] == _RESYNC])
