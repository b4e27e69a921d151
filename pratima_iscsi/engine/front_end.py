"""What a daemon asks of its front end: the embedded portal, or the kernel's target.

One rule: a group is added whole or not at all; once removed, nothing submits to it any more.
"""

from typing import Protocol

from pratima_iscsi.engine.served_group import ServedGroup


class FrontEnd(Protocol):
    """Serves groups to initiators: one target a group, one LUN a volume."""

    @property
    def name(self) -> str:
        """What status calls it."""

    async def open(self) -> None:
        """Let initiators in; groups may be added before and after. Raises StateError."""

    async def add(self, group: ServedGroup) -> None:
        """Serve a group. Raises OperatorError, with nothing left of the attempt."""

    async def remove(self, group: ServedGroup) -> None:
        """Serve a group no more: its initiators are asked to log out, then dropped."""

    async def close(self) -> None:
        """Serve nothing more: the daemon stops."""

    def address(self, group: ServedGroup) -> str:
        """Where initiators find the group."""

    def locate(self, group: ServedGroup, lun: int) -> str:
        """What one gives an initiator, or whoever sets the kernel up, to reach a LUN."""

    def sessions(self, group: ServedGroup) -> int:
        """Sessions that are logged in to the group's target, as they were last seen."""

    def trouble(self, group: ServedGroup) -> str:
        """What keeps initiators from using the group as it should be; empty: nothing."""

    async def count_sessions(self, group: ServedGroup) -> int:
        """The same, seen now."""
