"""What an operator may ask of a primary: the verbs of the control socket.

One rule: each names what it reached, or says why it reached none.
"""

import time
from collections.abc import Callable

from pratima_iscsi.control.options import unknown_group
from pratima_iscsi.engine.served_group import ServedGroup
from pratima_iscsi.errors import StateError, UsageError
from pratima_iscsi.replication.link import Link


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
        chosen = self.chosen(group)
        if not chosen:
            raise StateError(f"{verb}: no group is served here", "see `pratima status`")
        return chosen[0]

    def _each(
        self,
        verb: str,
        group: str,
        replica: str,
        act: Callable[[ServedGroup, Link, float], None],
    ) -> list[str]:
        """Do something to the links that are meant; their names."""
        known = self._one(verb, group)
        done = []
        now = time.monotonic()
        for link in known.engine.backstore.links:
            if replica in ("", link.options.name):
                known.events.control(known.place(link.index), verb)
                act(known, link, now)
                done.append(link.options.name)
        known.engine.turn()
        if not done:
            raise StateError(
                f"there is no replica {replica!r}" if replica else "there is no replica",
                "see `pratima status` for their names",
            )
        return done

    def resync(self, group: str, replica: str, from_primary: bool) -> str:
        """Bring over what is missing, now."""

        def act(known: ServedGroup, link: Link, now: float) -> None:
            if from_primary:
                link.resync_from_primary(now)
            known.engine.backstore.reconnect(link.index, now)

        verb = "resync --from-primary" if from_primary else "resync"
        return "resync of " + ", ".join(self._each(verb, group, replica, act))

    def kill(self, group: str, replica: str) -> str:
        """Drop queue and session."""
        names = self._each(
            "kill --drop-queue",
            group,
            replica,
            lambda known, link, now: known.engine.backstore.kill(link.index, now),
        )
        return "killed the sessions of " + ", ".join(names)

    def reconnect(self, group: str, replica: str) -> str:
        """Connect now."""
        names = self._each(
            "reconnect",
            group,
            replica,
            lambda known, link, now: known.engine.backstore.reconnect(link.index, now),
        )
        return "connecting to " + ", ".join(names)

    def enable(self, group: str, replica: str) -> str:
        """Put disabled links to work."""

        def act(known: ServedGroup, link: Link, now: float) -> None:
            known.engine.backstore.enable(link.index, now)
            known.remember(link)

        return "enabled " + ", ".join(self._each("enable", group, replica, act))

    async def resize(self, group: str, volume: str, size: int | None, later: bool) -> str:
        """Grow a volume; what was done, or that it still goes on."""
        return await self._one("resize", group).growth.grow(volume, size, later=later)

    def disable(self, group: str, replica: str) -> str:
        """Stop links and forget their tables."""

        def act(known: ServedGroup, link: Link, now: float) -> None:
            known.engine.backstore.disable(link.index, now)
            known.remember(link)

        names = self._each("disable --forget-table", group, replica, act)
        return "disabled " + ", ".join(names)

    def clean(self, group: str, replica: str, proof: bool) -> str:
        """Declare replicas equal, with nothing copied."""
        begun: list[str] = []

        def act(known: ServedGroup, link: Link, now: float) -> None:
            if known.engine.backstore.clean(link.index, now, proof=proof):
                begun.append(link.options.name)

        verb = "clean" if proof else "clean --without-proof"
        names = self._each(verb, group, replica, act)
        if not begun:
            return "nothing to declare: the log holds all that is missing of " + ", ".join(names)
        if not proof:
            return "declared equal without proof: " + ", ".join(begun)
        return "comparing " + ", ".join(begun) + "; pratima status tells how it comes out"
