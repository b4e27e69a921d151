"""What an operator may ask of a primary: the verbs of the control socket.

One rule: each names what it reached, or says why it reached none.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pratima_iscsi.control.options import unknown_group
from pratima_iscsi.engine.served_group import ServedGroup
from pratima_iscsi.errors import StateError, UsageError
from pratima_iscsi.replication.link import Link
from pratima_iscsi.replication.states import Connection


@dataclass(frozen=True, slots=True)
class _Reached:
    """The links that a verb met, by the names of their replicas."""

    names: list[str] = field(default_factory=list)
    disabled: list[str] = field(default_factory=list)
    """Left alone: nothing happens there until ``enable``."""

    def told(self, what: str) -> str:
        """``what`` was done, and to whom."""
        done = f"{what} {', '.join(self.names)}"
        if self.disabled:
            left = ", ".join(self.disabled)
            return f"{done}; disabled, and left so until pratima enable: {left}"
        return done


class SourceVerbs:
    """The groups of one daemon by name, and what they and their links can be told to do."""

    def __init__(self) -> None:
        self.groups: dict[str, ServedGroup] = {}

    def names(self) -> list[str]:
        """Of the groups that there are, served or not."""
        return list(self.groups)

    def chosen(self, group: str) -> list[ServedGroup]:
        """The group of this name, all for the empty one. Raises StateError."""
        if not group:
            return list(self.groups.values())
        if group not in self.groups:
            raise unknown_group(group, self.groups)
        return [self.groups[group]]

    def _one(self, verb: str, group: str) -> ServedGroup:
        """The group of this name; the empty one will do where there is but one. Raises
        OperatorError: no verb reaches a group that nobody thought of."""
        names = self.names()
        if not group and len(names) > 1:
            known = ", ".join(names)
            raise UsageError(f"{verb}: there are several groups", f"name one of them: {known}")
        if not self.groups or (group in names and group not in self.groups):
            what = f"group {group} is not" if group else "no group is"
            raise StateError(f"{verb}: {what} served here", "see `pratima status` for the reason")
        return self.chosen(group)[0]

    def _each(
        self,
        verb: str,
        group: str,
        replica: str,
        act: Callable[[ServedGroup, Link, float], None],
        *,
        at_work: bool = False,
    ) -> "_Reached":
        """Do something to the links that are meant; with ``at_work`` a disabled one is left alone,
        since nothing would happen there."""
        known = self._one(verb, group)
        reached = _Reached()
        now = time.monotonic()
        meant = [x for x in known.engine.backstore.links if replica in ("", x.options.name)]
        try:
            for link in meant:
                known.events.control(known.place(link.index), verb)
                if at_work and link.connection is Connection.DISABLED:
                    reached.disabled.append(link.options.name)
                    continue
                act(known, link, now)
                reached.names.append(link.options.name)
        finally:
            known.engine.turn()
        if not meant:
            raise StateError(
                f"there is no replica {replica!r}" if replica else "there is no replica",
                "see `pratima status` for their names",
            )
        if not reached.names:
            raise StateError(
                f"{verb}: disabled, with neither queue nor session: {', '.join(reached.disabled)}",
                "put it to work with `pratima enable`; until then nothing happens there",
            )
        return reached

    def resync(self, group: str, replica: str, from_primary: bool) -> str:
        """Bring over what is missing, now."""

        def act(known: ServedGroup, link: Link, now: float) -> None:
            if from_primary:
                link.resync_from_primary(now)
            known.engine.backstore.reconnect(link.index, now)
            known.seek(link)

        verb = "resync --from-primary" if from_primary else "resync"
        return self._each(verb, group, replica, act, at_work=True).told("resync of")

    def kill(self, group: str, replica: str) -> str:
        """Drop queue and session."""
        again: list[str] = []

        def act(known: ServedGroup, link: Link, now: float) -> None:
            known.engine.backstore.kill(link.index, now)
            if link.connection is Connection.DISABLED:
                again.append(link.options.name)

        reached = self._each("kill --drop-queue", group, replica, act, at_work=True)
        told = reached.told("killed the sessions of")
        return f"{told}; disabled again, as before clean: {', '.join(again)}" if again else told

    def reconnect(self, group: str, replica: str) -> str:
        """Connect now."""

        def act(known: ServedGroup, link: Link, now: float) -> None:
            known.engine.backstore.reconnect(link.index, now)
            known.seek(link)

        return self._each("reconnect", group, replica, act, at_work=True).told("connecting to")

    def enable(self, group: str, replica: str) -> str:
        """Put disabled links to work."""

        def act(known: ServedGroup, link: Link, now: float) -> None:
            known.remember(link, enabled=True)
            known.engine.backstore.enable(link.index, now)
            known.seek(link)

        return self._each("enable", group, replica, act).told("enabled")

    async def resize(self, group: str, volume: str, size: int | None, later: bool) -> str:
        """Grow a volume; what was done, or that it still goes on."""
        return await self._one("resize", group).growth.grow(volume, size, later=later)

    def disable(self, group: str, replica: str) -> str:
        """Stop links and forget their tables."""

        def act(known: ServedGroup, link: Link, now: float) -> None:
            known.remember(link, enabled=False)
            known.engine.backstore.disable(link.index, now)

        return self._each("disable --forget-table", group, replica, act).told("disabled")

    def clean(self, group: str, replica: str, proof: bool) -> str:
        """Declare replicas equal, with nothing copied."""
        begun: list[str] = []

        def act(known: ServedGroup, link: Link, now: float) -> None:
            if known.engine.backstore.clean(link.index, now, proof=proof):
                begun.append(link.options.name)

        verb = "clean" if proof else "clean --without-proof"
        reached = self._each(verb, group, replica, act)
        if not begun:
            return reached.told("nothing to declare: the log holds all that is missing of")
        how = "comparing" if proof else "to be declared equal, without proof, at the handshake:"
        return (
            f"{how} {', '.join(begun)}; pratima status tells how it comes out, and a restart "
            "before that forgets it"
        )
