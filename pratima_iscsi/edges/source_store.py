"""What a source remembers over a restart, in its state directory: the only user of sqlite-utils.

    source.db        identity, history, links, and after a clean stop the spill under a clean mark
    source.identity  identity and history again, and the stamp of the last clean stop
    degraded-*       one degraded mark per link (edges.degraded_mark)

The clean mark is a digest over a random stamp and all that the spill says, and source.identity
must hold the same stamp: a database that somebody put back from a copy has an old one. A database
that cannot be believed at all is set aside, and the identity comes from the other file. One rule: a
spill in doubt costs a comparison, never a crash and never trust (invariant I7).
"""

import errno
import os
import secrets
import sqlite3
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
import sqlite_utils
from xxhash import xxh3_128_digest

from pratima_iscsi.block_write_table import BlockWriteTable
from pratima_iscsi.blocks import block_count
from pratima_iscsi.edges.boot import same_boot
from pratima_iscsi.edges.degraded_mark import DegradedMark
from pratima_iscsi.edges.source_identity import Identity, IdentityFile
from pratima_iscsi.edges.source_rows import (
    COLUMNS,
    StoredState,
    rows_of,
    state_of,
)
from pratima_iscsi.errors import StateError
from pratima_iscsi.limits import DATABASE_BUSY_SECONDS
from pratima_iscsi.positions import NO_GENERATION, NO_RECORD, ORIGIN, History
from pratima_iscsi.records import NO_HISTORY
from pratima_iscsi.replication.source_state import LinkState, SourceState, StopKind, VolumeState

DATABASE_NAME: Final = "source.db"
_SET_ASIDE: Final = ".damaged"
_APPLICATION_ID: Final = 0x5052544D
_SCHEMA_VERSION: Final = 2
_STAMP_BYTES: Final = 16
_OF_THE_MACHINE: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_FULL,
    }
)
"""Errors that say nothing about the database's content: the operator mends them."""
_DAMAGE: Final = (sqlite3.Error, ValueError, TypeError)
"""What a damaged database shows; Python's own are for text that is none (also in messages)."""


class _Damaged(Exception):
    """The database is not what we wrote."""


