"""What drives a link's resync: when it begins, what it reads next, and how it closes.

The pump runs after every event of its link. It begins a transaction when the log has drained,
brings the table's blocks into the log in pieces that leave live writes their share, compares by
hash where the table is only a suspicion, and closes with one sweep: the rest is read and END
appended while no write is admitted. One rule: a resync record never causes an overflow.
"""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from pratima_iscsi import limits
from pratima_iscsi.block_write_table import BlockWriteTable
from pratima_iscsi.blocks import BLOCK_BYTES, BlockRange
from pratima_iscsi.operations import RecordKind
from pratima_iscsi.records import (
    VERIFY_DIGEST_BYTES,
    VERIFY_KEY_BYTES,
    Begin,
    End,
    Record,
    Verify,
    make_record,
)
from pratima_iscsi.replication import clean
from pratima_iscsi.replication.effects import BlocksRead, ReadBlocks
from pratima_iscsi.replication.messages import VerifyAnswer
from pratima_iscsi.replication.states import Connection, Replication
from pratima_iscsi.replication.transaction import (
    Transaction,
    Watch,
    unwritten_runs,
    zero_runs,
)

if TYPE_CHECKING:
    from pratima_iscsi.replication.link import Link

_HOLE_BLOCKS: Final = limits.HOLE_BYTES_MAX // BLOCK_BYTES


