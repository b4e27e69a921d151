"""The targets of a daemon as ``pratima target list`` shows them.

One rule: what is secret is not in here.
"""

import enum

import msgspec


class Origin(enum.Enum):
    """Where a target is configured."""

    CONFIGURATION = "configuration"
    """The daemon's command line or configuration file."""
    CREATED = "created"
    """``pratima target create``: in the daemon's own file."""


class TargetLun(msgspec.Struct, frozen=True):
    """One logical unit; ``serial`` is also what the host's by-id names are made of."""

    lun: int
    name: str
    path: str
    size: int
    serial: str


class TargetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One group as a target."""

    group: str
    iqn: str
    origin: Origin
    portals: tuple[str, ...] = ()
    """Where initiators find it."""
    luns: tuple[TargetLun, ...] = ()
    block_size: int = 512
    initiators: tuple[str, ...] | None = None
    """Who may see and use it; None: anybody."""
    chap_user: str = ""
    mutual_user: str = ""
    replicas: tuple[str, ...] = ()
    sessions: int = 0
    failed: str = ""
    """Why it is not served; empty: it is."""


class TargetList(msgspec.Struct, frozen=True, tag_field="type", tag="targets"):
    """All targets of a daemon, by their groups' names."""

    front_end: str
    """What serves them: ``portal`` or ``tcmu``."""
    targets: tuple[TargetStatus, ...] = ()
