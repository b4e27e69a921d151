"""What needs no daemon: names of state directories, lines of a tree, what may be imported."""

import ast
import os
from pathlib import Path

import pratima_targetcli
import pytest
from pratima_targetcli import limits, main
from pratima_targetcli.daemons import Daemon
from pratima_targetcli.kernel import no_lio
from pratima_targetcli.places import NotUnderstood, Place, find_places, node_name
from pratima_targetcli.summaries import (
    group_lines,
    group_summary,
    link_summary,
    replica_summary,
    volume_summary,
)

from pratima_iscsi.control.status import (
    Alarm,
    GroupStatus,
    JournalStatus,
    Lag,
    LinkStatus,
    PositionStatus,
    ResyncStatus,
    VolumeStatus,
)
from pratima_iscsi.replication.states import LinkState, Role

PACKAGE = Path(pratima_targetcli.__file__).parent
POSITION = PositionStatus("00000000000000aa", 7)


def link(**changes: object) -> LinkStatus:
    told: dict[str, object] = {
        "replica": "10.0.0.2:7010",
        "state": LinkState.SYNCED,
        "degraded": False,
        "reason": "",
    }
    return LinkStatus(**(told | changes))  # type: ignore[arg-type]


def group(role: Role = Role.PRIMARY, **changes: object) -> GroupStatus:
    told: dict[str, object] = {"role": role, "group": "db", "position": POSITION}
    return GroupStatus(**(told | changes))  # type: ignore[arg-type]


def test_it_imports_nothing_of_the_target_but_control() -> None:
    files = sorted(PACKAGE.glob("*.py"))
    assert len(files) > 8
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, path
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                if name.split(".")[0] == "pratima_iscsi":
                    assert name.startswith("pratima_iscsi.control."), f"{path.name}: {name}"


# --- state directories ---------------------------------------------------------------------------


def test_a_daemon_is_named_after_its_directory_or_as_it_is_said(tmp_path: Path) -> None:
    one, other = find_places([str(tmp_path / "p"), f"far={tmp_path}"], {})
    assert one == Place("p", tmp_path / "p")
    assert other == Place("far", tmp_path)


def test_an_option_stands_before_the_environment(tmp_path: Path) -> None:
    environment = {"PRATIMA_STATE": f"{tmp_path}/a{os.pathsep}b={tmp_path}/x"}
    assert [place.name for place in find_places([], environment)] == ["a", "b"]
    assert [place.name for place in find_places([f"{tmp_path}/c"], environment)] == ["c"]


@pytest.mark.parametrize("names", [[], ["one"], ["one", "two"]])
def test_where_nothing_is_said_the_usual_place_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    monkeypatch.setattr("pratima_targetcli.places.DEFAULT", tmp_path)
    (tmp_path / "no-daemon").mkdir()
    for name in names:
        (tmp_path / name / "control").mkdir(parents=True)
    assert [place.name for place in find_places([], {})] == names


def test_the_usual_place_may_be_one_daemons_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pratima_targetcli.places.DEFAULT", tmp_path)
    (tmp_path / "control").mkdir()
    assert [place.state for place in find_places([], {})] == [tmp_path]


@pytest.mark.parametrize("said", [["x/p", "y/p"], ["a b=x"], ["n="], ["=x"]])
def test_what_cannot_be_a_place_is_refused_with_a_next_step(said: list[str]) -> None:
    with pytest.raises(NotUnderstood) as refused:
        find_places(said, {})
    assert refused.value.next_step


def test_there_is_a_most_of_them() -> None:
    many = [f"n{number}=x" for number in range(limits.DAEMONS_MAX + 1)]
    assert len(find_places(many[1:], {})) == limits.DAEMONS_MAX
    with pytest.raises(NotUnderstood):
        find_places(many, {})


def test_an_address_becomes_a_name_that_a_path_can_hold() -> None:
    assert node_name("10.0.0.2:7010") == "10.0.0.2:7010"
    assert node_name("[::1]:7010") == "[::1]:7010"
    assert node_name("ipc:///run/r") == "ipc:___run_r"


# --- lines ---------------------------------------------------------------------------------------


def test_colours_are_those_of_the_exit_code() -> None:
    assert link_summary(link()) == ("SYNCED, async", True)
    assert link_summary(link(state=LinkState.CONNECTING))[1] is None
    assert link_summary(link(state=LinkState.DIVERGED)) == ("DIVERGED, async", False)
    assert link_summary(link(state=LinkState.STALE, must_act=True))[1] is False
    assert group_summary(group(failed="no disk")) == ("primary, FAILED: no disk", False)


