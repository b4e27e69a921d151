"""Either daemon stopped or killed, and started again: what goes on, is compared, is sent."""

import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from pratima_iscsi.control.options import group_directory
from pratima_iscsi.edges.source_store import DATABASE_NAME
from pratima_iscsi.replication.states import LinkState
from tests.integration.daemons.nodes import (
    BLOCK,
    MIB,
    SECTOR,
    Load,
    Pair,
    Primary,
    Replica,
    pratima,
    same,
    wait_equal,
)
from tests.integration.daemons.test_outage import down, write_blocks


def test_a_replica_stopped_and_killed_under_load_ends_equal(place: Path) -> None:
    pair = Pair(place, size=64 * MIB)
    draw = Random(11)
    with pair.in_step():
        with Load(pair.primary) as load:
            for cycle in range(4):
                load.wait(draw.randrange(1, 60))
                if cycle % 2:
                    pair.replica.kill()
                else:
                    pair.replica.wait_answers()
                    pair.replica.finish()
                load.wait(draw.randrange(1, 60))
                pair.replica.launch()
            load.wait(20)
        load.check()
        pair.wait_equal()


def test_a_primary_stopped_cleanly_goes_on_with_nothing_to_send(place: Path) -> None:
    pair = Pair(place)
    draw = Random(12)
    with pair.in_step():
        with pair.primary.login() as session:
            write_blocks(session, draw.sample(range(8192), 500), draw)
        pair.primary.wait_synced(pair.replica)
        before = pair.primary.status()
        pair.primary.finish()
        pair.primary.start()
        after = pair.primary.wait_synced(pair.replica)
        assert after.position == before.position
        assert after.links[0].bwt_blocks == 0
        assert after.links[0].resync.bytes_sent == 0
        assert not pair.primary.said("unclean")
        with pair.primary.login() as session:
            write_blocks(session, [1, 2, 3], draw)
        pair.wait_equal()
        now = pair.primary.status()
        assert now.position.generation != before.position.generation
        assert now.position.sequence == 3
        assert [a.generation for a in now.history][-1:] == [before.position.generation]


def test_a_clean_stop_while_the_replica_is_away_spills_what_it_lacks(place: Path) -> None:
    pair = Pair(place, "--log-limit", "4MiB", size=64 * MIB)
    draw = Random(13)
    with pair.in_step():
        pair.replica.kill()
        down(pair.primary)
        dirty = draw.sample(range(16384), 1500)
        with pair.primary.login() as session:
            write_blocks(session, dirty, draw)
        pair.primary.finish()
        pair.primary.start()
        assert pair.primary.link().bwt_blocks == len(dirty)
        pair.replica.start()
        pair.wait_equal()
        assert 0 < pair.primary.link().resync.bytes_sent <= 1.1 * len(dirty) * BLOCK


