"""What an operator may tell a daemon while it serves: disable, enable, kill, reconnect, resync."""

from pathlib import Path
from random import Random

from pratima_iscsi.edges.initiator import write_16
from pratima_iscsi.replication.states import LinkState
from tests.integration.daemons.nodes import (
    BLOCK,
    MIB,
    Load,
    Pair,
    pratima,
    same,
)
from tests.integration.daemons.test_outage import down, write_blocks


def tell(pair: Pair, verb: str, *options: str) -> str:
    """Give a command on the primary; what it answers."""
    ran = pratima(verb, "--state", str(pair.primary.state), *options)
    assert ran.returncode == 0, ran
    return ran.stdout


def test_a_disabled_link_stays_so_over_a_restart_and_enable_compares(place: Path) -> None:
    pair = Pair(place)
    draw = Random(1)
    with pair.in_step():
        with pair.primary.login() as session:
            write_blocks(session, list(range(1000)), draw)
            pair.wait_equal()
            assert pair.replica.address in tell(pair, "disable")
            assert pair.primary.link().state is LinkState.DISABLED
            assert pair.primary.link().bwt_blocks == 0, "its table is forgotten"
            write_blocks(session, list(range(500, 600)), draw)
            assert not same(pair.primary.volume, pair.replica.volume)
        pair.primary.finish()
        pair.primary.start()
        assert pair.primary.link().state is LinkState.DISABLED
        assert pair.primary.exit_code == 1
        tell(pair, "enable", "--replica", pair.replica.address)
        pair.wait_equal()
        sent = pair.primary.link().resync.bytes_sent
        assert sent == 100 * BLOCK, "compared by hash, and only differences sent"


def test_disable_in_sync_mode_lets_held_writes_go(place: Path) -> None:
    pair = Pair(place, "--mode", "sync", "--on-timeout", "block")
    with pair.in_step(), pair.primary.login() as session:
        pair.replica.kill()
        ticket = session.submit(write_16(0, 8), data_out=b"h" * BLOCK)
        pair.primary.wait_link(lambda link: link.held_writes == 1, "held")
        tell(pair, "disable")
        session.wait(ticket)
        assert ticket.good


def test_kill_drops_queue_and_session_and_the_blocks_are_brought_over(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step(), pair.primary.login() as session:
        pair.replica.kill()
        down(pair.primary)
        write_blocks(session, list(range(64)), Random(2))
        assert pair.primary.link().bwt_blocks == 0
        assert "killed" in tell(pair, "kill")
        link = pair.primary.link()
        assert link.bwt_blocks == 64 and link.lag.bytes == 0
        log = pair.primary.status().log
        assert log is not None and log.bytes == 0
        pair.bring_back()
        pair.wait_equal()
        assert pair.primary.link().resync.bytes_sent == 64 * BLOCK


def test_verbs_under_load_lose_nothing(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step():
        with Load(pair.primary) as load:
            for verb in ("kill", "resync", "reconnect", "disable", "enable", "kill"):
                load.wait(40)
                tell(pair, verb)
            load.wait(40)
        load.check()
        pair.wait_equal()


def test_reconnect_cuts_the_back_off_short(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step():
        pair.replica.kill()
        down(pair.primary)
        pair.replica.start()
        assert pair.replica.address in tell(pair, "reconnect")
        pair.primary.wait_synced(pair.replica)


def test_a_verb_for_a_replica_that_is_none_says_so(place: Path) -> None:
    pair = Pair(place, size=8 * MIB)
    with pair.in_step():
        ran = pratima("kill", "--state", str(pair.primary.state), "--replica", "10.9.9.9:1")
        assert ran.returncode == 2 and "10.9.9.9:1" in ran.stderr and "next:" in ran.stderr
        ran = pratima("disable", "--state", str(pair.primary.state), "--group", "other")
        assert ran.returncode == 2 and "'other'" in ran.stderr and "default" in ran.stderr
        ran = pratima("kill", "--state", str(pair.replica.state))
        assert ran.returncode == 2 and "primary" in ran.stderr and "next:" in ran.stderr
