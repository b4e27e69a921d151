"""Targets that come and go while a daemon runs, and the file that remembers them.

The file is written FIRST and then acted upon: a daemon that dies in between serves, when it is
started again, what its operator asked for. One rule: what the file says and what is served differ
only while one command runs, or where a target failed, and that is told.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from pratima_iscsi.control.config import check_serve_groups, checked_group, serve_group
from pratima_iscsi.control.options import ServeGroup, ServeOptions, group_directory
from pratima_iscsi.control.sections import ServeGroupSection, TargetsFile
from pratima_iscsi.control.target_list import Origin, TargetList, TargetLun, TargetStatus
from pratima_iscsi.control.targets_file import NAME, read_targets, write_targets
from pratima_iscsi.edges.descriptors import MORE, Descriptors, descriptor_limit
from pratima_iscsi.edges.directory import DiskDirectory
from pratima_iscsi.engine.front_end import FrontEnd
from pratima_iscsi.engine.served_group import ServedGroup
from pratima_iscsi.errors import OperatorError, StateError, UsageError
from pratima_iscsi.limits import GROUP_DESCRIPTORS

Opener = Callable[[ServeGroup], Awaitable[ServedGroup]]
"""Opens a group; raises OperatorError with nothing left open."""


class Targets:
    """The targets of one daemon: those of its configuration, and those made at run time."""

    def __init__(
        self,
        directory: DiskDirectory,
        options: ServeOptions,
        groups: dict[str, ServedGroup],
        open_group: Opener,
        front_end: FrontEnd,
        descriptors: Descriptors,
    ) -> None:
        """``groups`` is what is served, and is kept up to date here."""
        self._directory = directory
        self._options = options
        self._groups = groups
        self._open_group = open_group
        self._front_end = front_end
        self._descriptors = descriptors
        self._configured = frozenset(group.name for group in options.groups)
        """Groups of the configuration: they are as it says, and no command changes them."""
        self._sections: dict[str, ServeGroupSection] = {}
        """What the file says, by name."""
        self.failed: dict[str, OperatorError] = {}
        """Why a target of the file is not served, by name."""
        self._change = asyncio.Lock()

    # --- at the start ----------------------------------------------------------------------------

    async def open(self) -> None:
        """Open and serve what configuration and file say.

        Raises OperatorError for the configuration's groups and for a file that cannot be read. A
        group of the file that cannot be served does not keep the others down: see ``failed``.
        """
        self._sections = {section.name: section for section in read_targets(self._directory).group}
        for options in self._options.groups:
            await self._serve(options)
        for section in self._sections.values():
            try:
                await self._serve(self._checked(_as_it_is(section)))
            except OperatorError as error:
                self.failed[section.name] = error

    async def _serve(self, options: ServeGroup) -> ServedGroup:
        group = await self._open_group(options)
        try:
            await self._front_end.add(group)
        except OperatorError:
            await group.discard()
            raise
        self._groups[options.name] = group
        return group

    def _checked(self, section: ServeGroupSection) -> ServeGroup:
        """A group that may be served beside the others. Raises OperatorError."""
        for path in (
            *(volume.path for volume in section.volume),
            section.chap_password_file,
            section.mutual_password_file,
        ):
            if path and not path.startswith("/"):
                raise UsageError(f"{path} is no absolute path", "give the whole path")
        options = serve_group(section, self._directory.path, self._options)
        check_serve_groups([*(group.options for group in self._groups.values()), options])
        return options

    # --- create and delete -----------------------------------------------------------------------

    async def create(self, section: ServeGroupSection) -> str:
        """Serve one more group; what was done. Raises OperatorError, with nothing changed."""
        name = checked_group(section.name)
        async with self._change:
            self._refuse_configured(name)
            known = self._sections.get(name)
            if known == section and name in self._groups:
                return f"target {self._groups[name].options.target} is served so: nothing changed"
            if known is not None and known != section:
                raise StateError(
                    f"there is a target of group {name} with other settings",
                    f"pratima target delete {name} first: its volumes and its state stay",
                )
            options = self._checked(section)
            self._refuse_crowd(options)
            before = dict(self._sections)
            await self._remember({**before, name: section})
            try:
                group = await self._serve(options)
            except BaseException:
                await self._remember(before)
                raise
            self.failed.pop(name, None)
            group.connect()
            return (
                f"target {options.target} of group {name} is served at "
                f"{self._front_end.address(group)}"
            )

    async def delete(self, name: str, *, end_sessions: bool) -> str:
        """Serve a group no more; what was done. Raises OperatorError."""
        async with self._change:
            if name not in self._sections:
                self._refuse_configured(name)
                raise StateError(
                    f"there is no target of a group {name!r} here",
                    f"there are: {', '.join(sorted(self._groups)) or 'none'}",
                )
            group = None if name in self._configured else self._groups.get(name)
            if group is not None and not end_sessions:
                await self._refuse_in_use(group)
            before = dict(self._sections)
            await self._remember({k: v for k, v in before.items() if k != name})
            if group is None:
                self.failed.pop(name, None)
                return f"target of group {name} is forgotten; it was not served"
            try:
                await self._front_end.remove(group)
            except OperatorError:
                await self._remember(before)
                raise
            del self._groups[name]
            clean = await group.stop()
            kept = group_directory(self._options.state, name)
            end = "" if clean else "; it did not stop cleanly, so replicas are compared next time"
            return (
                f"target {group.options.target} is deleted; its volumes and its state, in {kept}, "
                f"are kept{end}"
            )

    async def settle(self) -> None:
        """Wait until no change is under way."""
        async with self._change:
            pass

    async def _refuse_in_use(self, group: ServedGroup) -> None:
        sessions = await self._front_end.count_sessions(group)
        if sessions:
            raise StateError(
                f"{sessions} sessions are logged in to {group.options.target}",
                "log them out there, or give --end-sessions: what they have under way is then lost "
                "to them",
            )

    def _refuse_crowd(self, options: ServeGroup) -> None:
        parts = max(len(options.volumes), len(options.replicas))
        if not self._descriptors.room_for(parts * GROUP_DESCRIPTORS):
            raise StateError(
                f"too few of this daemon's {descriptor_limit()} descriptors are left for one more "
                "target",
                MORE,
            )

    def _refuse_configured(self, name: str) -> None:
        if name in self._configured:
            raise StateError(
                f"group {name} is of the daemon's own configuration",
                "change that and restart the daemon, or choose another name",
            )

    async def _remember(self, sections: Mapping[str, ServeGroupSection]) -> None:
        """Write the file, then take it for the truth."""
        file = TargetsFile(group=tuple(sections.values()))
        await asyncio.get_running_loop().run_in_executor(None, write_targets, self._directory, file)
        self._sections = dict(sections)

    # --- what there is ---------------------------------------------------------------------------

    async def list(self) -> TargetList:
        """All targets, by their groups' names."""
        found = [self._status(group) for group in self._groups.values()]
        found += [self._failed_status(name, error) for name, error in self.failed.items()]
        found.sort(key=lambda one: one.group)
        return TargetList(front_end=self._front_end.name, targets=tuple(found))

    def _status(self, group: ServedGroup) -> TargetStatus:
        options = group.options
        account = options.account
        return TargetStatus(
            group=options.name,
            iqn=options.target,
            origin=Origin.CONFIGURATION if options.name in self._configured else Origin.CREATED,
            portals=tuple(map(str, options.portals)) or (self._front_end.address(group),),
            luns=tuple(
                TargetLun(lun, wanted.name, str(volume.path), volume.size, unit.serial)
                for lun, (wanted, volume, unit) in enumerate(
                    zip(options.volumes, group.disks.volumes, group.device, strict=True)
                )
            ),
            block_size=options.block_bytes,
            initiators=None if options.initiators is None else tuple(sorted(options.initiators)),
            chap_user=account.name if account else "",
            mutual_user=account.mutual_name if account else "",
            replicas=tuple(replica.name for replica in options.replicas),
            sessions=self._front_end.sessions(group),
            failed=self._front_end.trouble(group),
        )

    def _failed_status(self, name: str, error: OperatorError) -> TargetStatus:
        section = self._sections[name]
        return TargetStatus(
            group=name,
            iqn=section.iqn,
            origin=Origin.CREATED,
            initiators=section.initiators,
            failed=f"{error.problem} (in {NAME}; {error.next_step})",
        )


def _as_it_is(section: ServeGroupSection) -> ServeGroupSection:
    """The section without its volumes' sizes, which are for making them, once.

    A volume that is missing at a later start (its file system is not mounted) is an error then, and
    no reason to make an empty one; and one may have grown.
    """
    volumes = tuple(msgspec.structs.replace(volume, size=None) for volume in section.volume)
    return msgspec.structs.replace(section, volume=volumes)
