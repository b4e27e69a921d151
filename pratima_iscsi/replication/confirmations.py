"""Operations that are done on the local volume and wait for replicas.

A sync link is waited for until what was written is durable there, a semi-sync one until it has
received it; flushes and FUA writes wait for durability in both modes. One rule: a link counts only
while it is waited for, so what a degraded or lost one owes holds nobody up.
"""

from collections import deque
from collections.abc import Sequence

from pratima_iscsi.operations import FLUSH, Operation
from pratima_iscsi.replication.link import Link
from pratima_iscsi.replication.states import Mode


class Confirmations:
    """What waits, of one group: each of the two kinds in the order in which it was done locally."""

    __slots__ = ("_durable", "_links", "_received")

    def __init__(self, links: Sequence[Link]) -> None:
        self._links = links
        self._received: deque[Operation] = deque()
        """Wait as their links' modes say."""
        self._durable: deque[Operation] = deque()
        """Wait for durability."""

    def __len__(self) -> int:
        return len(self._received) + len(self._durable)

    def add(self, operation: Operation) -> None:
        """It waits from now on."""
        if operation.kind == FLUSH or operation.fua:
            self._durable.append(operation)
        else:
            self._received.append(operation)

    def take(self, everything: int) -> list[Operation]:
        """Take out what waits no longer, in order of sequence: ``everything``, the group's
        sequence, where no link is waited for."""
        waiting = [link for link in self._links if link.waits]
        durable = min((link.durable_sequence for link in waiting), default=everything)
        received = min(
            (
                link.durable_sequence
                if link.options.mode is Mode.SYNC
                else link.watermarks.received
                for link in waiting
            ),
            default=everything,
        )
        taken = [*_up_to(self._received, received), *_up_to(self._durable, durable)]
        taken.sort(key=lambda operation: operation.sequence)
        return taken

    def since(self, now: float) -> float:
        """When the one that waits longest began; ``now`` if none does."""
        began = [queue[0].started for queue in (self._received, self._durable) if queue]
        return min(began, default=now)

    def beyond(self, sequence: int) -> bool:
        """Whether any of those that come first is later than ``sequence``."""
        return any(
            queue[0].sequence > sequence for queue in (self._received, self._durable) if queue
        )


def _up_to(queue: deque[Operation], sequence: int) -> list[Operation]:
    taken = []
    while queue and queue[0].sequence <= sequence:
        taken.append(queue.popleft())
    return taken
