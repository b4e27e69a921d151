"""The handshake: a table of named rules, tried in order; the first that matches decides.

The source applies it to a replica's WELCOME. A replica's own refusals (version, group, size, an
unknown key) come before, as REFUSED messages. One rule: no verdict clears a table; only durable
acknowledgements do.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pratima_iscsi.positions import (
    NO_GENERATION,
    ORIGIN,
    UNKNOWN,
    Ancestor,
    History,
    LinkSequence,
    Position,
)


class Verdict(enum.Enum):
    """What a source does after a handshake."""

    REFUSE = enum.auto()
    DIVERGED = enum.auto()
    HOLD = enum.auto()
    """Send nothing until the operator decides."""
    FIRST_SYNC = enum.auto()
    """Table := all, in a direct transaction."""
    COMPARE = enum.auto()
    """Table := all, compared by hash inside a transaction."""
    CONTINUE = enum.auto()
    """The open transaction goes on from the replica's link sequence."""
    REPLAY = enum.auto()
    """The log holds everything: send from the replica's link sequence on."""
    TABLE = enum.auto()
    """Resync what table, transaction and log name."""


class Doubt(enum.Enum):
    """Why a source does not know what the replica lacks, so that all is compared."""

    NONE = enum.auto()
    """It knows."""
    UNCLEAN_STOP = enum.auto()
    HISTORIES = enum.auto()
    """The replica's history digest was another one."""
    FORGOTTEN = enum.auto()
    """It was given up with ``disable``, or never known."""


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What the source knows when a WELCOME arrives."""

    history: History
    incarnation: int
    transaction: int
    """The open transaction's id, 0: none."""
    direct: int
    """The direct transaction that this source has, or had at its clean stop; 0: none."""
    comparing: bool
    """Whether the open transaction is a comparison, and the replica has it open, too."""
    table_empty: bool
    """Whether both the table and T are empty."""
    first_n: int
    """Link sequence of the oldest queued record, or of the next one."""
    next_n: int
    """Link sequence after the last record ever sent."""
    base: Position
    """The last durable position that the replica acknowledged."""
    base_history: bytes
    acknowledged: LinkSequence
    """The last record that the replica said it has durably, also before a clean stop."""
    sender: int
    """The incarnation that had the last session with the replica, 0: none."""
    doubt: Doubt
    ended: int
    """The last transaction whose END this incarnation saw confirmed, 0: none."""
    held: bool
    """The primary lost power and the replica may hold acknowledged writes."""


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """What the WELCOME says of the replica."""

    bound: bool
    consistent: bool
    history: History
    digest: bytes
    incarnation: int
    durable: int
    transaction: int
    direct: bool
    ended: int


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: when it matches, what follows, and why in the operator's words."""

    name: str
    matches: Callable[[SourceFacts, ReplicaFacts], bool]
    verdict: Verdict
    reason: str
    alarm: bool = False


def _same_direct(source: SourceFacts, replica: ReplicaFacts) -> bool:
    """A direct transaction of ours is open there, and what it had confirmed is there still."""
    if not replica.direct or not replica.transaction or replica.transaction != source.direct:
        return False
    # Inside it only the run that began it has sent anything.
    return not _lacks_acknowledged(source, replica)


def _lacks_acknowledged(source: SourceFacts, replica: ReplicaFacts) -> bool:
    """What it said it has durably, of the run that it heard last, is not there."""
    known = source.acknowledged
    return replica.incarnation == known.incarnation and replica.durable < known.n


def _replaced(source: SourceFacts, replica: ReplicaFacts) -> bool:
    ours = source.history.position.generation
    if ours == NO_GENERATION or replica.history.position.generation == ours:
        return False
    last = replica.history.end_of(ours)
    return last is not None


def _unknown_end(source: SourceFacts, replica: ReplicaFacts) -> bool:
    position = replica.history.position
    if source.history.holds(position) or source.comparing:
        return False
    return source.history.end_of(position.generation) == UNKNOWN


def _below_base(source: SourceFacts, replica: ReplicaFacts) -> bool:
    theirs, base = replica.history.position, source.base
    if not replica.consistent:
        return False
    if _lacks_acknowledged(source, replica):
        # What a direct resync had confirmed moved no position, and is not there any more.
        return True
    if base == ORIGIN or source.comparing:
        return False
    if source.ended and replica.ended != source.ended:
        # Even where the position is the same: a resync may have mended blocks at it.
        return True
    if theirs.generation == base.generation:
        return theirs.sequence < base.sequence
    # Another generation on our history is older, unless it is the one that writes now.
    return theirs.generation != source.history.position.generation


