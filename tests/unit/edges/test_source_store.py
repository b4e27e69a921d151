"""What a source remembers: believed after a clean stop, and after anything else only in part."""

import errno
import os
import shutil
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pratima_iscsi.block_write_table import BlockWriteTable
from pratima_iscsi.edges.degraded_mark import DegradedMark
from pratima_iscsi.edges.source_identity import IDENTITY_NAME, IdentityFile
from pratima_iscsi.edges.source_store import DATABASE_NAME, SourceStore
from pratima_iscsi.errors import StateError
from pratima_iscsi.positions import (
    NO_RECORD,
    ORIGIN,
    SEQUENCE_MAX,
    UNKNOWN,
    Ancestor,
    History,
    LinkSequence,
    Position,
)
from pratima_iscsi.replication.source_state import (
    LinkState,
    SourceState,
    StopKind,
    VolumeState,
)

BOOT = "11111111-2222"
OTHER_BOOT = "99999999-8888"
GENERATION = (1 << 64) - 5
VOLUMES = (
    VolumeState("disk", 1 << 20, (1 << 64) - 1, 1_700_000_000_123_456_789),
    VolumeState("log", 4096 * 3 + 512),
)


def table(*blocks: tuple[int, int, int]) -> tuple[bytes, ...]:
    marked = BlockWriteTable(2)
    for volume, first, end in blocks:
        marked.add(volume, first, end)
    return marked.serialize()


LINKS = (
    LinkState(
        "127.0.0.1:7010",
        ever_sync=True,
        synced_once=True,
        base=Position(GENERATION, 41),
        base_history=b"h" * 16,
        acknowledged=LinkSequence((1 << 64) - 2, (1 << 64) - 1),
        sender=(1 << 64) - 3,
        direct_transaction=(1 << 64) - 1,
        table=table((0, 3, 9), (1, 3, 4)),
        unverified=table((0, 8, 9)),
    ),
    LinkState("ipc:///run/b", enabled=False, table=table(), unverified=table()),
)
STATE = SourceState(
    group=b"g" * 16,
    name="default",
    node=b"n" * 16,
    history=History(Position(GENERATION, 42), (Ancestor(7, 12), Ancestor(1 << 63, UNKNOWN))),
    digest=b"d" * 16,
    volumes=VOLUMES,
    links=LINKS,
    boot_id=BOOT,
)
FRESH = replace(STATE, history=History(ORIGIN), digest=bytes(16), links=(), boot_id="")
NEXT = STATE.history.begin(77)


def stored(directory: Path, *, clean: bool = True) -> None:
    """A state directory after a run: created, a generation begun, perhaps stopped cleanly."""
    store = SourceStore(directory)
    store.create(FRESH)
    store.begin_generation(STATE.history, STATE.digest, BOOT, LINKS)
    if clean:
        store.save_clean(STATE)
    store.close()


def loaded(
    directory: Path,
    volumes: tuple[VolumeState, ...] = VOLUMES,
    boot: str = BOOT,
) -> tuple[SourceState, str]:
    store = SourceStore(directory)
    try:
        state = store.load(volumes, boot)
        assert state is not None
        return state, store.doubt
    finally:
        store.close()


def assert_identity_only(state: SourceState) -> None:
    assert (state.group, state.name, state.node) == (STATE.group, STATE.name, STATE.node)
    assert state.history == STATE.history
    for link in state.links:
        assert link.table == link.unverified == ()
        assert link.base == ORIGIN
        assert link.acknowledged == NO_RECORD
        assert link.sender == link.direct_transaction == 0
    assert [link.name for link in state.links if link.ever_sync] == ["127.0.0.1:7010"]


def edit(directory: Path, sql: str, *parameters: object) -> None:
    with sqlite3.connect(directory / DATABASE_NAME) as connection:
        connection.execute(sql, parameters)
    connection.close()


def test_an_empty_directory_has_no_state(tmp_path: Path) -> None:
    store = SourceStore(tmp_path)
    assert store.load(VOLUMES, BOOT) is None
    assert store.doubt == ""
    store.close()


def test_a_new_group_is_remembered_before_it_was_written(tmp_path: Path) -> None:
    store = SourceStore(tmp_path)
    store.create(FRESH)
    store.close()
    state, doubt = loaded(tmp_path, boot=OTHER_BOOT)
    assert (state.stop, doubt, state.group) == (StopKind.NONE, "", STATE.group)


