"""``clean``: a link's replica declared equal, with nothing copied; by a proof or by a word.

A proof is a comparison of all that the table names, inside a transaction of its own: the first
difference fails it. Live writes are all queued meanwhile, so what was proved equal stays so. The
operator's word is about the table as it is when the word is given: each later write takes its
blocks out of it, and they are brought over. Both end with END, so that the replica adopts position
and history digest as after any resync; whatever fails before that, or is killed, leaves the blocks
in the table, and a link that was DISABLED is so again.

One rule: a block leaves the table by a digest that is the same at both ends, or because the
operator said so of the very content that it still has.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pratima_iscsi.block_write_table import BlockWriteTable
from pratima_iscsi.blocks import BLOCK_BYTES, BlockRange
from pratima_iscsi.replication.effects import PersistLink, Report
from pratima_iscsi.replication.states import Connection, Replication
from pratima_iscsi.replication.transaction import Transaction

if TYPE_CHECKING:
    from pratima_iscsi.replication.link import Link


@dataclass(slots=True)
class Clean:
    """What was asked for, until its END is durable or it has failed."""

    proof: bool
    was_disabled: bool
    """The link was DISABLED, and is so again if this fails."""
    declared: BlockWriteTable
    """Of a word: the blocks that it is about. BEGIN takes them into T."""
    failure: str = ""
    """Why it has failed; the next pump carries that out."""

    def note_write(self, volume: int, first: int, end: int) -> None:
        """A write of these blocks was admitted: what was said of them is no longer so."""
        self.declared.discard(volume, first, end)

    def fail(self, reason: str) -> None:
        """It has failed, for the first reason that is given."""
        self.failure = self.failure or reason


def declare(link: "Link", in_flight: BlockWriteTable, now: float, *, proof: bool) -> bool:
    """Begin to declare ``link`` clean; False: its table is empty, there is nothing to declare.

    ``in_flight``: blocks of writes that the local volume does not have yet.
    """
    was_disabled = link.clean.was_disabled if link.clean is not None else False
    if link.connection is Connection.DISABLED:
        was_disabled = True
        link.enable(now)
    elif link.covered and not link.must_compare:
        return False
    declared = BlockWriteTable(len(link.group.sizes))
    if not proof:
        declared.update(link.table)
        # What the replica may still receive, or the volume still get, nobody has looked at.
        under_way = in_flight.copy()
        under_way.add_entries(link.queue.entries)
        declared.subtract(under_way)
    reason = "to be proved equal" if proof else "declared equal by the operator, without proof"
    link.clean = None
    link.lose(reason, now)
    link.fold(now)
    link.clean = Clean(proof, was_disabled, declared)
    link.replicate_by(Replication.TABLE, reason)
    link.group.emit(Report(link.index, "clean", reason))
    link.retry_at = now
    return True


def left_to_bring(link: "Link") -> int:
    """Blocks that the transaction about to begin may have to stage."""
    if link.clean is None:
        return len(link.table)
    if link.clean.proof:
        return 0
    left = link.table.copy()
    left.subtract(link.clean.declared)
    return len(left)


def begun(link: "Link", transaction: Transaction) -> str:
    """BEGIN is about to be appended: take the word's blocks out of the table, or suspect them all.

    What ``status`` says of it.
    """
    clean = link.clean
    if clean is None:
        return f"{len(link.table)} blocks to bring over"
    if clean.proof:
        link.unverified.update(link.table)
        transaction.comparing = transaction.proof = True
        return f"{len(link.table)} blocks to be proved equal"
    clean.declared.intersect(link.table)
    link.table.subtract(clean.declared)
    link.unverified.subtract(clean.declared)
    transaction.comparing = bool(link.unverified)
    if not transaction.direct:
        transaction.sent.update(clean.declared)
    said = len(clean.declared)
    clean.declared.clear()
    return f"{said} blocks declared equal, {len(link.table)} to bring over"


def compared(link: "Link", span: BlockRange, differing: set[int], written: BlockWriteTable) -> None:
    """The replica's answer in a proof; blocks ``written`` before the question are asked again."""
    assert link.clean is not None
    found = [
        span.first + index
        for index in range(span.count)
        if (span.volume, span.first + index) not in written and index in differing
    ]
    if found:
        name = link.group.offer()[3][span.volume].name
        link.clean.fail(
            f"volume {name}: {len(found)} of {span.count} blocks from byte "
            f"{span.first * BLOCK_BYTES} on differ, the first at byte {found[0] * BLOCK_BYTES}"
        )


def ended(link: "Link") -> None:
    """An END is durable at the replica: what was asked for is so."""
    if link.clean is None:
        return
    how = "proved" if link.clean.proof else "by the operator's word"
    link.clean = None
    link.group.emit(Report(link.index, "clean", f"the replica is equal, {how}"))
    link.group.emit(PersistLink(link.index))


def give_up(link: "Link", reason: str) -> None:
    """The operator gave another command."""
    if link.clean is not None:
        link.clean = None
        link.group.emit(Report(link.index, "not clean", reason))


def carry_out_failure(link: "Link", now: float) -> None:
    """End what has failed: everything stays in the table, and the link is as it was."""
    clean, link.clean = link.clean, None
    assert clean is not None and clean.failure
    reason = f"not clean: {clean.failure}"
    link.group.emit(Report(link.index, "not clean", clean.failure, alarm=True))
    if clean.was_disabled:
        link.disable(now, reason)
    else:
        link.lose(reason, now)
        link.fold(now)
        link.replicate_by(Replication.TABLE, reason)
