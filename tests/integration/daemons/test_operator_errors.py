"""Whatever an operator gets wrong ends with exit code 2, what is wrong, and what to do next."""

import http.server
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import zmq

from pratima_iscsi.control.client import ControlClient
from pratima_iscsi.errors import StateError
from pratima_iscsi.replication.messages import Hello, Refused, decode_to_replica, encode
from pratima_iscsi.replication.states import LinkState
from tests.integration.daemons.nodes import (
    BLOCK,
    MIB,
    Node,
    Pair,
    Primary,
    Replica,
    ports,
    pratima,
)


def refuses(daemon: Node, *words: str) -> None:
    """It must not start: exit code 2, these words, a next step, and no traceback."""
    refuse([(daemon, *words)])


def refuse(cases: Sequence[tuple[Node, *tuple[str, ...]]]) -> None:
    """None of these daemons must start."""
    with ExitStack() as stack:
        for daemon, *_ in cases:
            stack.enter_context(daemon)
            daemon.launch()
        for daemon, *words in cases:
            code = daemon.wait()
            said = daemon.output()
            assert code == 2, said
            assert "next: " in said and "Traceback" not in said, said
            for word in words:
                assert word in said, said


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Somebody listens on a port."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        yield


def test_a_portal_port_that_is_taken(place: Path) -> None:
    port = ports(1)
    with taken(port):
        refuses(Primary(place, portal=f"127.0.0.1:{port}"), str(port))


def test_a_port_that_the_same_daemon_wants_twice(place: Path) -> None:
    port = ports(1)
    events = f"127.0.0.1:{port}"
    both = Primary(place, "--front-end", "portal", "--events", events, portal=events)
    refuses(both, f"--portal and --events want the same port: {events}")


@pytest.mark.parametrize("which", ["control", "data"])
def test_a_replica_port_that_is_taken(place: Path, which: str) -> None:
    replica = Replica(place)
    port = replica.port + (which == "data")
    with taken(port):
        refuses(replica, f"port {port} on 127.0.0.1 is taken")
    # And it starts once the port is free.
    with replica:
        replica.start()
        replica.finish()


def test_a_volume_that_is_missing_or_none(place: Path) -> None:
    missing = place / "not-here.img"
    directory = place / "directory"
    directory.mkdir()
    null = Path("/dev/null")

    def primary(name: str, volume: Path, size: int | None = None) -> Primary:
        return Primary(place, name=name, size=size, volumes=[volume])

    refuse(
        [
            (primary("a", missing), str(missing), "--size"),
            (primary("b", place / "no" / "dir.img"), "does not exist"),
            (primary("c", place / "no" / "dir.img", 8 * MIB), "directory"),
        ]
    )
    refuse(
        [
            (Replica(place, volumes=[place / "no" / "dir.img"]), "directory"),
            (primary("d", directory, 8 * MIB), "neither a file nor a block device"),
            (primary("e", null), "neither a file nor a block device"),
        ]
    )
    assert not missing.exists()


def test_a_volume_of_another_size_than_asked_for(place: Path) -> None:
    path = place / "disk.img"
    path.write_bytes(bytes(3 * MIB))
    refuses(Primary(place, volumes=[path], size=4 * MIB), str(path), str(3 * MIB))
    assert path.stat().st_size == 3 * MIB
    path.write_bytes(bytes(1000))
    refuses(Primary(place, volumes=[path], size=None), str(path), "512")


def test_a_volume_in_use_by_another_process(place: Path) -> None:
    with Primary(place, size=8 * MIB) as primary:
        primary.start()
        second = Primary(place, name="second", size=None, volumes=[primary.volume])
        refuses(second, str(primary.volume), "in use")
        refuses(Replica(place, volumes=[primary.volume]), str(primary.volume), "in use")
        with primary.login() as session:
            session.write(0, b"x" * BLOCK)
        primary.finish()


def test_a_state_directory_in_use_or_not_usable(place: Path) -> None:
    with Primary(place, size=8 * MIB) as primary:
        primary.start()
        second = Primary(place, volumes=[place / "other.img"])
        refuses(second, str(primary.state), "in use")
        assert primary.ask() is not None, "the first one's control socket is still its own"
        primary.finish()
    (place / "file").write_text("no directory")
    other = Primary(place, name="other")
    other.command[other.command.index(str(other.state))] = str(place / "file" / "below")
    refuses(other, str(place / "file"))


def test_a_state_directory_of_the_other_kind_or_group(place: Path) -> None:
    pair = Pair(place, size=8 * MIB)
    with pair.in_step():
        pair.primary.finish()
        pair.replica.finish()
    renamed = Primary(place, "--group", "other", size=8 * MIB)
    with renamed:  # another group in the same directory is another group
        renamed.start()
        renamed.finish()
    one = place / "primary-state" / "groups" / "default"
    assert one.is_dir(), list((place / "primary-state").rglob("*"))
    one.rename(one.with_name("third"))
    refuses(Primary(place, "--group", "third", size=8 * MIB), "'default'", "--group default")


def test_an_empty_file_needs_a_size(place: Path) -> None:
    (place / "empty.img").touch()
    refuses(Primary(place, size=None, volumes=[place / "empty.img"]), "--size")