def test_a_clean_stop_brings_back_everything(tmp_path: Path) -> None:
    stored(tmp_path)
    state, doubt = loaded(tmp_path, boot=OTHER_BOOT)
    assert doubt == ""
    assert state == replace(STATE, stop=StopKind.CLEAN)


def test_a_clean_stop_is_believed_again_when_nothing_was_written_since(tmp_path: Path) -> None:
    stored(tmp_path)
    assert loaded(tmp_path)[0].stop is StopKind.CLEAN
    assert loaded(tmp_path)[0].stop is StopKind.CLEAN


def test_the_last_position_that_there_can_be_is_stored(tmp_path: Path) -> None:
    stored(tmp_path)
    last = Position(GENERATION, SEQUENCE_MAX)
    newest = replace(
        STATE,
        history=History(last, (Ancestor(7, SEQUENCE_MAX),)),
        links=(replace(LINKS[0], base=last), LINKS[1]),
    )
    store = SourceStore(tmp_path)
    store.save_clean(newest)
    store.close()
    assert loaded(tmp_path)[0] == replace(newest, stop=StopKind.CLEAN)


def test_a_second_clean_stop_replaces_the_first(tmp_path: Path) -> None:
    stored(tmp_path)
    store = SourceStore(tmp_path)
    newer = replace(STATE, links=LINKS[:1], history=STATE.history.at(99))
    store.save_clean(newer)
    store.save_clean(newer)
    store.close()
    assert loaded(tmp_path)[0] == replace(newer, stop=StopKind.CLEAN)


@pytest.mark.parametrize(
    ("boot", "stop"), [(BOOT, StopKind.CRASHED), (OTHER_BOOT, StopKind.POWER_LOST)]
)
def test_without_a_clean_stop_the_boot_tells_a_crash_from_lost_power(
    tmp_path: Path, boot: str, stop: StopKind
) -> None:
    stored(tmp_path, clean=False)
    state, doubt = loaded(tmp_path, boot=boot)
    assert state.stop is stop
    assert doubt == "the last stop was not clean"
    assert_identity_only(state)
    assert state.links[0].synced_once
    assert not state.links[1].enabled


def test_an_unknown_boot_counts_as_lost_power(tmp_path: Path) -> None:
    store = SourceStore(tmp_path)
    store.create(FRESH)
    store.begin_generation(STATE.history, STATE.digest, "", LINKS)
    store.close()
    assert loaded(tmp_path, boot="")[0].stop is StopKind.POWER_LOST


def test_a_generation_erases_the_clean_mark_and_the_spill(tmp_path: Path) -> None:
    stored(tmp_path)
    store = SourceStore(tmp_path)
    store.load(VOLUMES, BOOT)
    store.begin_generation(NEXT, b"e" * 16, OTHER_BOOT, LINKS)
    store.close()
    state, _ = loaded(tmp_path, boot=OTHER_BOOT)
    assert state.stop is StopKind.CRASHED
    assert (state.history, state.digest) == (NEXT, b"e" * 16)
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        assert connection.execute("SELECT count(*) FROM spill").fetchone() == (0,)
    connection.close()


@pytest.mark.parametrize(
    "volumes",
    [
        VOLUMES[:1],
        VOLUMES[::-1],
        (replace(VOLUMES[0], size=1 << 21), VOLUMES[1]),
        (replace(VOLUMES[0], mtime_ns=VOLUMES[0].mtime_ns + 1), VOLUMES[1]),
        (replace(VOLUMES[0], inode=5), VOLUMES[1]),
        (VOLUMES[0], replace(VOLUMES[1], name="other")),
    ],
)
def test_a_spill_of_other_volumes_is_not_believed(
    tmp_path: Path, volumes: tuple[VolumeState, ...]
) -> None:
    stored(tmp_path)
    state, doubt = loaded(tmp_path, volumes, OTHER_BOOT)
    assert state.stop is StopKind.CRASHED  # the stop was clean: no write was lost with power
    assert "a volume has changed" in doubt
    assert_identity_only(state)