def _unknown_run(source: SourceFacts, replica: ReplicaFacts) -> bool:
    """It heard last neither the run that it acknowledged a record of, nor one that may have sent
    more since: it is older, or that run ended uncleanly before it had written anything."""
    known = source.acknowledged
    if not replica.consistent or not known.n:
        return False
    return replica.incarnation not in (known.incarnation, source.sender)


def _ahead(source: SourceFacts, replica: ReplicaFacts) -> bool:
    ours, theirs = source.history.position, replica.history.position
    if replica.incarnation == source.incarnation and replica.durable >= source.next_n:
        return True
    return theirs.generation == ours.generation and theirs.sequence > ours.sequence


def _same_transaction(source: SourceFacts, replica: ReplicaFacts) -> bool:
    return (
        replica.incarnation == source.incarnation
        and source.transaction != 0
        and replica.transaction == source.transaction
        and source.first_n <= replica.durable + 1
    )


def _log_holds_all(source: SourceFacts, replica: ReplicaFacts) -> bool:
    return (
        replica.incarnation == source.incarnation
        and source.table_empty
        and replica.transaction == 0
        and source.first_n <= replica.durable + 1 <= source.next_n
        and replica.history.position == source.base
        and replica.digest == source.base_history
    )


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "first sync",
        lambda s, r: not r.bound or (not r.consistent and not _same_direct(s, r)),
        Verdict.FIRST_SYNC,
        "the replica has no consistent copy yet",
    ),
    Rule(
        "replaced",
        _replaced,
        Verdict.REFUSE,
        "the replica's history holds this node's generation and goes on: another node was promoted",
        alarm=True,
    ),
    Rule(
        "primary lost power",
        lambda s, r: s.held,
        Verdict.HOLD,
        "primary lost power: the replica may hold acknowledged writes",
        alarm=True,
    ),
    Rule(
        "unknown end",
        _unknown_end,
        Verdict.COMPARE,
        "the generation that the replica holds did not end cleanly here",
    ),
    Rule(
        "diverged",
        lambda s, r: not s.history.holds(r.history.position) and not s.comparing,
        Verdict.DIVERGED,
        "the replica's position is not on this group's history",
        alarm=True,
    ),
    Rule(
        "replica went back",
        _below_base,
        Verdict.COMPARE,
        "the replica is older than what it had acknowledged as durable",
        alarm=True,
    ),
    Rule(
        "unknown run",
        _unknown_run,
        Verdict.COMPARE,
        "the replica's last record is older than what it had acknowledged, or of a run of this "
        "node that was not remembered",
        alarm=True,
    ),
    Rule(
        "replica ahead",
        _ahead,
        Verdict.REFUSE,
        "the replica is ahead of this node: it holds writes that this node does not know",
        alarm=True,
    ),
    Rule(
        "unclean stop",
        lambda s, r: s.doubt is Doubt.UNCLEAN_STOP,
        Verdict.COMPARE,
        "the last stop was not clean, or what it left is not believed",
    ),
    Rule(
        "histories differ",
        lambda s, r: s.doubt is Doubt.HISTORIES,
        Verdict.COMPARE,
        "the write histories differed",
    ),
    Rule(
        "forgotten table",
        lambda s, r: s.doubt is Doubt.FORGOTTEN,
        Verdict.COMPARE,
        "which blocks the replica lacks was given up when the link was disabled, or never known",
    ),
    Rule(
        "same transaction",
        _same_transaction,
        Verdict.CONTINUE,
        "the open resync transaction goes on",
    ),
    Rule(
        "log holds all", _log_holds_all, Verdict.REPLAY, "the log still holds all that is missing"
    ),
    Rule(
        "block write table",
        lambda s, r: True,
        Verdict.TABLE,
        "the block write table names what is missing",
    ),
)
"""In order; the first that matches decides, and the last one always does."""


def decide(source: SourceFacts, replica: ReplicaFacts) -> Rule:
    """The first rule that matches."""
    return next(rule for rule in RULES if rule.matches(source, replica))


def history_of(generation: int, sequence: int, ancestry: tuple[tuple[int, int], ...]) -> History:
    """A history from the plain numbers of a message."""
    return History(Position(generation, sequence), tuple(Ancestor(*pair) for pair in ancestry))
