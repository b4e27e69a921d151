"""The standalone root on a real pair: what it shows, what its commands do, what it says if not."""

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pratima_iscsi.replication.states import LinkState
from tests.integration.daemons.nodes import MIB, Pair, Primary, directory
from tests.targetcli.session import Session

SECONDS = 60.0


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """A pair in step; every test leaves it so."""
    with directory() as place:
        pair = Pair(place)
        with pair.in_step():
            yield pair


@pytest.fixture
def session(pair: Pair) -> Session:
    """A session that looks after both daemons."""
    return Session(p=pair.primary.state, r=pair.replica.state)


def link_of(pair: Pair) -> str:
    return f"/pratima/links/p:default/{pair.replica.address}"


# --- what is shown -------------------------------------------------------------------------------


def test_the_tree_shows_both_sides(pair: Pair, session: Session) -> None:
    tree = session.tree("/")
    assert tree["pratima"] == "2 daemons"
    assert tree["p"].startswith("primary, 1 group, up ")
    assert tree["r"].startswith("replica, 1 group, up ")
    assert tree[pair.replica.address].startswith("SYNCED, async")
    assert tree["journal"] == "1 journal"
    assert tree["replicas"] == "1 copy kept here"
    assert "of 256 MiB" in session.tree("/pratima/journal")["r:default"]
    assert session.tree("/pratima/replicas")["r:default"].startswith("consistent at ")
    assert session.tree("/pratima/groups/p:default")["lun0"] == f"{pair.primary.volume} (32 MiB)"


def test_one_daemon_needs_no_name_before_its_groups(pair: Pair) -> None:
    tree = Session(p=pair.primary.state).tree("/pratima")
    assert tree["default"] == "1 SYNCED"
    assert tree["replicas"] == "0 copies kept here"


def test_status_tells_all_that_is_below(pair: Pair, session: Session) -> None:
    everything = session.line("/pratima status")
    assert "p: primary" in everything and "  p:default: primary" in everything
    assert "iqn.2026-01.io.github.pratima:default at 127.0.0.1:" in everything
    assert "journal " in everything and "consistent at " in everything
    of_group = session.line("/pratima/groups/p:default status").splitlines()
    assert of_group[0].startswith("p:default: primary, 1 volume of 32 MiB")
    assert all(f"  {line}\n" in everything for line in of_group[1:4])
    assert session.line(f"{link_of(pair)} status").startswith("SYNCED, async")
    assert pair.replica.address in session.line("/pratima/links/p:default status")


