"""What a replica remembers of its group, and the file that it stands in.

The file holds the same state twice. ``save`` rewrites the first copy, syncs, then the second, and
syncs again: a power cut can spoil the copy that is being written and no other, so one good copy is
always the newest durable state or the one before it, which is all that a save under way may show.
Copies written by turns would not do: there a damaged newest copy looks like one whose writing was
cut, and the older one would be believed although the volumes have moved on. One rule: a damaged
copy is healed from the good one; where both are damaged nothing is guessed.
"""

import struct
from typing import Final

import msgspec
from xxhash import xxh3_128_digest

from pratima_iscsi.edges.files import Directory, File
from pratima_iscsi.errors import StateError
from pratima_iscsi.limits import REPLICA_STATE_BYTES
from pratima_iscsi.positions import ORIGIN, History
from pratima_iscsi.records import NO_HISTORY

STATE_NAME: Final = "state"
_NEW_NAME: Final = "state.new"

_MAGIC: Final = b"PRRS"
_VERSION: Final = 1
_HEAD: Final = struct.Struct(">4sIQI")
"""magic, version, counter, bytes of the body"""
_DIGEST_BYTES: Final = 16


class ReplicaVolume(msgspec.Struct, frozen=True):
    """One volume of the group: its name at the source, and its size in bytes."""

    name: str
    size: int


class Commit(msgspec.Struct, frozen=True):
    """What a durable END brings the replica to, while its staged blocks are being copied."""

    history: History
    digest: bytes


class ReplicaState(msgspec.Struct, frozen=True):
    """One group at one replica; a fresh one is unbound.

    ``history`` and ``digest`` are the last consistent point, during a transaction the old one.
    """

    group: bytes = b""
    """Group id (16 bytes), empty: not bound."""
    group_name: str = ""
    node: bytes = b""
    """This replica's node id when it was bound."""
    volumes: tuple[ReplicaVolume, ...] = ()
    consistent: bool = False
    """Whether recovery brings the volumes to ``history``; made False before the first byte that
    makes it so."""
    reason: str = ""
    """Why it is not consistent."""
    failed: str = ""
    """Why nothing more is applied here: the journal holds what the protocol does not allow."""
    history: History = History(ORIGIN)
    digest: bytes = NO_HISTORY
    """History digest at that position."""
    incarnation: int = 0
    """Source incarnation of the last applied record, 0: none."""
    n: int = 0
    """Link sequence of the last applied record."""
    transaction: int = 0
    """Open resync transaction, 0: none."""
    direct: bool = False
    """Whether that one is applied to the volumes at once."""
    ended: int = 0
    """The last transaction whose END was committed, 0: none."""
    committing: Commit | None = None
    """END is durable and its staged blocks are being copied to the volumes."""
    staging: int = 0
    """Which index of the staging is the durable one, 0: nothing is staged."""
    applied: int = 0
    """The last journal unit that is applied whole."""
    skip: int = 0
    """Records of the unit after it that are applied too."""
    durable: int = 0
    """A journal unit that was durable when this was saved: one below it that is missing is lost."""
    discard: bool = False
    """What the journal holds leads nowhere: empty it before it is used again."""
    heard_ns: int = 0
    """Wall time at which the source was last heard."""

    @property
    def bound(self) -> bool:
        """Whether the replica belongs to a group."""
        return bool(self.group)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ReplicaState)


class StateFile:
    """The durable ReplicaState of a directory; there is no file before the first ``save``."""

    def __init__(self, directory: Directory, *, read: bool = True) -> None:
        """Reads what is there, if it is to. Raises StateError if a file is there and both copies
        are bad, OSError if it cannot be read."""
        self._directory = directory
        self._file: File | None = None
        self._counter = 0
        self.state = ReplicaState()
        if read and directory.exists(STATE_NAME):
            self._file = directory.open(STATE_NAME)
            self._load(self._file)

    def _load(self, file: File) -> None:
        copies = [_decode(file.pread(REPLICA_STATE_BYTES, at)) for at in _COPIES]
        good = [copy for copy in copies if copy is not None]
        if not good:
            raise StateError(
                "the replica's state file is damaged in both copies",
                "take the replica afresh: an empty state directory, then a first sync",
            )
        self._counter, self.state = max(good, key=lambda copy: copy[0])

    def save(self, state: ReplicaState) -> None:
        """Make ``state`` the durable one. After an OSError the older one may still be."""
        self._counter += 1
        copy = _encode(self._counter, state)
        if self._file is None:
            self._create(copy)
        else:
            for at in _COPIES:
                self._file.pwrite(copy, at)
                self._file.fdatasync()
        self.state = state

    def _create(self, copy: bytes) -> None:
        """The first save: the name appears with both copies good, or not at all."""
        file = self._directory.open(_NEW_NAME, create=True)
        for at in _COPIES:
            file.pwrite(copy, at)
        file.fdatasync()
        self._directory.rename(_NEW_NAME, STATE_NAME)
        self._directory.sync()
        self._file = file

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


_COPIES: Final = (0, REPLICA_STATE_BYTES)
"""Where the two copies begin."""


def _encode(counter: int, state: ReplicaState) -> bytes:
    body = _encoder.encode(state)
    head = _HEAD.pack(_MAGIC, _VERSION, counter, len(body))
    copy = head + body
    copy += xxh3_128_digest(copy)
    assert len(copy) <= REPLICA_STATE_BYTES
    return copy


def _decode(copy: bytes) -> tuple[int, ReplicaState] | None:
    """The counter and the state in ``copy``; None if it is not whole."""
    magic, version, counter, length = _HEAD.unpack_from(copy)
    end = _HEAD.size + length
    if magic != _MAGIC or end + _DIGEST_BYTES > len(copy):
        return None
    if xxh3_128_digest(copy[:end]) != copy[end : end + _DIGEST_BYTES]:
        return None
    if version != _VERSION:
        raise StateError(
            f"the replica's state has version {version}, this program knows {_VERSION}",
            "use the program that wrote it, or a newer one",
        )
    return counter, _decoder.decode(copy[_HEAD.size : end])
