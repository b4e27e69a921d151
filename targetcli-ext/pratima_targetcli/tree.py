"""``/pratima``: the daemons, and their groups, links, replicas and journals.

    /pratima
      daemons/DAEMON            whether it answers
      groups/GROUP/VOLUME       every group, in whatever role
      links/GROUP/REPLICA       a primary's links, and what can be done to them
      replicas/GROUP            the copies that replica daemons keep
      journal/GROUP             their journals

One rule: ``GROUP`` is the group's name where one state directory was named, else ``DAEMON:GROUP``.
"""

from collections.abc import Callable, Iterable, Mapping

from configshell import ConfigNode, ExecutionError

from pratima_iscsi.control.status import (
    GroupStatus,
    JournalStatus,
    LinkStatus,
    VolumeStatus,
)
from pratima_targetcli import parameters
from pratima_targetcli.daemons import PRIMARY, REPLICA, Daemon, Daemons, GroupKey
from pratima_targetcli.nodes import Node, StatusNode
from pratima_targetcli.places import node_name
from pratima_targetcli.summaries import (
    Summary,
    count,
    group_lines,
    group_summary,
    journal_summary,
    link_summary,
    links_summary,
    node_summary,
    printable,
    replica_summary,
    volume_summary,
    worst,
)
from pratima_targetcli.verbs import Links, LinkVerbs, of_the_only_group


class Pratima(LinkVerbs):
    """The node ``pratima`` of either root."""

    def __init__(self, parent: ConfigNode, daemons: Daemons) -> None:
        super().__init__("pratima", parent)
        self.daemons = daemons
        DaemonsNode("daemons", self, daemons)
        GroupsNode("groups", self, daemons)
        LinksNode("links", self, daemons)
        ReplicasNode("replicas", self, daemons)
        JournalsNode("journal", self, daemons)

    def links(self) -> Links:
        """All, where there is but one group."""
        return of_the_only_group(self.daemons)

    def summary(self) -> Summary:
        """How many daemons there are, how many are silent."""
        if not self.daemons.all:
            return "no daemon: name its state directory with --state", None
        found = [daemon_summary(daemon) for daemon in self.daemons.all]
        silent = sum(daemon.status is None for daemon in self.daemons.all)
        said = count(len(found), "daemon")
        return (f"{said}, {silent} without an answer" if silent else said), worst(found)

    def tell(self) -> Iterable[str]:
        """Everything: each daemon, each of its groups."""
        for daemon in self.daemons.all:
            yield f"{daemon.name}: {daemon_summary(daemon)[0]}"
            for group in () if daemon.status is None else daemon.status.groups:
                name = self.daemons.tree_name(daemon, group.group)
                yield from (f"  {line}" for line in group_lines(name, group))


def daemon_summary(daemon: Daemon) -> Summary:
    """A daemon's line, whether or not it answers."""
    if daemon.status is None:
        return printable(f"no answer: {daemon.problem}"), False
    return node_summary(daemon.status)


class Branch(Node):
    """A node right below ``pratima``, with a child for each thing of one kind."""

    def __init__(self, name: str, parent: ConfigNode, daemons: Daemons) -> None:
        super().__init__(name, parent)
        self.daemons = daemons

    def wanted(self) -> Mapping[str, Callable[[str], Node]]:
        """Its children by name, and what makes each."""
        raise AssertionError(f"{type(self).__name__} has no children")

    def refresh(self) -> None:
        """Its children are those that the daemons tell of now."""
        self.keep(self.wanted())

    def group_children(
        self, role: str, kind: "type[KeyedNode]"
    ) -> Mapping[str, Callable[[str], Node]]:
        """A child for each group of a role."""
        return {
            name: lambda name, key=key: kind(name, self, key)  # type: ignore[misc]
            for name, key in self.daemons.groups(role)
        }


class DaemonsNode(Branch):
    """``/pratima/daemons``"""

    def wanted(self) -> Mapping[str, Callable[[str], Node]]:
        """One for each state directory that was named."""
        return {
            daemon.name: lambda name, daemon=daemon: DaemonNode(name, self, daemon)  # type: ignore[misc]
            for daemon in self.daemons.all
        }

    def summary(self) -> Summary:
        """How many."""
        return count(len(self.daemons.all), "daemon"), None


class DaemonNode(StatusNode):
    """One daemon; the only node that is there without an answer."""

    SETTINGS = parameters.DAEMON_SETTINGS
    STATUSES = parameters.DAEMON_STATUSES

    def __init__(self, name: str, parent: ConfigNode, daemon: Daemon) -> None:
        super().__init__(name, parent)
        self.daemon = daemon

    def subject(self) -> Daemon:
        """It is always told of."""
        return self.daemon

    def summarise(self, found: Daemon) -> Summary:
        """What it is, or why it says nothing."""
        return daemon_summary(found)


class KeyedNode(StatusNode):
    """A node that stands for something of one group at one daemon."""

    def __init__(self, name: str, parent: ConfigNode, key: GroupKey) -> None:
        super().__init__(name, parent)
        self.key = key


class GroupNode(KeyedNode):
    """A node that stands for the group itself."""

    def subject(self) -> GroupStatus | None:
        """The group as it was at the last look."""
        return self.key.status


