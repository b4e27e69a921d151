"""The kernel's target as a daemon's front end: LIO set up by us, its commands carried out by us.

The devices' handler (TCMU) attaches before LIO is set up and lets go after: so nothing waits in the
kernel for somebody who is not there. A stop leaves LIO as it is: initiators see a pause until the
daemon is back. One rule: what the daemon's file says is put back when something else changed it.
"""

import asyncio
import contextlib
import logging
from typing import Final

from pratima_iscsi.edges.lio_plan import Problem
from pratima_iscsi.edges.lio_state import PLUGIN, Kernel
from pratima_iscsi.engine.front_end import FrontEnd
from pratima_iscsi.engine.kernel_setup import KernelSetup, Outcome
from pratima_iscsi.engine.process import Events
from pratima_iscsi.engine.served_group import ServedGroup
from pratima_iscsi.errors import StateError
from pratima_iscsi.limits import LIO_CHECK_SECONDS

LOG: Final = logging.getLogger(__name__)
STEPS_TOLD: Final = 3
"""Of what was put back; the log has all."""


class LioFrontEnd:
    """Serves groups through LIO (the FrontEnd protocol)."""

    def __init__(
        self,
        devices: FrontEnd,
        setup: KernelSetup,
        events: Events,
        check_seconds: float = LIO_CHECK_SECONDS,
    ) -> None:
        """``devices`` carries out the commands of our devices in the kernel."""
        self._devices = devices
        self._setup = setup
        self._events = events
        self._check_seconds = check_seconds
        self._groups: dict[str, ServedGroup] = {}
        """By the names of their targets."""
        self._found = Kernel()
        self._problems: tuple[Problem, ...] = ()
        """Those that were told last."""
        self._watch: asyncio.Task[None] | None = None
        self._change = asyncio.Lock()

    @property
    def name(self) -> str:
        """What status calls it."""
        return self._devices.name

    async def open(self) -> None:
        """Attach, set LIO up, and keep an eye on it.

        Problems with single targets are alarms, since they may mend (an address that comes up
        later). Raises StateError where LIO cannot be looked at.
        """
        await self._devices.open()
        outcome = await self._setup.reconcile()
        if not outcome.done and not outcome.problems:
            LOG.info("the kernel's target is as it should be: nothing to change")
        self._tell(outcome)
        self._watch = asyncio.create_task(self._keep_watch())

    async def add(self, group: ServedGroup) -> None:
        """Serve a group. Raises OperatorError, with nothing left of the attempt."""
        options = group.options
        self._setup.check(options)
        await self._devices.add(group)
        self._setup.want(group)
        self._groups[options.target] = group
        if self._watch is None:
            return
        try:
            async with self._change:
                outcome = await self._setup.reconcile()
            problem = outcome.problem_of(options.target)
            if problem is not None:
                raise StateError(problem.problem, problem.next_step)
        except StateError:
            await self._give_up(group)
            raise
        self._tell(outcome)

    async def remove(self, group: ServedGroup) -> None:
        """Serve a group no more: its sessions end, target and devices go. Raises StateError."""
        iqn = group.options.target
        self._setup.forget(group)
        try:
            async with self._change:
                outcome = await self._setup.reconcile()
                self._check_gone(group, await self._setup.look(), outcome)
        except StateError:
            self._setup.want(group)
            raise
        self._tell(outcome)
        self._groups.pop(iqn, None)
        await self._devices.remove(group)

    async def close(self) -> None:
        """Let the devices go, and leave LIO as it is."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        self._setup.close()
        await self._devices.close()

    def address(self, group: ServedGroup) -> str:
        """Where initiators find the group."""
        return ", ".join(self._setup.portals(group.options))

    def locate(self, group: ServedGroup, lun: int) -> str:
        """The LUN's URL at the first of its portals."""
        portal = self._setup.portals(group.options)[0]
        return f"iscsi://{portal}/{group.options.target}/{lun}"

    def sessions(self, group: ServedGroup) -> int:
        """Initiators that were logged in when LIO was last looked at."""
        target = self._found.targets.get(group.options.target)
        return len(target.sessions) if target else 0

    async def count_sessions(self, group: ServedGroup) -> int:
        """The same, now."""
        self._found = await self._setup.look()
        return self.sessions(group)

    def trouble(self, group: ServedGroup) -> str:
        """What keeps initiators from using the group as it should be."""
        iqn = group.options.target
        return next((str(problem) for problem in self._problems if problem.iqn == iqn), "")

    # --- keeping watch ---------------------------------------------------------------------------

    async def _keep_watch(self) -> None:
        """Mend what differs when it is seen twice: at once would fight whoever clears LIO when the
        machine goes down, or restores it when it comes up."""
        seen: tuple[str, ...] = ()
        while True:
            await asyncio.sleep(self._check_seconds)
            try:
                async with self._change:
                    self._found, made = await self._setup.compare()
                    steps = tuple(map(str, made.steps))
                    if steps != seen:
                        seen = steps
                        if steps:
                            continue
                    outcome = Outcome((), tuple(made.problems))
                    if steps:
                        outcome = await self._setup.reconcile()
                self._tell(outcome, put_back=True)
            except StateError as error:
                self._events.note("kernel", "not as it should be", str(error), alarm=True)
            except Exception:
                # A bug of ours, which must not end the watch for good, and in silence.
                LOG.exception("the watch over the kernel's target")
                self._events.note("kernel", "not looked at", "internal error", alarm=True)

    def _tell(self, outcome: Outcome, *, put_back: bool = False) -> None:
        for step in outcome.done:
            LOG.info("kernel: %s", step)
        for iqn, group in self._groups.items() if put_back else ():
            ours = [str(step) for step in outcome.done if step.iqn == iqn]
            if ours:
                more = len(ours) - STEPS_TOLD
                told = "; ".join(ours[:STEPS_TOLD]) + (f"; and {more} more" if more > 0 else "")
                where = f"group {group.options.name}"
                self._events.note(where, "put back in the kernel", told, alarm=True)
        for problem in outcome.problems:
            if problem not in self._problems:
                suffers = self._groups.get(problem.iqn)
                where = f"group {suffers.options.name}" if suffers else "kernel"
                self._events.note(where, "not as it should be", str(problem), alarm=True)
        self._problems = outcome.problems

    # --- the way back ----------------------------------------------------------------------------

    async def _give_up(self, group: ServedGroup) -> None:
        """Nothing shall be left of a group that could not be served."""
        self._setup.forget(group)
        self._groups.pop(group.options.target, None)
        with contextlib.suppress(StateError):  # It is told why already; the watch tries again.
            await self._setup.reconcile()
        await self._devices.remove(group)

    def _check_gone(self, group: ServedGroup, found: Kernel, outcome: Outcome) -> None:
        """Raises StateError where the kernel still has a device or the target of a group."""
        devices = self._setup.devices(group)
        left = [f"device {name}" for name in devices if name in found.backstores]
        target = found.targets.get(group.options.target)
        ours = {f"{PLUGIN}/{name}" for name in devices}
        if target is not None and ours.intersection(target.luns.values()):
            left.append(f"target {target.iqn}")
        if left:
            cause = outcome.problems[0] if outcome.problems else None
            raise StateError(
                f"the kernel still has {left[0]}" + (f": {cause.problem}" if cause else ""),
                cause.next_step if cause else "see `dmesg` for the kernel's own words",
            )
