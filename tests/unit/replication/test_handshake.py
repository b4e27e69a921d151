"""The handshake's table: over the product of what both sides may say, one rule decides, and each is
reached; and the two that must never be wrong are held against a plain wording of their own."""

import os
from collections.abc import Iterator
from itertools import product
from random import Random

import pytest

from pratima_iscsi.positions import (
    NO_GENERATION,
    NO_RECORD,
    ORIGIN,
    UNKNOWN,
    Ancestor,
    History,
    LinkSequence,
    Position,
)
from pratima_iscsi.records import NO_HISTORY
from pratima_iscsi.replication.handshake import (
    RULES,
    Doubt,
    ReplicaFacts,
    SourceFacts,
    Verdict,
    decide,
)

DIGEST, OTHER = b"d" * 16, b"o" * 16
G0, G1, G2, STRANGE = 10, 11, 12, 99
HISTORIES = (
    History(ORIGIN),
    History(Position(G1, 8)),
    History(Position(G1, 8), (Ancestor(G0, 5),)),
    History(Position(G1, 0), (Ancestor(G0, UNKNOWN),)),
)
THEIRS = (
    History(ORIGIN),
    History(Position(G0, 4)),
    History(Position(G0, 6)),
    History(Position(G1, 7)),
    History(Position(G1, 8)),
    History(Position(G1, 9)),
    History(Position(G2, 3), (Ancestor(G1, 8),)),
    History(Position(STRANGE, 3)),
)

SAID = (
    (NO_RECORD, 0),
    (LinkSequence(1, 4), 1),
    (LinkSequence(2, 4), 1),
    (LinkSequence(2, 4), 2),
    (LinkSequence(3, 4), 1),
)
"""The last record that the replica acknowledged, and the run that spoke to it last."""


def sources() -> list[SourceFacts]:
    """What a source may know."""
    return [
        SourceFacts(
            history=history,
            incarnation=1,
            transaction=transaction,
            direct=direct,
            comparing=comparing and transaction != 0,
            table_empty=empty and transaction == 0,
            first_n=5,
            next_n=9,
            base=base,
            base_history=DIGEST,
            acknowledged=acknowledged,
            sender=sender,
            doubt=doubt,
            ended=ended,
            held=held,
        )
        for (
            history,
            transaction,
            direct,
            comparing,
            empty,
            base,
            (acknowledged, sender),
            doubt,
            ended,
            held,
        ) in product(
            HISTORIES,
            (0, 7),
            (0, 7),
            (False, True),
            (False, True),
            (ORIGIN, Position(G1, 7), Position(G1, 8)),
            SAID,
            tuple(Doubt),
            (0, 3),
            (False, True),
        )
    ]


def replicas() -> list[ReplicaFacts]:
    """What a replica may say."""
    return [
        ReplicaFacts(
            bound=bound,
            consistent=consistent,
            history=history,
            digest=digest,
            incarnation=incarnation,
            durable=durable,
            transaction=open_id,
            direct=direct and open_id != 0,
            ended=3,
        )
        for bound, consistent, history, digest, incarnation, durable, open_id, direct in product(
            (False, True),
            (False, True),
            THEIRS,
            (DIGEST, OTHER),
            (1, 2),
            (2, 6, 20),
            (0, 7, 8),
            (False, True),
        )
    ]


ALL_SOURCES, ALL_REPLICAS = sources(), replicas()


def pairs(count: int) -> Iterator[tuple[SourceFacts, ReplicaFacts]]:
    """The product of both; where PRATIMA_LONG is not set, ``count`` of its 37 million cases."""
    if os.environ.get("PRATIMA_LONG"):
        yield from product(ALL_SOURCES, ALL_REPLICAS)
        return
    rng = Random(count)
    for _ in range(count):
        yield rng.choice(ALL_SOURCES), rng.choice(ALL_REPLICAS)


def test_one_rule_decides_in_every_case_and_each_is_reached() -> None:
    reached = {decide(source, replica).name for source, replica in pairs(200_000)}
    assert reached == {rule.name for rule in RULES}


def test_rules_have_names_of_their_own_and_the_last_matches_always() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(RULES[-1].matches(source, replica) for source, replica in pairs(1000))


def test_data_only_flows_without_a_copy_of_everything_when_nothing_speaks_against_it() -> None:
    for source, replica in pairs(50_000):
        verdict = decide(source, replica).verdict
        if verdict not in (Verdict.CONTINUE, Verdict.REPLAY, Verdict.TABLE):
            continue
        assert replica.bound and not source.held
        assert replica.consistent or replica.direct
        assert source.comparing or source.history.holds(replica.history.position)
        assert source.doubt is Doubt.NONE
        known = source.acknowledged
        if replica.incarnation == known.incarnation:
            assert replica.durable >= known.n
        elif known.n and replica.consistent:
            assert replica.incarnation == source.sender
        if verdict is not Verdict.TABLE:
            assert replica.incarnation == source.incarnation
            assert source.first_n <= replica.durable + 1
        if verdict is Verdict.REPLAY:
            assert source.table_empty and not replica.transaction
            assert replica.digest == source.base_history != NO_HISTORY
            assert replica.history.position == source.base


def test_a_consistent_replica_of_another_history_is_never_written() -> None:
    writing = {Verdict.FIRST_SYNC, Verdict.CONTINUE, Verdict.REPLAY, Verdict.TABLE}
    for source, replica in pairs(50_000):
        if not (replica.bound and replica.consistent) or source.comparing:
            continue
        position = replica.history.position
        unknown = source.history.end_of(position.generation) == UNKNOWN
        if not source.history.holds(position) and not unknown:
            assert decide(source, replica).verdict not in writing | {Verdict.COMPARE}


@pytest.mark.parametrize("position", [Position(G1, 9), Position(G1, 1000)])
def test_a_replica_ahead_is_refused(position: Position) -> None:
    source = next(s for s in sources() if s.history == HISTORIES[1] and not s.held)
    replica = next(
        r for r in replicas() if r.bound and r.consistent and r.history.position.generation == G1
    )
    ahead = ReplicaFacts(
        True, True, History(position), replica.digest, 2, 2, 0, False, source.ended
    )
    assert decide(source, ahead).verdict is Verdict.REFUSE


def test_an_old_primary_whose_generation_ended_at_the_replica_is_refused() -> None:
    for source in sources():
        if source.history.position.generation in (NO_GENERATION, G2):
            continue
        replica = ReplicaFacts(True, True, THEIRS[6], DIGEST, 2, 2, 0, False, 3)
        assert decide(source, replica).name == "replaced"