def test_a_clean_stop_under_load_loses_nothing(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step():
        with Load(pair.primary) as load:
            load.wait(100)
            pair.primary.finish()
        pair.primary.start()
        pair.primary.wait_synced(pair.replica)
        assert pair.primary.link().resync.bytes_sent == 0
        assert not pair.primary.said("unclean")
        pair.wait_equal()


def test_a_killed_primary_compares_by_hash_and_sends_only_differences(place: Path) -> None:
    pair = Pair(place, size=128 * MIB)
    draw = Random(14)
    with pair.in_step():
        with pair.primary.login() as session:
            for lba in range(0, 64 * MIB // SECTOR, 2048):
                session.write(lba, draw.randbytes(MIB))
            pair.primary.wait_synced(pair.replica)
            pair.replica.kill()
            down(pair.primary)
            dirty = draw.sample(range(16384), 200)
            write_blocks(session, dirty, draw)
            pair.primary.kill()
            session.close()
        pair.primary.start()
        assert any(alarm.event == "unclean start" for alarm in pair.primary.status().alarms)
        pair.replica.start()
        pair.wait_equal()
        sent = pair.primary.link().resync.bytes_sent
        assert 0 < sent <= 1.1 * len(dirty) * BLOCK


def test_a_killed_primary_that_differs_in_nothing_sends_nothing(place: Path) -> None:
    pair = Pair(place)
    draw = Random(15)
    with pair.in_step():
        with pair.primary.login() as session:
            write_blocks(session, list(range(2000)), draw)
            pair.primary.wait_synced(pair.replica)
            pair.primary.kill()
            session.close()
        pair.primary.start()
        pair.wait_equal()
        assert pair.primary.link().resync.bytes_sent == 0


@pytest.mark.parametrize("mode", [pytest.param("async", marks=pytest.mark.long), "sync"])
def test_a_primary_killed_under_load_again_and_again_ends_equal(place: Path, mode: str) -> None:
    pair = Pair(place, "--mode", mode)
    with pair.in_step():
        for seed in range(2):
            with Load(pair.primary, seed=seed) as load:
                load.wait(80)
                pair.primary.kill()
            pair.primary.start()
        with pair.primary.login() as session:
            session.write(0, b"z" * BLOCK)
        pair.wait_equal()


@pytest.mark.long
def test_both_killed_at_once_come_back_by_themselves(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step():
        with Load(pair.primary) as load:
            load.wait(150)
            pair.primary.kill()
            pair.replica.kill()
        pair.replica.launch()
        pair.primary.start()
        pair.wait_equal()


def test_a_first_sync_cut_off_by_kills_of_both_sides_ends_equal(place: Path) -> None:
    replica = Replica(place)
    primary = Primary(place, size=96 * MIB, replicas=[replica])
    with primary.volume.open("wb") as file:
        file.truncate(96 * MIB)
        noise = Random(16).randbytes(64 * MIB)
        file.write(noise)
    with replica, primary:
        replica.launch()
        primary.start()
        for victim in (replica, primary, replica):
            primary.wait_link(
                lambda link: link.resync.blocks_done > 500 or link.state is LinkState.SYNCED,
                "some blocks",
                replica,
            )
            victim.kill()
            victim.start()
        wait_equal(primary, replica)


def test_a_replica_that_lost_its_state_is_synced_anew_only_when_that_is_wanted(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step():
        with pair.primary.login() as session:
            session.write(0, b"a" * BLOCK)
        pair.wait_equal()
        pair.replica.finish()
        pair.replica.state.rename(place / "lost")
        pair.bring_back()
        link = pair.primary.wait_link(
            lambda link: link.state is LinkState.REFUSED, "REFUSED", pair.replica
        )
        assert "not blank" in link.reason and "--overwrite" in link.reason
        assert pair.primary.exit_code == 2
        pair.replica.finish()
        pair.replica.command.append("--overwrite")
        pair.bring_back()
        pair.wait_equal()


def test_a_replica_put_back_to_an_old_copy_is_noticed_and_mended(place: Path) -> None:
    pair = Pair(place)
    draw = Random(17)
    with pair.in_step(), pair.primary.login() as session:
        write_blocks(session, list(range(100)), draw)
        pair.wait_equal()
        pair.replica.finish()
        state, (volume,) = pair.replica.copied("old")
        pair.bring_back()
        write_blocks(session, list(range(50, 150)), draw)
        pair.wait_equal()
        pair.replica.finish()
        pair.replica.state.rename(place / "newer")
        state.rename(pair.replica.state)
        volume.rename(pair.replica.volume)
        pair.bring_back()
        pair.wait_equal()
        assert any(alarm.event == "replica went back" for alarm in pair.primary.status().alarms)


def test_a_volume_changed_behind_a_clean_stop_is_compared(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step():
        with pair.primary.login() as session:
            session.write(0, b"a" * MIB)
        pair.primary.wait_synced(pair.replica)
        pair.primary.finish()
        with pair.primary.volume.open("r+b") as file:
            file.seek(12 * BLOCK)
            file.write(b"somebody else")
        pair.primary.start()
        pair.wait_equal()
        assert pair.primary.link().resync.bytes_sent == BLOCK
        assert same(pair.primary.volume, pair.replica.volume)


def test_a_volume_that_is_gone_is_never_made_anew_and_the_replica_keeps_its_copy(
    place: Path,
) -> None:
    pair = Pair(place)
    volume, away = pair.primary.volume, place / "away.img"
    with pair.in_step():
        with pair.primary.login() as session:
            write_blocks(session, list(range(200)), Random(18))
        pair.wait_equal()
        pair.primary.finish()
        volume.rename(away)
        for says in ("is missing", "has 0 bytes"):
            pair.primary.launch()
            assert pair.primary.wait() == 2
            said = pair.primary.output()
            assert f"{says}, but its group knows it" in said, said
            assert "mount its file system" in said and "give --size" not in said
            assert not volume.exists() or volume.stat().st_size == 0
            volume.touch()
        assert same(away, pair.replica.volume)
        away.rename(volume)
        pair.primary.start()
        assert pair.primary.wait_synced(pair.replica).links[0].resync.bytes_sent == 0


def boot_again(primary: Primary) -> None:
    """What is stored while the primary is down is of another boot of its machine."""
    with closing(
        sqlite3.connect(group_directory(primary.state, "default") / DATABASE_NAME)
    ) as database:
        database.execute("UPDATE source SET boot_id = 'another boot'")
        database.commit()


def test_the_operator_is_asked_once_after_a_power_loss(place: Path) -> None:
    """A kill on the same boot asks again only while nothing has been said."""
    pair = Pair(place, "--mode", "sync")
    primary = pair.primary
    with pair.in_step():
        with primary.login() as session:
            session.write(0, b"a" * BLOCK)
        primary.kill()
        boot_again(primary)
        primary.start()
        primary.wait_link(lambda link: link.must_act, "held")
        primary.kill()
        primary.start()
        primary.wait_link(lambda link: link.must_act, "held")
        with primary.login() as session:
            session.write(8, b"b" * BLOCK)
        ran = pratima("resync", "--state", str(primary.state), "--from-primary")
        assert ran.returncode == 0, ran.stderr
        for _ in range(2):
            primary.wait_link(lambda link: link.state is LinkState.SYNCED, "in step", pair.replica)
            primary.kill()
            primary.start()
        pair.wait_equal()
