"""The command line: options become checked values, answers become text and exit codes."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from pratima_iscsi import cli
from pratima_iscsi.cli import replica as replica_command
from pratima_iscsi.cli import serve as serve_command
from pratima_iscsi.cli import status as status_command
from pratima_iscsi.control.client import ControlClient
from pratima_iscsi.control.options import ReplicaDaemonOptions, ServeOptions, group_directory
from pratima_iscsi.control.requests import (
    CleanRequest,
    DisableRequest,
    Done,
    KillRequest,
    Request,
    ResizeRequest,
    ResyncRequest,
)
from pratima_iscsi.control.status import (
    Alarm,
    AncestorStatus,
    GroupStatus,
    JournalStatus,
    Lag,
    LinkStatus,
    LogStatus,
    NodeStatus,
    PositionStatus,
    ResyncStatus,
    VolumeStatus,
)
from pratima_iscsi.edges.directory import DiskDirectory
from pratima_iscsi.edges.keys import read_allow_list, read_keys
from pratima_iscsi.edges.replica_state import ReplicaState, ReplicaVolume, StateFile
from pratima_iscsi.edges.volume_paths import remember_volume_paths
from pratima_iscsi.errors import UsageError
from pratima_iscsi.limits import GIB, MIB
from pratima_iscsi.positions import History, Position
from pratima_iscsi.replication.states import LinkState, Mode, Role

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line; exit code, standard output, standard error."""

    def command_line(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert isinstance(done.value.code, int)
        return done.value.code, out, err

    return command_line


# --- help and errors -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_an_example(run: Run, name: str) -> None:
    code, out, _ = run(name, "--help")
    assert code == 0
    examples = out.split("Options:")[0].split("\n", 1)[1].splitlines()
    assert any(line.lstrip().startswith(f"pratima {name} ") for line in examples)
    assert "\\b" not in out, "examples are not to be wrapped"


def test_the_whole_help_names_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for name in cli.COMMANDS:
        assert f"\n  {name} " in out


@pytest.mark.parametrize("arguments", [["nonsense"], ["status"], ["serve", "--mode", "fast"]])
def test_what_is_no_command_line_exits_with_2(run: Run, arguments: list[str]) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert "Error" in err


def test_an_operators_error_is_printed_with_its_next_step(run: Run, tmp_path: Path) -> None:
    code, out, err = run("status", "--state", tmp_path)
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"pratima: nobody answers: no daemon runs on {tmp_path}",
        "   next: start it with pratima serve or pratima replica, or name its --state",
    ]


def test_a_disks_error_is_printed_with_the_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error", "/dev/sdx")

    monkeypatch.setattr(status_command, "ControlClient", fail)
    code, _, err = run("status", "--state", tmp_path)
    assert code == 2
    assert "/dev/sdx: Input/output error" in err


