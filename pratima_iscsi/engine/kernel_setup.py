"""Keeps LIO as one daemon's groups want it: compares, plans, carries out, and notes what is ours.

LIO's calls may sleep in the kernel, so one thread makes them, and a caller waits for it with a
limit. One rule: what could not be done is a problem with a name; nothing else waits for it.
"""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pratima_iscsi.control.options import ServeGroup, ServeOptions
from pratima_iscsi.edges.directory import DiskDirectory
from pratima_iscsi.edges.lio_plan import Owned, Plan, Problem, plan
from pratima_iscsi.edges.lio_state import Kernel, backstore, chap_of, kernel_target
from pratima_iscsi.edges.lio_steps import (
    DeleteBackstore,
    DeleteTarget,
    RemoveLun,
    SetDiscovery,
    Step,
)
from pratima_iscsi.engine.kernel_notes import Notes, read_notes, write_notes
from pratima_iscsi.engine.served_group import ServedGroup
from pratima_iscsi.errors import StateError
from pratima_iscsi.iscsi.chap import Account
from pratima_iscsi.limits import LIO_SECONDS_MAX

T = TypeVar("T")


class KernelTargets(Protocol):
    """LIO, or a model of it. Reading and changing may block."""

    def check(
        self,
        iqn: str,
        portals: tuple[str, ...],
        initiators: frozenset[str] | None,
        account: Account | None,
    ) -> None:
        """Raises UsageError for what our own portal takes and LIO does not."""

    def read(self) -> Kernel:
        """All that concerns us. Raises StateError."""

    def carry_out(self, step: Step) -> None:
        """Make one change. Raises StateError."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run has done, and what it could not do."""

    done: tuple[Step, ...]
    problems: tuple[Problem, ...]

    def problem_of(self, iqn: str) -> Problem | None:
        """What keeps a target from being as it should be."""
        return next((one for one in self.problems if one.iqn == iqn), None)


def device_prefix(node: bytes) -> str:
    """How the names of a daemon's devices begin; no other daemon's do."""
    return f"pratima-{node.hex()[:8]}-"


