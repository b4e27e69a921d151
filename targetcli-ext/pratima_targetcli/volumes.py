"""``/backstores/user:pratima``: the volumes that daemons serve, made and taken away through them.

A daemon serves whole groups: ``create`` makes one with its volumes and its target, ``delete`` ends
it. The daemon notes it in its own file and then acts, in the kernel where it serves through that.
One rule: nothing here touches the kernel; a create that fails says the daemon's cause.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from configshell import ConfigNode, ExecutionError

from pratima_iscsi.control.requests import CreateTargetRequest, DeleteTargetRequest, ResizeRequest
from pratima_iscsi.control.sections import ServeGroupSection
from pratima_iscsi.control.status import VolumeStatus
from pratima_iscsi.control.target_list import Origin, TargetList, TargetLun, TargetStatus
from pratima_targetcli import parameters
from pratima_targetcli.daemons import Daemon, Daemons, GroupKey
from pratima_targetcli.limits import TARGET_ANSWER_SECONDS
from pratima_targetcli.nodes import Node, StatusNode, Typed, complete, complete_path
from pratima_targetcli.summaries import GONE, Summary, count, printable, volume_summary

HANDLER: Final = "pratima"
NAME: Final = f"user:{HANDLER}"
MODES: Final = ("async", "semi-sync", "sync")
"""When a write completes."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One volume as a logical unit of a target."""

    group: GroupKey
    lun: int

    @property
    def target(self) -> TargetStatus | None:
        """The target, as it was at the last look."""
        return self.group.target

    @property
    def unit(self) -> TargetLun | None:
        """The logical unit."""
        return next((unit for unit in self.group.units if unit.lun == self.lun), None)

    @property
    def volume(self) -> VolumeStatus | None:
        """The volume behind it."""
        return None if self.unit is None else self.group.volume(self.unit.name)


class VolumeCommands(Typed):
    """What a volume's node can tell and do, in either root."""

    SETTINGS = parameters.UNIT_SETTINGS
    STATUSES = parameters.UNIT_STATUSES
    key: Unit

    def subject(self) -> Unit | None:
        """The unit, while its daemon tells of it."""
        return None if self.key.unit is None else self.key

    def summary(self) -> Summary:
        """Path and size of the volume."""
        found = self.key.volume
        return GONE if found is None else volume_summary(found)

    def ui_command_info(self) -> None:
        """
        Tell everything that is known of the volume.
        """
        for known in (*self.SETTINGS, *self.STATUSES):
            value = self.get_type_method(known.type)(known.read(self.present()), reverse=True)
            self.shell.con.display(f"{known.name}: {value}")

    def ui_command_resize(self, size: str | None = None, replicas_later: str | None = None) -> None:
        """
        Grow the volume while it is used: first its replicas make room, then it grows, then
        initiators are told. It never shrinks.

        PARAMETERS
        ==========

        size
        ----
        Its new size: 2GiB, 512M, or bytes. Of a block device what it has by now, if left out.

        replicas_later
        --------------
        If true, also while a replica cannot be asked: it grows when it is back, if it can.
        """
        self.grow(
            self.ui_eval_param(size, "size", None), self.flag("replicas_later", replicas_later)
        )

    def grow(self, size: object, replicas_later: bool = False) -> None:
        """Have the daemon do it."""
        unit = self.present().unit
        assert size is None or isinstance(size, int)
        request = ResizeRequest(
            group=self.key.group.group,
            volume=unit.name,
            size=size,
            replicas_later=replicas_later,
        )
        self.carry_out(self.key.group.daemon, request, TARGET_ANSWER_SECONDS)
        self.look()

    def ui_setgroup_setting(self, parameter: str, value: object) -> None:
        """``size``, the only one that can be set."""
        self.grow(value)

    def ui_complete_resize(
        self, parameters: Mapping[str, str], text: str, current_param: str
    ) -> list[str]:
        """The flag's values."""
        return complete(("true", "false"), text) if current_param == "replicas_later" else []


class VolumeNode(VolumeCommands, Node):
    """A volume that the embedded portal serves, or any in the standalone root."""

    def __init__(self, name: str, parent: ConfigNode, key: Unit) -> None:
        self.key = key
        super().__init__(name, parent)

    @property
    def rtsnode(self) -> object:
        """What stock targetcli asks for where a path may name a storage object."""
        raise ExecutionError(
            f"{self.path} is not in the kernel: the daemon's embedded portal serves it, as a target"
            " of its own"
        )


