"""A source's state as rows of plain tables, and back: the layout of ``source.db``.

64-bit ids, and numbers that a peer has said, are hexadecimal text, because SQLite's integers have a
sign. One rule: rows are checked field by field on the way back, and whatever does not fit raises
ValueError.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from pratima_iscsi.limits import ANCESTRY_MAX, LINKS_MAX, NAME_BYTES_MAX, VOLUMES_MAX
from pratima_iscsi.positions import UNKNOWN, Ancestor, History, LinkSequence, Position
from pratima_iscsi.replication.source_state import LinkState, SourceState, VolumeState

Row = Mapping[str, object]
Rows = dict[str, list[Row]]
"""The rows of each table."""

SOURCE: Final = "source"
ANCESTOR: Final = "ancestor"
VOLUME: Final = "volume"
LINK: Final = "link"
SPILL: Final = "spill"

TABLE: Final = "table"
UNVERIFIED: Final = "unverified"

_Hex = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
_Id = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Number = Annotated[int, Meta(ge=0)]
_Flag = Annotated[int, Meta(ge=0, le=1)]
_Name = Annotated[str, Meta(min_length=1, max_length=NAME_BYTES_MAX)]


class _SourceRow(msgspec.Struct, forbid_unknown_fields=True):
    id: _Flag
    group_id: _Id
    name: _Name
    node: _Id
    generation: _Hex
    sequence: _Number
    digest: _Id
    boot_id: str
    stamp: bytes
    clean_mark: bytes


class _AncestorRow(msgspec.Struct, forbid_unknown_fields=True):
    ordinal: _Number
    generation: _Hex
    last: Annotated[int, Meta(ge=UNKNOWN)]


class _VolumeRow(msgspec.Struct, forbid_unknown_fields=True):
    ordinal: _Number
    name: _Name
    size: _Number
    inode: _Hex
    mtime_ns: int


class _LinkRow(msgspec.Struct, forbid_unknown_fields=True):
    ordinal: _Number
    name: _Name
    ever_sync: _Flag
    lost_power: _Flag
    synced_once: _Flag
    enabled: _Flag
    base_generation: _Hex
    base_sequence: _Number
    base_history: _Id
    acknowledged_incarnation: _Hex
    acknowledged_n: _Hex
    sender: _Hex
    direct_transaction: _Hex


class _SpillRow(msgspec.Struct, forbid_unknown_fields=True):
    ordinal: _Number
    link: _Number
    kind: str
    volume: _Number
    bitmap: bytes


_COLUMN_TYPES: Final[Mapping[object, type]] = {_Hex: str, _Name: str, _Id: bytes}
_STRUCTS: Final[Mapping[str, type[msgspec.Struct]]] = {
    SOURCE: _SourceRow,
    ANCESTOR: _AncestorRow,
    VOLUME: _VolumeRow,
    LINK: _LinkRow,
    SPILL: _SpillRow,
}


def _column_type(annotation: object) -> type:
    if isinstance(annotation, type):
        return annotation
    return _COLUMN_TYPES.get(annotation, int)


COLUMNS: Final[Mapping[str, Mapping[str, type]]] = {
    name: {field.encode_name: _column_type(field.type) for field in msgspec.structs.fields(struct)}
    for name, struct in _STRUCTS.items()
}
"""Every table's columns with their types; the first is the primary key and none may be NULL."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """What the database holds: ``stamp`` and ``mark`` are empty unless the stop was clean."""

    state: SourceState
    stamp: bytes = b""
    mark: bytes = b""


def rows_of(stored: StoredState) -> Rows:
    """The rows that hold ``stored``."""
    state = stored.state
    position = state.history.position
    source = _SourceRow(
        id=1,
        group_id=state.group,
        name=state.name,
        node=state.node,
        generation=_hex(position.generation),
        sequence=position.sequence,
        digest=state.digest,
        boot_id=state.boot_id,
        stamp=stored.stamp,
        clean_mark=stored.mark,
    )
    ancestors = [
        _AncestorRow(ordinal, _hex(ancestor.generation), ancestor.last)
        for ordinal, ancestor in enumerate(state.history.ancestry)
    ]
    volumes = [
        _VolumeRow(ordinal, volume.name, volume.size, _hex(volume.inode), volume.mtime_ns)
        for ordinal, volume in enumerate(state.volumes)
    ]
    links = [_link_row(ordinal, link) for ordinal, link in enumerate(state.links)]
    spill = [
        _SpillRow(0, ordinal, kind, volume, bitmap)
        for ordinal, link in enumerate(state.links)
        for kind, bitmaps in ((TABLE, link.table), (UNVERIFIED, link.unverified))
        for volume, bitmap in enumerate(bitmaps)
    ]
    for ordinal, row in enumerate(spill):
        row.ordinal = ordinal
    return {
        SOURCE: _dicts([source]),
        ANCESTOR: _dicts(ancestors),
        VOLUME: _dicts(volumes),
        LINK: _dicts(links),
        SPILL: _dicts(spill),
    }


