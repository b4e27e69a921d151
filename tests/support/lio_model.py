"""A model of LIO: what each step makes of it, on plain values. As strict as the kernel is."""

import threading
from dataclasses import replace
from typing import Final

from pratima_iscsi.edges import lio_steps as steps
from pratima_iscsi.edges.lio_state import NO_CHAP, PLUGIN, Acl, Kernel, KernelTarget
from pratima_iscsi.errors import StateError, UsageError
from pratima_iscsi.iscsi.chap import Account

SLEEP_SECONDS_MAX: Final = 30.0


def applied(kernel: Kernel, plan: list[steps.Step]) -> Kernel:
    """LIO after the steps; an AssertionError where the kernel would refuse one."""
    for step in plan:
        kernel = _after(kernel, step)
    return kernel


def users(kernel: Kernel, name: str) -> list[str]:
    """Who shows a device to initiators."""
    device = f"{PLUGIN}/{name}"
    return [t.iqn for t in kernel.targets.values() if device in t.luns.values()]


def _after(kernel: Kernel, step: steps.Step) -> Kernel:
    match step:
        case steps.CreateBackstore():
            device = step.backstore
            assert device.name not in kernel.backstores
            return replace(kernel, backstores={**kernel.backstores, device.name: device})
        case steps.DeleteBackstore():
            device = kernel.backstores[step.name]
            assert not users(kernel, step.name), "a LUN shows it"
            assert not device.others, "another fabric has it"
            rest = {k: v for k, v in kernel.backstores.items() if k != step.name}
            return replace(kernel, backstores=rest)
        case steps.SetBackstore():
            device = kernel.backstores[step.name]
            match step.attribute:
                case "cmd_time_out":
                    assert not users(kernel, step.name), "EINVAL while exported"
                    device = replace(device, command_seconds=step.value)
                case "nl_reply_supported":
                    device = replace(device, replies=step.value)
                case "tmr_notification":
                    device = replace(device, tells_aborts=step.value)
                case "dev_size":
                    device = replace(device, size=step.value)
                case _:
                    raise AssertionError(step)
            return replace(kernel, backstores={**kernel.backstores, step.name: device})
        case steps.SetDiscovery():
            return replace(kernel, discovery=step.chap)
        case steps.CreateTarget():
            assert step.iqn not in kernel.targets
            made = KernelTarget(
                step.iqn, {}, frozenset(), attributes={}, parameters={}, enabled=False
            )
            return _with(kernel, made)
        case steps.DeleteTarget():
            rest_ = {k: v for k, v in kernel.targets.items() if k != step.target}
            assert step.target in kernel.targets
            return replace(kernel, targets=rest_)
        case steps.RemoveLun():
            return _with(kernel, _without_lun(kernel.targets[step.target], step.lun))
        case _:
            return _with(kernel, _target_after(kernel, kernel.targets[step.iqn], step))


def _with(kernel: Kernel, target: KernelTarget) -> Kernel:
    return replace(kernel, targets={**kernel.targets, target.iqn: target})


def _without_lun(target: KernelTarget, lun: int) -> KernelTarget:
    assert lun in target.luns
    acls = {
        name: replace(acl, luns={m: n for m, n in acl.luns.items() if n != lun})
        for name, acl in target.acls.items()
    }
    return replace(target, luns={n: d for n, d in target.luns.items() if n != lun}, acls=acls)


def _target_after(kernel: Kernel, target: KernelTarget, step: steps.Step) -> KernelTarget:
    acls = dict(target.acls)
    match step:
        case steps.EnableTarget():
            assert not target.enabled
            return replace(target, enabled=True)
        case steps.SetAttribute():
            return replace(target, attributes={**target.attributes, step.name: step.value})
        case steps.SetParameter():
            return replace(target, parameters={**target.parameters, step.name: step.value})
        case steps.SetChap() if not step.initiator:
            return replace(target, chap=step.chap)
        case steps.SetChap():
            acls[step.initiator] = replace(acls[step.initiator], chap=step.chap)
        case steps.AddLun():
            assert step.lun not in target.luns
            plugin, _, name = step.device.partition("/")
            assert plugin == PLUGIN and name in kernel.backstores
            return replace(target, luns={**target.luns, step.lun: step.device})
        case steps.AddAcl():
            assert step.initiator not in acls
            acls[step.initiator] = Acl({}, NO_CHAP)
        case steps.RemoveAcl():
            del acls[step.initiator]
        case steps.MapLun():
            acl = acls[step.initiator]
            assert step.mapped not in acl.luns and step.lun in target.luns
            acls[step.initiator] = replace(acl, luns={**acl.luns, step.mapped: step.lun})
        case steps.UnmapLun():
            acl = acls[step.initiator]
            assert step.mapped in acl.luns
            rest = {m: n for m, n in acl.luns.items() if m != step.mapped}
            acls[step.initiator] = replace(acl, luns=rest)
        case steps.AddPortal():
            assert step.portal not in target.portals
            return replace(target, portals=target.portals | {step.portal})
        case steps.RemovePortal():
            assert step.portal in target.portals
            return replace(target, portals=target.portals - {step.portal})
        case _:
            raise AssertionError(step)
    return replace(target, acls=acls)


class ModelLio:
    """LIO of the model, with what may go wrong in it (the KernelTargets protocol)."""

    def __init__(self, kernel: Kernel | None = None) -> None:
        self.kernel = kernel or Kernel()
        self.refuses: type[steps.Step] | None = None
        """Steps of this kind fail."""
        self.tried = 0
        """How often one was."""
        self.sleeps = threading.Event()
        self.sleeps.set()
        """Cleared: the kernel sleeps until it is set."""

    def check(
        self,
        iqn: str,
        portals: tuple[str, ...],
        initiators: frozenset[str] | None,
        account: Account | None,
    ) -> None:
        """What cannot be is told before anything is done."""
        if "_" in iqn:
            raise UsageError(f"{iqn} cannot name target in the kernel", "use another")

    def read(self) -> Kernel:
        """As it is."""
        assert self.sleeps.wait(SLEEP_SECONDS_MAX)
        return self.kernel

    def carry_out(self, step: steps.Step) -> None:
        """One change."""
        if self.refuses is not None and isinstance(step, self.refuses):
            self.tried += 1
            raise StateError(f"cannot {step}: the model does not like it", "mend the model")
        self.kernel = applied(self.kernel, [step])