def test_a_links_line_tells_what_is_not_there_yet() -> None:
    busy = link(
        state=LinkState.RESYNCING,
        degraded=True,
        mode="sync",
        reason="resync",
        lag=Lag(writes=1, bytes=4096, seconds=2),
        bwt_blocks=5,
        held_writes=3,
        resync=ResyncStatus(blocks_total=10, blocks_done=5, rate=1 << 20, seconds_left=1.5),
    )
    assert link_summary(busy)[0] == (
        "RESYNCING degraded, sync, lag 1 write, 4 KiB, 2.0 s, lacks 5 blocks, 3 writes held, "
        "50 % done at 1 MiB/s, 1.5 s left, resync"
    )


def test_what_a_peer_says_cannot_move_the_cursor() -> None:
    hostile = "\x1b[2J\x9b1m"
    lines = [
        link_summary(link(reason=hostile))[0],
        replica_summary(group(Role.REPLICA, consistent=False, reason=hostile))[0],
        volume_summary(VolumeStatus("v", "/x", 1, failed=hostile))[0],
        *group_lines(
            "db",
            group(links=(link(replica=hostile),), alarms=(Alarm(hostile, hostile),)),
        ),
    ]
    assert not any(character in line for line in lines for character in "\x1b\x9b")


def test_everything_of_a_group_is_in_its_status() -> None:
    told = group(
        Role.REPLICA,
        volumes=(VolumeStatus("lun0", "/dev/x", 1 << 30),),
        journal=JournalStatus(bytes=4096, limit=1 << 28, unapplied=2, staged_bytes=512),
        heard_seconds=0.5,
        alarms=(Alarm("rot", "bad block", 61),),
    )
    assert list(group_lines("db", told)) == [
        "db: replica, 1 volume of 1 GiB, 1 alarm",
        "  consistent at 00000000000000aa:7, heard 0.5 s ago",
        "  lun0  /dev/x (1 GiB)",
        "  journal 4 KiB of 256 MiB, 2 batches to apply, 512 B staged",
        "  ALARM rot: bad block (1 min 1 s ago)",
    ]


# --- the kernel, the command line ----------------------------------------------------------------


@pytest.mark.parametrize("place", ["sys/module/target_core_mod", "sys/kernel/config/target"])
def test_a_loaded_lio_is_found(tmp_path: Path, place: str) -> None:
    assert "no LIO" in no_lio(tmp_path)
    (tmp_path / place).mkdir(parents=True)
    assert no_lio(tmp_path) == ""


@pytest.mark.parametrize("listed", ["modules.dep", "modules.builtin"])
def test_a_lio_that_can_be_loaded_is_found(tmp_path: Path, listed: str) -> None:
    modules = tmp_path / "lib/modules" / os.uname().release
    modules.mkdir(parents=True)
    (modules / listed).write_text("kernel/drivers/target/target_core_mod.ko.xz: x\n")
    assert no_lio(tmp_path) == ""


def test_help_names_the_options_and_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main.main(["--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("--state", "--standalone", "$PRATIMA_STATE"))


def test_a_mistake_on_the_command_line_is_a_line_and_exit_code_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main.main(["--standalone", "--state", "a b=x", "ls"]) == 1
    assert main.main(["--standalone", "--state", "x", "/nowhere", "ls"]) == 1
    assert main.main(["--standalone", "--state", "x", "nonsense"]) == 1
    err = capsys.readouterr().err
    assert "cannot name a daemon" in err
    assert "No such path /nowhere" in err
    assert "Command not found nonsense" in err


@pytest.mark.parametrize("word", ["name=two words", "/a\tb", "", " "])
@pytest.mark.parametrize("root", [["--standalone"], []], ids=["standalone", "stock"])
def test_a_word_that_the_line_would_divide_or_drop_is_refused(
    root: list[str],
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(main, "no_lio", lambda: "")
    monkeypatch.setattr(main, "run_stock", lambda *line: pytest.fail("it was run"))
    monkeypatch.setattr(main.standalone, "run", lambda *line: pytest.fail("it was run"))
    assert main.main([*root, "--state", "x", "/pratima", "create", word]) == 1
    assert f"cannot take {word!r} as one word" in capsys.readouterr().err


def test_a_word_that_stands_alone_is_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(main.standalone, "run", lambda daemons, line, *_: lines.append(line))
    assert main.main(["--standalone", "--state", "x", "/pratima/daemons ls"]) == 0
    assert main.main(["--standalone", "--state", "x", "/pratima/daemons", "ls"]) == 0
    assert lines == ["/pratima/daemons ls"] * 2


def test_one_line_waits_once_for_a_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    monkeypatch.setattr(Daemon, "look", lambda daemon: looks.append(daemon.name))
    assert main.main(["--standalone", "--state", str(tmp_path), "/pratima", "ls"]) == 0
    assert len(looks) == 1


def test_without_targetcli_the_error_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "no_lio", lambda: "")
    monkeypatch.setitem(main.sys.modules, "targetcli", None)
    monkeypatch.delitem(main.sys.modules, "pratima_targetcli.stock", raising=False)
    assert main.main(["--state", "x", "ls"]) == 1
    assert "pip install --no-deps" in capsys.readouterr().err