def test_a_database_put_back_from_a_copy_is_not_believed(tmp_path: Path) -> None:
    stored(tmp_path)
    copy = (tmp_path / DATABASE_NAME).read_bytes()
    store = SourceStore(tmp_path)
    store.begin_generation(NEXT, b"e" * 16, BOOT, LINKS)
    store.save_clean(replace(STATE, history=NEXT.at(5)))
    store.close()
    assert loaded(tmp_path)[0].stop is StopKind.CLEAN
    (tmp_path / DATABASE_NAME).write_bytes(copy)
    state, doubt = loaded(tmp_path, boot=OTHER_BOOT)
    assert state.stop is StopKind.POWER_LOST
    assert doubt == "the spill is not that of the last stop"


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("UPDATE source SET sequence = 43", ()),
        ("UPDATE source SET digest = ?", (b"x" * 16,)),
        ("UPDATE link SET base_sequence = 42 WHERE ordinal = 0", ()),
        ("UPDATE link SET synced_once = 0", ()),
        ("DELETE FROM spill WHERE kind = 'unverified'", ()),
        ("UPDATE spill SET bitmap = (SELECT bitmap FROM spill WHERE ordinal = 4)", ()),
        ("UPDATE ancestor SET last = 13 WHERE ordinal = 0", ()),
        ("UPDATE volume SET size = size + 4096", ()),
    ],
)
def test_an_edited_spill_is_not_believed(
    tmp_path: Path, sql: str, parameters: tuple[object, ...]
) -> None:
    stored(tmp_path)
    edit(tmp_path, sql, *parameters)
    state, doubt = loaded(tmp_path)
    assert state.stop is StopKind.CRASHED
    assert doubt == "the spill's checksum differs"


@pytest.mark.parametrize(
    "bitmaps",
    [
        pytest.param(table((0, 255, 257), (1, 0, 1)), id="a block beyond the end"),
        pytest.param(table((0, 3, 9))[:1], id="one bitmap for two volumes"),
        pytest.param((b"", b"no bitmap"), id="no bitmaps at all"),
    ],
)
def test_a_spill_whose_tables_fit_no_volume_is_not_believed(
    tmp_path: Path, bitmaps: tuple[bytes, ...]
) -> None:
    stored(tmp_path)
    store = SourceStore(tmp_path)
    store.save_clean(replace(STATE, links=(replace(LINKS[0], table=bitmaps),)))
    store.close()
    state, doubt = loaded(tmp_path)
    assert (state.stop, doubt) == (
        StopKind.CRASHED,
        "the spill's tables do not fit the volumes",
    )


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("CREATE TABLE more (x)", ()),
        ("CREATE TRIGGER t AFTER DELETE ON spill BEGIN DELETE FROM link; END", ()),
        ("DROP TABLE spill", ()),
        ("ALTER TABLE link ADD COLUMN x TEXT", ()),
        ("PRAGMA user_version = 0", ()),
        ("PRAGMA application_id = 0", ()),
        ("UPDATE source SET group_id = ?", (b"short",)),
        ("UPDATE source SET generation = 'xyz'", ()),
        ("UPDATE link SET ever_sync = 2", ()),
        ("DELETE FROM source", ()),
    ],
)
def test_a_database_that_is_not_ours_costs_a_comparison(
    tmp_path: Path, sql: str, parameters: tuple[object, ...]
) -> None:
    stored(tmp_path)
    edit(tmp_path, sql, *parameters)
    state, doubt = loaded(tmp_path)
    assert state.stop is StopKind.CRASHED
    assert doubt
    assert_identity_only(state)
    again, _ = loaded(tmp_path)  # and is mended
    assert_identity_only(again)


def test_a_missing_database_costs_a_comparison(tmp_path: Path) -> None:
    stored(tmp_path)
    (tmp_path / DATABASE_NAME).unlink()
    state, doubt = loaded(tmp_path)
    assert (state.stop, doubt) == (StopKind.CRASHED, "the database is gone")
    assert_identity_only(state)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_damaged_database_costs_a_comparison_and_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("damaged")
    stored(directory)
    path = directory / DATABASE_NAME
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    path.write_bytes(content)
    try:
        state, _ = loaded(directory)
    except StateError as error:
        assert "newer version" in error.problem  # the byte that holds our schema's version
        return
    finally:
        shutil.rmtree(directory)
    if state.stop is StopKind.CLEAN:
        assert state == replace(STATE, stop=StopKind.CLEAN)  # the damage hit unused bytes
    else:
        assert (state.group, state.node) == (STATE.group, STATE.node)


def test_a_schema_that_is_no_text_costs_a_comparison(tmp_path: Path) -> None:
    """Found by the test above: Python, not SQLite, fails on the message that quotes it."""
    stored(tmp_path)
    path = tmp_path / DATABASE_NAME
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE", b"CREATE \xd4ABLE"))
    state, doubt = loaded(tmp_path)
    assert state.stop is StopKind.CRASHED
    assert "database is damaged" in doubt


def test_a_damaged_database_is_kept_aside(tmp_path: Path) -> None:
    stored(tmp_path)
    (tmp_path / DATABASE_NAME).write_bytes(b"garbage" * 1000)
    loaded(tmp_path)
    assert (tmp_path / f"{DATABASE_NAME}.damaged").read_bytes() == b"garbage" * 1000


