"""LIO by rtslib: found as values, and changed one step at a time. The only user of rtslib.

Every call may block, in a bad hour until a command times out; so a thread that owns this object
makes them, one at a time. One rule: nothing is decided here; ``edges.lio_plan`` has decided.
"""

import contextlib
import ipaddress
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rtslib_fb import (
    LUN,
    TPG,
    FabricModule,
    MappedLUN,
    NetworkPortal,
    NodeACL,
    RTSRoot,
    Target,
    UserBackedStorageObject,
)
from rtslib_fb.root import default_save_file
from rtslib_fb.utils import RTSLibError, normalize_wwn

from pratima_iscsi.edges import lio_steps as steps
from pratima_iscsi.edges.lio_state import (
    NO_CHAP,
    NO_REPLIES,
    PLUGIN,
    Acl,
    Backstore,
    Chap,
    Kernel,
    KernelTarget,
    chap_of,
)
from pratima_iscsi.errors import StateError, UsageError
from pratima_iscsi.iscsi.chap import Account

FABRIC: Final = "iscsi"
TAG: Final = 1
"""Of the one portal group that a target of ours has."""
_UNSET: Final = "NULL"
"""LIO takes a name or secret that begins so for none."""
_CHANGING: Final = (RTSLibError, OSError, ValueError, LookupError, AttributeError, TypeError)
"""How rtslib takes it when what it reads goes away meanwhile."""
_SEE: Final = "see `dmesg` for the kernel's own words; docs/kernel.md has what to do"


class Lio:
    """The kernel's target. All methods may block."""

    def __init__(self, prefix: str) -> None:
        """``prefix`` marks the names of our own devices."""
        self._prefix = prefix

    # --- as it is --------------------------------------------------------------------------------

    def read(self) -> Kernel:
        """All that concerns us. Raises StateError."""
        try:
            return self._read()
        except _CHANGING as error:
            raise StateError(f"the kernel's target cannot be read: {error}", _SEE) from None

    def _read(self) -> Kernel:
        root = _root()
        others: dict[str, list[str]] = {}
        targets: dict[str, KernelTarget] = {}
        for fabric in root.fabric_modules:
            if not fabric.exists:
                continue
            for target in fabric.targets:
                if fabric.name == FABRIC:
                    targets[target.wwn] = _target(target)
                    continue
                for _, device in _luns(target):
                    others.setdefault(device, []).append(f"{fabric.name}/{target.wwn}")
        fabric = FabricModule(FABRIC)
        return Kernel(
            backstores={device.name: device for device in self._backstores(root, others)},
            targets=targets,
            discovery=_discovery(fabric) if fabric.exists else NO_CHAP,
        )

    def _backstores(self, root: Any, others: dict[str, list[str]]) -> Iterator[Backstore]:
        for path in sorted(Path(root.path, "core").glob(f"user_*/{self._prefix}*")):
            index = int(path.parent.name.rpartition("_")[2])
            device = UserBackedStorageObject(path.name, index=index)
            enabled = device.is_configured()
            yield Backstore(
                name=path.name,
                config=device.config or "",
                serial=device.wwn if enabled else "",
                size=int(device.get_attribute("dev_size")),
                block_bytes=int(device.get_attribute("hw_block_size")),
                sectors_max=int(device.get_attribute("hw_max_sectors")),
                data_area_mib=int(device.get_attribute("max_data_area_mb")),
                command_seconds=int(device.get_attribute("cmd_time_out")),
                replies=int(device.get_attribute("nl_reply_supported")),
                tells_aborts=int(device.get_attribute("tmr_notification")),
                enabled=enabled,
                others=tuple(others.get(f"{PLUGIN}/{path.name}", ())),
            )

    def check(
        self,
        iqn: str,
        portals: tuple[str, ...],
        initiators: frozenset[str] | None,
        account: Account | None,
    ) -> None:
        """Raises UsageError for what our own portal takes and LIO does not."""
        _check(iqn, portals, initiators, chap_of(account))

    # --- changed ---------------------------------------------------------------------------------

    def carry_out(self, step: steps.Step) -> None:
        """Make one change. Raises StateError."""
        try:
            _carry_out(step)
        except _CHANGING as error:
            raise StateError(f"cannot {step}: {_cause(step, error)}", _SEE) from None


