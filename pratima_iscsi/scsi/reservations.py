"""Who may use a logical unit: RESERVE/RELEASE (SPC-2) and persistent reservations (SPC-4 5.13).

State and rules only; ``reservation_commands`` has the formats. One rule: a registration belongs to
an initiator port (its name and ISID) and outlives the nexus; a RESERVE belongs to the nexus.
Registrations are not kept through a power loss (APTPL is refused).
"""

import enum
from typing import Final

from pratima_iscsi.errors import PratimaError
from pratima_iscsi.limits import REGISTRATIONS_MAX
from pratima_iscsi.scsi.sense import (
    INVALID_PARAMETER,
    INVALID_RELEASE,
    NO_REGISTRATION_ROOM,
    REGISTRATIONS_PREEMPTED,
    RESERVATIONS_PREEMPTED,
    RESERVATIONS_RELEASED,
    CheckCondition,
    Sense,
)
from pratima_iscsi.scsi.task import Nexus
from pratima_iscsi.scsi.unit_attention import UnitAttentions

GENERATION_MODULUS: Final = 1 << 32


class Access(enum.Enum):
    """What a command does to the unit, as far as a reservation is concerned (SPC-4 table 67)."""

    FREE = enum.auto()
    """Never conflicts: INQUIRY, REPORT LUNS, REQUEST SENSE, RELEASE."""
    INFORM = enum.auto()
    """Conflicts with RESERVE only: TEST UNIT READY, READ CAPACITY."""
    PERSISTENT = enum.auto()
    """Conflicts with any RESERVE, that of its own nexus too (SPC-2 5.5.1): PERSISTENT RESERVE."""
    READ = enum.auto()
    """Conflicts with an exclusive access reservation as well."""
    WRITE = enum.auto()
    """Conflicts with every reservation of another."""


class ReservationType(enum.IntEnum):
    """Persistent reservation types (SPC-4 table 63)."""

    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 8


WRITE_EXCLUSIVES: Final = frozenset(
    {
        ReservationType.WRITE_EXCLUSIVE,
        ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
        ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS,
    }
)
ALL_REGISTRANTS: Final = frozenset(
    {
        ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS,
        ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
    }
)
SHARED: Final = ALL_REGISTRANTS | {
    ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
    ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
}
"""Types under which every registrant has access; their release is told to the others."""


class Conflict(PratimaError):
    """The command ends in RESERVATION CONFLICT. Caught where a task is executed."""


