"""The embedded portal as a daemon's front end: all its targets on one address.

One rule: what the PDUs of a wake-up ask of the groups is submitted before their answers are sent.
"""

from pratima_iscsi.control.options import ServeOptions, check_apart
from pratima_iscsi.edges.descriptors import Descriptors
from pratima_iscsi.edges.portal import Portal
from pratima_iscsi.engine.served_group import ServedGroup
from pratima_iscsi.errors import UsageError
from pratima_iscsi.iscsi.directory import Directory, ServedTarget


class PortalFrontEnd:
    """Serves groups through the embedded portal (the FrontEnd protocol)."""

    name = "portal"

    def __init__(self, options: ServeOptions, descriptors: Descriptors) -> None:
        """Raises UsageError where the daemon's events want the portal's address."""
        if options.events.address is not None:
            check_apart({"--portal": options.portal, "--events": options.events.address})
        self._options = options
        self._groups: dict[str, ServedGroup] = {}
        self._directory = Directory.of((), () if options.account is None else (options.account,))
        self.portal = Portal(self._directory, descriptors=descriptors, on_drained=self._drained)

    def _drained(self) -> None:
        for group in self._groups.values():
            if group.engine.batch:
                group.engine.turn()

    async def open(self) -> None:
        """Listen. Raises StateError where the address cannot be had."""
        self.portal.listen(self._options.portal.host, self._options.portal.port)

    async def add(self, group: ServedGroup) -> None:
        """Serve a group. Raises UsageError where its target's name is taken."""
        options = group.options
        if options.portals:
            raise UsageError(
                f"group {options.name} names portals of its own, and the embedded portal has none",
                "leave them out (all targets are at the daemon's portal), or serve with the kernel",
            )
        accounts = () if options.account is None else (options.account,)
        self._directory.add(
            ServedTarget(options.target, group.device, accounts, options.initiators)
        )
        self._groups[options.name] = group

    async def remove(self, group: ServedGroup) -> None:
        """Serve a group no more: its initiators are asked to log out, then dropped."""
        await self.portal.withdraw(group.options.target)
        del self._groups[group.options.name]

    async def close(self) -> None:
        """Accept no more, and end the sessions."""
        await self.portal.close()

    def address(self, group: ServedGroup) -> str:
        """Where the portal listens."""
        host, port = self.portal.addresses[0]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def locate(self, group: ServedGroup, lun: int) -> str:
        """The LUN's URL."""
        return f"iscsi://{self.address(group)}/{group.options.target}/{lun}"

    def sessions(self, group: ServedGroup) -> int:
        """Sessions that are logged in to the group's target."""
        return self._directory.sessions_of(group.options.target)

    def trouble(self, group: ServedGroup) -> str:
        """Nothing that is known here."""
        return ""

    async def count_sessions(self, group: ServedGroup) -> int:
        """The same: the portal knows at any time."""
        return self.sessions(group)
