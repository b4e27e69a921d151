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

GIVES_UP = {"kill": ["--drop-queue"], "disable": ["--forget-table"]}


def tell(pair: Pair, verb: str, *options: str) -> str:
    """Give a command on the primary; what it answers."""
    options = (*GIVES_UP.get(verb, ()), *options)
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


def test_clean_proves_an_equal_replica_and_names_what_differs(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step(), pair.primary.login() as session:
        write_blocks(session, list(range(64)), Random(3))
        pair.wait_equal()
        assert "nothing to declare" in tell(pair, "clean")
        tell(pair, "disable")
        assert "comparing" in tell(pair, "clean", "default")
        pair.wait_equal()
        link = pair.primary.link()
        assert link.resync.bytes_sent == 0, "nothing is copied"
        tell(pair, "disable")
        write_blocks(session, [7], Random(4))
        tell(pair, "clean")
        link = pair.primary.wait_link(
            lambda link: "not clean: volume" in link.reason, "a difference"
        )
        assert link.state is LinkState.DISABLED
        assert "volume lun0: 1 of " in link.reason and f"byte {7 * BLOCK}" in link.reason
        assert any("differ" in alarm.reason for alarm in pair.primary.status().alarms)
        assert pair.primary.said("control: clean")
        tell(pair, "clean", "--without-proof")
        pair.primary.wait_synced(pair.replica)
        assert not same(pair.primary.volume, pair.replica.volume), "that is what was given up"


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
        ran = pratima("reconnect", "--state", str(pair.primary.state), "--replica", "10.9.9.9:1")
        assert ran.returncode == 2 and "10.9.9.9:1" in ran.stderr and "next:" in ran.stderr
        ran = pratima("enable", "other", "--state", str(pair.primary.state))
        assert ran.returncode == 2 and "'other'" in ran.stderr and "default" in ran.stderr
        ran = pratima("kill", "--state", str(pair.primary.state))
        assert ran.returncode == 2 and "next: say so: --drop-queue" in ran.stderr
        ran = pratima("kill", "--drop-queue", "--state", str(pair.replica.state))
        assert ran.returncode == 2 and "primary" in ran.stderr and "next:" in ran.stderr
