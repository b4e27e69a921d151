"""Where a replica's durable state lets its state machine begin."""

from pratima_iscsi.edges.replica_state import ReplicaState
from pratima_iscsi.replication.standing import Standing


def standing_of(state: ReplicaState) -> Standing:
    """The standing of a recovered replica: everything that its journal held is applied."""
    return Standing(
        group=state.group or bytes(16),
        consistent=state.consistent,
        history=state.history,
        digest=state.digest,
        incarnation=state.incarnation,
        n=state.n,
        transaction=state.transaction,
        direct=state.direct,
        ended=state.ended,
        sizes=tuple(volume.size for volume in state.volumes),
    )