def _link_row(ordinal: int, link: LinkState) -> _LinkRow:
    return _LinkRow(
        ordinal=ordinal,
        name=link.name,
        ever_sync=int(link.ever_sync),
        lost_power=int(link.lost_power),
        synced_once=int(link.synced_once),
        enabled=int(link.enabled),
        base_generation=_hex(link.base.generation),
        base_sequence=link.base.sequence,
        base_history=link.base_history,
        acknowledged_incarnation=_hex(link.acknowledged.incarnation),
        acknowledged_n=_hex(link.acknowledged.n),
        sender=_hex(link.sender),
        direct_transaction=_hex(link.direct_transaction),
    )


def state_of(rows: Rows) -> StoredState | None:
    """What ``rows`` hold, None for no rows at all; ValueError for rows that are not ours."""
    sources = _structs(rows, SOURCE, _SourceRow, 1)
    ancestors = _structs(rows, ANCESTOR, _AncestorRow, ANCESTRY_MAX)
    volumes = _structs(rows, VOLUME, _VolumeRow, VOLUMES_MAX)
    links = _structs(rows, LINK, _LinkRow, LINKS_MAX)
    spill = _structs(rows, SPILL, _SpillRow, 2 * LINKS_MAX * VOLUMES_MAX)
    if not sources:
        return None
    source = sources[0]
    position = Position(int(source.generation, 16), source.sequence)
    ancestry = tuple(Ancestor(int(row.generation, 16), row.last) for row in ancestors)
    state = SourceState(
        group=source.group_id,
        name=source.name,
        node=source.node,
        history=History(position, ancestry),
        digest=source.digest,
        volumes=tuple(
            VolumeState(row.name, row.size, int(row.inode, 16), row.mtime_ns) for row in volumes
        ),
        links=tuple(
            _link(row, [part for part in spill if part.link == row.ordinal]) for row in links
        ),
        boot_id=source.boot_id,
    )
    return StoredState(state, source.stamp, source.clean_mark)


def _link(row: _LinkRow, spill: Iterable[_SpillRow]) -> LinkState:
    parts: dict[str, list[bytes]] = {TABLE: [], UNVERIFIED: []}
    for part in spill:
        if part.kind not in parts or part.volume != len(parts[part.kind]):
            raise ValueError("a table of the spill is missing or unknown")
        parts[part.kind].append(part.bitmap)
    return LinkState(
        name=row.name,
        ever_sync=bool(row.ever_sync),
        lost_power=bool(row.lost_power),
        synced_once=bool(row.synced_once),
        enabled=bool(row.enabled),
        base=Position(int(row.base_generation, 16), row.base_sequence),
        base_history=row.base_history,
        acknowledged=LinkSequence(
            int(row.acknowledged_incarnation, 16), int(row.acknowledged_n, 16)
        ),
        sender=int(row.sender, 16),
        direct_transaction=int(row.direct_transaction, 16),
        table=tuple(parts[TABLE]),
        unverified=tuple(parts[UNVERIFIED]),
    )


_StructT = TypeVar("_StructT", bound=msgspec.Struct)


def _structs(rows: Rows, name: str, struct: type[_StructT], most: int) -> list[_StructT]:
    found = rows[name]
    if len(found) > most:
        raise ValueError(f"table {name} has {len(found)} rows, {most} at the most")
    return [msgspec.convert(dict(row), struct) for row in found]


def _dicts(structs: Iterable[msgspec.Struct]) -> list[Row]:
    return [msgspec.structs.asdict(struct) for struct in structs]


def _hex(number: int) -> str:
    return f"{number:016x}"
