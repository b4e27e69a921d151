"""What a replica's state machine asks its engine to do, as values.

The storage's calls among them are jobs: one of the journal and one of the volumes at most are under
way. One rule: an effect's answer comes back through the sink, in the call that the effect names.
"""

import msgspec

from pratima_iscsi.replication.messages import Message
from pratima_iscsi.replication.standing import CheckedFrame


class Tell(msgspec.Struct, frozen=True):
    """Send a control message to ``peer``."""

    peer: bytes
    message: Message


class Bind(msgspec.Struct, frozen=True):
    """Persist that the replica belongs to this group, synced; empty volumes get their size first.
    Answer with ``bound``."""

    group: bytes
    name: str
    volumes: tuple[tuple[str, int], ...]
    """Name and size in bytes of each."""


class MakeRoom(msgspec.Struct, frozen=True):
    """Let each volume hold so many bytes (0: as it is), durably; answer with ``room_made``."""

    sizes: tuple[int, ...]


class WriteJournal(msgspec.Struct, frozen=True):
    """Append these frames (None: an empty unit) with ``mark``, then sync if asked to; answer with
    ``journal_written`` after the appends and ``journal_done`` at the end."""

    frames: tuple[CheckedFrame | None, ...]
    mark: int
    sync: bool
    wanted: bool
    """Somebody waits for ``journal_written``; else it may come with the next tick or the end."""


class Apply(msgspec.Struct, frozen=True):
    """Apply units up to ``upto``; answer with ``applied``."""

    upto: int


class Checkpoint(msgspec.Struct, frozen=True):
    """Make what was applied durable on the volumes, and persist the position; answer with
    ``checkpointed``."""


class Release(msgspec.Struct, frozen=True):
    """Journal units up to ``upto`` may be overwritten."""

    upto: int


class Notice(msgspec.Struct, frozen=True):
    """Something changed that an operator may want to know."""

    event: str
    reason: str
    alarm: bool = False


SinkEffect = Tell | Bind | MakeRoom | WriteJournal | Apply | Checkpoint | Release | Notice
