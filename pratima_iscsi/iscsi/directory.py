"""What one portal serves: its targets, who may use them, and the sessions that do.

One rule: at most one session for each (initiator name, ISID, target): a new login with the same
three ends the old session first (RFC 7143 6.3.5).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from pratima_iscsi.errors import UsageError
from pratima_iscsi.iscsi.chap import Account
from pratima_iscsi.iscsi.names import normalized, normalized_initiator
from pratima_iscsi.limits import PORTAL_SESSIONS_MAX
from pratima_iscsi.scsi.target import Target

PORTAL_GROUP_TAG: Final = 1
TSIH_MAX: Final = 0xFFFF

SessionKey = tuple[str, int, str]
"""Initiator name, ISID and target name ("" for a discovery session)."""


@dataclass(frozen=True, slots=True)
class ServedTarget:
    """One target: its name, its logical units, and who may log in to it.

    ``accounts`` empty: no CHAP. ``initiators`` None: any initiator, else the names that may.
    """

    name: str
    device: Target
    accounts: tuple[Account, ...] = ()
    initiators: frozenset[str] | None = None
    alias: str = ""

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "name", normalized(self.name))
            if self.initiators is not None:
                allowed = frozenset(map(normalized_initiator, self.initiators))
                object.__setattr__(self, "initiators", allowed)
        except ValueError as error:
            raise UsageError(str(error), "write it as iqn.YYYY-MM.reversed.domain:name") from error

    def admits(self, initiator: str) -> bool:
        """Whether an initiator of this name may see and use the target."""
        return self.initiators is None or initiator in self.initiators


class RegisteredSession(Protocol):
    """What the directory asks of a session."""

    def end(self, reason: str) -> None:
        """End it now: tasks aborted, nexus gone, connection closed."""


@dataclass(slots=True)
class Directory:
    """The targets of one portal by name, and its sessions."""

    targets: dict[str, ServedTarget] = field(default_factory=dict)
    discovery_accounts: tuple[Account, ...] = ()
    """CHAP accounts for discovery sessions; empty: no CHAP there."""
    open_to_logins: bool = True
    sessions: dict[int, tuple[SessionKey, RegisteredSession]] = field(default_factory=dict)
    """By TSIH."""
    _tsih: dict[SessionKey, int] = field(default_factory=dict)
    _last_tsih: int = 0

    @classmethod
    def of(
        cls, targets: Iterable[ServedTarget], discovery_accounts: Iterable[Account] = ()
    ) -> "Directory":
        """A directory of these targets; ``UsageError`` when two have one name."""
        directory = cls(discovery_accounts=tuple(discovery_accounts))
        for target in targets:
            directory.add(target)
        return directory

    def add(self, target: ServedTarget) -> None:
        """Serve one more target."""
        if target.name in self.targets:
            raise UsageError(f"two targets are named {target.name}", "give each its own name")
        self.targets[target.name] = target

    def remove(self, name: str) -> None:
        """Serve a target no more: nobody sees it or logs in to it; its sessions stay."""
        del self.targets[name]

    def sessions_of(self, target: str) -> int:
        """How many sessions a target has."""
        return sum(key[2] == target for key, _ in self.sessions.values())

    def visible_to(self, initiator: str) -> list[ServedTarget]:
        """The targets that an initiator may use, by name."""
        return [self.targets[name] for name in sorted(self.targets) if self.admits(name, initiator)]

    def admits(self, name: str, initiator: str) -> bool:
        """Whether there is such a target and the initiator may use it."""
        target = self.targets.get(name)
        return target is not None and target.admits(initiator)

    def has_room(self, key: SessionKey) -> bool:
        """Whether a session with this key may begin: there is room, or it replaces one."""
        return len(self.sessions) < PORTAL_SESSIONS_MAX or key in self._tsih

    def open(self, key: SessionKey, session: RegisteredSession) -> int:
        """Register a session, ending the one that it replaces; gives its TSIH."""
        old = self._tsih.get(key)
        if old is not None:
            self.sessions[old][1].end("reinstated by a new login")
            self.close(old)
        assert len(self.sessions) < PORTAL_SESSIONS_MAX
        tsih = self._next_tsih()
        self.sessions[tsih] = (key, session)
        self._tsih[key] = tsih
        return tsih

    def close(self, tsih: int) -> None:
        """Forget a session; one that was forgotten before is passed over."""
        entry = self.sessions.pop(tsih, None)
        if entry is not None:
            del self._tsih[entry[0]]

    def tsih_of(self, key: SessionKey) -> int | None:
        """The TSIH of the session with this key."""
        return self._tsih.get(key)

    def end_all(self, target: str, reason: str) -> None:
        """End every session of a target (RFC 7143 11.5.1, TARGET COLD RESET)."""
        for key, session in list(self.sessions.values()):
            if key[2] == target:
                session.end(reason)

    def _next_tsih(self) -> int:
        # Not reused soon: a stale TSIH must not name another session.
        while True:
            self._last_tsih = self._last_tsih % TSIH_MAX + 1
            if self._last_tsih not in self.sessions:
                return self._last_tsih
