"""LIO, the kernel's target, as values: how a daemon wants it, and how it was found.

Wanted and found have one shape, so that they can be compared (``edges.lio_plan``). One rule: only
what a daemon decides about is in here; whatever else the kernel has is nobody's business of ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from pratima_iscsi.iscsi.chap import Account
from pratima_iscsi.limits import (
    LIO_COMMAND_SECONDS,
    LIO_DATA_AREA_MIB,
    LIO_QUEUE_DEPTH,
    TRANSFER_BYTES_MAX,
)
from pratima_iscsi.tcmu.names import device_config

PLUGIN: Final = "user"
"""rtslib's name for TCMU's backstores."""
NO_REPLIES: Final = -1
"""``nl_reply_supported`` of a device whose creation waits for no handler's answer: with any other
value a handler of somebody else can make it fail or hang."""

_ATTRIBUTES: Final = MappingProxyType(
    {
        "cache_dynamic_acls": "1",
        "default_cmdsn_depth": str(LIO_QUEUE_DEPTH),
        "demo_mode_write_protect": "0",
        "prod_mode_write_protect": "0",
    }
)
PARAMETERS: Final = MappingProxyType(
    {
        "FirstBurstLength": "262144",
        "ImmediateData": "Yes",
        "InitialR2T": "No",
        "MaxBurstLength": "1048576",
        "MaxRecvDataSegmentLength": "262144",
    }
)
"""What a session may negotiate: fewer round trips and larger PDUs than LIO's defaults."""


@dataclass(frozen=True, slots=True)
class Chap:
    """A CHAP account as the kernel holds one; all empty: none."""

    user: str = ""
    secret: str = field(default="", repr=False)
    mutual_user: str = ""
    mutual_secret: str = field(default="", repr=False)


NO_CHAP: Final = Chap()


def chap_of(account: Account | None) -> Chap:
    """The account as the kernel holds it."""
    if account is None:
        return NO_CHAP
    return Chap(account.name, account.secret, account.mutual_name, account.mutual_secret)


@dataclass(frozen=True, slots=True)
class Backstore:
    """One TCMU device."""

    name: str
    config: str
    """``pratima/SERIAL``: which unit of ours it is."""
    serial: str
    size: int
    block_bytes: int = 512
    sectors_max: int = TRANSFER_BYTES_MAX // 512
    """Blocks of the longest command."""
    data_area_mib: int = LIO_DATA_AREA_MIB
    command_seconds: int = LIO_COMMAND_SECONDS
    """After so long without an answer the initiator gets an error."""
    replies: int = NO_REPLIES
    tells_aborts: int = 1
    """``tmr_notification``: the handler is told of aborted commands."""
    enabled: bool = True
    others: tuple[str, ...] = ()
    """LUNs of other fabrics that use it, found only."""


@dataclass(frozen=True, slots=True)
class Acl:
    """What one initiator may use."""

    luns: Mapping[int, int]
    """The target's LUN, by the one that the initiator sees."""
    chap: Chap = NO_CHAP


@dataclass(frozen=True, slots=True)
class KernelTarget:
    """One iSCSI target with its one portal group."""

    iqn: str
    luns: Mapping[int, str]
    """PLUGIN/NAME of the backstore by LUN."""
    portals: frozenset[str]
    """``HOST:PORT``"""
    acls: Mapping[str, Acl] = field(default_factory=dict)
    """By the initiator's name."""
    chap: Chap = NO_CHAP
    """For initiators that have no ACL."""
    attributes: Mapping[str, str] = field(default_factory=lambda: _ATTRIBUTES)
    parameters: Mapping[str, str] = field(default_factory=lambda: PARAMETERS)
    enabled: bool = True
    sessions: frozenset[str] = frozenset()
    """Initiators that are logged in, found only."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """All of LIO that concerns one daemon."""

    backstores: Mapping[str, Backstore] = field(default_factory=dict)
    """Found: those of this daemon only, by their names."""
    targets: Mapping[str, KernelTarget] = field(default_factory=dict)
    """Found: all iSCSI targets, by their names."""
    discovery: Chap = NO_CHAP
    """What a discovery session must know; none: it need know nothing."""


def backstore(
    name: str,
    serial: str,
    size: int,
    block_bytes: int,
    command_seconds: int = LIO_COMMAND_SECONDS,
) -> Backstore:
    """A device for one unit, as we want it."""
    return Backstore(
        name=name,
        config=device_config(serial),
        serial=serial,
        size=size,
        block_bytes=block_bytes,
        sectors_max=TRANSFER_BYTES_MAX // block_bytes,
        command_seconds=command_seconds,
    )


def kernel_target(
    iqn: str,
    devices: Mapping[int, str],
    portals: frozenset[str],
    account: Account | None,
    initiators: frozenset[str] | None,
) -> KernelTarget:
    """A target as we want it; ``devices``: its backstores by LUN; ``initiators`` None: anybody."""
    chap = chap_of(account)
    anybody = initiators is None
    attributes = dict(_ATTRIBUTES)
    attributes["authentication"] = "1" if account else "0"
    attributes["generate_node_acls"] = "1" if anybody else "0"
    attributes["demo_mode_discovery"] = "1" if anybody else "0"
    return KernelTarget(
        iqn=iqn,
        luns={lun: f"{PLUGIN}/{name}" for lun, name in devices.items()},
        portals=portals,
        acls={name: Acl({lun: lun for lun in devices}, chap) for name in initiators or ()},
        chap=chap if anybody else NO_CHAP,
        attributes=attributes,
    )
