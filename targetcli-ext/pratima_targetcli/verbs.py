"""What an operator does to links: the daemon's verbs, on every node that stands for links.

One rule: what a verb gives up must be said on the line; nothing is asked for that was not said.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from configshell import ExecutionError

from pratima_iscsi.control.requests import (
    CleanRequest,
    DisableRequest,
    EnableRequest,
    KillRequest,
    LinkRequest,
    ReconnectRequest,
    ResyncRequest,
)
from pratima_targetcli.daemons import PRIMARY, Daemons, GroupKey
from pratima_targetcli.nodes import Node, complete

FLAGS: Final = ("drop_queue", "forget_table", "from_primary", "without_proof")
"""What the verbs can give up, by the names that the daemon's requests have for it."""


@dataclass(frozen=True, slots=True)
class Links:
    """Which links a verb is about: one, or with an empty ``replica`` all of the group."""

    group: GroupKey
    replica: str = ""


class LinkVerbs(Node):
    """On a node that stands for links: one, all of a group, or all of the only group."""

    def links(self) -> Links:
        """Which ones."""
        raise AssertionError(f"{type(self).__name__} names no links")

    def ask_links(self, make: Callable[..., LinkRequest], **flags: bool) -> None:
        """Have the daemon do it to them."""
        links = self.links()
        request = make(group=links.group.group, replica=links.replica, **flags)
        self.carry_out(links.group.daemon, request)

    def given_up(self, name: str, text: str | None, what: str) -> bool:
        """The same where nothing is done without it; ``what`` says what it gives up."""
        if not self.flag(name, text):
            raise ExecutionError(f"{what}; say so: {name}=true")
        return True

    def ui_command_enable(self) -> None:
        """
        Put disabled links to work. The volumes are then compared by hash, and only differences
        are sent.

        SEE ALSO
        ========
        disable
        """
        self.ask_links(EnableRequest)

    def ui_command_disable(self, forget_table: str | None = None) -> None:
        """
        Stop the links, also over restarts of the daemon.

        PARAMETERS
        ==========

        forget_table
        ------------
        Must be true: which blocks the replicas lack is forgotten, and found again by comparing
        the whole of each volume when the links are enabled.

        SEE ALSO
        ========
        enable kill
        """
        what = "disable forgets which blocks the replica lacks: enable then compares them all"
        flag = self.given_up("forget_table", forget_table, what)
        self.ask_links(DisableRequest, forget_table=flag)

    def ui_command_kill(self, drop_queue: str | None = None) -> None:
        """
        Drop queue and session of the links at once. The blocks are remembered, and a resync brings
        them.

        PARAMETERS
        ==========

        drop_queue
        ----------
        Must be true: the order of what was queued is given up. Until that resync has ended the
        replicas stay at the point that they have now.

        SEE ALSO
        ========
        reconnect
        """
        what = (
            "kill drops the queue: the replica then no longer follows the order of the writes, but"
            " gets their blocks by a resync"
        )
        flag = self.given_up("drop_queue", drop_queue, what)
        self.ask_links(KillRequest, drop_queue=flag)

    def ui_command_reconnect(self) -> None:
        """
        Connect now, without waiting for back-off.
        """
        self.ask_links(ReconnectRequest)

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
        self.ask_links(ResyncRequest, from_primary=flag)

    def ui_command_clean(self, without_proof: str | None = None) -> None:
        """
        Declare the replicas equal, with nothing copied, once a comparison by hash has found no
        difference. The first difference ends it, and is the link's reason.

        PARAMETERS
        ==========

        without_proof
        -------------
        If true, the comparison is given up: what differs stays different, and nobody knows of it.
        """
        flag = self.flag("without_proof", without_proof)
        self.ask_links(CleanRequest, without_proof=flag)

    def ui_complete_disable(
        self, parameters: Mapping[str, str], text: str, current_param: str
    ) -> list[str]:
        """The flags' values."""
        return complete(("true", "false"), text) if current_param in FLAGS else []

    ui_complete_kill = ui_complete_disable
    ui_complete_resync = ui_complete_disable
    ui_complete_clean = ui_complete_disable


def of_the_only_group(daemons: Daemons) -> Links:
    """All links of the only group that has a primary here. Raises ExecutionError."""
    primaries = dict(daemons.groups(PRIMARY))
    if not primaries:
        raise ExecutionError("no primary answers here; see ls /pratima/daemons")
    if len(primaries) > 1:
        paths = ", ".join(f"/pratima/links/{name}" for name in primaries)
        raise ExecutionError(f"there are several groups; say which: {paths}")
    (key,) = primaries.values()
    return Links(key)
