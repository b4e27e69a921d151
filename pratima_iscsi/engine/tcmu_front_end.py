"""The kernel's target as a daemon's front end: its TCMU devices that name our units.

What initiators see of them (targets, portals, who may log in) is the kernel's. One rule: what the
commands of a wake-up ask of a group is submitted before their answers are published.
"""

from collections.abc import Callable

from pratima_iscsi.edges.tcmu_devices import ServedUnit, TcmuDevices
from pratima_iscsi.engine.process import Events
from pratima_iscsi.engine.served_group import ServedGroup
from pratima_iscsi.engine.source_group import SourceGroup
from pratima_iscsi.tcmu.names import device_config


class TcmuFrontEnd:
    """Serves groups through TCMU (the FrontEnd protocol)."""

    name = "tcmu"

    def __init__(self, events: Events) -> None:
        self.devices = TcmuDevices()
        self._events = events

    async def open(self) -> None:
        """Attach what the kernel has. Raises StateError where it has no TCMU."""
        self.devices.open()

    async def add(self, group: ServedGroup) -> None:
        """Attach the devices of a group's units, now and whenever one comes."""
        for unit in group.device:
            drained = _submits(group.engine)
            self.devices.serve(ServedUnit(unit, drained, self._reports(group)))

    async def remove(self, group: ServedGroup) -> None:
        """Let the devices of a group's units go, when what is under way has ended."""
        for unit in group.device:
            await self.devices.withdraw(unit.serial)

    async def close(self) -> None:
        """Let all devices go."""
        await self.devices.close()

    def address(self, group: ServedGroup) -> str:
        """The group's devices, by their names in the kernel."""
        names = [d.name.name for unit in group.device for d in self.devices.of_unit(unit.serial)]
        return f"the kernel, devices {', '.join(names)}" if names else "the kernel, no device yet"

    def locate(self, group: ServedGroup, lun: int) -> str:
        """The configuration string of the device that is to be made for the LUN's unit."""
        unit = list(group.device)[lun]
        return device_config(unit.serial)

    def sessions(self, group: ServedGroup) -> int:
        """None that are known here: sessions are the kernel's."""
        return 0

    def trouble(self, group: ServedGroup) -> str:
        """Nothing that is known here."""
        return ""

    async def count_sessions(self, group: ServedGroup) -> int:
        """The same."""
        return self.sessions(group)

    def _reports(self, group: ServedGroup) -> Callable[[str, str, bool], None]:
        where = f"group {group.options.name}"

        def report(event: str, reason: str, alarm: bool) -> None:
            self._events.note(where, event, reason, alarm=alarm)

        return report


def _submits(engine: SourceGroup) -> Callable[[], None]:
    def drained() -> None:
        if engine.batch:
            engine.turn()

    return drained