class SourceStore:
    """The store of one group in one state directory, which the caller holds locked.

    Calls may come from any thread, one at a time. Those that write raise OSError, and what was
    stored before then still is.
    """

    def __init__(self, directory: Path) -> None:
        """Open the store, making it where there is none. Raises StateError."""
        self._directory = directory
        self._path = directory / DATABASE_NAME
        self._identity = IdentityFile(directory)
        self._marks: dict[str, DegradedMark] = {}
        self.doubt = ""
        """Why what was found there is not believed; empty: it is, or there was nothing."""
        try:
            self._database = self._open()
        except _Damaged as damage:
            self._replace_database(str(damage))

    # --- opening -------------------------------------------------------------------------------

    def _open(self) -> sqlite_utils.Database:
        self._make_file()
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(
                self._path, timeout=DATABASE_BUSY_SECONDS, check_same_thread=False
            )
            _harden(connection)
            database = sqlite_utils.Database(
                connection, recursive_triggers=False, execute_plugins=False
            )
            _check_or_create(database)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if not isinstance(error, _DAMAGE):
                raise
            if _primary_code(error) in _OF_THE_MACHINE:
                raise StateError(
                    f"{self._path} cannot be used: {error}",
                    "see to the disk's space and the file's owner, or stop what has it open",
                ) from None
            raise _Damaged(f"the database is damaged: {error}") from None
        return database

    def _make_file(self) -> None:
        """SQLite follows links and knows no mode: so the file is made, and looked at, here."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise StateError(
                f"{self._path} cannot be opened: {error.strerror}",
                "it must be a file of ours: remove what stands there",
            ) from None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise StateError(f"{self._path} is no regular file", "remove what stands there")
            if status.st_mode & 0o077:
                os.fchmod(fd, 0o600)
        finally:
            os.close(fd)

    def _replace_database(self, damage: str) -> None:
        """Set the damaged database aside, its journal with it, and begin an empty one."""
        self.doubt = damage
        for suffix in ("-journal", "-wal", "-shm", ""):
            source = Path(f"{self._path}{suffix}")
            if source.exists():
                os.replace(source, f"{self._path}{_SET_ASIDE}{suffix}")
        self._database = self._open()

    # --- reading -------------------------------------------------------------------------------

    def load(self, volumes: Sequence[VolumeState], boot_id: str) -> SourceState | None:
        """The state, or None where no group was ever stored here.

        ``volumes`` are the group's as they are now. ``stop`` is CLEAN only if all that the spill
        says is believed; otherwise only identity, history and the links' flags come back, and
        ``doubt`` says why. Raises StateError if the identity itself is lost.
        """
        try:
            stored = self._read()
        except _Damaged as damage:
            self._database.close()
            self._replace_database(str(damage))
            stored = None
        if stored is None:
            stored = self._from_identity()
        if stored is None:
            return None
        stop, doubt = self._judge(stored, volumes, boot_id)
        self.doubt = self.doubt or doubt
        links = stored.state.links
        if stop is not StopKind.CLEAN:
            links = tuple(_without_tables(link) for link in links)
        links = tuple(replace(link, degraded=self.mark(link.name).degraded) for link in links)
        return replace(stored.state, links=links, stop=stop)

    def _read(self) -> StoredState | None:
        try:
            return state_of(
                {
                    name: list(self._database.table(name).rows_where(order_by=next(iter(columns))))
                    for name, columns in COLUMNS.items()
                }
            )
        except _DAMAGE as error:
            raise _Damaged(f"the database is damaged: {error}") from None

    def _from_identity(self) -> StoredState | None:
        """The second copy, when the database holds nothing; it goes into the new database."""
        identity = self._identity.value
        if identity is None:
            if not self._identity.damaged and not self.doubt:
                return None
            raise StateError(
                f"both copies of the source's identity in {self._directory} are damaged",
                f"put {DATABASE_NAME} and the other files there back from a backup, or begin anew "
                "with an empty state directory on both sides",
            )
        self.doubt = self.doubt or "the database is gone"
        state = SourceState(
            group=identity.group,
            name=identity.name,
            node=identity.node,
            history=identity.history,
            links=tuple(LinkState(name, ever_sync=True) for name in identity.ever_sync),
            boot_id=identity.boot_id,
        )
        stored = StoredState(state)
        self._write(stored)
        return stored

    def _judge(
        self, stored: StoredState, volumes: Sequence[VolumeState], boot_id: str
    ) -> tuple[StopKind, str]:
        """How the last run ended, and why its spill is not believed (empty: it is)."""
        state = stored.state
        unclean = StopKind.CRASHED if same_boot(state.boot_id, boot_id) else StopKind.POWER_LOST
        if not stored.mark:
            if state.history.position.generation == NO_GENERATION:
                return StopKind.NONE, ""  # a generation is stored before the first write
            return unclean, "the last stop was not clean"
        identity = self._identity.value
        if identity is None or (identity.group, identity.stamp) != (state.group, stored.stamp):
            return unclean, "the spill is not that of the last stop"
        if stored.mark != _clean_mark(state, stored.stamp):
            return unclean, "the spill's checksum differs"
        if tuple(volumes) != state.volumes:
            return StopKind.CRASHED, "a volume has changed since the clean stop"
        if not all(_tables_fit(link, volumes) for link in state.links):
            return StopKind.CRASHED, "the spill's tables do not fit the volumes"
        return StopKind.CLEAN, ""

    # --- writing -------------------------------------------------------------------------------

    def create(self, state: SourceState) -> None:
        """Store a new group. Durable on return."""
        self._write(StoredState(replace(state, links=tuple(map(_without_tables, state.links)))))
        self._save_identity(state)

    def begin_generation(
        self, history: History, digest: bytes, boot_id: str, links: Sequence[LinkState]
    ) -> None:
        """Erase the clean mark and the spill and record the new generation, in one synchronous
        transaction: no write is admitted before it has returned."""
        state = replace(
            self._stored().state,
            history=history,
            digest=digest,
            boot_id=boot_id,
            links=tuple(map(_without_tables, links)),
        )
        self._write(StoredState(state))
        self._save_identity(state)

    def save_clean(self, state: SourceState) -> None:
        """Spill ``state`` under a clean mark; the caller has synced every volume. Idempotent."""
        stamp = secrets.token_bytes(_STAMP_BYTES)
        self._write(StoredState(state, stamp, _clean_mark(state, stamp)))
        self._save_identity(state, stamp)

    def remember_link(self, link: LinkState) -> None:
        """Record one link's flags (``ever_sync``, ``lost_power``, ``synced_once``, ``enabled``); a
        spill that is there stays believed."""
        stored = self._stored()
        links = list(stored.state.links)
        at = next((i for i, known in enumerate(links) if known.name == link.name), None)
        if at is None:
            links.append(_without_tables(link))
        else:
            links[at] = replace(
                links[at],
                ever_sync=link.ever_sync,
                lost_power=link.lost_power,
                synced_once=link.synced_once,
                enabled=link.enabled,
            )
        state = replace(stored.state, links=tuple(links))
        believed = stored.mark and stored.mark == _clean_mark(stored.state, stored.stamp)
        mark = _clean_mark(state, stored.stamp) if believed else b""
        stamp = stored.stamp if believed else b""
        self._write(StoredState(state, stamp, mark))
        self._save_identity(state, stamp)

    def remember_loss(self, boot_id: str) -> None:
        """The power was lost before this boot: each link that ever waited is for the operator to
        judge, and a crash on this boot is a crash and no loss of its own.

        The second copy keeps the old boot: it has no such flags, and without them it is to say that
        the power was lost.
        """
        state = self._stored().state
        links = tuple(
            replace(_without_tables(link), lost_power=link.lost_power or link.ever_sync)
            for link in state.links
        )
        self._write(StoredState(replace(state, boot_id=boot_id, links=links)))

    def known_sizes(self, names: Collection[str]) -> dict[str, int | None]:
        """How large the group knows its volumes of these names, which are all that there are now:
        their files or devices may have more. None where a volume is new; 0 where it may not be, for
        the group's volumes are forgotten, or have one of another name: this may be its new one."""
        known = {volume.name: volume.size for volume in self._known_volumes()}
        is_new = self.is_new if not known else known.keys() <= set(names)
        return {name: known.get(name, None if is_new else 0) for name in names}

    @property
    def is_new(self) -> bool:
        """Whether no group was ever stored here; in doubt one was."""
        identity = self._identity
        if identity.value is not None or identity.damaged or self.doubt:
            return False
        try:
            return self._read() is None
        except _Damaged:
            return False

    def _known_volumes(self) -> tuple[VolumeState, ...]:
        try:
            stored = self._read()
        except _Damaged:
            return ()  # ``load`` sees to it
        return () if stored is None else stored.state.volumes

    def remember_size(self, name: str, size: int) -> None:
        """A volume is about to grow: no replica may know it larger than this source would after a
        crash. A spill is not believed any more."""
        state = self._stored().state
        sizes = {volume.name: volume for volume in state.volumes}
        sizes[name] = replace(sizes.get(name, VolumeState(name, size)), size=size)
        self.remember_volumes(tuple(sizes.values()))

    def remember_volumes(self, volumes: Sequence[VolumeState]) -> None:
        """Record which volumes the group has. A spill is not believed any more."""
        state = self._stored().state
        links = tuple(map(_without_tables, state.links))
        self._write(StoredState(replace(state, volumes=tuple(volumes), links=links)))

    def forget_volumes(self, names: Collection[str]) -> None:
        """The group does not have these volumes after all. A spill is not believed any more."""
        volumes = self._stored().state.volumes
        kept = tuple(volume for volume in volumes if volume.name not in names)
        if kept != volumes:
            self.remember_volumes(kept)

    def mark(self, link: str) -> DegradedMark:
        """The degraded mark of a link, open as long as the store is. Raises OSError."""
        mark = self._marks.get(link)
        if mark is None:
            mark = self._marks[link] = DegradedMark(self._directory, link)
        return mark

    def close(self) -> None:
        """Release the files; a second call does nothing."""
        self._database.close()
        for mark in self._marks.values():
            mark.close()
        self._marks.clear()

    def _stored(self) -> StoredState:
        try:
            stored = self._read()
        except _Damaged as damage:
            raise OSError(errno.EIO, str(damage), str(self._path)) from None
        if stored is None:
            raise OSError(errno.EIO, "the database has lost its group", str(self._path))
        return stored

    def _write(self, stored: StoredState) -> None:
        with self._writing(), self._database.atomic():
            for name, rows in rows_of(stored).items():
                table = self._database.table(name)
                table.delete_where()
                table.insert_all([dict(row) for row in rows])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            full = _primary_code(error) == sqlite3.SQLITE_FULL
            raise OSError(
                errno.ENOSPC if full else errno.EIO, str(error), str(self._path)
            ) from error

    def _save_identity(self, state: SourceState, stamp: bytes = b"") -> None:
        identity = Identity(
            group=state.group,
            name=state.name,
            node=state.node,
            history=state.history,
            boot_id=state.boot_id,
            ever_sync=tuple(link.name for link in state.links if link.ever_sync),
            stamp=stamp,
        )
        # A file that says so already is left alone: it could fail after the database was written,
        # and what a caller is told of as failed is then stored all the same.
        if identity != self._identity.value:
            self._identity.save(identity)


