"""How far a replica is, as its acknowledgements prove it: two sequences, and its last known point.

One rule: a record inside a transaction moves none of them, only the link sequence; END moves them
all.
"""

from collections.abc import Sequence
from typing import Final

from pratima_iscsi.operations import COUNTED, RecordKind
from pratima_iscsi.positions import NO_RECORD, ORIGIN, LinkSequence, Position
from pratima_iscsi.records import NO_HISTORY, End
from pratima_iscsi.sent_batch import SentBatch

UNCONFIRMED: Final = -1
"""Below every sequence: nothing of the group's generation is confirmed yet."""

_MOVING: Final = COUNTED | {RecordKind.GENERATION}


class Watermarks:
    """``durable`` ≤ ``received``, both sequences in the group's own generation."""

    __slots__ = ("acknowledged", "base", "base_history", "durable", "in_transaction", "received")

    def __init__(self) -> None:
        self.received = UNCONFIRMED
        self.durable = UNCONFIRMED
        """What the replica's effective image holds."""
        self.base = ORIGIN
        """The replica's durable position at the last acknowledgement."""
        self.base_history = NO_HISTORY
        self.in_transaction = False
        """Confirmed up to inside a transaction."""
        self.acknowledged: LinkSequence = NO_RECORD
        """The last record that the replica said it has durably, of whichever run of the source:
        what a direct resync has brought moves nothing else."""

    def forget(self) -> None:
        """Nothing of the group's generation counts as confirmed; base and transaction stay."""
        self.received = self.durable = UNCONFIRMED

    def frame_received(self, sequence: int) -> None:
        """A frame outside a transaction, its last counted record ``sequence``, was RECEIVED."""
        self.received = max(self.received, sequence)

    def acknowledge(self, incarnation: int, n: int) -> None:
        """The replica has record ``n`` of this run durably. An acknowledgement that was overtaken
        by a later one takes nothing back: else a replica that went back would be believed."""
        known = self.acknowledged
        if n and (incarnation != known.incarnation or n > known.n):
            self.acknowledged = LinkSequence(incarnation, n)

    def confirm(self, batches: Sequence[SentBatch], generation: int) -> list[End]:
        """``batches`` are durable at the replica, in their order; the ENDs among them."""
        ends: list[End] = []
        last, history = UNCONFIRMED, NO_HISTORY
        for batch in batches:
            if batch.plain:
                if not self.in_transaction:
                    last, history = batch.last_counted
                continue
            for record in batch.records:
                kind = record.entry[0]
                if kind in _MOVING:
                    if not self.in_transaction:
                        last, history = record.sequence, record.history
                elif kind == RecordKind.BEGIN:
                    self.in_transaction = True
                elif kind == RecordKind.END:
                    last = UNCONFIRMED
                    ends.append(end := End.decode(record.payload))
                    self._end(end, generation)
        if last != UNCONFIRMED:
            self._move(Position(generation, last), history)
            self._count(last)
        return ends

    def _end(self, end: End, generation: int) -> None:
        self.in_transaction = False
        self._move(end.history.position, end.digest)
        if end.history.position.generation == generation:
            self._count(end.history.position.sequence)

    def _move(self, position: Position, history: bytes) -> None:
        self.base, self.base_history = position, history

    def _count(self, sequence: int) -> None:
        self.durable = sequence
        self.received = max(self.received, sequence)

    def ended_unseen(self, position: Position, history: bytes) -> None:
        """A transaction's END, dropped here, is durable there and led to ``position``."""
        self.in_transaction = False
        self._move(position, history)

    def contradicted_by(self, position: Position, history: bytes) -> bool:
        """Whether the replica's write history at our base is another than ours."""
        known = self.base_history != NO_HISTORY and not self.in_transaction
        return known and position == self.base and history != self.base_history
