"""From LIO as it is to LIO as it should be: the steps in between, and what stands in the way.

Pure: values in, values out. What is ours is changed, and only where it differs, so a second plan is
empty; what is ours and no longer wanted goes; what is not ours is never touched. One rule: nothing
that initiators use is taken away to be made anew: that is a problem, told with its next step.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from pratima_iscsi.edges.lio_state import (
    NO_CHAP,
    PLUGIN,
    Acl,
    Backstore,
    Kernel,
    KernelTarget,
)
from pratima_iscsi.edges.lio_steps import (
    AddAcl,
    AddLun,
    AddPortal,
    CreateBackstore,
    CreateTarget,
    DeleteBackstore,
    DeleteTarget,
    EnableTarget,
    MapLun,
    RemoveAcl,
    RemoveLun,
    RemovePortal,
    SetAttribute,
    SetBackstore,
    SetChap,
    SetDiscovery,
    SetParameter,
    Step,
    UnmapLun,
)


@dataclass(frozen=True, slots=True)
class Owned:
    """What a daemon knows to be its own: by its mark in devices' names, and by its notes."""

    prefix: str
    """Devices of this daemon are named so, and no others."""
    targets: frozenset[str] = frozenset()
    """Targets that it has made."""
    discovery_user: str = ""
    """The account that it has set for discovery; empty: none."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What an operator has to see to; ``iqn`` is the target that suffers, "" for none of ours."""

    iqn: str
    problem: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.problem}; {self.next_step}"


@dataclass(slots=True)
class Plan:
    """Steps in their order, and problems."""

    steps: list[Step] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def plan(found: Kernel, wanted: Kernel, owned: Owned) -> Plan:
    """What to do; nothing, where all is as it should be."""
    return _Planner(found, wanted, owned).plan()