def test_parameters_have_types(pair: Pair, session: Session) -> None:
    link = link_of(pair)
    assert session.value(link, "status", "state") == "SYNCED"
    assert session.value(link, "status", "degraded") == "false"
    assert session.value(link, "status", "lag_bytes") == "0 B"
    assert session.value(link, "status", "resync_blocks") == str(32 * MIB // 4096)
    assert session.value(link, "setting", "mode") == "async"
    assert session.value("/pratima/journal/r:default", "setting", "limit") == "256 MiB"
    assert session.value("/pratima/groups/p:default", "status", "role") == "primary"
    assert session.value("/pratima/groups/p:default/lun0", "status", "size") == "32 MiB"
    assert session.value("/pratima/daemons/p", "status", "pid") == str(pair.primary.pid)
    assert session.value("/pratima/daemons/p", "setting", "state") == str(pair.primary.state)
    assert session.value("/pratima/replicas/r:default", "status", "consistent") == "true"


def test_every_table_of_parameters_is_readable(pair: Pair, session: Session) -> None:
    for path in (
        "/pratima/daemons/p",
        "/pratima/groups/p:default",
        "/pratima/groups/p:default/lun0",
        link_of(pair),
        "/pratima/replicas/r:default",
        "/pratima/journal/r:default",
    ):
        assert "[ro]" in session.line(f"{path} get status")


def test_a_word_is_completed(pair: Pair, session: Session) -> None:
    link = link_of(pair)
    assert session.complete("/pratima", "kill", "") == ["false", "true", "drop_queue="]
    assert session.complete(link, "resync", "t") == ["true "]
    assert session.complete(link, "get", "stat", group="status") == ["state "]
    assert "p:default/" in session.shell._complete_token_path("/pratima/links/")[0]


# --- what is done --------------------------------------------------------------------------------


def test_a_link_is_stopped_and_put_to_work_again(pair: Pair, session: Session) -> None:
    link = link_of(pair)
    assert session.line(f"{link} disable forget_table=true") == f"disabled {pair.replica.address}\n"
    assert session.value(link, "status", "state") == "DISABLED"
    assert session.value(link, "setting", "enabled") == "false"
    assert session.tree(link)[pair.replica.address].startswith("DISABLED")
    assert "is now 'true'" in session.line(f"{link} set setting enabled=true")
    pair.primary.wait_synced(pair.replica)
    assert session.value(link, "status", "state") == "SYNCED"


def test_set_does_not_stop_a_link(pair: Pair, session: Session) -> None:
    assert "help disable" in session.error(f"{link_of(pair)} set setting enabled=false")
    assert "read-only" in session.error(f"{link_of(pair)} set setting mode=sync")
    assert pair.primary.link().state is LinkState.SYNCED


PATHS = ("/pratima", "/pratima/groups/p:default", "/pratima/links/p:default")


@pytest.mark.parametrize("path", PATHS)
def test_each_verb_reaches_the_daemon(pair: Pair, session: Session, path: str) -> None:
    address = pair.replica.address
    assert session.line(f"{path} kill drop_queue=true") == f"killed the sessions of {address}\n"
    assert session.line(f"{path} reconnect") == f"connecting to {address}\n"
    pair.primary.wait_synced(pair.replica)
    assert session.line(f"{path} resync") == f"resync of {address}\n"
    assert session.line(f"{path} disable forget_table=true") == f"disabled {address}\n"
    assert session.line(f"{path} clean").startswith(f"comparing {address}")
    pair.primary.wait_synced(pair.replica)
    assert session.line(f"{path} disable forget_table=true") == f"disabled {address}\n"
    assert session.line(f"{path} enable") == f"enabled {address}\n"
    pair.primary.wait_synced(pair.replica)
    assert pair.primary.said("kill")


# --- what goes wrong -----------------------------------------------------------------------------


def test_errors_say_what_there_is_instead(pair: Pair, session: Session) -> None:
    assert "positionnal parameters" in session.error("/pratima enable nothing")
    assert "its primary" in session.error("/pratima/groups/r:default enable")
    assert "Unexpected keyword" in session.error("/pratima kill nonsense=1")
    assert "Command not found" in session.error("/pratima/replicas/r:default kill")


@pytest.mark.parametrize("path", PATHS)
def test_what_gives_something_up_wants_it_said(pair: Pair, session: Session, path: str) -> None:
    assert "say so: drop_queue=true" in session.error(f"{path} kill")
    assert "say so: drop_queue=true" in session.error(f"{path} kill drop_queue=false")
    assert "say so: forget_table=true" in session.error(f"{path} disable")
    assert "from_primary: Syntax error" in session.error(f"{path} resync from_primary=perhaps")
    assert pair.primary.link().state is LinkState.SYNCED


def test_a_line_that_is_understood_in_part_is_not_run(pair: Pair, session: Session) -> None:
    assert "no quotes" in session.error("/pratima disable p:default 'x'")
    assert pair.primary.link().state is LinkState.SYNCED


def test_a_daemon_that_is_not_there_is_shown_and_asked_again(pair: Pair, tmp_path: Path) -> None:
    late = Primary(tmp_path, name="late", size=4 * MIB)
    session = Session(p=pair.primary.state, late=late.state)
    tree = session.tree("/pratima")
    assert tree["pratima"] == "2 daemons, 1 without an answer"
    assert tree["late"] == f"no answer: nobody answers: no daemon runs on {late.state}"
    assert tree["p:default"] == "1 SYNCED"
    assert session.value("/pratima/daemons/late", "status", "answers") == "false"
    with late:
        late.start()
        assert session.tree("/pratima")["pratima"] == "2 daemons"
        assert "say which: /pratima/links/p:default, " in session.error("/pratima enable")
        session.line("cd /pratima/links/late:default")
        assert session.line("pwd") == "/pratima/links/late:default\n"
        late.finish()
        assert session.line("pwd") == "/pratima/links\n"
    assert "No such path" in session.error("/pratima/links/late:default enable")


def test_a_daemon_that_hangs_costs_a_bounded_wait(pair: Pair, session: Session) -> None:
    os.kill(pair.replica.pid, signal.SIGSTOP)
    try:
        tree = session.tree("/pratima")
        assert tree["r"].startswith("no answer: the daemon on ")
        assert tree["p"].startswith("primary")
    finally:
        os.kill(pair.replica.pid, signal.SIGCONT)
    pair.primary.wait_synced(pair.replica)
    assert session.tree("/pratima")["r"].startswith("replica")


def test_a_node_whose_daemon_went_says_so(pair: Pair, tmp_path: Path) -> None:
    alone = Primary(tmp_path, name="alone", size=4 * MIB)
    with alone:
        alone.start()
        session = Session(alone=alone.state)
        node = session.root.get_node("/pratima/groups/default")
        assert node.summary()[0] == "primary, 1 volume of 4 MiB, 0 sessions"
        assert session.tree("/pratima/links")["default"] == "no replica"
        alone.finish()
        session.line("pwd")
        assert node.summary()[0] == "no longer there"
        assert "No such path" in session.error("/pratima/groups/default get status role")


# --- the program itself --------------------------------------------------------------------------


def test_one_line_on_the_command_line(pair: Pair) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pratima_targetcli", "--standalone", "/pratima", "ls"],
        env={**os.environ, "PRATIMA_STATE": f"{pair.primary.state}:{pair.replica.state}"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "primary-state:default" in done.stdout and "[1 SYNCED]" in done.stdout


def test_tab_completes_and_colours_show_on_a_terminal(pair: Pair, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        [sys.executable, "-m", "pratima_targetcli", "--standalone", "--state", pair.primary.state],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TARGETCLI_HOME": str(tmp_path), "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""

    def see(text: bytes) -> None:
        nonlocal shown
        while text not in shown:
            ready, _, _ = select.select([ours], [], [], SECONDS)
            assert ready, shown
            shown += os.read(ours, 4096)

    try:
        see(b"/> ")
        os.write(ours, b"/pratima/li\t")
        see(b"/pratima/links/")
        os.write(ours, b" ls\n")
        see(b"\x1b[32m1 SYNCED")
        os.write(ours, b"exit\n")
        assert shell.wait(SECONDS) == 0
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)
