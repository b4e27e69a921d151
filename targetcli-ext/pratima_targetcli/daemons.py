"""The daemons that a shell looks after: what each said last, and how it is asked.

One rule: a look never fails. A daemon that does not answer is one of the things that are seen.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pratima_iscsi.control.client import ControlClient, OperatorError, RequestRefused
from pratima_iscsi.control.requests import Request
from pratima_iscsi.control.status import GroupStatus, LinkStatus, NodeStatus, VolumeStatus
from pratima_iscsi.control.target_list import TargetList, TargetLun, TargetStatus
from pratima_targetcli.limits import TREE_ANSWER_SECONDS
from pratima_targetcli.places import Place

PRIMARY = "primary"
REPLICA = "replica"


@dataclass(slots=True)
class Daemon:
    """One daemon; ``status`` is None while it does not answer, and ``problem`` says why."""

    name: str
    state: Path
    status: NodeStatus | None = None
    problem: str = "not asked yet"
    targets: TargetList | None = None
    """None of a daemon that serves nothing: a replica's, or one that does not answer."""

    def look(self) -> None:
        """Ask how it stands; whatever happens is remembered and nothing is raised."""
        self.status, self.targets = None, None
        try:
            with ControlClient(self.state, TREE_ANSWER_SECONDS) as client:
                self.status, self.problem = client.status(), ""
                self.targets = client.targets()
        except RequestRefused:
            pass  # a replica's daemon, which has no targets
        except OperatorError as error:
            self.status, self.problem = None, error.problem

    def ask(self, request: Request, seconds: float) -> str:
        """Have something done; what it was, in the daemon's words. Raises OperatorError."""
        with ControlClient(self.state, seconds) as client:
            return str(getattr(client.ask(request), "message", ""))

    def group(self, name: str) -> GroupStatus | None:
        """What it said of a group; None: there is none, or it does not answer."""
        groups = () if self.status is None else self.status.groups
        return next((group for group in groups if group.group == name), None)


@dataclass(frozen=True, slots=True)
class GroupKey:
    """A group at one daemon."""

    daemon: Daemon
    group: str

    @property
    def status(self) -> GroupStatus | None:
        """As it was at the last look."""
        return self.daemon.group(self.group)

    @property
    def target(self) -> TargetStatus | None:
        """The target that it is."""
        targets = () if self.daemon.targets is None else self.daemon.targets.targets
        return next((target for target in targets if target.group == self.group), None)

    @property
    def units(self) -> tuple[TargetLun, ...]:
        """The target's logical units."""
        return () if self.target is None else self.target.luns

    def volume(self, name: str) -> VolumeStatus | None:
        """One of its volumes."""
        volumes = () if self.status is None else self.status.volumes
        return next((volume for volume in volumes if volume.name == name), None)

    def link(self, replica: str) -> LinkStatus | None:
        """One of its links, by the replica's address."""
        links = () if self.status is None else self.status.links
        return next((link for link in links if link.replica == replica), None)


@dataclass(slots=True)
class Daemons:
    """All of them, in the order in which they were named."""

    places: Sequence[Place]
    all: tuple[Daemon, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.all = tuple(Daemon(place.name, place.state) for place in self.places)

    def look(self) -> None:
        """Ask all of them at once."""
        if self.all:
            with ThreadPoolExecutor(len(self.all)) as threads:
                list(threads.map(Daemon.look, self.all))

    def groups(self, role: str = "") -> Iterator[tuple[str, GroupKey]]:
        """Every group with its name in the tree; of one role only, unless that is empty."""
        for daemon in self.all:
            for group in () if daemon.status is None else daemon.status.groups:
                if role in ("", group.role.value):
                    yield self.tree_name(daemon, group.group), GroupKey(daemon, group.group)

    def tree_name(self, daemon: Daemon, group: str) -> str:
        """``GROUP`` where there is one daemon, ``DAEMON:GROUP`` where several were named."""
        return group if len(self.all) == 1 else f"{daemon.name}:{group}"
