"""A link's states: three kept apart, and the one word that status makes of them.

Connection, replication and role change independently, each for a named reason. One rule: what
``status`` calls a link's state is computed by ``link_state`` and stored nowhere.
"""

import enum
from typing import Final


class Role(enum.Enum):
    """What a node is to a group."""

    PRIMARY = "primary"
    REPLICA = "replica"


class Mode(enum.Enum):
    """When a write completes."""

    ASYNC = "async"
    SEMI_SYNC = "semi-sync"
    SYNC = "sync"


class Connection(enum.Enum):
    """Where a link's session stands."""

    DISABLED = enum.auto()
    WAITING = enum.auto()
    """No session; the next attempt comes with back-off."""
    GREETING = enum.auto()
    """HELLO sent, no answer yet."""
    OPENING = enum.auto()
    """WELCOME accepted; the data channel is not up yet."""
    OPEN = enum.auto()
    SILENT = enum.auto()
    """Open, but the peer says nothing; a late return resumes the session."""
    REFUSED = enum.auto()
    DIVERGED = enum.auto()
    FAILED = enum.auto()
    """The replica cannot go on (its disk), or the two streams differ."""
    HELD = enum.auto()
    """Nothing is sent until an operator decides."""


class Replication(enum.Enum):
    """Where a link's writes go."""

    TABLE = enum.auto()
    """To the block write table: the log no longer holds all that the replica lacks."""
    TRANSACTION = enum.auto()
    """A resync transaction is open: to the log, unless the table has every block of the write."""
    STREAM = enum.auto()
    """To the log."""


class LinkState(enum.Enum):
    """The one word of ``status``."""

    DISABLED = "DISABLED"
    CONNECTING = "CONNECTING"
    STALE = "STALE"
    RESYNCING = "RESYNCING"
    SYNCED = "SYNCED"
    REFUSED = "REFUSED"
    DIVERGED = "DIVERGED"
    FAILED = "FAILED"


_BY_CONNECTION: Final = {
    Connection.DISABLED: LinkState.DISABLED,
    Connection.WAITING: LinkState.CONNECTING,
    Connection.GREETING: LinkState.CONNECTING,
    Connection.OPENING: LinkState.CONNECTING,
    Connection.SILENT: LinkState.CONNECTING,
    Connection.REFUSED: LinkState.REFUSED,
    Connection.DIVERGED: LinkState.DIVERGED,
    Connection.FAILED: LinkState.FAILED,
    Connection.HELD: LinkState.STALE,
}


def link_state(connection: Connection, replication: Replication, *, covered: bool) -> LinkState:
    """The state of a link; ``covered`` tells that its table and transaction are empty and no END is
    outstanding."""
    if connection is not Connection.OPEN:
        return _BY_CONNECTION[connection]
    if replication is Replication.TABLE:
        return LinkState.STALE
    if replication is Replication.TRANSACTION or not covered:
        return LinkState.RESYNCING
    return LinkState.SYNCED