class _Planner:
    def __init__(self, found: Kernel, wanted: Kernel, owned: Owned) -> None:
        self.found = found
        self.wanted = wanted
        self.owned = owned
        self.result = Plan()
        self.removed_luns: set[tuple[str, int]] = set()
        self.blocked: set[str] = set()
        """Wanted targets whose names somebody else has."""

    def plan(self) -> Plan:
        removals: list[Step] = []
        doomed = list(self._unwanted_targets())
        for iqn in self.wanted.targets:
            if iqn in self.found.targets and not self._is_ours(self.found.targets[iqn]):
                self.blocked.add(iqn)
                self._problem(
                    iqn,
                    f"the kernel has a target {iqn} that is not this daemon's",
                    "choose another name with --iqn, or remove that target with targetcli",
                )
        kept = [iqn for iqn in self.wanted.targets if iqn not in self.blocked]
        devices = list(self._device_steps())
        for iqn in kept:
            if iqn in self.found.targets:
                removals += self._removals(self.found.targets[iqn], self.wanted.targets[iqn])
        steps = self.result.steps
        steps += doomed
        steps += removals
        # A device is removed once nothing uses it, and made before anything does.
        steps += [step for step in devices if isinstance(step, DeleteBackstore)]
        steps += [step for step in devices if not isinstance(step, DeleteBackstore)]
        for iqn in kept:
            steps += self._additions(self.found.targets.get(iqn), self.wanted.targets[iqn])
        steps += self._discovery()
        return self.result

    def _problem(self, iqn: str, problem: str, next_step: str) -> None:
        self.result.problems.append(Problem(iqn, problem, next_step))

    # --- whose is it? ----------------------------------------------------------------------------

    def _is_our_device(self, device: str) -> bool:
        return device.startswith(f"{PLUGIN}/{self.owned.prefix}")

    def _is_ours(self, target: KernelTarget) -> bool:
        """Whether a target was made by this daemon: it is noted, and has nothing else behind it.
        One of a wanted name is taken over where all that it shows is ours. Any other target over
        our devices is an administrator's own, by targetcli: a stranger."""
        noted = target.iqn in self.owned.targets
        if not noted and target.iqn not in self.wanted.targets:
            return False
        if not target.luns:
            return True
        ours = [self._is_our_device(device) for device in target.luns.values()]
        return any(ours) if noted else all(ours)

    def _unwanted_targets(self) -> Iterator[Step]:
        for iqn, target in self.found.targets.items():
            if iqn in self.wanted.targets or not self._is_ours(target):
                continue
            foreign = [
                lun for lun, device in target.luns.items() if not self._is_our_device(device)
            ]
            if not foreign:
                yield DeleteTarget("", iqn)
                continue
            self._problem(
                "",
                f"target {iqn} is not wanted any more, but has LUN {foreign[0]}, which is not ours",
                "remove that LUN, or the whole target, with targetcli",
            )
            for lun in target.luns.keys() - set(foreign):
                yield self._remove_lun("", iqn, lun)

    # --- devices ---------------------------------------------------------------------------------

    def _user_of(self, name: str) -> str:
        """The wanted target that has a device of this name."""
        device = f"{PLUGIN}/{name}"
        targets = self.wanted.targets.values()
        return next((t.iqn for t in targets if device in t.luns.values()), "")

    def _device_steps(self) -> Iterator[Step]:
        for name, device in self.found.backstores.items():
            if name not in self.wanted.backstores and self._may_go(device, self._users(name)):
                yield DeleteBackstore("", name)
        for name, wanted in self.wanted.backstores.items():
            iqn = self._user_of(name)
            if iqn in self.blocked:
                continue
            found = self.found.backstores.get(name)
            exported = bool(self._users(name))
            if found is None:
                yield CreateBackstore(iqn, wanted)
            elif _fixed(found, exported=exported) != _fixed(wanted, exported=exported):
                yield from self._made_anew(iqn, found, wanted)
            else:
                yield from _changes(iqn, found, wanted)

    def _users(self, name: str) -> list[tuple[KernelTarget, int]]:
        """The LUNs of iSCSI targets that show a device."""
        device = f"{PLUGIN}/{name}"
        return [
            (target, lun)
            for target in self.found.targets.values()
            for lun, shown in target.luns.items()
            if shown == device
        ]

    def _may_go(self, device: Backstore, users: Collection[tuple[KernelTarget, int]]) -> bool:
        """Whether nobody but us uses a device; a problem where somebody does."""
        strangers = [t.iqn for t, _ in users if not self._is_ours(t)] + list(device.others)
        if strangers:
            self._problem(
                self._user_of(device.name),
                f"device {device.name} must go, but {strangers[0]} uses it",
                "remove that LUN with targetcli",
            )
        return not strangers

    def _made_anew(self, iqn: str, found: Backstore, wanted: Backstore) -> Iterator[Step]:
        """A device whose fixed attributes differ: never one that somebody uses."""
        users = self._users(found.name)
        if not self._may_go(found, users):
            return
        # Where it is not to stay, it is taken away first, sessions or not.
        staying = [
            (target, lun)
            for target, lun in users
            if target.iqn in self.wanted.targets
            and self.wanted.targets[target.iqn].luns.get(lun) == f"{PLUGIN}/{found.name}"
        ]
        logged_in = sorted(name for target, _ in staying for name in target.sessions)
        if logged_in:
            self._problem(
                iqn,
                f"device {found.name} must be made anew ({_difference(found, wanted)}), and "
                f"{logged_in[0]} is logged in to its target",
                "log out there; it is put right within seconds then",
            )
            return
        self.removed_luns.update((target.iqn, lun) for target, lun in staying)
        yield DeleteBackstore(iqn, found.name)
        yield CreateBackstore(iqn, wanted)

    # --- targets ---------------------------------------------------------------------------------

    def _remove_lun(self, iqn: str, target: str, lun: int) -> Step:
        self.removed_luns.add((target, lun))
        return RemoveLun(iqn, target, lun)

    def _removals(self, found: KernelTarget, wanted: KernelTarget) -> Iterator[Step]:
        iqn = wanted.iqn
        for portal in sorted(found.portals - wanted.portals):
            yield RemovePortal(iqn, portal)
        for initiator in sorted(found.acls.keys() - wanted.acls.keys()):
            yield RemoveAcl(iqn, initiator)
        going = {lun for target, lun in self.removed_luns if target == iqn}
        for lun, device in sorted(found.luns.items()):
            if device == wanted.luns.get(lun) or not self._is_our_device(device):
                continue
            going.add(lun)
        for lun in sorted(going):
            yield self._remove_lun(iqn, iqn, lun)
        for initiator in sorted(found.acls.keys() & wanted.acls.keys()):
            should = wanted.acls[initiator].luns
            for mapped, lun in sorted(found.acls[initiator].luns.items()):
                foreign = not self._is_our_device(found.luns.get(lun, ""))
                # What maps a LUN that goes, goes with it; a stranger's only where ours belongs.
                in_place = mapped in should or not foreign
                if should.get(mapped) != lun and lun not in going and in_place:
                    yield UnmapLun(iqn, initiator, mapped)

    def _additions(self, found: KernelTarget | None, wanted: KernelTarget) -> Iterator[Step]:
        iqn = wanted.iqn
        now = found or KernelTarget(
            iqn, {}, frozenset(), attributes={}, parameters={}, enabled=False
        )
        if found is None:
            yield CreateTarget(iqn)
        # Who must prove what is settled before anybody can come.
        if now.chap != wanted.chap:
            yield SetChap(iqn, wanted.chap)
        for name, value in wanted.attributes.items():
            if now.attributes.get(name) != value:
                yield SetAttribute(iqn, name, value)
        for name, value in wanted.parameters.items():
            if now.parameters.get(name) != value:
                yield SetParameter(iqn, name, value)
        there = {n: d for n, d in now.luns.items() if (iqn, n) not in self.removed_luns}
        taken = set()
        for lun, device in sorted(wanted.luns.items()):
            if lun not in there:
                yield AddLun(iqn, lun, device)
            elif there[lun] != device:
                taken.add(lun)
                self._problem(
                    iqn,
                    f"LUN {lun} of target {iqn} is {there[lun]}, which is not ours",
                    "take that LUN away with targetcli",
                )
        for initiator, acl in sorted(wanted.acls.items()):
            shown = {m: lun for m, lun in acl.luns.items() if lun not in taken}
            yield from self._acl(iqn, initiator, now.acls.get(initiator), Acl(shown, acl.chap))
        for portal in sorted(wanted.portals - now.portals):
            yield AddPortal(iqn, portal)
        if not now.enabled:
            yield EnableTarget(iqn)

    def _acl(self, iqn: str, initiator: str, found: Acl | None, wanted: Acl) -> Iterator[Step]:
        if found is None:
            yield AddAcl(iqn, initiator)
            found = Acl({})
        if found.chap != wanted.chap:
            yield SetChap(iqn, wanted.chap, initiator)
        for mapped, lun in sorted(wanted.luns.items()):
            if found.luns.get(mapped) != lun or (iqn, lun) in self.removed_luns:
                yield MapLun(iqn, initiator, mapped, lun)

    # --- discovery -------------------------------------------------------------------------------

    def _discovery(self) -> Iterator[Step]:
        """Discovery's account is the whole kernel's: it is ours while it has our name."""
        found, wanted = self.found.discovery, self.wanted.discovery
        ours = found.user in {"", self.owned.discovery_user, wanted.user}
        if wanted == NO_CHAP:
            if found != NO_CHAP and found.user == self.owned.discovery_user:
                yield SetDiscovery("", NO_CHAP)
        elif found != wanted and ours:
            yield SetDiscovery("", wanted)
        elif found != wanted:
            self._problem(
                "",
                f"discovery has a CHAP account already, {found.user!r}, that is not this daemon's",
                "use that one in [portal] too, or: targetcli /iscsi set discovery_auth enable=0",
            )