def test_a_damaged_identity_costs_a_comparison_and_is_healed(tmp_path: Path) -> None:
    stored(tmp_path)
    (tmp_path / IDENTITY_NAME).write_bytes(b"\0" * 80)
    state, doubt = loaded(tmp_path)
    assert state.stop is StopKind.CRASHED
    assert doubt == "the spill is not that of the last stop"
    store = SourceStore(tmp_path)
    store.begin_generation(NEXT, b"e" * 16, BOOT, LINKS)
    store.close()
    assert IdentityFile(tmp_path).value is not None


def test_without_any_identity_the_operator_must_act(tmp_path: Path) -> None:
    stored(tmp_path)
    (tmp_path / DATABASE_NAME).write_bytes(b"garbage" * 1000)
    (tmp_path / IDENTITY_NAME).write_bytes(b"garbage")
    with pytest.raises(StateError, match="both copies"):
        loaded(tmp_path)


def test_a_newer_schema_is_refused_by_name(tmp_path: Path) -> None:
    stored(tmp_path)
    edit(tmp_path, "PRAGMA user_version = 9")
    with pytest.raises(StateError, match="newer version"):
        SourceStore(tmp_path)
    assert not (tmp_path / f"{DATABASE_NAME}.damaged").exists()


def test_files_are_private_and_links_are_not_followed(tmp_path: Path) -> None:
    stored(tmp_path)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    (tmp_path / DATABASE_NAME).rename(tmp_path / "elsewhere")
    (tmp_path / DATABASE_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match="cannot be opened"):
        SourceStore(tmp_path)


def test_a_link_is_remembered_beside_a_spill_that_stays_believed(tmp_path: Path) -> None:
    stored(tmp_path)
    store = SourceStore(tmp_path)
    store.remember_link(replace(LINKS[1], ever_sync=True, enabled=True, table=()))
    store.close()
    state, doubt = loaded(tmp_path)
    assert (state.stop, doubt) == (StopKind.CLEAN, "")
    assert state.links == (LINKS[0], replace(LINKS[1], ever_sync=True, enabled=True))


def test_a_link_is_remembered_while_running_and_a_new_one_added(tmp_path: Path) -> None:
    stored(tmp_path, clean=False)
    store = SourceStore(tmp_path)
    store.remember_link(LinkState("third", ever_sync=True))
    store.close()
    state, _ = loaded(tmp_path)
    assert state.stop is StopKind.CRASHED
    assert [(link.name, link.ever_sync) for link in state.links] == [
        ("127.0.0.1:7010", True),
        ("ipc:///run/b", False),
        ("third", True),
    ]


def test_a_loss_of_power_is_remembered_over_a_crash_on_the_boot_after_it(tmp_path: Path) -> None:
    stored(tmp_path, clean=False)
    assert loaded(tmp_path, boot=OTHER_BOOT)[0].stop is StopKind.POWER_LOST
    store = SourceStore(tmp_path)
    store.remember_loss(OTHER_BOOT)
    store.close()
    state, _ = loaded(tmp_path, boot=OTHER_BOOT)
    assert state.stop is StopKind.CRASHED
    assert [link.lost_power for link in state.links] == [True, False], "one was always async"
    store = SourceStore(tmp_path)
    store.remember_link(replace(state.links[0], lost_power=False))
    store.close()
    assert not any(link.lost_power for link in loaded(tmp_path, boot=OTHER_BOOT)[0].links)


def test_a_loss_of_power_is_found_again_where_the_database_that_remembers_it_is_gone(
    tmp_path: Path,
) -> None:
    stored(tmp_path, clean=False)
    store = SourceStore(tmp_path)
    store.remember_loss(OTHER_BOOT)
    store.close()
    (tmp_path / DATABASE_NAME).unlink()
    assert loaded(tmp_path, boot=OTHER_BOOT)[0].stop is StopKind.POWER_LOST


def test_remembering_a_link_does_not_make_an_edited_spill_believed(tmp_path: Path) -> None:
    stored(tmp_path)
    edit(tmp_path, "UPDATE source SET sequence = 43")
    store = SourceStore(tmp_path)
    store.remember_link(LinkState("third"))
    store.close()
    assert loaded(tmp_path)[0].stop is StopKind.CRASHED


