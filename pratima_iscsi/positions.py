"""Positions: how a group counts its writes, and how generations descend from each other.

A *position* is (generation, sequence) and counts the group's writes only. A *generation* is one
incarnation that wrote: a random 64-bit id that begins at the first write after each start of the
process and after each promotion; its sequence starts at 1. An *ancestry* is the bounded list of
the generations before, each with its last sequence, or UNKNOWN after an unclean stop. One rule: a
position is only ever compared inside one group.
"""

import secrets
from typing import Final

import msgspec

from pratima_iscsi.limits import ANCESTRY_MAX

UNKNOWN: Final = -1
"""The last sequence of a generation whose primary did not stop cleanly."""

SEQUENCE_MAX: Final = (1 << 63) - 1
"""The last sequence that there can be: an ancestor's is a signed number, in frames as in a source's
database. No write comes near it, so a greater one is nonsense."""

NO_GENERATION: Final = 0
"""The generation of a group that was never written."""


class Position(msgspec.Struct, frozen=True):
    """The write number ``sequence`` of generation ``generation`` (0, 0: nothing was written)."""

    generation: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.generation:016x}:{self.sequence}"


ORIGIN: Final = Position(NO_GENERATION, 0)


class LinkSequence(msgspec.Struct, frozen=True):
    """The record number ``n`` that ``incarnation``, a run of the source, has sent on one link
    (0, 0: none). Resync records and markers count, too."""

    incarnation: int
    n: int


NO_RECORD: Final = LinkSequence(0, 0)


class Ancestor(msgspec.Struct, frozen=True):
    """A generation that ended at ``last`` (a sequence, or UNKNOWN)."""

    generation: int
    last: int


class History(msgspec.Struct, frozen=True):
    """Where a node stands: its position and the generations before, oldest first."""

    position: Position
    ancestry: tuple[Ancestor, ...] = ()

    def end_of(self, generation: int) -> int | None:
        """Last sequence of an ancestor generation, UNKNOWN, or None when it is no ancestor."""
        for ancestor in reversed(self.ancestry):
            if ancestor.generation == generation:
                return ancestor.last
        return None

    def holds(self, position: Position) -> bool:
        """Whether ``position`` is on this history (PROTOCOL: generations): our generation, or an
        ancestor that is known to have reached it. The origin is on every history."""
        if position == ORIGIN or position.generation == self.position.generation:
            return True
        last = self.end_of(position.generation)
        return last is not None and last != UNKNOWN and last >= position.sequence

    def begin(self, generation: int, *, clean: bool = True) -> "History":
        """The history after ``generation`` begins; ``clean`` tells whether our own end is known."""
        if self.position.generation == NO_GENERATION:
            return History(Position(generation, 0))
        own = Ancestor(self.position.generation, self.position.sequence if clean else UNKNOWN)
        return History(Position(generation, 0), (*self.ancestry, own)[-ANCESTRY_MAX:])

    def at(self, sequence: int) -> "History":
        """The same history with our own generation at ``sequence``."""
        return History(Position(self.position.generation, sequence), self.ancestry)


def new_generation() -> int:
    """A fresh random generation, incarnation or transaction id: 64 bits, never 0."""
    return secrets.randbits(64) or 1