def test_a_bug_shows_its_traceback(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(status_command, "ControlClient", fail)
    with pytest.raises(AssertionError, match="a bug"):
        cli.main(["status", "--state", str(tmp_path)])


def test_ctrl_c_exits_with_130(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status_command, "ControlClient", interrupt)
    assert run("status", "--state", tmp_path)[0] == 130


# --- serve and replica ---------------------------------------------------------------------------


def serve(*arguments: object) -> ServeOptions:
    with serve_command.command.make_context("serve", [str(a) for a in arguments]) as context:
        return serve_command.parse(context)


def replica(*arguments: object) -> ReplicaDaemonOptions:
    with replica_command.command.make_context("replica", [str(a) for a in arguments]) as context:
        return replica_command.parse(context)


def test_the_shortest_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = serve("--state", "p", "--volume", "disk.img")
    assert (options.state, str(options.portal)) == (tmp_path / "p", "127.0.0.1:3260")
    (group,) = options.groups
    assert (group.name, group.replicas, group.block_bytes) == ("default", (), 512)
    assert group.initiators is None, "any"
    assert [(v.name, v.path, v.size) for v in group.volumes] == [
        ("lun0", tmp_path / "disk.img", None)
    ]


def test_every_option_of_serve(tmp_path: Path) -> None:
    options = serve(
        *("--state", tmp_path, "--portal", "127.0.0.1:0", "--volume", "/a", "--volume", "/b"),
        *("--size", "1GiB", "--size", "64M", "--replica", "127.0.0.1:1", "--replica", "[::1]:2"),
        *("--mode", "semi-sync", "--log-limit", "32MiB", "--group", "db", "--sync-timeout", "3"),
        *("--iqn", "iqn.2020-02.org.example.x:y", "--on-timeout", "block", "--resync", "direct"),
        *("--overwrite", "--block-size", "4096"),
        *("--initiator", "iqn.2020-02.org.example:One", "--initiator", "iqn.2020-02.org.example:2"),
    )
    (group,) = options.groups
    assert [(v.name, v.size) for v in group.volumes] == [("lun0", GIB), ("lun1", 64 * MIB)]
    assert (group.name, group.target) == ("db", "iqn.2020-02.org.example.x:y")
    assert (group.log_bytes, group.block_bytes) == (32 * MIB, 4096)
    assert group.initiators == {"iqn.2020-02.org.example:one", "iqn.2020-02.org.example:2"}
    assert [link.name for link in group.replicas] == ["127.0.0.1:1", "[::1]:2"]
    for link in group.replicas:
        assert (link.mode, link.sync_timeout, link.block) == (Mode.SEMI_SYNC, 3.0, True)
        assert (link.direct_resync, link.overwrite) == (True, True)


def test_one_size_is_for_all_volumes(tmp_path: Path) -> None:
    options = serve("--state", tmp_path, "--volume", "/a", "--volume", "/b", "--size", "1M")
    assert [volume.size for volume in options.groups[0].volumes] == [MIB, MIB]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--volume", "/a"], "--state is missing"),
        (["--state", "s", "--mode", "sync"], "--mode without --volume"),
        (["--state", "s", "--volume", "/a", *["--size", "1M"] * 2], "2 sizes for 1 volumes"),
        (["--state", "s", "--volume", "/a", "--portal", "0.0.0.0:3260"], "--insecure-no-chap"),
        (["--state", "s", "--volume", "/a", "--replica", "10.0.0.2:1"], "--key and --allow"),
        (["--state", "s", "--volume", "/a", "--key", "k"], "--key without --allow"),
        (["--config", "c.toml", "--volume", "/a"], "--volume beside --config"),
        (["--config", "c.toml", "--mode", "async"], "--mode beside --config"),
    ],
)
def test_a_serve_that_cannot_be_says_what_to_do(arguments: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        serve(*arguments)


def test_a_file_of_serve_with_another_state_and_portal(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('state = "s"\n[[group]]\nvolume = [{path = "v"}]\n')
    options = serve("--config", config)
    assert (options.state, options.groups[0].volumes[0].path) == (tmp_path / "s", tmp_path / "v")
    options = serve("--config", config, "--state", "/t", "--portal", "127.0.0.1:77")
    assert (options.state, str(options.portal)) == (Path("/t"), "127.0.0.1:77")


def test_the_options_of_replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = replica("--state", "r", "--volume", "replica.img")
    assert (str(options.listen), str(options.data_listen)) == ("127.0.0.1:7010", "127.0.0.1:7011")
    options = replica(
        *("--state", "r", "--listen", "127.0.0.1:9", "--data-listen", "127.0.0.1:8"),
        *("--volume", "a", "--volume", "b", "--group", "db", "--journal-limit", "1GiB"),
        "--overwrite",
    )
    assert (str(options.data_listen), options.journal_bytes) == ("127.0.0.1:8", GIB)
    (group,) = options.groups
    assert (group.name, group.overwrite) == ("db", True)
    assert [volume.path for volume in group.volumes] == [tmp_path / "a", tmp_path / "b"]


def test_a_replica_off_loopback_needs_keys(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--key and --allow on both sides"):
        replica("--state", tmp_path, "--volume", "/a", "--listen", "0.0.0.0:7010")


def test_a_file_of_replica(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('state = "s"\n[[group]]\nvolume = [{path = "v"}]\n')
    options = replica("--config", config, "--listen", "127.0.0.1:5")
    assert (options.state, str(options.data_listen)) == (tmp_path / "s", "127.0.0.1:6")
    with pytest.raises(UsageError, match="--volume beside --config"):
        replica("--config", config, "--volume", "x")


def test_a_port_that_is_no_port_reaches_the_operator(run: Run, tmp_path: Path) -> None:
    code, _, err = run("serve", "--state", tmp_path, "--volume", "v", "--portal", "host:port")
    assert code == 2
    assert "'host:port' is not an address" in err


# --- keygen --------------------------------------------------------------------------------------


def test_keygen_makes_a_pair_and_prints_the_public_half_only(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("keygen", tmp_path / "node.key", "--name", "alpha")
    keys = read_keys(tmp_path / "node.key")
    assert code == 0
    assert out.splitlines()[-1] == f"{keys.public} alpha"
    assert keys.secret not in out
    assert read_allow_list(tmp_path / "node.key.pub").peer("alpha") == keys.public
    code, _, err = run("keygen", tmp_path / "node.key")
    assert code == 2
    assert "exists already" in err


# --- status and the verbs ------------------------------------------------------------------------

POSITION = PositionStatus("00000000000000ff", 42)
LINK = LinkStatus(
    "127.0.0.1:7010",
    LinkState.RESYNCING,
    True,
    "the log [overflowed]",
    lag=Lag(3, 12288, 1.25),
    bwt_blocks=700,
    resync=ResyncStatus(1000, 300, 300 * 4096, 2.0 * MIB, 90.0),
    held_writes=2,
)
PRIMARY = GroupStatus(
    role=Role.PRIMARY,
    group="default",
    position=POSITION,
    history=(AncestorStatus("0000000000000001", None),),
    volumes=(VolumeStatus("lun0", "/dev/x", GIB, "EIO"),),
    links=(LINK,),
    log=LogStatus(MIB, 256 * MIB),
    portal="127.0.0.1:3260",
    target="iqn.2026-01.io.github.pratima:default",
    alarms=(Alarm("overflow", "writer faster than link", 5.0),),
)
REPLICA = GroupStatus(
    role=Role.REPLICA,
    group="default",
    position=POSITION,
    journal=JournalStatus(MIB, 256 * MIB),
    heard_seconds=0.5,
)
NODE = NodeStatus(version="1", pid=7, uptime_seconds=1.0)


class FakeClient(ControlClient):
    """Answers without a socket."""

    groups: tuple[GroupStatus, ...] = ()
    node_alarms: tuple[Alarm, ...] = ()
    asked: tuple[object, ...] = ()

    def __init__(self, state: Path, seconds: float = 1.0) -> None:
        self.closed = threading.Event()

    def status(self, group: str = "") -> NodeStatus:
        FakeClient.asked = (group,)
        return msgspec.structs.replace(
            NODE, groups=FakeClient.groups, node_alarms=FakeClient.node_alarms
        )

    def ask(self, request: object) -> Done:  # type: ignore[override]
        FakeClient.asked = (request,)
        return Done("it was done")

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    monkeypatch.setattr("pratima_iscsi.cli.status.ControlClient", FakeClient)
    monkeypatch.setattr("pratima_iscsi.cli.common.ControlClient", FakeClient)
    return FakeClient


def test_status_of_a_primary_in_words(run: Run, answers: type[FakeClient]) -> None:
    answers.groups = (PRIMARY,)
    code, out, _ = run("status", "--state", "p")
    assert code == 2  # a volume has failed
    for text in (
        "default  primary  at 00000000000000ff:42",
        "iqn.2026-01.io.github.pratima:default at 127.0.0.1:3260, 0 sessions",
        "lun0  1 GiB  /dev/x  FAILED: EIO",
        "ordered log 1 MiB of 256 MiB",
        "RESYNCING degraded",
        "3 writes, 12 KiB, 1.2 s",
        "700 blocks (30 % done, 2 MiB/s, 1 min 30 s left)",
        "the log [overflowed] (2 writes held)",
        "ALARM overflow: writer faster than link (5.0 s ago)",
    ):
        assert text in out


@pytest.mark.parametrize(
    ("changes", "text", "code"),
    [
        ({}, "consistent at 00000000000000ff:42, last heard 0.5 s ago", 0),
        ({"heard_seconds": None}, "consistent at 00000000000000ff:42, not heard in this run", 1),
        ({"bound": False}, "not bound: no primary has connected yet", 1),
        ({"failed": "EIO"}, "FAILED: EIO", 2),
        (
            {
                "consistent": False,
                "reason": "first sync",
                "resync": ResyncStatus(100, 50, 0, 1024.0, None),
            },
            "INCONSISTENT: first sync (50 % done, 1 KiB/s, - left), last heard 0.5 s ago",
            1,
        ),
    ],
)
def test_status_of_a_replica_in_words(
    run: Run, answers: type[FakeClient], changes: dict[str, object], text: str, code: int
) -> None:
    answers.groups = (msgspec.structs.replace(REPLICA, **changes),)
    found, out, _ = run("status", "--state", "r")
    assert f"default  replica  {text}\n" in out
    assert found == code


def test_status_as_json_has_what_programs_rely_on(run: Run, answers: type[FakeClient]) -> None:
    answers.groups = (PRIMARY,)
    _, out, _ = run("status", "--state", "p", "--json")
    status = json.loads(out)
    assert status["role"] == "primary"
    assert status["position"] == {"generation": "00000000000000ff", "sequence": 42}
    (link,) = status["links"]
    assert link["replica"] == "127.0.0.1:7010"
    assert (link["state"], link["degraded"]) == ("RESYNCING", True)
    assert link["reason"] == "the log [overflowed]"
    assert link["lag"] == {"writes": 3, "bytes": 12288, "seconds": 1.25}
    assert link["bwt_blocks"] == 700
    assert link["resync"]["blocks_total"] == 1000
    assert link["resync"]["blocks_done"] == 300
    assert link["resync"]["bytes_sent"] == 300 * 4096


def test_status_shows_what_belongs_to_no_group(
    run: Run, answers: type[FakeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    alarm = Alarm("no events port", "it is in use", 5.0, "events")
    monkeypatch.setattr(answers, "node_alarms", (alarm,))
    for groups in ((), (REPLICA,), (REPLICA, msgspec.structs.replace(REPLICA, group="mail"))):
        answers.groups = groups
        code, out, _ = run("status", "--state", "r")
        assert code == 0, "an alarm is told, and changes no exit code"
        assert out.splitlines()[-1] == "ALARM events: no events port: it is in use (5.0 s ago)"
        _, out, _ = run("status", "--state", "r", "--json")
        (found,) = json.loads(out)["node_alarms"]
        assert found["place"] == "events" and found["event"] == "no events port"


def test_status_of_several_groups(run: Run, answers: type[FakeClient]) -> None:
    answers.groups = (PRIMARY, msgspec.structs.replace(REPLICA, group="mail"))
    _, out, _ = run("status", "--state", "p", "--json", "--group", "mail")
    assert [group["group"] for group in json.loads(out)["groups"]] == ["default", "mail"]
    assert answers.asked == ("mail",)
    _, out, _ = run("status", "--state", "p")
    assert "default  primary" in out
    assert "mail  replica" in out


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        (["resync"], ResyncRequest()),
        (
            ["resync", "--from-primary", "--group", "g", "--replica", "r:1"],
            ResyncRequest(group="g", replica="r:1", from_primary=True),
        ),
        (["kill", "--replica", "r:1"], KillRequest(replica="r:1")),
        (["kill", "g", "--drop-queue"], KillRequest(group="g", drop_queue=True)),
        (["disable", "--forget-table"], DisableRequest(forget_table=True)),
        (["clean", "g", "--group", "g"], CleanRequest(group="g")),
        (["clean", "--without-proof"], CleanRequest(without_proof=True)),
        (["resize"], ResizeRequest()),
        (
            ["resize", "db", "--volume", "data", "--size", "2GiB", "--replicas-later"],
            ResizeRequest(group="db", volume="data", size=2 * GIB, replicas_later=True),
        ),
    ],
)
def test_the_verbs_ask_and_print_what_was_done(
    run: Run, answers: type[FakeClient], arguments: list[str], request_: Request
) -> None:
    code, out, _ = run(*arguments, "--state", "p")
    assert (code, out) == (0, "it was done\n")
    assert answers.asked == (request_,)


def test_two_groups_in_one_command_are_refused(run: Run) -> None:
    code, _, err = run("reconnect", "g", "--group", "h", "--state", "p")
    assert code == 2 and "--group h" in err and "next:" in err


# --- recover -------------------------------------------------------------------------------------


def stored(state: Path, volume: Path, replica_state: ReplicaState | None, group: str) -> None:
    """A stopped replica's directory in ``replica_state``."""
    volume.touch()
    directory = DiskDirectory.open_at(group_directory(state, group), create=True)
    remember_volume_paths(directory.path, [volume])
    if replica_state is not None:
        with volume.open("r+b") as file:
            file.truncate(replica_state.volumes[0].size)
        store = StateFile(directory)
        store.save(replica_state)
        store.close()
    directory.close()


CONSISTENT = ReplicaState(
    group=b"g" * 16,
    group_name="default",
    node=b"n" * 16,
    volumes=(ReplicaVolume("lun0", MIB),),
    consistent=True,
    history=History(Position(255, 42)),
)


def test_recover_gives_the_position_of_a_consistent_replica(run: Run, tmp_path: Path) -> None:
    stored(tmp_path / "r", tmp_path / "v", CONSISTENT, "default")
    for _ in range(2):
        code, out, _ = run("recover", "--state", tmp_path / "r")
        assert (code, out) == (0, "default: consistent at 00000000000000ff:42\n")
    code, out, _ = run("recover", "--state", tmp_path / "r", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["consistent"] is True
    assert found["position"] == {"generation": "00000000000000ff", "sequence": 42}


def test_recover_takes_the_volume_from_the_command_line_first(run: Run, tmp_path: Path) -> None:
    stored(tmp_path / "r", tmp_path / "v", CONSISTENT, "default")
    (tmp_path / "v").rename(tmp_path / "copy")
    code, _, err = run("recover", "--state", tmp_path / "r")
    assert code == 2
    assert "does not exist" in err
    arguments = ("--volume", tmp_path / "copy")
    assert run("recover", "--state", tmp_path / "r", *arguments)[0] == 0
    directory = group_directory(tmp_path / "r", "default")  # a copy of the group's alone
    assert run("recover", "--state", directory, *arguments)[0] == 0


@pytest.mark.parametrize(
    ("replica_state", "says"),
    [
        (None, "NOT BOUND"),
        (
            msgspec.structs.replace(CONSISTENT, consistent=False, reason="the first sync"),
            "INCONSISTENT: the first sync",
        ),
        (msgspec.structs.replace(CONSISTENT, failed="EIO"), "FAILED: EIO"),
    ],
)
def test_recover_says_why_a_replica_is_not_consistent(
    run: Run, tmp_path: Path, replica_state: ReplicaState | None, says: str
) -> None:
    stored(tmp_path / "r", tmp_path / "v", replica_state, "default")
    code, out, _ = run("recover", "--state", tmp_path / "r")
    assert code == 2
    assert says in out
    code, out, _ = run("recover", "--state", tmp_path / "r", "--json")
    assert code == 2
    assert says in json.loads(out)["reason"]


def test_recover_of_several_groups_takes_the_worst(run: Run, tmp_path: Path) -> None:
    stored(tmp_path / "r", tmp_path / "v", CONSISTENT, "default")
    stored(tmp_path / "r", tmp_path / "w", None, "mail")
    code, out, _ = run("recover", "--state", tmp_path / "r")
    assert code == 2
    assert out.splitlines()[0] == "default: consistent at 00000000000000ff:42"
    assert out.splitlines()[1].startswith("mail: NOT BOUND")
    assert run("recover", "--state", tmp_path / "r", "--group", "default")[0] == 0
    code, _, err = run("recover", "--state", tmp_path / "r", "--volume", "x")
    assert code == 2
    assert "--group NAME" in err


def test_recover_of_a_group_that_is_not_there_names_those_that_are(
    run: Run, tmp_path: Path
) -> None:
    stored(tmp_path / "r", tmp_path / "v", CONSISTENT, "default")
    stored(tmp_path / "r", tmp_path / "w", None, "mail")
    code, out, err = run("recover", "--state", tmp_path / "r", "--group", "nope")
    assert (code, out) == (2, "")
    assert "there is no group 'nope' here" in err
    assert "its groups are: default, mail" in err


def test_recover_of_a_copy_of_one_groups_directory_takes_no_group(run: Run, tmp_path: Path) -> None:
    stored(tmp_path / "r", tmp_path / "v", CONSISTENT, "default")
    directory = group_directory(tmp_path / "r", "default")
    code, out, err = run("recover", "--state", directory, "--group", "default")
    assert (code, out) == (2, "")
    assert "leave --group out" in err


def test_recover_beside_a_running_daemon_is_refused(run: Run, tmp_path: Path) -> None:
    stored(tmp_path / "r", tmp_path / "v", CONSISTENT, "default")
    held = DiskDirectory.open_at(group_directory(tmp_path / "r", "default"))
    code, _, err = run("recover", "--state", tmp_path / "r")
    held.close()
    assert code == 2
    assert "in use" in err


@pytest.mark.parametrize("arguments", [[], ["--group", "none"], ["--group", "../x"]])
def test_recover_of_nothing_is_an_error(run: Run, tmp_path: Path, arguments: list[str]) -> None:
    code, out, err = run("recover", "--state", tmp_path, *arguments)
    assert (code, out) == (2, "")
    assert "next:" in err


def test_recover_without_known_paths_asks_for_them(run: Run, tmp_path: Path) -> None:
    stored(tmp_path / "r", tmp_path / "v", CONSISTENT, "default")
    (group_directory(tmp_path / "r", "default") / "volume-paths").write_text("{}")
    code, _, err = run("recover", "--state", tmp_path / "r")
    assert code == 2
    assert "--volume FILE" in err


def test_recover_of_a_volume_too_small_is_an_error(run: Run, tmp_path: Path) -> None:
    state = msgspec.structs.replace(CONSISTENT, volumes=(ReplicaVolume("lun0", 2 * MIB),))
    stored(tmp_path / "r", tmp_path / "v", state, "default")
    with (tmp_path / "v").open("r+b") as file:
        file.truncate(MIB)
    code, _, err = run("recover", "--state", tmp_path / "r")
    assert code == 2
    assert "1048576" in err