def _check(
    iqn: str, portals: tuple[str, ...], initiators: frozenset[str] | None, chap: Chap
) -> None:
    for what, name in (("target", iqn), *(("initiator", name) for name in initiators or ())):
        try:
            normalize_wwn(("iqn", "naa", "eui"), name)
        except RTSLibError:
            raise UsageError(
                f"{name} cannot name {what} in the kernel",
                "use one like iqn.2026-01.org.example:disk: two dots, no underscore",
            ) from None
    for portal in portals:
        host, port = _split(portal)
        try:
            ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            raise UsageError(
                f"the kernel cannot serve at {portal}", "give an address in numbers: 10.0.0.1:3260"
            ) from None
        if port == 0:
            raise UsageError(f"portal {portal} has no port", "give one; 3260 is usual")
    for word in (chap.user, chap.secret, chap.mutual_user, chap.mutual_secret):
        if word.startswith(_UNSET) or len(word.encode()) > 255 or word != word.strip():
            raise UsageError(
                "the kernel takes no CHAP name or secret that begins with NULL, has spaces at its "
                "ends, or is longer than 255 bytes",
                "choose another one",
            )


def _root() -> Any:
    """The root, with the directory that rtslib wants, and without what it remembers."""
    place = Path(default_save_file).parent
    try:
        for name in (place, place / "pr", place / "alua"):
            name.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(
            f"LIO wants a directory {place}, which cannot be made: {error.strerror}",
            f"mkdir -p {place}/pr {place}/alua, as root, and start again",
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # It would rather have another dbroot: the one there is does.
        root = RTSRoot()
    for kept in ("pr", "alua"):
        # Without them the kernel refuses persistent reservations that are to outlive it.
        with contextlib.suppress(OSError):
            (Path(root.dbroot) / kept).mkdir(mode=0o700, parents=True, exist_ok=True)
    root.invalidate_caches()
    return root


# --- reading -------------------------------------------------------------------------------------


def _target(target: Any) -> KernelTarget:
    """An iSCSI target; LUNs of other portal groups than ours count for who owns it only."""
    portal_groups = {group.tag: group for group in target.tpgs}
    group = portal_groups.get(TAG)
    luns = dict(_luns(target))
    if group is None:
        return KernelTarget(
            target.wwn, luns, frozenset(), attributes={}, parameters={}, enabled=False
        )
    acls = {acl.node_wwn: acl for acl in group.node_acls}
    return KernelTarget(
        iqn=target.wwn,
        luns=luns,
        portals=frozenset(f"{p.ip_address}:{p.port}" for p in group.network_portals),
        acls={name: Acl(_mapped(acl), _chap(acl)) for name, acl in acls.items()},
        chap=_chap(group),
        attributes={n: group.get_attribute(n) for n in group.list_attributes(readable=True)},
        parameters={n: group.get_parameter(n) for n in group.list_parameters(readable=True)},
        enabled=group.enable,
        sessions=frozenset(_sessions(group, acls)),
    )


def _luns(target: Any) -> Iterator[tuple[int, str]]:
    """LUN (65536 and more in other portal groups than ours) and device."""
    for group in target.tpgs:
        above = 0 if group.tag == TAG else (group.tag + 1) << 16
        for lun in group.luns:
            links = (path for path in Path(lun.path).iterdir() if path.is_symlink())
            path = next((Path(os.path.realpath(link)) for link in links), None)
            device = f"{path.parent.name.rpartition('_')[0]}/{path.name}" if path else ""
            yield above + lun.lun, device


def _mapped(acl: Any) -> dict[int, int]:
    return {lun.mapped_lun: lun.tpg_lun.lun for lun in acl.mapped_luns}


def _chap(owner: Any) -> Chap:
    return Chap(
        owner.chap_userid or "",
        owner.chap_password or "",
        owner.chap_mutual_userid or "",
        owner.chap_mutual_password or "",
    )


def _discovery(fabric: Any) -> Chap:
    if not fabric.discovery_enable_auth:
        return NO_CHAP
    return Chap(
        fabric.discovery_userid,
        fabric.discovery_password,
        fabric.discovery_mutual_userid,
        fabric.discovery_mutual_password,
    )


def _sessions(group: Any, acls: dict[str, Any]) -> Iterator[str]:
    """Initiators that are logged in, with an ACL or without."""
    for name, acl in acls.items():
        if not Path(acl.path, "info").read_text().startswith("No active"):
            yield name
    for line in Path(group.path, "dynamic_sessions").read_text().replace("\0", "\n").splitlines():
        if line.strip():
            yield line.strip()


# --- changing ------------------------------------------------------------------------------------


def _group(iqn: str) -> Any:
    return TPG(Target(FabricModule(FABRIC), iqn), TAG)


def _device(name: str) -> Any:
    _root()
    return UserBackedStorageObject(name.removeprefix(f"{PLUGIN}/"))


def _carry_out(step: steps.Step) -> None:
    match step:
        case steps.CreateBackstore():
            _create_backstore(step.backstore)
        case steps.SetBackstore():
            _device(step.name).set_attribute(step.attribute, step.value)
        case steps.DeleteBackstore():
            _device(step.name).delete()
        case steps.CreateTarget():
            _group(step.iqn)
        case steps.EnableTarget():
            _group(step.iqn).enable = True
        case steps.DeleteTarget():
            Target(FabricModule(FABRIC), step.target, "lookup").delete()
        case steps.SetAttribute():
            _group(step.iqn).set_attribute(step.name, step.value)
        case steps.SetParameter():
            _group(step.iqn).set_parameter(step.name, step.value)
        case steps.SetChap():
            group = _group(step.iqn)
            _set_chap(NodeACL(group, step.initiator) if step.initiator else group, step.chap)
        case steps.AddLun():
            LUN(_group(step.iqn), step.lun, _device(step.device))
        case steps.RemoveLun():
            LUN(_group(step.target), step.lun).delete()
        case steps.AddAcl():
            NodeACL(_group(step.iqn), step.initiator)
        case steps.RemoveAcl():
            NodeACL(_group(step.iqn), step.initiator, "lookup").delete()
        case steps.MapLun():
            acl = NodeACL(_group(step.iqn), step.initiator)
            MappedLUN(acl, step.mapped, step.lun, write_protect=False)
        case steps.UnmapLun():
            acl = NodeACL(_group(step.iqn), step.initiator)
            MappedLUN(acl, step.mapped).delete()
        case steps.AddPortal():
            NetworkPortal(_group(step.iqn), *_split(step.portal))
        case steps.RemovePortal():
            NetworkPortal(_group(step.iqn), *_split(step.portal), mode="lookup").delete()
        case steps.SetDiscovery():
            _set_discovery(step.chap)
        case _:
            raise AssertionError(step)


def _create_backstore(wanted: Backstore) -> None:
    root = _root()
    control = {
        "nl_reply_supported": NO_REPLIES,
        "hw_block_size": wanted.block_bytes,
        "max_data_area_mb": wanted.data_area_mib,
    }
    device = UserBackedStorageObject(
        wanted.name,
        config=wanted.config,
        size=wanted.size,
        wwn=wanted.serial,
        hw_max_sectors=wanted.sectors_max,
        control=",".join(f"{key}={value}" for key, value in control.items()),
        index=_free_index(root),
    )
    device.set_attribute("cmd_time_out", wanted.command_seconds)
    device.set_attribute("tmr_notification", wanted.tells_aborts)


def _free_index(root: Any) -> int:
    """A number for a backstore's directory. rtslib would draw it under a lock in /run, which a unit
    that may write nowhere cannot have; who is second to take a number gets an error here."""
    taken = {int(path.name.rpartition("_")[2]) for path in Path(root.path, "core").glob("*_*")}
    return next(index for index in range(len(taken) + 1) if index not in taken)


def _set_chap(owner: Any, chap: Chap) -> None:
    owner.chap_userid = chap.user
    owner.chap_password = chap.secret
    owner.chap_mutual_userid = chap.mutual_user
    owner.chap_mutual_password = chap.mutual_secret


def _set_discovery(chap: Chap) -> None:
    fabric = FabricModule(FABRIC)
    if chap == NO_CHAP:
        fabric.clear_discovery_auth_settings()
        return
    fabric.discovery_userid = chap.user
    fabric.discovery_password = chap.secret
    fabric.discovery_mutual_userid = chap.mutual_user
    fabric.discovery_mutual_password = chap.mutual_secret
    fabric.discovery_enable_auth = True


def _split(portal: str) -> tuple[str, int]:
    host, _, port = portal.rpartition(":")
    return host, int(port)


def _cause(step: steps.Step, error: Exception) -> str:
    """The kernel says EINVAL for an address that it cannot have: ask for it as others do."""
    if isinstance(step, steps.AddPortal):
        host, port = _split(step.portal)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                other.bind((host.strip("[]"), port))
        except OSError as refused:
            return str(refused.strerror)
    return str(error)