def _harden(connection: sqlite3.Connection) -> None:
    """The database's content is untrusted until checked, and a commit is durable: with a journal
    that is truncated, not deleted, FULL syncs the step that commits."""
    for pragma in (
        "trusted_schema=OFF",
        "cell_size_check=ON",
        "mmap_size=0",
        "journal_mode=TRUNCATE",
        "synchronous=FULL",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _check_or_create(database: sqlite_utils.Database) -> None:
    found = _schema(database)
    if not found and _number(database, "application_id") == 0:
        with database.atomic():
            _create_tables(database)
        return
    if _number(database, "application_id") != _APPLICATION_ID:
        raise _Damaged("the database is not one of ours")
    version = _number(database, "user_version")
    if version > _SCHEMA_VERSION:
        raise StateError(
            f"the state was written by a newer version (schema {version}, we know "
            f"{_SCHEMA_VERSION})",
            "use that version, or a newer one",
        )
    wanted = sqlite_utils.Database(memory=True, execute_plugins=False)
    _create_tables(wanted)
    if version != _SCHEMA_VERSION or found != _schema(wanted):
        raise _Damaged("the database has another schema than ours")
    wanted.close()
    verdict = database.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != ("ok",):
        raise _Damaged(f"the database is damaged: {verdict}")


def _create_tables(database: sqlite_utils.Database) -> None:
    for name, columns in COLUMNS.items():
        database.table(name).create(
            dict(columns), pk=next(iter(columns)), not_null=set(columns), strict=True
        )
    database.execute(f"PRAGMA application_id={_APPLICATION_ID}")
    database.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")


def _schema(database: sqlite_utils.Database) -> list[tuple[object, ...]]:
    return list(
        database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name, type")
    )


def _number(database: sqlite_utils.Database, pragma: str) -> int:
    return int(database.execute(f"PRAGMA {pragma}").fetchone()[0])


def _primary_code(error: BaseException) -> int:
    """SQLite's result code without its extension; 0 for an error of Python's own."""
    code: int = getattr(error, "sqlite_errorcode", 0) or 0
    return code & 0xFF


def _clean_mark(state: SourceState, stamp: bytes) -> bytes:
    """The digest over the stamp and all that the spill says, but degraded marks."""
    links = tuple(replace(link, degraded=True) for link in state.links)
    plain = replace(state, links=links, stop=StopKind.CLEAN)
    return xxh3_128_digest(stamp + msgspec.msgpack.encode(plain))


def _without_tables(link: LinkState) -> LinkState:
    return replace(
        link,
        base=ORIGIN,
        base_history=NO_HISTORY,
        acknowledged=NO_RECORD,
        sender=0,
        direct_transaction=0,
        table=(),
        unverified=(),
    )


def _tables_fit(link: LinkState, volumes: Sequence[VolumeState]) -> bool:
    """Whether a link's tables are bitmaps of these volumes' blocks (or it has none)."""
    for parts in (link.table, link.unverified):
        if not parts:
            continue
        if len(parts) != len(volumes):
            return False
        try:
            table = BlockWriteTable.deserialize(parts)
        except (ValueError, LookupError, MemoryError):
            return False
        for bitmap, volume in zip(table.bitmaps, volumes, strict=True):
            if bitmap and bitmap.max() >= block_count(volume.size):
                return False
    return True
