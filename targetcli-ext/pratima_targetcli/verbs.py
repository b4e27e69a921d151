"""What an operator does to links: the daemon's verbs on a link's node, on a group's, and by name.

One rule: what a verb gives up must be said on the line; nothing is asked for that was not said.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from configshell import ExecutionError

from pratima_iscsi.control.requests import (
    DisableRequest,
    EnableRequest,
    KillRequest,
    LinkRequest,
    ReconnectRequest,
    ResyncRequest,
)
from pratima_targetcli.daemons import PRIMARY, Daemons, GroupKey
from pratima_targetcli.nodes import Node, complete


@dataclass(frozen=True, slots=True)
class Links:
    """Which links a verb is about: one, or with an empty ``replica`` all of the group."""

    group: GroupKey
    replica: str = ""


class Verbs(Node):
    """Makes the daemon's requests; what is below only differs in how links are named."""

    def ask_links(self, links: Links, make: Callable[..., LinkRequest], **flags: bool) -> None:
        """Have the daemon do it to ``links``."""
        request = make(group=links.group.group, replica=links.replica, **flags)
        self.carry_out(links.group.daemon, request)

    def flag(self, name: str, text: str | None) -> bool:
        """A flag of the command line, ``true`` or ``false``; false unless given."""
        try:
            return bool(self.ui_eval_param(text, "bool", False))
        except ExecutionError as error:
            raise ExecutionError(f"{name}: {error}") from None

    def complete_flag(self, text: str, current_param: str, *flags: str) -> list[str]:
        """What completes the value of one of ``flags``."""
        return complete(("true", "false"), text) if current_param in flags else []


class LinkVerbs(Verbs):
    """On a node that stands for links."""

    def links(self) -> Links:
        """Which ones."""
        raise AssertionError(f"{type(self).__name__} names no links")

    def ui_command_enable(self) -> None:
        """
        Put disabled links to work. The volumes are then compared by hash, and only differences
        are sent.

        SEE ALSO
        ========
        disable
        """
        self.ask_links(self.links(), EnableRequest)

    def ui_command_disable(self) -> None:
        """
        Stop the links and forget which blocks their replicas lack: enabling them again takes a
        comparison of whole volumes.

        SEE ALSO
        ========
        enable kill
        """
        self.ask_links(self.links(), DisableRequest)

    def ui_command_kill(self) -> None:
        """
        Drop queue and session of the links at once. The blocks are remembered, and a resync brings
        them.

        SEE ALSO
        ========
        reconnect
        """
        self.ask_links(self.links(), KillRequest)

    def ui_command_reconnect(self) -> None:
        """
        Connect now, without waiting for back-off.
        """
        self.ask_links(self.links(), ReconnectRequest)

    def ui_command_resync(self, from_primary: str | None = None) -> None:
        """
        Bring over what the replicas lack, now.

        PARAMETERS
        ==========

        from_primary
        ------------
        If true, the primary's content is the truth although it lost power: writes which it had
        acknowledged and only the replica still has are given up.
        """
        flag = self.flag("from_primary", from_primary)
        self.ask_links(self.links(), ResyncRequest, from_primary=flag)

    def ui_complete_resync(
        self, parameters: Mapping[str, str], text: str, current_param: str
    ) -> list[str]:
        """The flag's values."""
        return self.complete_flag(text, current_param, "from_primary")


class NamedVerbs(Verbs):
    """The same by name, for ``/pratima`` itself: ``enable GROUP [REPLICA]``."""

    daemons: Daemons

    def named(self, group: str | None, replica: str | None) -> Links:
        """The links that a line means; the group may be left out where there is one."""
        primaries = dict(self.daemons.groups(PRIMARY))
        if group is None and len(primaries) == 1:
            (group,) = primaries
        if group is None:
            raise ExecutionError(
                f"name a group: {', '.join(primaries)}"
                if primaries
                else "no primary answers here; see ls /pratima/daemons"
            )
        if group not in primaries:
            known = ", ".join(primaries) or "none"
            raise ExecutionError(f"no primary here has a group {group!r}; there is: {known}")
        return Links(primaries[group], replica or "")

    def ui_command_enable(self, group: str | None = None, replica: str | None = None) -> None:
        """
        Put disabled links to work: all of a group, or one, named by its replica's address. The
        volumes are then compared by hash, and only differences are sent.

        SEE ALSO
        ========
        disable
        """
        self.ask_links(self.named(group, replica), EnableRequest)

    def ui_command_disable(self, group: str | None = None, replica: str | None = None) -> None:
        """
        Stop links and forget which blocks their replicas lack: enabling them again takes a
        comparison of whole volumes.

        SEE ALSO
        ========
        enable kill
        """
        self.ask_links(self.named(group, replica), DisableRequest)

    def ui_command_kill(self, group: str | None = None, replica: str | None = None) -> None:
        """
        Drop queue and session of links at once. The blocks are remembered, and a resync brings
        them.

        SEE ALSO
        ========
        reconnect
        """
        self.ask_links(self.named(group, replica), KillRequest)

    def ui_command_reconnect(self, group: str | None = None, replica: str | None = None) -> None:
        """
        Connect now, without waiting for back-off.
        """
        self.ask_links(self.named(group, replica), ReconnectRequest)

    def ui_command_resync(
        self,
        group: str | None = None,
        replica: str | None = None,
        from_primary: str | None = None,
    ) -> None:
        """
        Bring over what replicas lack, now.

        PARAMETERS
        ==========

        from_primary
        ------------
        If true, the primary's content is the truth although it lost power: writes which it had
        acknowledged and only the replica still has are given up.
        """
        flag = self.flag("from_primary", from_primary)
        self.ask_links(self.named(group, replica), ResyncRequest, from_primary=flag)

    def ui_complete_enable(
        self, parameters: Mapping[str, str], text: str, current_param: str
    ) -> list[str]:
        """Groups that have links, and their replicas."""
        primaries = dict(self.daemons.groups(PRIMARY))
        if current_param == "group":
            return complete(primaries, text)
        if current_param != "replica":
            return self.complete_flag(text, current_param, "from_primary")
        group = parameters.get("group", "")
        chosen = [key for name, key in primaries.items() if group in ("", name)]
        statuses = [key.status for key in chosen]
        return complete(
            (link.replica for status in statuses if status for link in status.links), text
        )

    ui_complete_disable = ui_complete_enable
    ui_complete_kill = ui_complete_enable
    ui_complete_reconnect = ui_complete_enable
    ui_complete_resync = ui_complete_enable
