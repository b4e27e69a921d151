"""The walk over a frame's records, from one standing of a replica to the next.

One rule: it moves only itself; what it has found is a value that the replica may take or leave.
"""

from collections.abc import Sequence

from pratima_iscsi.operations import COUNTED, RecordKind
from pratima_iscsi.records import (
    Begin,
    End,
    GenerationBegin,
    next_history,
    seed_history,
)
from pratima_iscsi.replication.record_rules import check, check_order, continues
from pratima_iscsi.replication.standing import CheckedFrame, Standing
from pratima_iscsi.replication.wire import Batch, Entry


class Walk:
    """Walks a frame's entries from one standing to the next (a Place of the record rules)."""

    def __init__(self, before: Standing, of: int, capacities: Sequence[int]) -> None:
        """``of``: the generation that the frame's header names."""
        self.before = before
        self.of = of
        self.capacities = capacities
        self.sizes = list(before.sizes)
        self.history = before.history
        self.generation = before.history.position.generation
        self.sequence = before.history.position.sequence
        self.digest = before.digest
        self.consistent = before.consistent
        self.transaction = before.transaction
        self.direct = before.direct
        self.ended = before.ended
        self.plain = self.consistent and not self.transaction and of == self.generation
        """Whether nothing but plain writes was walked over."""

    def take(self, entry: Entry) -> None:
        """Walk over one record. Raises RemoteProtocolError for one that may not stand here."""
        if self.plain:
            if continues(entry, self.sequence, self.sizes):
                self.sequence += 1
                self.digest = next_history(self.digest, entry.entry, entry.payload)
                return
            self.plain = False
        check(entry, self, self.of)
        kind = entry.kind
        if kind in COUNTED:
            if kind == RecordKind.RESIZE:
                self.sizes[entry.volume] = entry.length
            if not self.transaction:
                self.sequence = entry.sequence
                self.digest = next_history(self.digest, entry.entry, entry.payload)
        elif kind == RecordKind.GENERATION:
            if not self.transaction:
                self._generation(GenerationBegin.decode(entry.payload).generation)
        elif kind == RecordKind.BEGIN:
            self._begin(Begin.decode(entry.payload))
        elif kind == RecordKind.END:
            self._end(End.decode(entry.payload))

    def _generation(self, generation: int) -> None:
        self.history = self.history.at(self.sequence).begin(generation)
        self.sequence = 0
        self.digest = seed_history(generation, self.digest)
        self.generation = generation

    def _begin(self, begin: Begin) -> None:
        self.sizes = list(begin.sizes or self.sizes)
        self.history = self.history.at(self.sequence)
        self.transaction, self.direct = begin.transaction, begin.direct
        if begin.direct:
            self.consistent = False

    def _end(self, end: End) -> None:
        self.history, self.digest = end.history, end.digest
        self.sequence = end.history.position.sequence
        self.generation = end.history.position.generation
        self.ended, self.transaction, self.direct = end.transaction, 0, False
        self.consistent = True

    def checked(self, batch: Batch) -> CheckedFrame:
        """Walk over the whole of ``batch``. Raises RemoteProtocolError as ``take`` does."""
        for entry in batch.entries:
            self.take(entry)
        if not self.plain:
            check_order(batch)
        after = self._standing(batch.header.incarnation, batch.last_n)
        writes = batch.entries if self.plain else ()
        return CheckedFrame(batch.header, batch.frame, writes, self.before.digest, after)

    def _standing(self, incarnation: int, n: int) -> Standing:
        return Standing(
            group=self.before.group,
            consistent=self.consistent,
            history=self.history.at(self.sequence),
            digest=self.digest,
            incarnation=incarnation,
            n=n,
            transaction=self.transaction,
            direct=self.direct,
            ended=self.ended,
            sizes=tuple(self.sizes),
        )