class Reservations:
    """The registrations and the reservation of one logical unit."""

    __slots__ = ("_attentions", "generation", "holder", "keys", "reserved_by", "scope_type")

    def __init__(self, attentions: UnitAttentions) -> None:
        self._attentions = attentions
        self.generation = 0
        """PRGENERATION: counts changes of the registrations."""
        self.keys: dict[str, int] = {}
        """Registered initiator ports and their keys, never 0."""
        self.holder: str | None = None
        """The port that reserved; None as well when all registrants hold the reservation."""
        self.scope_type: ReservationType | None = None
        self.reserved_by: Nexus | None = None
        """The nexus that holds a RESERVE."""

    @property
    def active(self) -> bool:
        """Whether any command can conflict."""
        return self.reserved_by is not None or self.scope_type is not None

    def check(self, nexus: Nexus, access: Access) -> None:
        """Raise ``Conflict`` when a reservation forbids this access: another's, but that
        persistent reservations do not go with a RESERVE at all."""
        if access is Access.FREE:
            return
        persistent = access is Access.PERSISTENT
        if self.reserved_by is not None and (persistent or self.reserved_by is not nexus):
            raise Conflict
        if persistent or access is Access.INFORM:
            return
        if self.scope_type is None or self.holds(nexus.port):
            return
        if self.scope_type in SHARED and nexus.port in self.keys:
            return
        if access is Access.READ and self.scope_type in WRITE_EXCLUSIVES:
            return
        raise Conflict

    def holds(self, port: str) -> bool:
        """Whether ``port`` holds the persistent reservation."""
        if self.scope_type in ALL_REGISTRANTS:
            return port in self.keys
        return self.scope_type is not None and self.holder == port

    # RESERVE and RELEASE

    def reserve_unit(self, nexus: Nexus) -> None:
        """RESERVE(6) and (10): the whole unit for one nexus."""
        if self.keys or (self.reserved_by is not None and self.reserved_by is not nexus):
            raise Conflict
        self.reserved_by = nexus

    def release_unit(self, nexus: Nexus) -> None:
        """RELEASE(6) and (10): does nothing when the nexus holds no reservation."""
        if self.keys:
            raise Conflict
        self.lose(nexus)

    def lose(self, nexus: Nexus) -> None:
        """The nexus ended, or released: its RESERVE ends with it."""
        if self.reserved_by is nexus:
            self.reserved_by = None

    def reset(self) -> None:
        """A reset ends a RESERVE; persistent reservations stay."""
        self.reserved_by = None

    # PERSISTENT RESERVE OUT, one method a service action

    def register(self, nexus: Nexus, key: int, new_key: int, *, ignore: bool) -> None:
        """REGISTER, and REGISTER AND IGNORE EXISTING KEY (SPC-4 5.13.7)."""
        old_key = self.keys.get(nexus.port)
        if not ignore and key != (old_key or 0):
            raise Conflict
        if new_key:
            if old_key is None and len(self.keys) >= REGISTRATIONS_MAX:
                raise CheckCondition(NO_REGISTRATION_ROOM)
            self.keys[nexus.port] = new_key
        elif old_key is None:
            return
        else:
            self._unregister(nexus)
        self._count()

    def reserve(self, nexus: Nexus, key: int, wanted: ReservationType) -> None:
        """RESERVE (SPC-4 5.13.9): the holder may repeat its own."""
        self._authorise(nexus, key)
        if self.scope_type is None:
            self._establish(nexus.port, wanted)
        elif not self.holds(nexus.port) or self.scope_type is not wanted:
            raise Conflict

    def release(self, nexus: Nexus, key: int, wanted: ReservationType) -> None:
        """RELEASE (SPC-4 5.13.11.2): GOOD and nothing done when another holds it, or nobody."""
        self._authorise(nexus, key)
        if not self.holds(nexus.port):
            return
        if self.scope_type is not wanted:
            raise CheckCondition(INVALID_RELEASE)
        self._release(nexus)

    def clear(self, nexus: Nexus, key: int) -> None:
        """CLEAR (SPC-4 5.13.11.4): no reservation and no registration is left."""
        self._authorise(nexus, key)
        others = set(self.keys) - {nexus.port}
        self.keys.clear()
        self.scope_type = self.holder = None
        self._tell(others, RESERVATIONS_PREEMPTED)
        self._count()

    def preempt(self, nexus: Nexus, key: int, victim: int, wanted: ReservationType) -> set[str]:
        """PREEMPT (SPC-4 5.13.11.3): take registrations with key ``victim`` away, and the
        reservation when they hold it. Returns the other ports that lost their registration."""
        self._authorise(nexus, key)
        shared = self.scope_type in ALL_REGISTRANTS
        held = None if self.holder is None else self.keys[self.holder]
        if victim == 0 and not shared:
            raise CheckCondition(INVALID_PARAMETER)
        takes_over = self.scope_type is not None and (
            victim == 0 if shared else held is not None and victim == held
        )
        everyone = shared and victim == 0
        targets = {port for port, its in self.keys.items() if everyone or its == victim}
        if not targets and not everyone:
            raise Conflict
        lost = targets - {nexus.port}
        if nexus.port in targets and not takes_over:
            lost = targets
        before = self.scope_type
        for port in lost:
            del self.keys[port]
        if takes_over:
            self._establish(nexus.port, wanted)
        elif shared and not self.keys:
            self.scope_type = None
        lost.discard(nexus.port)
        self._tell(lost, REGISTRATIONS_PREEMPTED)
        if takes_over and before is not wanted and before in SHARED:
            self._tell(set(self.keys) - {nexus.port}, RESERVATIONS_RELEASED)
        self._count()
        return lost

    def _authorise(self, nexus: Nexus, key: int) -> None:
        """Only a registered port with the right key may go on."""
        if nexus.port not in self.keys or self.keys[nexus.port] != key:
            raise Conflict

    def _establish(self, port: str, wanted: ReservationType) -> None:
        self.scope_type = wanted
        self.holder = None if wanted in ALL_REGISTRANTS else port

    def _unregister(self, nexus: Nexus) -> None:
        was_holder = self.holder == nexus.port
        del self.keys[nexus.port]
        if was_holder or (self.scope_type in ALL_REGISTRANTS and not self.keys):
            self._release(nexus)

    def _release(self, nexus: Nexus) -> None:
        if self.scope_type in SHARED:
            self._tell(set(self.keys) - {nexus.port}, RESERVATIONS_RELEASED)
        self.scope_type = self.holder = None

    def _tell(self, ports: set[str], sense: Sense) -> None:
        for nexus in self._attentions:
            if nexus.port in ports:
                self._attentions.establish(nexus, sense)

    def _count(self) -> None:
        self.generation = (self.generation + 1) % GENERATION_MODULUS