class KernelSetup:
    """LIO, seen from one daemon. Its methods are called on the loop."""

    def __init__(
        self,
        lio: KernelTargets,
        directory: DiskDirectory,
        node: bytes,
        options: ServeOptions,
        seconds_max: float = LIO_SECONDS_MAX,
    ) -> None:
        self._lio = lio
        self._directory = directory
        self._options = options
        self._prefix = device_prefix(node)
        self._notes = read_notes(directory)
        self._groups: dict[str, ServedGroup] = {}
        self.seconds_max = seconds_max
        self._thread = ThreadPoolExecutor(1, "lio")
        self._turn = asyncio.Lock()
        self._now_doing = ""
        """What the thread is at; empty: nothing."""

    def want(self, group: ServedGroup) -> None:
        """From the next run on the kernel shall serve a group."""
        self._groups[group.options.name] = group

    def forget(self, group: ServedGroup) -> None:
        """From the next run on it shall not."""
        self._groups.pop(group.options.name, None)

    def check(self, options: ServeGroup) -> None:
        """Raises UsageError for a group that LIO cannot serve as it is described."""
        self._lio.check(options.target, self.portals(options), options.initiators, options.account)

    def portals(self, options: ServeGroup) -> tuple[str, ...]:
        """Where initiators find a group."""
        return tuple(map(str, options.portals or (self._options.portal,)))

    def devices(self, group: ServedGroup) -> list[str]:
        """The names of a group's devices, by LUN."""
        name = group.options.name
        return [f"{self._prefix}{name}-{index}" for index in range(len(group.disks.volumes))]

    # --- what the loop asks for ------------------------------------------------------------------

    async def look(self) -> Kernel:
        """LIO as it is. Raises StateError."""
        return await self._in_thread("looking", self._lio.read)

    async def compare(self) -> tuple[Kernel, Plan]:
        """LIO as it is, and what would be done to it. Raises StateError."""
        wanted = self._wanted()

        def compared() -> tuple[Kernel, Plan]:
            found = self._lio.read()
            return found, plan(found, wanted, self._owned())

        return await self._in_thread("comparing", compared)

    async def reconcile(self) -> Outcome:
        """Make LIO as it should be. Raises StateError where it cannot even be looked at."""
        wanted = self._wanted()
        return await self._in_thread("comparing", lambda: self._reconcile(wanted))

    def close(self) -> None:
        """Nothing more is asked; what the thread is at goes on."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, what: str, job: Callable[[], T]) -> T:
        def run() -> T:
            try:
                return job()
            finally:
                self._now_doing = ""

        async with self._turn:
            if self._now_doing:
                raise self._still_at()  # It was given up, and has not come back.
            self._now_doing = what
            running = asyncio.get_running_loop().run_in_executor(self._thread, run)
            try:
                # Not wait_for, which may take a cancellation for the answer that came with it.
                async with asyncio.timeout(self.seconds_max):
                    return await asyncio.shield(running)
            except TimeoutError:
                running.add_done_callback(lambda ended: ended.exception())
                raise self._still_at() from None

    def _still_at(self) -> StateError:
        return StateError(
            f"the kernel is still at it: {self._now_doing}",
            "see `dmesg`, and whether another handler of TCMU hangs; docs/kernel.md has what to do",
        )

    # --- what the thread does ---------------------------------------------------------------------

    def _wanted(self) -> Kernel:
        """As it should be; on the loop, since groups change there."""
        backstores = {}
        targets = {}
        for group in self._groups.values():
            options = group.options
            names = self.devices(group)
            for name, volume, unit in zip(names, group.disks.volumes, group.device, strict=True):
                backstores[name] = backstore(
                    name,
                    unit.serial,
                    volume.size,
                    options.block_bytes,
                    self._options.command_seconds,
                )
            targets[options.target] = kernel_target(
                options.target,
                dict(enumerate(names)),
                frozenset(self.portals(options)),
                options.account,
                options.initiators,
            )
        return Kernel(backstores, targets, chap_of(self._options.account))

    def _owned(self) -> Owned:
        return Owned(self._prefix, frozenset(self._notes.targets), self._notes.discovery_user)

    def _reconcile(self, wanted: Kernel) -> Outcome:
        found = self._lio.read()
        made = plan(found, wanted, self._owned())
        self._note({*self._notes.targets, *wanted.targets}, wanted.discovery.user, made.steps)
        done: list[Step] = []
        problems = list(made.problems)
        failed: set[str] = set()
        gone: set[str] = set()
        all_hidden = True
        for step in made.steps:
            if step.iqn and step.iqn in failed:
                continue
            if isinstance(step, DeleteBackstore) and not all_hidden:
                continue  # rtslib would take it from the LUNs that still show it
            self._now_doing = str(step)
            try:
                self._lio.carry_out(step)
            except StateError as error:
                failed.add(step.iqn)
                all_hidden &= not isinstance(step, DeleteTarget | RemoveLun)
                problems.append(Problem(step.iqn, error.problem, error.next_step))
                continue
            done.append(step)
            if isinstance(step, DeleteTarget):
                gone.add(step.target)
        left = set(found.targets).intersection(self._notes.targets) - gone
        self._note({*wanted.targets, *left}, wanted.discovery.user, made.steps)
        return Outcome(tuple(done), tuple(problems))

    def _note(self, targets: Iterable[str], discovery_user: str, steps: list[Step]) -> None:
        """Before the steps: what is there or will be. After them: what is there."""
        clears = any(isinstance(s, SetDiscovery) and not s.chap.user for s in steps)
        user = discovery_user or ("" if clears else self._notes.discovery_user)
        notes = Notes(tuple(sorted(targets)), user)
        if notes != self._notes:
            write_notes(self._directory, notes)
            self._notes = notes