class Page(http.server.BaseHTTPRequestHandler):
    """A web server."""

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def test_peers_that_are_no_replica_are_named(place: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(http.server.HTTPServer(("127.0.0.1", 0), Page))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        other = stack.enter_context(Primary(place, name="other"))
        other.start()
        peers = [f"127.0.0.1:{server.server_address[1]}", other.status().portal]
        primary = stack.enter_context(
            Primary(place, *(word for peer in peers for word in ("--replica", peer)))
        )
        primary.start()
        for number in range(2):
            link = primary.wait_link(
                lambda link: "pratima" in link.reason.lower(), "a reason", number=number
            )
            assert link.state in (LinkState.CONNECTING, LinkState.REFUSED)
        assert primary.exit_code != 0
        for node in (primary, other):
            with node.login() as session:
                session.write(0, b"x" * BLOCK)
            node.finish()


def test_a_replica_of_another_version_is_refused_by_name(place: Path) -> None:
    port = ports(3)
    stop = threading.Event()
    bound = threading.Event()

    def serve() -> None:
        context = zmq.Context()
        router = context.socket(zmq.ROUTER)
        router.linger = 0
        router.bind(f"tcp://127.0.0.1:{port}")
        bound.set()
        while not stop.is_set():
            if not router.poll(50):
                continue
            peer, data = router.recv_multipart()
            hello = decode_to_replica(data)
            if isinstance(hello, Hello):
                reason = f"this side speaks version 99, not {hello.version}"
                router.send_multipart([peer, encode(Refused(99, hello.attempt, "version", reason))])
        context.destroy(linger=0)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert bound.wait(10)
        with Primary(place, "--replica", f"127.0.0.1:{port}") as primary:
            primary.start()
            link = primary.wait_link(lambda link: link.state is LinkState.REFUSED, "REFUSED")
            assert "version 99" in link.reason
            assert primary.exit_code == 2
            with primary.login() as session:
                session.write(0, b"x" * BLOCK)
    finally:
        stop.set()
        thread.join()


def test_a_long_state_path_gets_its_control_socket_elsewhere(place: Path) -> None:
    deep = place / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    runtime = place / "run"
    runtime.mkdir()
    environment = {"XDG_RUNTIME_DIR": str(runtime)}
    with Primary(deep, size=8 * MIB) as primary:
        primary.start(environment)
        assert list((runtime / "pratima").iterdir()), "the socket is in the runtime directory"
        ran = pratima("status", "--state", str(primary.state))  # wherever the asker's would be
        assert ran.returncode == 0, ran
        # A relative path names the same daemon.
        ran = subprocess.run(
            [*primary.command[:3], "status", "--state", "primary-state"],
            cwd=deep,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
            capture_output=True,
            timeout=60,
        )
        assert ran.returncode == 0, ran
        primary.finish()
        assert not list((runtime / "pratima").iterdir())
        (place / "elsewhere").mkdir()
        primary.start({"XDG_RUNTIME_DIR": str(place / "elsewhere")})
        assert primary.exit_code == 0
        primary.finish()
    refusing = Primary(deep, size=8 * MIB)
    with refusing:
        refusing.launch({"XDG_RUNTIME_DIR": str(deep)})
        assert refusing.wait() == 2
        assert "too long" in refusing.output() and "XDG_RUNTIME_DIR" in refusing.output()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("state = [", "TOML"),
        ("nonsense", "TOML"),
        ('state = "s"\n[[group]]\nname = "a"', "volume"),
        ('state = 3\n[[group]]\n[[group.volume]]\npath = "x"', "state"),
        ('state = "s"\ncolour = "red"\n[[group]]\n[[group.volume]]\npath = "x"', "colour"),
        ('state = "s"\n[[group]]\n[[group.volume]]\npath = "x"\nsize = "many"', "many"),
        ('state = "s"\n[[group]]\nname = "../up"\n[[group.volume]]\npath = "x"', "../up"),
        (b"\xff\xfe\x00", "utf-8"),
    ],
)
def test_a_configuration_that_is_none(place: Path, text: str | bytes, word: str) -> None:
    config = place / "bad.toml"
    config.write_bytes(text if isinstance(text, bytes) else text.encode())
    for verb in ("serve", "replica"):
        ran = pratima(verb, "--config", str(config))
        assert ran.returncode == 2, ran
        assert "next: " in ran.stderr and "Traceback" not in ran.stderr, ran.stderr
        assert word.lower() in ran.stderr.lower(), ran.stderr


def test_a_replicas_configuration_names_its_groups(place: Path) -> None:
    config = place / "bad.toml"
    config.write_text('state = "s"')  # a target's daemon may be told of its groups later
    ran = pratima("replica", "--config", str(config))
    assert ran.returncode == 2 and "group" in ran.stderr and "next: " in ran.stderr, ran


def test_a_configuration_that_is_not_there(place: Path) -> None:
    ran = pratima("serve", "--config", str(place / "none.toml"))
    assert ran.returncode == 2 and "none.toml" in ran.stderr and "next: " in ran.stderr


def test_status_where_nobody_answers(place: Path) -> None:
    ran = pratima("status", "--state", str(place / "nothing"), "--json")
    assert ran.returncode == 2
    assert "nobody answers" in ran.stderr and "next: " in ran.stderr and not ran.stdout
    with Primary(place, size=8 * MIB) as primary:
        primary.start()
        primary.kill()  # its socket stays behind
        ran = pratima("status", "--state", str(primary.state))
        assert ran.returncode == 2 and "nobody answers" in ran.stderr
        primary.start()
        assert primary.exit_code == 0


def test_status_of_a_frozen_daemon_ends_with_its_reason(place: Path) -> None:
    with Primary(place, size=8 * MIB) as primary:
        primary.start()
        with primary.frozen(), pytest.raises(StateError, match="did not answer within"):
            ControlClient(primary.state, seconds=0.2).status()
        assert primary.exit_code == 0


def test_files_and_directories_are_the_owners_alone(place: Path) -> None:
    pair = Pair(place, size=8 * MIB)
    with pair.in_step():
        for node in (pair.primary, pair.replica):
            for path in [node.state, *node.state.rglob("*")]:
                assert path.lstat().st_mode & 0o077 == 0, path
            for volume in node.volumes:
                assert volume.stat().st_mode & 0o077 == 0
