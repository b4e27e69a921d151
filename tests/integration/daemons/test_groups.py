"""Several volumes in one order, several groups in one daemon, several primaries at one replica."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import pytest
import zmq

from pratima_iscsi import limits
from pratima_iscsi.edges.initiator import discover
from pratima_iscsi.replication.messages import (
    Hello,
    Refused,
    ToSource,
    decode_to_source,
    encode,
)
from pratima_iscsi.replication.states import LinkState
from tests.integration.daemons.nodes import (
    BLOCK,
    MIB,
    WAIT_SECONDS,
    Load,
    Node,
    Primary,
    Replica,
    in_step,
    ports,
    pratima,
    same,
    wait_equal,
)
from tests.torture.daemons import wait_until


def test_volumes_of_one_group_share_one_order_and_one_position(place: Path) -> None:
    replica = Replica(place, volumes=[place / f"copy-{n}" for n in range(3)])
    primary = Primary(
        place, replicas=[replica], volumes=[place / f"disk-{n}" for n in range(3)], size=16 * MIB
    )
    with replica, primary:
        replica.launch()
        primary.start()
        primary.wait_synced(replica)
        with ExitStack() as stack:
            loads = [
                stack.enter_context(Load(primary, lun=lun, seed=lun, sectors_max=16))
                for lun in range(3)
            ]
            for load in loads:
                load.wait(60)
            for load in loads:
                load.end()
                load.check()
        with primary.login() as session:
            assert session.report_luns() == [0, 1, 2]
        wait_equal(primary, replica)
        assert primary.status().position.sequence == sum(load.acknowledged for load in loads)
        replica.kill()
        state, volumes = replica.copied("copy")
        paths = [word for path in volumes for word in ("--volume", str(path))]
        assert pratima("recover", "--state", str(state), *paths).returncode == 0
        assert all(map(same, primary.volumes, volumes))
        # A volume too few is an error that says so.
        ran = pratima("recover", "--state", str(state), *paths[:2])
        assert ran.returncode == 2 and "3" in ran.stderr and "next:" in ran.stderr


def serve_file(place: Path, portal: int, replica: int) -> Path:
    """A configuration of two groups of three volumes in all."""
    path = place / "serve.toml"
    path.write_text(f"""
state = "serve-state"
[portal]
listen = "127.0.0.1:{portal}"
[[group]]
name = "db"
log_limit = "16MiB"
[[group.volume]]
path = "data.img"
size = "16MiB"
[[group.volume]]
path = "wal.img"
size = 8388608
[[group.replica]]
address = "127.0.0.1:{replica}"
mode = "sync"
[[group]]
name = "files"
iqn = "iqn.2026-01.org.example.store:files"
[[group.volume]]
path = "files.img"
size = "8MiB"
name = "files"
[[group.replica]]
address = "127.0.0.1:{replica}"
""")
    return path


def replica_file(place: Path, port: int) -> Path:
    """Its replica's."""
    path = place / "replica.toml"
    path.write_text(f"""
state = "replica-state"
listen = "127.0.0.1:{port}"
[[group]]
name = "files"
[[group.volume]]
path = "files-copy.img"
[[group]]
name = "db"
[[group.volume]]
path = "data-copy.img"
[[group.volume]]
path = "wal-copy.img"
""")
    return path


class Configured(Node):
    """A daemon with a TOML file and nothing else on its command line."""

    def __init__(self, verb: str, config: Path, place: Path) -> None:
        super().__init__(verb, verb, place, [])
        self.command = [*self.command[:3], verb, "--config", str(config)]


class ConfiguredPair:
    """A primary and a replica of two groups, ``db`` and ``files``, each with its file."""

    def __init__(self, place: Path) -> None:
        self.portal, self.port = ports(1), ports(3)
        self.serve = Configured("serve", serve_file(place, self.portal, self.port), place)
        self.replica = Configured("replica", replica_file(place, self.port), place)

    @contextmanager
    def in_step(self) -> Iterator[tuple[Configured, Configured]]:
        """Both run, and both groups are in step: the primary and the replica."""
        with self.serve, self.replica:
            self.replica.launch()
            self.serve.start()
            self.replica.wait_answers()
            self.wait_in_step()
            yield self.serve, self.replica

    def wait_in_step(self) -> None:
        """Wait until both groups are."""
        for group in ("db", "files"):
            self.serve.wait_status(in_step, f"{group} in step", self.replica, group=group)