def _fixed(device: Backstore, *, exported: bool) -> tuple[object, ...]:
    """What cannot be changed once a device is there, and once a LUN shows it."""
    return (
        device.config,
        device.serial,
        device.block_bytes,
        device.sectors_max,
        device.data_area_mib,
        device.enabled,
        device.command_seconds if exported else 0,
    )


def _difference(found: Backstore, wanted: Backstore) -> str:
    """The first fixed attribute that differs, in words."""
    for name in (
        "config",
        "block_bytes",
        "sectors_max",
        "data_area_mib",
        "enabled",
        "serial",
        "command_seconds",
    ):
        old, new = getattr(found, name), getattr(wanted, name)
        if old != new:
            return f"its {name} is {old} and should be {new}"
    raise AssertionError("no difference")


def _changes(iqn: str, found: Backstore, wanted: Backstore) -> Iterator[Step]:
    if found.replies != wanted.replies:
        yield SetBackstore(iqn, found.name, "nl_reply_supported", wanted.replies)
    if found.tells_aborts != wanted.tells_aborts:
        yield SetBackstore(iqn, found.name, "tmr_notification", wanted.tells_aborts)
    if found.command_seconds != wanted.command_seconds:
        yield SetBackstore(iqn, found.name, "cmd_time_out", wanted.command_seconds)
    if found.size != wanted.size:
        yield SetBackstore(iqn, found.name, "dev_size", wanted.size)
