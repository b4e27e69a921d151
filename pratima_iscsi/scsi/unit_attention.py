"""Unit attentions: what each I_T nexus must still be told (SAM-5 5.14).

One rule: an attention is queued once for a nexus, and reported once.
"""

from collections.abc import Iterator

from pratima_iscsi.scsi.sense import POWER_ON_OR_RESET, Sense
from pratima_iscsi.scsi.task import Nexus


class UnitAttentions:
    """The attached nexuses of a logical unit and the attentions that wait for them."""

    __slots__ = ("_attached", "pending")

    def __init__(self) -> None:
        self._attached: dict[Nexus, None] = {}
        self.pending: dict[Nexus, list[Sense]] = {}
        """Nexuses with attentions, oldest first: no entry is empty, none is of another nexus."""

    def __iter__(self) -> Iterator[Nexus]:
        return iter(tuple(self._attached))

    def attach(self, nexus: Nexus) -> None:
        """A nexus came to be: it is told of the power-on that it did not see."""
        if nexus not in self._attached:
            self._attached[nexus] = None
            self.establish(nexus, POWER_ON_OR_RESET)

    def detach(self, nexus: Nexus) -> None:
        """The nexus is lost."""
        self._attached.pop(nexus, None)
        self.pending.pop(nexus, None)

    def establish(self, nexus: Nexus, sense: Sense) -> None:
        """Queue ``sense``; a reset takes the place of whatever waited (SAM-5 table 55)."""
        if nexus not in self._attached:
            return
        waiting = self.pending.get(nexus)
        if waiting is None or sense == POWER_ON_OR_RESET:
            self.pending[nexus] = [sense]
        elif sense not in waiting:
            waiting.append(sense)

    def establish_for_all(self, sense: Sense, but: Nexus | None = None) -> None:
        """Queue ``sense`` for every nexus but one."""
        for nexus in self._attached:
            if nexus is not but:
                self.establish(nexus, sense)

    def take(self, nexus: Nexus) -> Sense | None:
        """The oldest attention of ``nexus``, which is then reported."""
        waiting = self.pending.get(nexus)
        if waiting is None:
            return None
        sense = waiting.pop(0)
        if not waiting:
            del self.pending[nexus]
        return sense

    def withdraw(self, nexus: Nexus, sense: Sense) -> None:
        """Drop one attention that was answered another way (REPORT LUNS)."""
        waiting = self.pending.get(nexus)
        if waiting is not None and sense in waiting:
            waiting.remove(sense)
            if not waiting:
                del self.pending[nexus]