def test_one_file_configures_several_groups_of_several_volumes(place: Path) -> None:
    pair = ConfiguredPair(place)
    with pair.in_step() as (serve, replica):
        names = dict(discover("127.0.0.1", pair.portal))
        assert set(names) == {
            "iqn.2026-01.io.github.pratima:db",
            "iqn.2026-01.org.example.store:files",
        }
        login = Primary.login
        with login(serve, 1, group="db") as session:  # type: ignore[arg-type]
            session.write(0, b"w" * BLOCK)
        with login(serve, 0, group="files") as session:  # type: ignore[arg-type]
            session.write(8, b"f" * BLOCK)
        for mine, copy in (("data", "data"), ("wal", "wal"), ("files", "files")):
            wait_until(
                lambda a=mine, b=copy: same(place / f"{a}.img", place / f"{b}-copy.img"),  # type: ignore[misc]
                WAIT_SECONDS,
                f"{mine} equals its copy",
                [serve, replica],
            )
        ran = pratima("status", "--state", str(serve.state), "--json")
        assert ran.returncode == 0, ran
        found = json.loads(ran.stdout)["groups"]
        assert [group["group"] for group in found] == ["db", "files"]
        assert found[0]["links"][0]["mode"] == "sync"
        assert found[0]["log"]["limit"] == 16 * MIB
        ran = pratima("status", "--state", str(serve.state), "--json", "--group", "files")
        assert json.loads(ran.stdout)["group"] == "files"
        ran = pratima("status", "--state", str(serve.state), "--group", "none")
        assert ran.returncode == 2 and "db, files" in ran.stderr
        for verb in ("reconnect", "resync", "resync --from-primary", "enable", "clean", "resize"):
            ran = pratima(*verb.split(), "--state", str(serve.state))
            assert ran.returncode == 2 and "there are several groups" in ran.stderr, ran
            assert "next: name one of them: db, files" in ran.stderr
        ran = pratima("disable", "--forget-table", "--state", str(serve.state), "--group", "db")
        assert ran.returncode == 0
        assert serve.status("db").links[0].state is LinkState.DISABLED
        assert serve.status("files").links[0].state is LinkState.SYNCED
        serve.finish()
        replica.finish()
        ran = pratima("recover", "--state", str(replica.state))
        assert ran.returncode == 0, ran
        assert "db: consistent at" in ran.stdout and "files: consistent at" in ran.stdout


def test_one_replica_keeps_groups_of_two_primaries_and_refuses_a_third(place: Path) -> None:
    port = ports(3)
    config = place / "replica.toml"
    config.write_text(f"""
state = "replica-state"
listen = "127.0.0.1:{port}"
[[group]]
name = "one"
[[group.volume]]
path = "one-copy.img"
[[group]]
name = "two"
[[group.volume]]
path = "two-copy.img"
""")
    replica = Configured("replica", config, place)

    def primary(name: str, group: str) -> Primary:
        link = ("--replica", f"127.0.0.1:{port}", "--group", group)
        return Primary(place, *link, name=name, size=16 * MIB)

    one, two = primary("one", "one"), primary("two", "two")
    stranger, impostor = primary("stranger", "three"), primary("impostor", "one")
    with replica, one, two, stranger, impostor:
        replica.start()
        one.launch()
        two.launch()
        one.wait_answers()
        two.wait_answers()
        one.wait_synced(replica)
        two.wait_synced(replica)
        with Load(one, seed=1) as first, Load(two, seed=2) as second:
            stranger.launch()
            impostor.start()
            link = impostor.wait_link(lambda link: link.state is LinkState.REFUSED, "REFUSED")
            assert link.reason.startswith("group: "), link.reason
            assert impostor.exit_code == 2
            stranger.wait_answers()
            link = stranger.wait_link(lambda link: link.state is LinkState.REFUSED, "REFUSED")
            assert "no group 'three'" in link.reason
            ran = pratima("status", "--state", str(stranger.state))
            assert ran.returncode == 2 and "REFUSED" in ran.stdout
            first.wait(100)
            second.wait(100)
        first.check()
        second.check()
        # A refused primary goes on serving.
        with impostor.login() as session:
            session.write(0, b"x" * BLOCK)
        for known in (one, two):
            known.wait_synced(replica)
            wait_until(
                lambda known=known: same(known.volume, place / f"{known.name}-copy.img"),  # type: ignore[misc]
                WAIT_SECONDS,
                "equal",
                [known, replica],
            )


