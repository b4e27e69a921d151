"""A clean stop: on either signal, given twice, in the midst of work; and what is there then."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from pratima_iscsi.edges.initiator import write_16
from tests.integration.daemons.nodes import BLOCK, MIB, Load, Pair, Primary, Replica, pratima
from tests.torture.daemons import wait_until


def test_a_signal_given_twice_under_load_is_a_clean_stop(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step():
        with Load(pair.primary) as load:
            load.wait(100)
            for node, number in ((pair.primary, signal.SIGTERM), (pair.replica, signal.SIGINT)):
                os.kill(node.pid, number)
                os.kill(node.pid, number)
            assert pair.primary.wait() == 0, pair.primary.output()
            assert pair.replica.wait() == 0, pair.replica.output()
        for node in (pair.primary, pair.replica):
            assert "Traceback" not in node.output() and "rror" not in node.output()
            ran = pratima("status", "--state", str(node.state))
            assert ran.returncode == 2 and "nobody answers" in ran.stderr
        pair.replica.launch()
        pair.primary.start()
        pair.wait_equal()
        assert not pair.primary.said("unclean")
        os.kill(pair.primary.pid, signal.SIGINT)  # Ctrl-C with nothing to do
        assert pair.primary.wait() == 0


@pytest.fixture
def hangups_count() -> Iterator[None]:
    """What is started has SIGHUP as a terminal gives it, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("kind", [Primary, Replica])
def test_a_hangup_is_a_clean_stop_unless_it_is_ignored(
    place: Path, kind: type[Primary] | type[Replica], hangups_count: None
) -> None:
    with kind(place) as node:
        node.start()
        os.kill(node.pid, signal.SIGHUP)
        assert node.wait() == 0, node.output()
        node.command.insert(0, "nohup")
        node.start()
        os.kill(node.pid, signal.SIGHUP)
        assert [node.ask() is not None for _ in range(20)] == [True] * 20
        node.finish()
        assert not node.said("unclean")


def test_sockets_that_cannot_be_removed_do_not_make_a_stop_unclean(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step():
        with pair.primary.login() as session:
            session.write(0, b"x" * BLOCK)
        for node in (pair.primary, pair.replica):
            sockets = [node.state / "control" / name for name in ("socket", "events")]
            for path in sockets:
                path.unlink()
                path.mkdir()
            node.finish()
            for path in sockets:
                path.rmdir()
        pair.replica.launch()
        pair.primary.start()
        pair.wait_equal()
        assert not pair.primary.said("unclean")


def test_a_stop_with_nothing_answering_on_the_other_side_ends_in_time(place: Path) -> None:
    with Primary(place, "--replica", "127.0.0.1:1") as primary:
        primary.start()
        with primary.login() as session:
            session.write(0, b"x" * BLOCK)
        primary.finish()


def test_a_stop_with_a_frozen_replica_ends_and_the_next_start_goes_on(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step():
        with pair.primary.login() as session:
            session.write(0, Random(1).randbytes(MIB))
            pair.primary.wait_synced(pair.replica)
            with pair.replica.frozen():
                session.write(4096, Random(2).randbytes(MIB))
                session.logout()
                pair.primary.finish()
        pair.primary.start()
        pair.wait_equal()
        assert pair.primary.link().resync.bytes_sent <= MIB


def test_a_stop_with_writes_held_for_the_replica_ends(place: Path) -> None:
    pair = Pair(place, "--mode", "sync", "--on-timeout", "block")
    with pair.in_step():
        pair.replica.kill()
        session = pair.primary.login()
        session.submit(write_16(0, 8), data_out=b"h" * BLOCK)
        pair.primary.wait_link(lambda link: link.held_writes == 1, "held")
        pair.primary.finish()
        session.close()
        pair.primary.start()
        with pair.primary.login() as again:
            assert again.read(0, 8) == b"h" * BLOCK, "what was written here is here"


def test_a_stop_during_a_first_sync_goes_on_afterwards(place: Path) -> None:
    replica = Replica(place)
    primary = Primary(place, size=None, replicas=[replica])
    with primary.volume.open("wb") as file:
        file.write(Random(3).randbytes(64 * MIB))
    with replica, primary:
        replica.launch()
        primary.start()
        wait_until(
            lambda: primary.link().resync.blocks_done > 100, 60, "some blocks", [primary, replica]
        )
        replica.finish()
        primary.finish()
        ran = pratima("recover", "--state", str(replica.state))
        assert ran.returncode == 2 and "INCONSISTENT" in ran.stdout
        replica.start()
        assert replica.exit_code == 1 and not replica.status().consistent
        primary.start()
        primary.wait_synced(replica)


def test_a_first_sync_goes_on_where_it_was_when_the_replica_was_killed(place: Path) -> None:
    replica = Replica(place)
    primary = Primary(place, size=None, replicas=[replica])
    with primary.volume.open("wb") as file:
        file.write(Random(4).randbytes(96 * MIB))
    with replica, primary:
        replica.launch()
        primary.start()
        wait_until(
            lambda: primary.link().resync.blocks_done > 6_000, 60, "some", [primary, replica]
        )
        replica.kill()
        replica.start()
        primary.wait_synced(replica)
        assert primary.link().resync.bytes_sent < 1.25 * 96 * MIB, "it did not begin anew"
