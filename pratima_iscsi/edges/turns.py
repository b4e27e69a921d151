"""What becomes of a replica's open transaction: the next BEGIN or END that its journal holds."""

from pratima_iscsi.edges.journal import Journal
from pratima_iscsi.edges.replica_state import ReplicaState
from pratima_iscsi.operations import RecordKind
from pratima_iscsi.records import Begin, End
from pratima_iscsi.replication.wire import Entry, decode_batch


class Turns:
    """Looks ahead in one journal, at each unit once however often it is asked."""

    def __init__(self) -> None:
        """Nothing was looked at."""
        self._next = 0
        """The unit to look at first: those before it have neither, or are applied."""

    def next(self, journal: Journal, state: ReplicaState, upto: int) -> Begin | End | None:
        """The first BEGIN or END behind what ``state`` covers, in units up to ``upto``; None: there
        is neither. Raises JournalRot and RemoteProtocolError as reading does."""
        self._next = max(self._next, state.applied + 1)
        while self._next <= upto:
            frame = journal.read(self._next).frame
            entries = decode_batch(memoryview(frame)).entries if frame else ()
            covered = state.skip if self._next == state.applied + 1 else 0
            for entry in entries[covered:]:
                if (turn := _turn(entry)) is not None:
                    return turn
            self._next += 1
        return None


def _turn(entry: Entry) -> Begin | End | None:
    if entry.kind == RecordKind.BEGIN:
        return Begin.decode(entry.payload)
    return End.decode(entry.payload) if entry.kind == RecordKind.END else None