def test_a_group_of_another_number_of_volumes_or_size_is_refused_by_name(place: Path) -> None:
    small = place / "small.img"
    with small.open("wb") as file:
        file.write(Random(1).randbytes(BLOCK))
        file.truncate(8 * MIB)
    replica = Replica(place, "--overwrite", volumes=[small])
    primary = Primary(place, replicas=[replica], size=16 * MIB)
    pair = Primary(
        place, name="pair", replicas=[replica], volumes=[place / "a", place / "b"], size=8 * MIB
    )
    with replica, primary, pair:
        replica.start()
        primary.launch()
        pair.start()
        primary.wait_answers()
        link = primary.wait_link(lambda link: link.state is LinkState.REFUSED, "REFUSED")
        assert f"{16 * MIB} bytes at the primary, {8 * MIB} here" in link.reason
        link = pair.wait_link(lambda link: link.state is LinkState.REFUSED, "REFUSED")
        assert "2 volumes" in link.reason


@pytest.mark.parametrize("size", ["", ', size = "8MiB"'])
def test_a_replicas_volume_that_is_gone_is_never_made_anew(place: Path, size: str) -> None:
    port = ports(3)
    config = place / "replica.toml"
    config.write_text(f"""
state = "replica-state"
listen = "127.0.0.1:{port}"
[[group]]
volume = [{{ path = "copy.img"{size} }}]
""")
    replica = Configured("replica", config, place)
    primary = Primary(place, "--replica", f"127.0.0.1:{port}", size=8 * MIB)
    copy, away = place / "copy.img", place / "away.img"
    with replica, primary:
        replica.start()
        primary.start()
        with primary.login() as session:
            session.write(0, b"c" * BLOCK)
        primary.wait_synced(replica)
        replica.finish()
        copy.rename(away)
        replica.launch()
        assert replica.wait() == 2
        assert "copy.img is missing, but its group knows it" in replica.output()
        assert not copy.exists(), "zeros are no copy"
        away.rename(copy)
        replica.start()
        primary.wait_synced(replica)
        wait_until(lambda: same(primary.volume, copy), WAIT_SECONDS, "equal", [primary, replica])


def greet(port: int, group: str, attempt: int) -> ToSource:
    """What a replica answers to a primary that it does not know, on a connection of its own."""
    hello = Hello(1, b"s" * 16, group, b"n" * 16, 1, (), 0, 0, (), attempt)
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.linger = 0
        stranger.rcvtimeo = int(WAIT_SECONDS * 1000)
        stranger.connect(f"tcp://127.0.0.1:{port}")
        stranger.send(encode(hello))
        return decode_to_source(stranger.recv())


def test_greetings_of_strangers_take_no_session_away(place: Path) -> None:
    pair = ConfiguredPair(place)
    with pair.in_step() as (serve, _):
        for number in range(limits.CONNECTIONS_MAX + 1):
            answer = greet(pair.port, "files", number)
            assert isinstance(answer, Refused) and answer.rule == "group"
        # What a primary asks for inside its session is answered: only so can a volume grow.
        ran = pratima(
            *("resize", "db", "--state", str(serve.state), "--volume", "lun0", "--size", "24MiB")
        )
        assert ran.returncode == 0, ran.stderr