class FailedNode(StatusNode):
    """A target that was made and that the daemon cannot serve now."""

    def __init__(self, name: str, parent: ConfigNode, key: GroupKey) -> None:
        super().__init__(name, parent)
        self.key = key

    def subject(self) -> TargetStatus | None:
        """The target as it was at the last look."""
        return self.key.target

    def summarise(self, found: TargetStatus) -> Summary:
        """Why it is not served."""
        return printable(f"NOT SERVED: {found.failed}"), False


class Backstore(Node):
    """The node itself."""

    def __init__(self, parent: ConfigNode, daemons: Daemons) -> None:
        super().__init__(NAME, parent)
        self.daemons = daemons

    def summary(self) -> Summary:
        """How many volumes, and by what they are served."""
        ends = {told.front_end for _, told in self.serving()}
        said = [count(len(self.children), "volume")]
        return ", ".join(said + [f"served by {END.get(end, end)}" for end in sorted(ends)]), None

    def refresh(self) -> None:
        """A child for each unit of each target, and one for each target that failed."""
        self.keep(self.wanted())

    def wanted(self) -> dict[str, Callable[[str], ConfigNode]]:
        """The children by name, and what makes each."""
        wanted: dict[str, Callable[[str], ConfigNode]] = {}
        for name, key in self.targets():
            target = key.target
            assert target is not None
            if target.failed:
                wanted[name] = lambda name, key=key: FailedNode(name, self, key)  # type: ignore[misc]
            for unit in target.luns:
                wanted[f"{name}.{unit.name}"] = lambda name, key=Unit(key, unit.lun): (  # type: ignore[misc]
                    self.volume(name, key)
                )
        return wanted

    def volume(self, name: str, key: Unit) -> ConfigNode:
        """The node of one volume."""
        return VolumeNode(name, self, key)

    def serving(self) -> list[tuple[Daemon, TargetList]]:
        """The daemons that serve, or could, and their targets."""
        return [(known, known.targets) for known in self.daemons.all if known.targets is not None]

    def targets(self) -> Iterable[tuple[str, GroupKey]]:
        """Every target with its name in the tree."""
        for daemon, told in self.serving():
            for target in told.targets:
                yield self.daemons.tree_name(daemon, target.group), GroupKey(daemon, target.group)

    # --- commands --------------------------------------------------------------------------------

    def ui_command_create(
        self,
        name: str,
        path: str,
        size: str | None = None,
        replica: str | None = None,
        mode: str | None = None,
        iqn: str | None = None,
        initiator: str | None = None,
        portal: str | None = None,
        chap_user: str | None = None,
        chap_password_file: str | None = None,
        block_size: str | None = None,
        log_limit: str | None = None,
        daemon: str | None = None,
    ) -> None:
        """
        Serve one more group as a target, from now on and after every restart of the daemon. The
        same command again changes nothing.

        PARAMETERS
        ==========

        name
        ----
        The group's name, the same at its replicas.

        path
        ----
        A file or block device; several, divided by commas, are logical units from 0 on in one
        write order.

        size
        ----
        Makes a sparse file of this size where there is none: 1GiB, 512M, or bytes.

        replica
        -------
        HOST:PORT that it is mirrored to; several are divided by commas.

        mode
        ----
        When a write completes: async (the default), semi-sync, sync.

        iqn, initiator, portal
        ----------------------
        The target's name; who may see and use it, and where the kernel serves it, divided by
        commas.

        chap_user, chap_password_file
        -----------------------------
        Initiators must log in so. The daemon reads the secret from the file's first line.

        block_size, log_limit
        ---------------------
        512 or 4096; what the ordered log may hold.

        daemon
        ------
        Its name in /pratima/daemons, where several serve.

        SEE ALSO
        ========
        delete
        """
        here = Path.cwd()
        wanted: dict[str, object] = {
            "name": name,
            "volume": [{"path": str(here / one), "size": size} for one in path.split(",")],
            "replica": [
                {"address": address, "mode": mode or MODES[0]} for address in _words(replica)
            ],
            "iqn": iqn,
            "initiators": _words(initiator) or None,
            "portals": _words(portal),
            "chap_user": chap_user,
            "chap_password_file": chap_password_file and str(here / chap_password_file),
            "block_size": block_size,
            "log_limit": log_limit,
        }
        given = {key: value for key, value in wanted.items() if value is not None}
        try:
            section = msgspec.convert(given, ServeGroupSection, strict=False)
        except msgspec.ValidationError as error:
            raise ExecutionError(f"{error}; see help create") from None
        self.carry_out(
            self.chosen(daemon), CreateTargetRequest(target=section), TARGET_ANSWER_SECONDS
        )
        self.look()

    def ui_command_delete(self, name: str, end_sessions: str | None = None) -> None:
        """
        Serve a group no more. Its volumes and its state stay, so it can be created again.

        PARAMETERS
        ==========

        name
        ----
        What was given to create.

        end_sessions
        ------------
        If true, also where initiators are logged in: they lose the disk, and what they have under
        way.

        SEE ALSO
        ========
        create
        """
        targets = dict(self.targets())
        if name not in targets:
            raise ExecutionError(self.no_such_target(name, targets))
        key = targets[name]
        flag = self.flag("end_sessions", end_sessions)
        request = DeleteTargetRequest(group=key.group, end_sessions=flag)
        self.carry_out(key.daemon, request, TARGET_ANSWER_SECONDS)
        self.look()

    def ui_command_resize(
        self, name: str, size: str | None = None, replicas_later: str | None = None
    ) -> None:
        """
        Grow a volume while it is used; see help resize on the volume's own node.

        SEE ALSO
        ========
        info
        """
        volumes = {
            child.name: child for child in self.children if isinstance(child, VolumeCommands)
        }
        if name not in volumes:
            known = ", ".join(sorted(volumes)) or "none"
            raise ExecutionError(f"there is no volume {name!r}; there is: {known}")
        volumes[name].ui_command_resize(size, replicas_later)

    def ui_command_info(self) -> None:
        """
        Tell by what each daemon serves, and which targets it has.
        """
        for daemon, told in self.serving():
            end = END.get(told.front_end, told.front_end)
            self.shell.con.display(f"{daemon.name}: served by {end}")
            for target in told.targets:
                line = f"NOT SERVED: {target.failed}" if target.failed else _served(target)
                self.shell.con.display(printable(f"  {target.group}: {target.iqn} {line}"))

    def ui_complete_create(
        self, parameters: Mapping[str, str], text: str, current_param: str
    ) -> list[str]:
        """Paths, modes, daemons."""
        match current_param:
            case "path" | "chap_password_file":
                return complete_path(text)
            case "mode":
                return complete(MODES, text)
            case "block_size":
                return complete(("512", "4096"), text)
            case "daemon":
                return complete((daemon.name for daemon, _ in self.serving()), text)
        return []

    def ui_complete_delete(
        self, parameters: Mapping[str, str], text: str, current_param: str
    ) -> list[str]:
        """Targets that were made at run time."""
        if current_param == "end_sessions":
            return complete(("true", "false"), text)
        return complete((name for name, key in self.targets() if _was_created(key)), text)

    def ui_complete_resize(
        self, parameters: Mapping[str, str], text: str, current_param: str
    ) -> list[str]:
        """Volumes, and the flag's values."""
        if current_param == "name":
            return complete((child.name for child in self.children), text)
        return complete(("true", "false"), text) if current_param == "replicas_later" else []

    # --- their parts -----------------------------------------------------------------------------

    def chosen(self, name: str | None) -> Daemon:
        """The daemon that shall serve; it need not be named where there is one."""
        serving = [daemon for daemon, _ in self.serving()]
        chosen = serving if name is None else [known for known in serving if known.name == name]
        if len(chosen) == 1:
            return chosen[0]
        if not serving:
            raise ExecutionError(
                "no daemon here serves; start one with pratima serve, see ls /pratima/daemons"
            )
        names = ", ".join(daemon.name for daemon in serving)
        raise ExecutionError(f"say which daemon: daemon=NAME, one of {names}")

    def no_such_target(self, name: str, targets: Iterable[str]) -> str:
        """What is wrong with a name that is none of ``targets``."""
        if name in {child.name for child in self.children} and "." not in name:
            return f"{name} is nobody's here: start its daemon, which puts the kernel in order"
        for target in targets:
            if name.startswith(f"{target}.") and name in {child.name for child in self.children}:
                return f"{name} goes with its group: delete {target} ends all of its volumes"
        return f"there is no target {name!r}; there is: {', '.join(targets) or 'none'}"


END: Final = {"portal": "the embedded portal", "tcmu": "the kernel"}
"""Front ends, in words."""


def _words(text: str | None) -> list[str]:
    return [word for word in (text or "").split(",") if word]


def _was_created(key: GroupKey) -> bool:
    return key.target is not None and key.target.origin is Origin.CREATED


def _served(target: TargetStatus) -> str:
    who = "anybody" if target.initiators is None else ", ".join(target.initiators)
    chap = f"with CHAP as {target.chap_user}" if target.chap_user else "without CHAP"
    where = ", ".join(target.portals)
    return f"at {where}, {count(target.sessions, 'session')}, for {who} {chap}"
