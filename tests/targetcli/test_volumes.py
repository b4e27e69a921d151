"""``/backstores/user:pratima`` in the standalone root: volumes come and go through a daemon."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pratima_targetcli import limits, volumes

from pratima_iscsi.control.client import ControlClient
from pratima_iscsi.control.target_list import TargetStatus
from pratima_iscsi.limits import CONTROL_ANSWER_SECONDS, TARGET_ANSWER_SECONDS
from pratima_iscsi.replication.states import Mode
from tests.integration.daemons.nodes import MIB, Node, Pair, Primary, Replica, directory
from tests.targetcli.session import Session

HERE = "/backstores/user:pratima"
IQN = "iqn.2026-01.io.github.pratima:db"


class Idle(Primary):
    """``pratima serve`` with nothing to serve yet."""

    def __init__(self, place: Path, name: str = "idle") -> None:
        Node.__init__(self, "serve", name, place, ["--portal", "127.0.0.1:0"])

    def targets(self) -> tuple[TargetStatus, ...]:
        """What it says that it serves."""
        with ControlClient(self.state) as client:
            return client.targets().targets


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with directory() as place:
        yield place


@pytest.fixture(scope="module")
def idle(place: Path) -> Iterator[Idle]:
    """A daemon without targets; ``session`` leaves it so."""
    with Idle(place) as idle:
        idle.start()
        yield idle


@pytest.fixture
def session(idle: Idle, place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.chdir(place)
    session = Session(p=idle.state)
    yield session
    for group in [group.group for group in idle.targets()]:
        session.line(f"{HERE} delete {group} end_sessions=true")


def test_what_is_copied_from_the_target_is_as_it_is_there() -> None:
    assert limits.ANSWER_SECONDS == CONTROL_ANSWER_SECONDS
    assert limits.TARGET_ANSWER_SECONDS == TARGET_ANSWER_SECONDS
    assert tuple(mode.value for mode in Mode) == volumes.MODES


def test_volumes_come_and_go(idle: Idle, session: Session, place: Path) -> None:
    assert session.tree(HERE) == {"user:pratima": "0 volumes, served by the embedded portal"}
    said = session.line(f"{HERE} create db one.img,two.img 4MiB")
    assert said.startswith(f"target {IQN} of group db is served at 127.0.0.1:")
    assert session.tree(HERE) == {
        "user:pratima": "2 volumes, served by the embedded portal",
        "db.lun0": f"{place}/one.img (4 MiB)",
        "db.lun1": f"{place}/two.img (4 MiB)",
    }
    assert session.line(f"{HERE} create db one.img,two.img 4MiB").endswith("nothing changed\n")
    assert [lun.size for lun in idle.status("db").volumes] == [4 * MIB] * 2
    assert f"db: {IQN} at 127.0.0.1:" in session.line(f"{HERE} info")
    told = session.line(f"{HERE}/db.lun1 info")
    assert f"path: {place}/two.img\n" in told and "lun: 1\n" in told and "origin: created" in told
    assert session.value(f"{HERE}/db.lun0", "setting", "size") == "4 MiB"
    assert session.complete(HERE, "delete", "") == ["db ", "name=", "end_sessions="]
    assert session.line(f"{HERE} delete db").startswith(f"target {IQN} is deleted; ")
    assert session.tree(HERE) == {"user:pratima": "0 volumes, served by the embedded portal"}
    assert (place / "one.img").stat().st_size == 4 * MIB


def test_a_target_in_use_is_deleted_only_if_that_is_said(idle: Idle, session: Session) -> None:
    session.line(f"{HERE} create used used.img 4MiB")
    with pytest.raises(ConnectionError), idle.login(group="used"):  # it is closed under him
        assert "1 sessions are logged in" in session.error(f"{HERE} delete used")
        assert session.value(f"{HERE}/used.lun0", "status", "sessions") == "1"
        assert "end_sessions: Syntax error" in session.error(f"{HERE} delete used end_sessions=1")
        session.line(f"{HERE} delete used end_sessions=true")
    assert session.line("/pratima/groups ls").count("\n") == 1


def test_a_volume_is_made_with_its_replica(idle: Idle, session: Session, place: Path) -> None:
    with Replica(place, "--group", "mirrored") as replica:
        replica.start()
        link = f"replica={replica.address} mode=sync"
        session.line(f"{HERE} create mirrored mirrored.img 4MiB {link}")
        idle.wait_synced(replica, group="mirrored")
        link = f"/pratima/links/mirrored/{replica.address}"
        assert session.value(link, "setting", "mode") == "sync"
        session.line(f"{HERE} delete mirrored")


def test_a_volume_grows_and_never_shrinks(idle: Idle, session: Session, place: Path) -> None:
    session.line(f"{HERE} create grown growing.img 4MiB")
    volume = f"{HERE}/grown.lun0"
    assert "has 8388608 bytes now" in session.line(f"{volume} resize 8MiB")
    assert "is now '12 MiB'" in session.line(f"{volume} set setting size=12MiB")
    session.line(f"{HERE} resize grown.lun0 16MiB")
    assert session.tree(HERE)["grown.lun0"] == f"{place}/growing.img (16 MiB)"
    assert (place / "growing.img").stat().st_size == 16 * MIB
    assert "shrink" in session.error(f"{volume} resize 4MiB")
    assert "'much' is not a size" in session.error(f"{volume} resize much")
    assert "'much' is not a size" in session.error(f"{volume} set setting size=much")
    assert "there is: grown.lun0" in session.error(f"{HERE} resize db 32MiB")
    assert "replicas_later: Syntax" in session.error(f"{volume} resize 32MiB replicas_later=1")
    assert session.complete(HERE, "resize", "g") == ["grown.lun0 "]
    assert idle.status("grown").volumes[0].size == 16 * MIB


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("none missing.img", "missing.img does not exist; correct the path"),
        ("db one.img,one.img 4MiB", "two volumes are the same"),
        ("DB one.img 4MiB", "cannot name a group"),
        ("db one.img many", "'many' is not a size"),
        ("db one.img 4MiB mode=fast replica=127.0.0.1:1", "Invalid enum value 'fast'"),
        ("db one.img 4MiB replica=nowhere", "nowhere"),
        ("db one.img 4MiB block_size=100", "block_size"),
        ("db one.img 4MiB chap_user=u chap_password_file=none", "none"),
        ("db one.img 4MiB iqn=nonsense", "nonsense"),
        ("db one.img 4MiB daemon=other", "one of p"),
        ("db", "Missing required parameter path"),
    ],
)
def test_a_create_that_fails_says_its_cause(session: Session, words: str, cause: str) -> None:
    assert cause in session.error(f"{HERE} create {words}")
    assert not any(name.endswith(".lun0") for name in session.tree(HERE))


def test_what_is_not_there_is_not_deleted(idle: Idle, session: Session) -> None:
    assert "there is no target 'db'; there is: none" in session.error(f"{HERE} delete db")
    session.line(f"{HERE} create gone gone.img 4MiB")
    assert "delete gone ends all" in session.error(f"{HERE} delete gone.lun0")
    session.line(f"{HERE} delete gone")


def test_a_target_that_cannot_be_served_is_red_and_can_be_deleted(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    with Idle(place, "failing") as daemon:
        daemon.start()
        session = Session(p=daemon.state)
        session.line(f"{HERE} create db lost.img 4MiB")
        daemon.finish()
        (place / "lost.img").unlink()
        daemon.start()
        assert session.tree(HERE)["db"].startswith(f"NOT SERVED: volume {place}/lost.img")
        node = session.root.get_node(f"{HERE}/db")
        assert node.summary()[1] is False
        assert "NOT SERVED" in session.line(f"{HERE} info")
        assert "is forgotten" in session.line(f"{HERE} delete db")


def test_paths_and_words_are_completed(session: Session, place: Path) -> None:
    (place / "sub").mkdir(exist_ok=True)
    (place / "alone.raw").touch()
    assert session.complete(HERE, "create", "al", name="db") == ["alone.raw "]
    assert session.complete(HERE, "create", f"{place}/su", name="db") == [f"{place}/sub/"]
    kparam = session.shell._complete_token_kparam
    assert kparam("mode=s", HERE, "create", ["db", "x"], {"mode": "s"}) == [
        "mode=semi-sync",
        "mode=sync",
    ]
    assert kparam("daemon=", HERE, "create", ["db", "x"], {"daemon": ""}) == ["daemon=p "]


def test_a_replicas_daemon_serves_nothing(tmp_path: Path) -> None:
    with Pair(tmp_path).replica as replica:
        replica.start()
        session = Session(r=replica.state)
        assert session.tree(HERE)["user:pratima"] == "0 volumes"
        assert "no daemon here serves" in session.error(f"{HERE} create db x.img")


def test_of_several_daemons_one_is_named(
    idle: Idle, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    with Idle(place, "second") as second:
        second.start()
        session = Session(p=idle.state, q=second.state)
        assert "daemon=NAME, one of p, q" in session.error(f"{HERE} create db many.img 4MiB")
        session.line(f"{HERE} create db many.img 4MiB daemon=q")
        assert session.tree(HERE)["q:db.lun0"] == f"{place}/many.img (4 MiB)"
        session.line(f"{HERE} delete q:db")
