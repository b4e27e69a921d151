"""What an acknowledged write means in each mode, and what happens when the replica is away."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import pytest

from pratima_iscsi.edges.initiator import Initiator, write_16
from pratima_iscsi.limits import SYNC_TIMEOUT_SECONDS_MIN
from pratima_iscsi.replication.states import LinkState
from tests.integration.daemons.nodes import (
    BLOCK,
    MIB,
    SECTOR,
    WAIT_SECONDS,
    Load,
    Pair,
    Primary,
    Replica,
    pratima,
    same,
)
from tests.torture.daemons import wait_until

QUICK = ("--sync-timeout", str(SYNC_TIMEOUT_SECONDS_MIN))
PER_BLOCK = BLOCK // SECTOR


@contextmanager
def stopped(replica: Replica, how: str) -> Iterator[None]:
    """The replica frozen, or killed and started again."""
    if how == "frozen":
        with replica.frozen():
            yield
    else:
        replica.kill()
        yield
        replica.start()


@pytest.mark.parametrize("mode", ["async", "semi-sync", "sync"])
def test_every_mode_follows_and_ends_equal(place: Path, mode: str) -> None:
    pair = Pair(place, "--mode", mode)
    with pair.in_step():
        with Load(pair.primary) as load:
            load.wait(300)
        load.check()
        pair.wait_equal()
        assert pair.primary.link().mode == mode


@pytest.mark.parametrize("mode", ["semi-sync", "sync"])
def test_an_acknowledged_write_is_in_the_replica_killed_right_after(place: Path, mode: str) -> None:
    pair = Pair(place, "--mode", mode)
    draw = Random(5)
    with pair.in_step(), pair.primary.login() as session:
        image = bytearray(MIB)
        for number in range(2):
            for _ in range(40):
                lba, data = draw.randrange(MIB // SECTOR - 16), draw.randbytes(16 * SECTOR)
                session.write(lba, data)
                image[lba * SECTOR : lba * SECTOR + len(data)] = data
            pair.replica.kill()
            ran = pair.recovered(f"copy-{number}")
            assert ran.returncode == 0, ran
            copied = (place / f"copy-{number}" / "0.img").read_bytes()
            assert copied[:MIB] == bytes(image), "an acknowledged write is missing"
            pair.bring_back()
            pair.primary.wait_link(
                lambda link: link.state is LinkState.SYNCED and not link.degraded,
                "in step",
                pair.replica,
            )


def test_degrade_lets_a_write_go_on_after_the_timeout_and_returns_by_itself(place: Path) -> None:
    pairs = {how: Pair(place / how, "--mode", "sync", *QUICK) for how in ("frozen", "killed")}
    with ExitStack() as stack:
        for pair in pairs.values():
            pair.place.mkdir()
            stack.enter_context(pair.in_step())
        for how, pair in pairs.items():
            degrade(pair, how)
        for how, pair in pairs.items():
            pair.primary.wait_link(lambda link: not link.degraded, "returned", pair.replica)
            with pair.primary.login() as session:
                session.write(24, b"d" * BLOCK)
            assert not pair.primary.link().degraded
            pair.replica.kill()
            assert pair.recovered().returncode == 0
            assert same(pair.primary.volume, place / how / "copy" / "0.img")


def degrade(pair: Pair, how: str) -> None:
    """A write meets a stopped replica; then that goes on."""
    with pair.primary.login() as session:
        session.write(0, b"a" * BLOCK)
        with stopped(pair.replica, how):
            session.write(8, b"b" * BLOCK)
            assert pair.primary.link().degraded
            ran = pratima("status", "--state", str(pair.primary.state))
            assert ran.returncode == 1 and "degraded" in ran.stdout
            assert any(alarm.event == "degraded" for alarm in pair.primary.status().alarms)
            session.write(16, b"c" * BLOCK)
            session.flush()


def test_a_degraded_link_is_still_degraded_after_the_primary_was_killed(place: Path) -> None:
    pair = Pair(place, "--mode", "sync", *QUICK)
    with pair.in_step():
        pair.replica.kill()
        with pair.primary.login() as session:
            session.write(0, b"a" * BLOCK)
            assert pair.primary.link().degraded
            pair.primary.kill()
            session.close()
        pair.primary.start()
        assert pair.primary.link().degraded
        assert pair.primary.exit_code == 1


@pytest.mark.parametrize("how", [pytest.param("frozen", marks=pytest.mark.long), "killed"])
def test_block_holds_the_write_and_lets_reads_go_on(place: Path, how: str) -> None:
    pair = Pair(place, "--mode", "sync", "--on-timeout", "block", *QUICK)
    with pair.in_step(), pair.primary.login() as session:
        session.write(0, b"a" * BLOCK)
        with stopped(pair.replica, how):
            tickets = [
                session.submit(write_16(PER_BLOCK * n, PER_BLOCK), data_out=b"b" * BLOCK)
                for n in range(1, 4)
            ]
            pair.primary.wait_link(lambda link: link.held_writes == 3, "held writes")
            assert not pair.primary.link().degraded
            assert session.read(0, PER_BLOCK) == b"a" * BLOCK
            with pair.primary.login() as second:
                assert second.read(0, PER_BLOCK) == b"a" * BLOCK
                assert len(second.inquiry()) >= 36
            # Well past the timeout: still held.
            pair.primary.wait_link(
                lambda link: link.lag.seconds > 3 * SYNC_TIMEOUT_SECONDS_MIN, "a while"
            )
            assert pair.primary.link().held_writes == 3
            assert not any(ticket.settled for ticket in tickets)
        session.drain()
        assert all(ticket.good for ticket in tickets)
        assert pair.primary.link().held_writes == 0
        pair.wait_equal()


def test_block_does_not_apply_before_the_first_sync(place: Path) -> None:
    replica = Replica(place)
    primary = Primary(place, "--mode", "sync", "--on-timeout", "block", *QUICK, replicas=[replica])
    with primary, replica:
        primary.start()
        with primary.login() as session:
            session.write(0, b"a" * BLOCK)
            session.flush()
        assert primary.link().degraded
        replica.start()
        primary.wait_synced(replica)


def test_async_does_not_wait_for_a_frozen_replica(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step(), pair.primary.login(timeout=3) as session:
        with pair.replica.frozen():
            for number in range(200):
                session.write(PER_BLOCK * number, b"a" * BLOCK)
            session.flush()
            assert pair.primary.link().lag.writes > 0
        pair.wait_equal()


def test_a_flush_in_sync_mode_waits_for_the_replica(place: Path) -> None:
    pair = Pair(place, "--mode", "semi-sync")
    with pair.in_step(), pair.primary.login() as session:
        with pair.replica.frozen():
            session.submit(write_16(0, PER_BLOCK), data_out=b"a" * BLOCK)
            flush = session.submit(bytes([0x35, *bytes(9)]))
            pair.primary.wait_link(lambda link: link.held_writes == 2, "both held")
            assert not flush.settled
        session.drain()
        assert flush.good


def test_two_replicas_of_one_group_both_follow(place: Path) -> None:
    one, other = Replica(place, name="one"), Replica(place, name="other")
    primary = Primary(place, "--mode", "sync", *QUICK, replicas=[one, other])
    with one, other, primary:
        one.launch()
        other.launch()
        primary.start()
        primary.wait_synced(one, other)
        with Load(primary) as load:
            load.wait(100)
            one.kill()
            load.wait(100)
            assert primary.link(0).degraded
            assert primary.link(1).state is LinkState.SYNCED
            one.start()
            primary.wait_link(
                lambda link: link.state is LinkState.SYNCED, "SYNCED", one, other, number=0
            )
        load.check()
        for replica in (one, other):
            wait_until(
                lambda replica=replica: same(primary.volume, replica.volume),  # type: ignore[misc]
                WAIT_SECONDS,
                "equal",
                [primary, replica],
            )


def test_a_write_larger_than_the_limit_is_refused_and_the_largest_passes(place: Path) -> None:
    pair = Pair(place, "--log-limit", "4MiB", "--mode", "sync")
    with pair.in_step(), pair.primary.login() as session:
        page = session.inquiry(0xB0)
        blocks_max = int.from_bytes(page[8:12], "big")
        assert blocks_max * SECTOR == MIB
        session.write(3, Random(1).randbytes(blocks_max * SECTOR))
        ticket = refused(session, blocks_max + 1)
        assert ticket == (0x05, 0x24, 0x00)
        pair.wait_equal()


def refused(session: Initiator, blocks: int) -> tuple[int, int, int]:
    """The sense of a write that must fail."""
    ticket = session.execute(write_16(0, blocks), data_out=bytes(blocks * SECTOR), check=False)
    assert not ticket.good
    return ticket.sense_triple