class GroupsNode(Branch):
    """``/pratima/groups``"""

    def wanted(self) -> Mapping[str, Callable[[str], Node]]:
        """One for each group, of either role."""
        return self.group_children("", OneGroup)

    def summary(self) -> Summary:
        """How many."""
        return count(len(self.children), "group"), None


class GroupOfLinks(LinkVerbs, GroupNode):
    """A node of one group, whose verbs are about all of its links."""

    def links(self) -> Links:
        """All of them."""
        self.present()
        return Links(self.key)


class OneGroup(GroupOfLinks):
    """A group and its volumes."""

    SETTINGS = parameters.GROUP_SETTINGS
    STATUSES = parameters.GROUP_STATUSES

    def summarise(self, found: GroupStatus) -> Summary:
        """Role, size, links."""
        return group_summary(found)

    def tell(self) -> Iterable[str]:
        """Everything that is known of the group."""
        return group_lines(self.name, self.present())

    def refresh(self) -> None:
        """Its volumes."""
        status = self.key.status
        self.keep(
            {
                volume.name: lambda name: VolumeNode(name, self, self.key, name)
                for volume in (() if status is None else status.volumes)
            }
        )


class VolumeNode(KeyedNode):
    """A volume of a group, of either role."""

    STATUSES = parameters.VOLUME_STATUSES

    def __init__(self, name: str, parent: ConfigNode, key: GroupKey, volume: str) -> None:
        super().__init__(name, parent, key)
        self.volume = volume

    def subject(self) -> VolumeStatus | None:
        """The volume as it was at the last look."""
        return self.key.volume(self.volume)

    def summarise(self, found: VolumeStatus) -> Summary:
        """Path and size."""
        return volume_summary(found)


class LinksNode(Branch):
    """``/pratima/links``"""

    def wanted(self) -> Mapping[str, Callable[[str], Node]]:
        """One for each group that has a primary here."""
        return self.group_children(PRIMARY, LinksOfGroup)

    def summary(self) -> Summary:
        """All links in one line."""
        statuses = [key.status for _, key in self.daemons.groups(PRIMARY)]
        return links_summary(tuple(link for group in statuses if group for link in group.links))


class LinksOfGroup(GroupOfLinks):
    """All links of one group."""

    def summarise(self, found: GroupStatus) -> Summary:
        """The links' states."""
        return links_summary(found.links)

    def tell(self) -> Iterable[str]:
        """A line for each link."""
        for link in self.present().links:
            yield f"{printable(link.replica)}: {link_summary(link)[0]}"

    def refresh(self) -> None:
        """A child for each link; addresses are made names that a path can hold."""
        status = self.key.status
        self.keep(
            {
                node_name(link.replica): lambda name, link=link: LinkNode(  # type: ignore[misc]
                    name, self, self.key, link.replica
                )
                for link in (() if status is None else status.links)
            }
        )


class LinkNode(LinkVerbs, KeyedNode):
    """One link."""

    SETTINGS = parameters.LINK_SETTINGS
    STATUSES = parameters.LINK_STATUSES

    def __init__(self, name: str, parent: ConfigNode, key: GroupKey, replica: str) -> None:
        super().__init__(name, parent, key)
        self.replica = replica

    def links(self) -> Links:
        """This one."""
        self.present()
        return Links(self.key, self.replica)

    def subject(self) -> LinkStatus | None:
        """The link as it was at the last look."""
        return self.key.link(self.replica)

    def summarise(self, found: LinkStatus) -> Summary:
        """State, mode, lag and reason."""
        return link_summary(found)

    def ui_setgroup_setting(self, parameter: str, value: object) -> None:
        """``enabled``: to stop a link gives something up, and so takes its own command."""
        if not value:
            raise ExecutionError("to stop a link forgets what its replica lacks: see help disable")
        self.ui_command_enable()
        self.look()


class ReplicasNode(Branch):
    """``/pratima/replicas``"""

    def wanted(self) -> Mapping[str, Callable[[str], Node]]:
        """One for each group of which a daemon here keeps a copy."""
        return self.group_children(REPLICA, ReplicaNode)

    def summary(self) -> Summary:
        """How many."""
        return (count(len(self.children), "copy", "copies") + " kept here"), None


class ReplicaNode(GroupNode):
    """The copy of one group."""

    STATUSES = parameters.REPLICA_STATUSES

    def summarise(self, found: GroupStatus) -> Summary:
        """Where recovery would bring it."""
        return replica_summary(found)


class JournalsNode(Branch):
    """``/pratima/journal``"""

    def wanted(self) -> Mapping[str, Callable[[str], Node]]:
        """One for each group of which a daemon here keeps a copy."""
        return self.group_children(REPLICA, JournalNode)

    def summary(self) -> Summary:
        """How many."""
        return count(len(self.children), "journal"), None


class JournalNode(KeyedNode):
    """The journal of one group's replica."""

    SETTINGS = parameters.JOURNAL_SETTINGS
    STATUSES = parameters.JOURNAL_STATUSES

    def subject(self) -> JournalStatus | None:
        """The journal as it was at the last look."""
        status = self.key.status
        return None if status is None else status.journal

    def summarise(self, found: JournalStatus) -> Summary:
        """What it holds, and what waits in it."""
        return journal_summary(found)