class Resync:
    """The resync of one link; the open transaction itself is the link's ``transaction``."""

    def __init__(self, link: "Link") -> None:
        self.link = link
        self.read_blocks = max(
            1, min(limits.RESYNC_READ_BYTES, link.group.log.limit // 8) // BLOCK_BYTES
        )
        """Blocks of data that one read brings: a small log gets small pieces."""
        self.reads = 0
        self.verifies = 0
        self.key = secrets.token_bytes(VERIFY_KEY_BYTES)
        self.sweeping = False
        self.appended_at = 0.0
        self.swept_in_vain = False
        """The last sweep found blocks outside the page cache: they are read off the loop first."""

    # --- events --------------------------------------------------------------------------------

    def pump(self, now: float) -> None:
        """Do the next step, if there is one."""
        link = self.link
        if link.replication is Replication.TABLE:
            self._begin(now)
        while link.replication is Replication.TRANSACTION and self._step(now):
            pass

    def next_timer(self, now: float) -> float:
        """When a step that only waits for time is due."""
        link = self.link
        if link.replication is Replication.TABLE:
            due = link.overflowed_at + limits.OVERFLOW_DWELL_SECONDS
            return due if due > now else now + limits.HEARTBEAT_SECONDS
        transaction = link.transaction
        if link.replication is Replication.TRANSACTION and transaction is not None:
            # Whatever else a step waits for comes as an event, but for its least pace.
            return now + limits.HEARTBEAT_SECONDS / 10
        return now + limits.HEARTBEAT_SECONDS

    def session_lost(self) -> None:
        """Answers to verify records of that session will not come: they are asked again."""
        transaction = self.link.transaction
        if transaction is None:
            return
        for watch in transaction.verifies.values():
            transaction.forget(watch)
        transaction.verifies.clear()

    def forget_verifies(self, dropped: Iterable[Record]) -> None:
        """VERIFY records among ``dropped`` were never sent: their blocks are asked again."""
        transaction = self.link.transaction
        if transaction is None:
            return
        for record in dropped:
            if record.entry[0] == RecordKind.VERIFY:
                number = Verify.decode(record.payload, record.blocks[1] - record.blocks[0]).verify
                watch = transaction.verifies.pop(number, None)
                if watch is not None:
                    transaction.forget(watch)

    def cancel(self, now: float) -> None:
        """The transaction is over: reads under way are answered to nobody."""
        if self.sweeping:
            self.sweeping = False
            self.link.group.release_writes(now)

    # --- BEGIN ---------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        link = self.link
        log = link.group.log
        if link.transaction is not None or log.bytes > log.low_mark or not log.fits(0):
            return
        if now - link.overflowed_at < limits.OVERFLOW_DWELL_SECONDS:
            return
        if not link.window.has_room(link.queue):
            # The replica takes nothing. From BEGIN on live writes are queued again: they would
            # only fill the log, and overflow it, time after time.
            return
        if not link.group.history_begun():
            return
        need = clean.left_to_bring(link) * BLOCK_BYTES
        # Live writes are staged, too: without room for one of them a transaction would not end.
        no_room = need + BLOCK_BYTES > link.staging_bytes
        direct = link.replica_direct or (link.options.direct_resync and no_room)
        if direct and not link.replica_direct and link.waits:
            # The old consistent point is about to go, and acknowledged writes with it.
            link.degrade(now)
            return
        if no_room and not direct:
            reason = f"the replica has no room to stage {need} bytes (it has {link.staging_bytes})"
            link.stand_back(Connection.HELD, reason, now)
            return
        transaction = Transaction.begin(
            link.group.new_id(),
            link.group.sizes,
            direct=direct,
            comparing=bool(link.unverified),
            blocks=len(link.table),
            now=now,
        )
        link.transaction = transaction
        link.direct_id = transaction.id if direct else 0
        reason = clean.begun(link, transaction)
        payload = Begin(transaction.id, direct, link.group.sizes).encode()
        link.take(make_record(RecordKind.BEGIN, payload=payload), now)
        link.replicate_by(Replication.TRANSACTION, reason)

    # --- the next step ---------------------------------------------------------------------------

    def _step(self, now: float) -> bool:
        """Begin one read, if one is due; False when there is nothing to do for now."""
        transaction = self.link.transaction
        assert transaction is not None
        if self.sweeping or len(transaction.reads) >= limits.RESYNC_READS_MAX:
            return False
        self._retry(transaction, now)
        if not self._has_room(now):
            return False
        if len(transaction.verifies) < limits.VERIFIES_MAX and self._compare(transaction):
            return True
        return self._copy(transaction) or self._sweep(transaction, now)

    @staticmethod
    def _retry(transaction: Transaction, now: float) -> None:
        """What could not be read, or was never answered, is tried again when its time has come."""
        if transaction.unreadable and now >= transaction.retry_unreadable_at:
            transaction.unreadable.clear()
        late = [
            number
            for number, watch in transaction.verifies.items()
            if now >= watch.asked_at + limits.VERIFY_SECONDS
        ]
        for number in late:
            transaction.forget(transaction.verifies.pop(number))

    def _has_room(self, now: float) -> bool:
        """Whether a resync record may be appended: live writes come first, but not for ever."""
        link = self.link
        log = link.group.log
        piece = self.read_blocks * (BLOCK_BYTES + limits.RECORD_OVERHEAD_BYTES)
        reads = link.transaction.reads if link.transaction is not None else {}
        under_way = piece * (len(reads) + 1)
        if (
            not log.fits(under_way)
            or link.resync_unconfirmed + under_way > link.window.credit // 2 + piece
        ):
            return False
        pace = piece / limits.RESYNC_RATE_MIN_BYTES
        return log.bytes < log.low_mark or (not reads and now - self.appended_at >= pace)

    def _free(self, transaction: Transaction, table: BlockWriteTable) -> BlockWriteTable:
        """The blocks of ``table`` that nothing under way covers."""
        if not transaction.asked and not transaction.unreadable:
            return table
        free = table.copy()
        free.subtract(transaction.asked)
        free.subtract(transaction.unreadable)
        return free

    @staticmethod
    def _runs(transaction: Transaction, free: BlockWriteTable) -> Iterator[BlockRange]:
        """The runs of ``free``; blocks of a read that failed come first, each by itself."""
        if not transaction.suspect:
            return free.runs(_HOLE_BLOCKS)
        suspect = free.copy()
        suspect.intersect(transaction.suspect)
        rest = free.copy()
        rest.subtract(transaction.suspect)
        return chain(suspect.runs(1), rest.runs(_HOLE_BLOCKS))

    def _compare(self, transaction: Transaction) -> bool:
        link = self.link
        if not link.unverified:
            return False
        link.unverified.intersect(link.table)
        free = self._free(transaction, link.unverified)
        piece = next(self._runs(transaction, free), None)
        if piece is None:
            return False
        self._read(transaction, (piece,), compare=True)
        return True

    def _copy(self, transaction: Transaction) -> bool:
        table = self.link.table
        if self.link.unverified:
            table = table.copy()
            table.subtract(self.link.unverified)
        free = self._free(transaction, table)
        pieces: list[BlockRange] = []
        blocks = 0
        for piece in islice(self._runs(transaction, free), self.read_blocks):
            if pieces and blocks + min(piece.count, self.read_blocks) > self.read_blocks:
                break
            pieces.append(piece)
            blocks += min(piece.count, self.read_blocks)
        few = not self.link.unverified and len(table) * BLOCK_BYTES <= self._sweep_bytes()
        if not pieces or (few and not self.swept_in_vain):
            return False
        self.swept_in_vain = False
        self._read(transaction, tuple(pieces))
        return True

    def _sweep_bytes(self) -> int:
        return min(limits.SWEEP_BYTES_MAX, self.link.group.log.limit // 2)

    def _sweep(self, transaction: Transaction, now: float) -> bool:
        """Nothing is under way and little is left: read all of it and append END in one step."""
        link = self.link
        if transaction.asked or link.unverified or transaction.unreadable:
            return False
        left = len(link.table) * BLOCK_BYTES
        if left > self._sweep_bytes() or not link.group.log.fits(
            left + len(link.table) * limits.RECORD_OVERHEAD_BYTES + 4096
        ):
            return False
        if not link.group.hold_writes():
            return False
        self.sweeping = True
        pieces = tuple(link.table.runs(self.read_blocks))
        if pieces:
            self._read(transaction, pieces, sweep=True)
        else:
            self._end(transaction, now)
        return False

    def _read(
        self,
        transaction: Transaction,
        pieces: tuple[BlockRange, ...],
        *,
        compare: bool = False,
        sweep: bool = False,
    ) -> None:
        self.reads += 1
        written = BlockWriteTable(len(self.link.group.sizes))
        transaction.ask(self.reads, Watch(pieces, written, compare, sweep))
        effect = ReadBlocks(self.link.index, self.reads, pieces, self.read_blocks, sweep)
        self.link.group.emit(effect)

    # --- answers -------------------------------------------------------------------------------

    def blocks_read(self, read: int, answers: Sequence[BlocksRead], now: float) -> None:
        """A read of ours came back: one answer for each range."""
        transaction = self.link.transaction
        watch = transaction.reads.pop(read, None) if transaction is not None else None
        if transaction is None or watch is None:
            return
        transaction.forget(watch)
        for piece, answer in zip(watch.ranges, answers, strict=True):
            if answer.error is not None:
                self._unreadable(transaction, piece, answer.error, now)
            elif answer.blocks:
                self._bring(transaction, watch, piece, answer, now)
        if watch.sweep:
            self._swept(transaction, now)
        self.link.pump(now)

    def _bring(
        self,
        transaction: Transaction,
        watch: Watch,
        piece: BlockRange,
        answer: BlocksRead,
        now: float,
    ) -> None:
        if watch.compare and (answer.data is not None or transaction.proof):
            # Otherwise zeros are sent: that costs less than asking.
            self._ask_replica(transaction, watch, piece, answer.blocks, answer.data, now)
            return
        for first, end in unwritten_runs(piece, answer.blocks, watch.written):
            if answer.data is None:
                self._append(transaction, piece, first, end, None, now)
                continue
            data = answer.data[first * BLOCK_BYTES : end * BLOCK_BYTES]
            for at, upto, zero in zero_runs(data):
                self._append(
                    transaction,
                    piece,
                    first + at // BLOCK_BYTES,
                    first + (upto + BLOCK_BYTES - 1) // BLOCK_BYTES,
                    None if zero else data[at:upto],
                    now,
                )

    def _append(
        self,
        transaction: Transaction,
        piece: BlockRange,
        first: int,
        end: int,
        data: bytes | None,
        now: float,
    ) -> None:
        """Queue blocks ``first`` to ``end`` of ``piece`` (relative); clear them in the table."""
        link = self.link
        span = BlockRange(piece.volume, piece.first + first, end - first)
        if not link.group.log.fits(len(data or b"")):
            return
        length = span.length(link.group.sizes[span.volume])
        assert data is None or len(data) == length, "read before the volume grew"
        if data is None:
            record = make_record(RecordKind.RESYNC_ZERO, span.volume, span.offset, length)
        else:
            record = make_record(RecordKind.RESYNC, span.volume, span.offset, length, data)
            link.resync_unconfirmed += len(data)
        link.take(record, now)
        link.table.discard(span.volume, span.first, span.end)
        link.unverified.discard(span.volume, span.first, span.end)
        self.appended_at = now

    def _unreadable(
        self, transaction: Transaction, piece: BlockRange, error: OSError, now: float
    ) -> None:
        if piece.count > 1:
            end = piece.first + min(piece.count, self.read_blocks)
            transaction.suspect.add(piece.volume, piece.first, end)
            return
        transaction.unreadable.add(piece.volume, piece.first, piece.end)
        transaction.retry_unreadable_at = now + limits.UNREADABLE_RETRY_SECONDS
        reason = (
            f"primary cannot read block {piece.first} of volume {piece.volume}: {error.strerror}"
        )
        self.link.replicate_by(Replication.TRANSACTION, reason, alarm=True)
        if transaction.proof and self.link.clean is not None:
            self.link.clean.fail(reason)

    def _swept(self, transaction: Transaction, now: float) -> None:
        if self.link.table:
            self.sweeping = False
            self.swept_in_vain = True
            self.link.group.release_writes(now)
        else:
            self._end(transaction, now)

    def _end(self, transaction: Transaction, now: float) -> None:
        """The table is empty and no write is admitted: append END, then let writes on."""
        link = self.link
        payload = End(transaction.id, link.group.history, link.group.digest).encode()
        transaction.end = make_record(RecordKind.END, payload=payload)
        link.take(transaction.end, now)
        link.replicate_by(Replication.STREAM, "all blocks sent; waiting for the replica's END")
        self.sweeping = False
        link.group.release_writes(now)
        link.send(now, at_once=True)

    # --- comparison ----------------------------------------------------------------------------

    def _ask_replica(
        self,
        transaction: Transaction,
        watch: Watch,
        piece: BlockRange,
        blocks: int,
        data: bytes | None,
        now: float,
    ) -> None:
        """Ask about the first ``blocks`` of ``piece``; no data: they read as zeros here."""
        link = self.link
        self.verifies += 1
        blocks = min(blocks, limits.VERIFY_BYTES_MAX // BLOCK_BYTES)
        span = BlockRange(piece.volume, piece.first, blocks)
        length = span.length(link.group.sizes[span.volume])
        digests = block_digests(bytes(length) if data is None else data[:length], self.key)
        payload = Verify(self.verifies, self.key, digests).encode()
        if not link.group.log.fits(len(payload)):
            return
        record = make_record(RecordKind.VERIFY, span.volume, span.offset, length, payload)
        asked = Watch((span,), watch.written, compare=True, asked_at=now)
        transaction.verifies[self.verifies] = asked
        transaction.asked.add(span.volume, span.first, span.end)
        link.take(record, now)
        self.appended_at = now

    def answered(self, answer: VerifyAnswer, now: float) -> None:
        """The replica compared one range; another transaction's answer says nothing."""
        link = self.link
        transaction = link.transaction
        if transaction is None or answer.transaction != transaction.id:
            return
        watch = transaction.verifies.pop(answer.verify, None)
        if watch is None:
            return
        transaction.forget(watch)
        (span,) = watch.ranges
        differing = set(answer.differing)
        if transaction.proof:
            clean.compared(link, span, differing, watch.written)
        for index in range(span.count):
            block = span.first + index
            if transaction.proof and (span.volume, block) in watch.written:
                continue
            link.unverified.discard(span.volume, block, block + 1)
            if index not in differing and (span.volume, block) not in watch.written:
                link.table.discard(span.volume, block, block + 1)
                if not transaction.direct:
                    transaction.sent.add(span.volume, block, block + 1)


def block_digests(data: bytes, key: bytes) -> bytes:
    """One keyed blake2b-128 digest for each 4 KiB block of ``data`` (the last may be short)."""
    return b"".join(
        blake2b(data[at : at + BLOCK_BYTES], digest_size=VERIFY_DIGEST_BYTES, key=key).digest()
        for at in range(0, len(data), BLOCK_BYTES)
    )
