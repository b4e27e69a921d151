"""What may stand where in a link's stream: the one table that a replica holds each record to.

It is asked twice, with what is known at each place: when a frame arrives, before it is taken into
the journal, and when the journal is applied, whoever wrote that. One rule: a record that passes can
be applied, and a frame with one that does not is rejected whole.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from pratima_iscsi.blocks import BLOCK_BYTES, VOLUME_BYTES_MAX
from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.limits import VERIFY_BYTES_MAX
from pratima_iscsi.operations import COUNTED, WRITE, RecordKind
from pratima_iscsi.positions import NO_GENERATION
from pratima_iscsi.records import Begin, End, GenerationBegin, Verify
from pratima_iscsi.replication.wire import Batch, Entry

_SECTOR: Final = 512
_RESYNC: Final = frozenset({RecordKind.RESYNC, RecordKind.RESYNC_ZERO})
_WHOLE_BLOCKS: Final = _RESYNC | {RecordKind.VERIFY}
_BY_KIND: Final = frozenset({RecordKind.GENERATION, RecordKind.BEGIN, RecordKind.END})


class Place(Protocol):
    """Where in the stream a record stands."""

    @property
    def sizes(self) -> Sequence[int]:
        """Bytes of each volume, before the record."""

    @property
    def capacities(self) -> Sequence[int]:
        """Bytes that there is room for in each."""

    @property
    def consistent(self) -> bool:
        """Whether the replica has a consistent point."""

    @property
    def transaction(self) -> int:
        """The open transaction, 0: none."""

    @property
    def generation(self) -> int:
        """The generation of the position, and its sequence."""

    @property
    def sequence(self) -> int:
        """The last counted record's."""


def continues(entry: Entry, sequence: int, sizes: Sequence[int]) -> bool:
    """Whether ``entry`` is a write that may stand right behind ``sequence``, in volumes of these
    sizes, outside a transaction. Most records are one, and need no other rule; what is not one is
    for ``check``."""
    return (
        entry.kind == WRITE
        and entry.sequence == sequence + 1
        and entry.volume < len(sizes)
        and 0 < entry.length <= sizes[entry.volume] - entry.offset
        and not entry.offset % _SECTOR
    )


def check(entry: Entry, place: Place, generation: int) -> None:
    """Raises RemoteProtocolError unless ``entry``, of ``generation``, may stand at ``place``."""
    kind = entry.kind
    if kind == RecordKind.RESIZE:
        check_size(place, entry.volume, entry.length)
    elif entry.length or kind in _WHOLE_BLOCKS:
        _check_range(entry, place)
    if kind in COUNTED:
        if not place.transaction:
            _check_counted(entry, place, generation)
    elif kind in _BY_KIND:
        _check_turn(entry, place)
    elif kind in _RESYNC and not place.transaction:
        raise RemoteProtocolError("a resync record outside a transaction")
    elif kind == RecordKind.VERIFY:
        if entry.length > VERIFY_BYTES_MAX:
            raise RemoteProtocolError(f"a VERIFY of {entry.length} bytes")
        Verify.decode(entry.payload, -(-entry.length // BLOCK_BYTES))


def check_order(batch: Batch) -> None:
    """The generation of a frame's header holds for each of its records: so GENERATION stands first,
    and END last. Raises RemoteProtocolError."""
    entries = batch.entries
    for index, entry in enumerate(entries):
        if entry.kind == RecordKind.GENERATION:
            begun = GenerationBegin.decode(entry.payload).generation
            if index or begun != batch.header.generation:
                header = batch.header.generation
                raise RemoteProtocolError(f"generation {begun:x} inside a frame of {header:x}")
        elif entry.kind == RecordKind.END and index < len(entries) - 1:
            raise RemoteProtocolError("records behind END in its frame")


def _check_range(entry: Entry, place: Place) -> None:
    if entry.volume >= len(place.sizes):
        raise RemoteProtocolError(f"there is no volume {entry.volume}")
    size, end = place.sizes[entry.volume], entry.offset + entry.length
    if end > size or entry.offset % _SECTOR or not entry.length:
        raise RemoteProtocolError(f"range {entry.offset}+{entry.length} of {size} bytes")
    whole = entry.offset % BLOCK_BYTES == 0 and (end % BLOCK_BYTES == 0 or end == size)
    if entry.kind in _WHOLE_BLOCKS and not whole:
        raise RemoteProtocolError("a resync record of parts of blocks")


def _check_counted(entry: Entry, place: Place, generation: int) -> None:
    if not place.consistent:
        raise RemoteProtocolError("a write for a replica that is not consistent")
    if generation != place.generation:
        raise RemoteProtocolError(
            f"a write of generation {generation:x} after {place.generation:x}"
        )
    if entry.sequence != place.sequence + 1:
        raise RemoteProtocolError(f"write {entry.sequence} after {place.sequence}")


def _check_turn(entry: Entry, place: Place) -> None:
    if entry.kind == RecordKind.GENERATION:
        begin = GenerationBegin.decode(entry.payload)
        parent = place.generation
        if not place.transaction and (
            begin.parent != parent or (parent != NO_GENERATION and begin.last != place.sequence)
        ):
            raise RemoteProtocolError("a generation that does not begin here")
    elif entry.kind == RecordKind.BEGIN:
        check_begin(Begin.decode(entry.payload), place)
    elif not place.transaction or End.decode(entry.payload).transaction != place.transaction:
        raise RemoteProtocolError("END of a transaction that is not open")


def check_begin(begin: Begin, place: Place) -> None:
    """A transaction's mode and sizes."""
    if not begin.direct and not place.consistent:
        raise RemoteProtocolError("a staged transaction needs a consistent replica")
    if begin.sizes and len(begin.sizes) != len(place.sizes):
        raise RemoteProtocolError(f"BEGIN of {len(begin.sizes)} volumes")
    for volume, size in enumerate(begin.sizes):
        check_size(place, volume, size)


def check_size(place: Place, volume: int, size: int) -> None:
    """A volume grows, and only to what there is room for: the journal must not hold what cannot be
    applied."""
    if volume >= len(place.sizes):
        raise RemoteProtocolError(f"there is no volume {volume}")
    known, room = place.sizes[volume], place.capacities[volume]
    if not known <= size <= room or not may_have(size):
        raise RemoteProtocolError(f"volume {volume} cannot be resized to {size} bytes")


def may_have(size: int) -> bool:
    """Whether a volume can be so large at all."""
    return 0 < size <= VOLUME_BYTES_MAX and size % _SECTOR == 0
