"""The journal's last units in memory, as they were checked, until they are applied.

To apply one of these costs its writes alone: no reading back, no checking twice. One rule: it is a
copy of what the journal holds and proves nothing; what is not here is read from the journal.
"""

from threading import Lock

from pratima_iscsi.limits import JOURNAL_UNIT_BYTES
from pratima_iscsi.replication.standing import CheckedFrame


class KeptUnits:
    """At most ``bytes_max`` bytes of units, the oldest ones, for they are applied next.

    A unit is a frame of writes, or None: one that carries a mark alone. One thread keeps, another
    finds and drops.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._units: dict[int, CheckedFrame | None] = {}
        self._lock = Lock()

    def keep(self, index: int, unit: CheckedFrame | None) -> None:
        """Keep unit ``index``, if it holds writes alone and there is room for it."""
        if unit is not None and not unit.writes:
            return
        size = _size(unit)
        with self._lock:
            if self._bytes + size <= self._bytes_max:
                self._units[index] = unit
                self._bytes += size

    def __contains__(self, index: int) -> bool:
        return index in self._units

    def __getitem__(self, index: int) -> CheckedFrame | None:
        return self._units[index]

    def drop(self, index: int) -> None:
        """Unit ``index`` is applied, whether it was here or not."""
        with self._lock:
            if index in self._units:
                self._bytes -= _size(self._units.pop(index))


def _size(unit: CheckedFrame | None) -> int:
    return JOURNAL_UNIT_BYTES + (0 if unit is None else len(unit.frame))
