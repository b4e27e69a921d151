"""The shape of configuration: the sections of the typed TOML files, as structures.

A command line and a request on the control socket make the same structures; ``control.config``
checks their values. One rule: an unknown name or a value of the wrong type is an error that names
it; nothing is guessed.

    state = "/var/lib/pratima"
    key   = "/etc/pratima/node.key"     # off loopback, with allow
    allow = "/etc/pratima/allow"

    [portal]                            # of serve
    listen = "10.0.0.1:3260"
    chap_user = "backup"
    chap_password_file = "/etc/pratima/chap"

    [[group]]
    name = "db"

    [[group.volume]]
    path = "/dev/vg0/data"

    [[group.replica]]                   # of serve
    address = "10.0.0.2:7010"
    mode = "sync"
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from pratima_iscsi import limits
from pratima_iscsi.control.options import FrontEndKind
from pratima_iscsi.replication.states import Mode

DEFAULT_GROUP: Final = "default"
DEFAULT_PORTAL: Final = "127.0.0.1:3260"
NOWHERE: Final = "none"
"""The word for no events port."""
DEFAULT_LISTEN: Final = "127.0.0.1:7010"

_Some = Annotated[str, Meta(min_length=1)]
_Size = int | str


class _Section(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A part of the file."""


class ChapSection(_Section):
    """The CHAP account of ``[portal]``, or of one ``[[group]]``."""

    chap_user: str = ""
    chap_password_file: str = ""
    mutual_user: str = ""
    mutual_password_file: str = ""


class VolumeSection(_Section):
    """``[[group.volume]]``"""

    path: _Some
    name: str = ""
    """``lun0``, ``lun1``, … unless given."""
    size: _Size | None = None


class ReplicaSection(_Section):
    """``[[group.replica]]``"""

    address: _Some
    data_address: str = ""
    """The port above ``address`` unless given."""
    mode: Mode = Mode.ASYNC
    sync_timeout: float = limits.SYNC_TIMEOUT_SECONDS
    on_timeout: Literal["degrade", "block"] = "degrade"
    resync: Literal["staged", "direct"] = "staged"
    overwrite: bool = False
    key_name: str = ""
    """The replica's name in the allow-list; its address unless given."""


class ServeGroupSection(ChapSection, kw_only=True):
    """``[[group]]`` of serve; its CHAP account is the portal's unless given."""

    volume: tuple[VolumeSection, ...]
    replica: tuple[ReplicaSection, ...] = ()
    name: str = DEFAULT_GROUP
    iqn: str = ""
    log_limit: _Size = limits.LOG_BYTES_DEFAULT
    block_size: Literal[512, 4096] = 512
    initiators: tuple[_Some, ...] | None = None
    """Who may see and use the target, by iSCSI name; anybody unless given."""
    portals: tuple[_Some, ...] = ()
    """Where the kernel serves the target; the portal's ``listen`` unless given."""


class PortalSection(ChapSection):
    """``[portal]``"""

    listen: _Some = DEFAULT_PORTAL
    insecure_no_chap: bool = False


class EventsSection(_Section, kw_only=True):
    """What both files say of events."""

    events: str = ""
    """The port for monitors: HOST:PORT, or "none"."""
    events_allow: str = ""
    """The public keys of who may watch; ``allow`` unless given."""


class ServeFile(EventsSection):
    """The whole file of ``pratima serve``."""

    state: _Some
    group: tuple[ServeGroupSection, ...] = ()
    front_end: FrontEndKind = FrontEndKind.AUTO
    lio_setup: bool = True
    command_timeout: int = limits.LIO_COMMAND_SECONDS
    """Seconds that the kernel waits for our answer to a command."""
    portal: PortalSection = msgspec.field(default_factory=PortalSection)
    key: str = ""
    allow: str = ""


class TargetsFile(_Section):
    """The daemon's own file: the groups that were made with ``pratima target create``."""

    group: tuple[ServeGroupSection, ...] = ()


class ReplicaGroupSection(_Section):
    """``[[group]]`` of replica"""

    volume: tuple[VolumeSection, ...]
    name: str = DEFAULT_GROUP
    overwrite: bool = False


class ReplicaFile(EventsSection):
    """The whole file of ``pratima replica``."""

    state: _Some
    group: tuple[ReplicaGroupSection, ...]
    listen: _Some = DEFAULT_LISTEN
    data_listen: str = ""
    """The port above ``listen`` unless given."""
    key: str = ""
    allow: str = ""
    journal_limit: _Size = limits.JOURNAL_BYTES_DEFAULT