def test_a_write_that_fails_is_an_error_and_leaves_what_was_there(tmp_path: Path) -> None:
    stored(tmp_path)
    store = SourceStore(tmp_path)
    store._database.execute("PRAGMA query_only=ON")
    with pytest.raises(OSError, match="readonly"):
        store.begin_generation(NEXT, b"e" * 16, BOOT, LINKS)
    store.close()
    assert loaded(tmp_path)[0].stop is StopKind.CLEAN


def test_commits_are_synchronous_and_schemas_untrusted(tmp_path: Path) -> None:
    store = SourceStore(tmp_path)
    pragmas = {
        name: store._database.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("synchronous", "trusted_schema", "journal_mode")
    }
    store.close()
    assert pragmas == {"synchronous": 2, "trusted_schema": 0, "journal_mode": "truncate"}


def test_degraded_marks_come_back_from_their_own_files(tmp_path: Path) -> None:
    stored(tmp_path)
    store = SourceStore(tmp_path)
    store.mark("ipc:///run/b").write(False)
    store.close()
    state, _ = loaded(tmp_path)
    assert state.stop is StopKind.CLEAN
    assert [link.degraded for link in state.links] == [True, False]


def test_a_degraded_mark_is_set_and_erased_and_survives(tmp_path: Path) -> None:
    mark = DegradedMark(tmp_path, "a")
    assert mark.degraded  # a new link is
    mark.write(False)
    mark.close()
    mark.close()
    again = DegradedMark(tmp_path, "a")
    assert not again.degraded
    again.write(True)
    again.close()
    assert DegradedMark(tmp_path, "a").degraded
    assert DegradedMark(tmp_path, "b").degraded


def test_a_damaged_mark_says_degraded(tmp_path: Path) -> None:
    mark = DegradedMark(tmp_path, "a")
    mark.write(False)
    mark.close()
    (path,) = tmp_path.iterdir()
    for damage in (b"", b"\0" * 512, path.read_bytes()[:100], b"x" + path.read_bytes()[1:]):
        path.write_bytes(damage)
        assert DegradedMark(tmp_path, "a").degraded


def test_a_mark_is_no_link_and_no_pipe(tmp_path: Path) -> None:
    DegradedMark(tmp_path, "a").close()
    (path,) = tmp_path.iterdir()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="no regular file"):
        DegradedMark(tmp_path, "a")


def known_size(store: SourceStore, name: str) -> int | None:
    """How large the store knows one of the volumes that there are now."""
    return store.known_sizes(["disk", "log", "new"])[name]


def test_a_size_is_remembered_before_the_volume_grows_and_ends_the_spill(tmp_path: Path) -> None:
    stored(tmp_path)
    store = SourceStore(tmp_path)
    assert (known_size(store, "disk"), known_size(store, "log")) == (1 << 20, 4096 * 3 + 512)
    store.remember_size("log", 1 << 20)
    store.close()
    store = SourceStore(tmp_path)
    assert (known_size(store, "disk"), known_size(store, "log")) == (1 << 20, 1 << 20)
    loaded = store.load(VOLUMES, BOOT)
    assert loaded is not None and loaded.stop is StopKind.CRASHED
    assert all(link.table == () for link in loaded.links)
    store.begin_generation(NEXT, STATE.digest, BOOT, LINKS)
    assert known_size(store, "log") == 1 << 20
    store.close()


def test_a_flag_is_stored_though_the_identity_beside_it_could_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: IdentityFile, value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    stored(tmp_path)
    store = SourceStore(tmp_path)
    monkeypatch.setattr(IdentityFile, "save", full)
    store.remember_link(replace(LINKS[0], enabled=False))
    store.close()
    state, doubt = loaded(tmp_path)
    assert not state.links[0].enabled and not doubt


def test_a_group_knows_its_volumes_or_that_it_has_forgotten_them(tmp_path: Path) -> None:
    store = SourceStore(tmp_path)
    assert known_size(store, "disk") is None, "there is no group yet"
    store.create(FRESH)
    assert (known_size(store, "disk"), known_size(store, "new")) == (1 << 20, None)
    store.remember_volumes([*VOLUMES, VolumeState("new", 512)])
    assert known_size(store, "new") == 512
    store.close()
    (tmp_path / DATABASE_NAME).unlink()
    store = SourceStore(tmp_path)
    assert known_size(store, "disk") == 0
    store.load(VOLUMES, BOOT)
    assert known_size(store, "disk") == 0, "its identity came back, its volumes did not"
    store.close()
    (tmp_path / DATABASE_NAME).write_bytes(b"no database at all" * 100)
    store = SourceStore(tmp_path)
    assert known_size(store, "disk") == 0
    store.close()
