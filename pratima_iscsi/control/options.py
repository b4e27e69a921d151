"""What a daemon is started with: checked values, made from a command line or a file.

One rule: whoever holds one of these need not check it again; keys and secrets are read already.
"""

import enum
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pratima_iscsi import limits
from pratima_iscsi.edges.curve import CurveKeys
from pratima_iscsi.edges.keys import AllowList
from pratima_iscsi.edges.link_address import LinkAddress
from pratima_iscsi.errors import StateError, UsageError
from pratima_iscsi.iscsi.chap import Account
from pratima_iscsi.replication.states import Mode


@dataclass(frozen=True, slots=True)
class EventOptions:
    """Where a daemon publishes its events, beside the ipc endpoint in its state directory."""

    address: LinkAddress | None = None
    """None: nowhere else."""
    is_asked_for: bool = False
    """The operator named it: a daemon that cannot publish there does not start."""
    allowed: Mapping[str, str] = field(default_factory=dict)
    """Name by public key of who may watch; empty: plain, on loopback."""


@dataclass(frozen=True, slots=True)
class VolumeOptions:
    """One volume of a group; ``size`` None: as it is."""

    name: str
    path: Path
    size: int | None = None


@dataclass(frozen=True, slots=True)
class ReplicaOptions:
    """One link of a group, seen from the primary."""

    address: LinkAddress
    data_address: LinkAddress
    mode: Mode = Mode.ASYNC
    sync_timeout: float = limits.SYNC_TIMEOUT_SECONDS
    block: bool = False
    """On a timeout of a waiting write: hold it (True) or degrade (False)."""
    direct_resync: bool = False
    overwrite: bool = False
    """A first sync may overwrite a replica volume that is not blank."""
    peer_key: str | None = None
    """The replica's public key, None: plain."""

    @property
    def name(self) -> str:
        """What status and commands call the link."""
        return str(self.address)


@dataclass(frozen=True, slots=True)
class ServeGroup:
    """One group that is served: one iSCSI target, a LUN for each volume in their order."""

    name: str
    target: str
    """Its iSCSI name."""
    volumes: tuple[VolumeOptions, ...]
    replicas: tuple[ReplicaOptions, ...] = ()
    log_bytes: int = limits.LOG_BYTES_DEFAULT
    block_bytes: int = 512
    initiators: frozenset[str] | None = None
    """Names of the initiators that may see and use the target; None: any."""
    account: Account | None = None
    """CHAP at the target; None: none."""
    portals: tuple[LinkAddress, ...] = ()
    """Where the kernel's target is served; empty: at the daemon's portal."""


class FrontEndKind(enum.Enum):
    """What serves initiators."""

    AUTO = "auto"
    """The kernel where it can, else the embedded portal."""
    TCMU = "tcmu"
    """The kernel's target, with TCMU devices of ours behind it."""
    PORTAL = "portal"
    """The embedded portal."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What ``pratima serve`` runs."""

    state: Path
    portal: LinkAddress
    groups: tuple[ServeGroup, ...]
    account: Account | None = None
    """CHAP for discovery; None: none."""
    front_end: FrontEndKind = FrontEndKind.AUTO
    command_seconds: int = limits.LIO_COMMAND_SECONDS
    """How long the kernel waits for our answer to a command."""
    lio_setup: bool = True
    """The kernel's targets are made by us; else somebody else makes them for our devices."""
    insecure_no_chap: bool = False
    """A target may be served off loopback to whoever reaches it."""
    keys: CurveKeys | None = None
    allowed: AllowList | None = None
    """The replicas' public keys, None: plain, on loopback."""
    events: EventOptions = EventOptions()


@dataclass(frozen=True, slots=True)
class ReplicaGroup:
    """One group that a replica keeps."""

    name: str
    volumes: tuple[VolumeOptions, ...]
    overwrite: bool = False
    """Its volumes may be overwritten by a first sync although they are not blank."""


@dataclass(frozen=True, slots=True)
class ReplicaDaemonOptions:
    """What ``pratima replica`` runs."""

    state: Path
    listen: LinkAddress
    data_listen: LinkAddress
    groups: tuple[ReplicaGroup, ...]
    journal_bytes: int = limits.JOURNAL_BYTES_DEFAULT
    keys: CurveKeys | None = None
    allowed: Mapping[str, str] = field(default_factory=dict)
    """Name by public key of the primaries that may connect; empty: plain, on loopback."""
    events: EventOptions = EventOptions()


def check_apart(ports: Mapping[str, LinkAddress]) -> None:
    """Raises UsageError where two of a daemon's own options, by name, want the same port."""
    for (one, address), (other, its) in itertools.combinations(ports.items(), 2):
        if address.meets(its):
            where = f"{address}" if address == its else f"{address} and {its}"
            raise UsageError(
                f"{one} and {other} want the same port: {where}", "give one of them another"
            )


def groups_directory(state: Path) -> Path:
    """Where the groups' directories lie in a daemon's state directory."""
    return state / "groups"


def group_directory(state: Path, group: str) -> Path:
    """A group's own state; the name is a checked one (``config.checked_group`` gives no other)."""
    return groups_directory(state) / group


def unknown_group(name: str, groups: Iterable[str]) -> StateError:
    """The error where a group was named that is none of ``groups``."""
    return StateError(f"there is no group {name!r} here", f"its groups are: {', '.join(groups)}")
