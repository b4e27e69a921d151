"""The control socket end to end: a daemon's answers, refusals, and what hostile clients cost."""

import asyncio
import contextlib
import errno
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from pratima_iscsi.control import requests
from pratima_iscsi.control.client import ControlClient, RequestRefused
from pratima_iscsi.control.requests import (
    CleanRequest,
    CreateTargetRequest,
    DeleteTargetRequest,
    DisableRequest,
    Done,
    EnableRequest,
    Failed,
    KillRequest,
    ReconnectRequest,
    Request,
    ResizeRequest,
    ResyncRequest,
    StatusRequest,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)
from pratima_iscsi.control.sections import ServeGroupSection, VolumeSection
from pratima_iscsi.control.service import answer
from pratima_iscsi.control.status import (
    GroupStatus,
    Lag,
    LinkStatus,
    NodeStatus,
    PositionStatus,
    VolumeStatus,
    exit_code,
)
from pratima_iscsi.control.target_list import Origin, TargetList, TargetStatus
from pratima_iscsi.edges import control_socket
from pratima_iscsi.edges.control_socket import LENGTH, ControlServer, find_control_socket
from pratima_iscsi.errors import StateError, UsageError
from pratima_iscsi.limits import CONTROL_BYTES_MAX, CONTROL_CLIENTS_MAX, CONTROL_REQUEST_BYTES_MAX
from pratima_iscsi.replication.states import LinkState, Role

POSITION = PositionStatus("00000000000000ff", 42)
SYNCED = LinkStatus("127.0.0.1:7010", LinkState.SYNCED, False, "in step")


LISTED = TargetStatus(group="g", iqn="iqn.2026-01.org.example:g", origin=Origin.CREATED)
SECTION = ServeGroupSection(name="g", volume=(VolumeSection(path="/v", size="1MiB"),))


def primary(*links: LinkStatus, failed: str = "", volume_failed: str = "") -> GroupStatus:
    return GroupStatus(
        role=Role.PRIMARY,
        group="default",
        position=POSITION,
        volumes=(VolumeStatus("lun0", "/v", 1 << 20, volume_failed),),
        links=links,
        failed=failed,
    )


def replica(
    *, bound: bool = True, consistent: bool = True, heard: float | None = 0.5
) -> GroupStatus:
    return GroupStatus(
        role=Role.REPLICA,
        group="default",
        position=POSITION,
        bound=bound,
        consistent=consistent,
        heard_seconds=heard,
    )


def node(*groups: GroupStatus) -> NodeStatus:
    return NodeStatus(version="1", pid=7, uptime_seconds=1.5, groups=groups)


class FakeDaemon:
    """Answers with a fixed status and records its verbs."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def status(self, group: str) -> NodeStatus:
        self.asked.append(("status", group))
        if group == "none":
            raise UsageError("there is no group none", "see pratima status")
        if group == "full":
            raise OSError(errno.ENOSPC, "No space left on device", "state.db")
        return node(primary(SYNCED))

    def resync(self, group: str, replica: str, from_primary: bool) -> str:
        self.asked.append(("resync", group, replica, from_primary))
        return "resync begins"

    def kill(self, group: str, replica: str) -> str:
        self.asked.append(("kill", group, replica))
        return "killed"

    def reconnect(self, group: str, replica: str) -> str:
        self.asked.append(("reconnect", group, replica))
        return "connecting"

    def enable(self, group: str, replica: str) -> str:
        self.asked.append(("enable", group, replica))
        return "enabled"

    def disable(self, group: str, replica: str) -> str:
        self.asked.append(("disable", group, replica))
        return "disabled"

    def clean(self, group: str, replica: str, proof: bool) -> str:
        self.asked.append(("clean", group, replica, proof))
        return "comparing"

    async def create_target(self, section: ServeGroupSection) -> str:
        self.asked.append(("create", section))
        return "created"

    async def delete_target(self, group: str, end_sessions: bool) -> str:
        self.asked.append(("delete", group, end_sessions))
        return "deleted"

    async def list_targets(self) -> TargetList:
        self.asked.append(("list",))
        return TargetList("portal", (LISTED,))

    async def resize(self, group: str, volume: str, size: int | None, later: bool) -> str:
        self.asked.append(("resize", group, volume, size, later))
        return "grown"


@contextlib.asynccontextmanager
async def serving(state: Path, daemon: FakeDaemon) -> AsyncIterator[Path]:
    async def carry_out(data: bytes) -> bytes:
        return await answer(daemon, data)

    server = ControlServer(carry_out)
    path = await server.open(state)
    try:
        yield path
    finally:
        await server.close()
        await server.close()


T = TypeVar("T")


def with_daemon(state: Path, step: Callable[[Path], T], daemon: FakeDaemon | None = None) -> T:
    """Run a blocking ``step`` beside a serving daemon."""

    async def run() -> T:
        async with serving(state, daemon or FakeDaemon()) as path:
            return await asyncio.to_thread(step, path)

    return asyncio.run(run())


def connected(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(10)
    client.connect(os.fspath(path))
    return client


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


def test_a_client_gets_the_status(state: Path) -> None:
    def ask(path: Path) -> NodeStatus:
        with ControlClient(state) as client:
            assert client.status("default") == client.status()
            return client.status()

    assert with_daemon(state, ask) == node(primary(SYNCED))


@pytest.mark.parametrize(
    ("request_", "asked"),
    [
        (ResyncRequest(group="g", replica="r"), ("resync", "g", "r", False)),
        (ResyncRequest(from_primary=True), ("resync", "", "", True)),
        (KillRequest(replica="r", drop_queue=True), ("kill", "", "r")),
        (ReconnectRequest(), ("reconnect", "", "")),
        (EnableRequest(group="g"), ("enable", "g", "")),
        (DisableRequest(forget_table=True), ("disable", "", "")),
        (CleanRequest(), ("clean", "", "", True)),
        (CleanRequest(group="g", without_proof=True), ("clean", "g", "", False)),
        (CreateTargetRequest(target=SECTION), ("create", SECTION)),
        (DeleteTargetRequest(group="g", end_sessions=True), ("delete", "g", True)),
        (ResizeRequest(group="g", volume="v", size=512), ("resize", "g", "v", 512, False)),
        (ResizeRequest(replicas_later=True), ("resize", "", "", None, True)),
    ],
)
def test_each_verb_reaches_the_daemon(
    state: Path, request_: Request, asked: tuple[object, ...]
) -> None:
    daemon = FakeDaemon()

    def ask(path: Path) -> None:
        with ControlClient(state) as client:
            assert isinstance(client.ask(request_), Done)

    with_daemon(state, ask, daemon)
    assert daemon.asked == [asked]


@pytest.mark.parametrize(
    ("request_", "given_up"),
    [(KillRequest(), "--drop-queue"), (DisableRequest(), "--forget-table")],
)
def test_what_gives_something_up_is_not_done_before_that_is_named(
    request_: Request, given_up: str
) -> None:
    daemon = FakeDaemon()
    refused = decode_answer(asyncio.run(answer(daemon, encode_request(request_))))
    assert isinstance(refused, Failed) and given_up in refused.next_step
    assert daemon.asked == []


def test_a_client_gets_the_targets(state: Path) -> None:
    def ask(path: Path) -> TargetList:
        with ControlClient(state) as client:
            return client.targets()

    assert with_daemon(state, ask) == TargetList("portal", (LISTED,))


def test_a_refusal_comes_with_its_next_step(state: Path) -> None:
    def ask(path: Path) -> None:
        with (
            ControlClient(state) as client,
            pytest.raises(RequestRefused, match=r"no group none; see pratima status"),
        ):
            client.status("none")

    with_daemon(state, ask)


def test_an_error_of_the_daemons_disk_is_an_answer_and_no_hangup(state: Path) -> None:
    def ask(path: Path) -> None:
        with (
            ControlClient(state) as client,
            pytest.raises(RequestRefused, match=r"state.db: No space left on device; see to the"),
        ):
            client.status("full")

    with_daemon(state, ask)


def test_nobody_answers_where_no_daemon_runs(state: Path) -> None:
    with pytest.raises(StateError, match="nobody answers"):
        ControlClient(state)
    with_daemon(state, lambda path: None)
    with pytest.raises(StateError, match="nobody answers"):
        ControlClient(state)


def test_a_stale_socket_is_replaced(state: Path) -> None:
    def leave_socket(path: Path) -> None:
        os.link(path, state / "kept")

    with_daemon(state, leave_socket)
    os.rename(state / "kept", find_control_socket(state))
    with pytest.raises(StateError, match="nobody answers"):
        ControlClient(state)
    with_daemon(state, lambda path: ControlClient(state).close())


def test_the_socket_is_for_this_user_alone(state: Path) -> None:
    def modes(path: Path) -> tuple[int, int]:
        return stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)

    assert with_daemon(state, modes) == (0o600, 0o700)


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """The tests' usual directories have paths too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="prt", dir="/tmp") as name:
        yield Path(name)


def test_a_long_path_leads_to_a_short_runtime_directory(
    tmp_path: Path, short_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / ("long" * 30)
    state.mkdir()
    run = short_directory
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(run))

    def ask(path: Path) -> None:
        assert path.parent == run / "pratima"
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert find_control_socket(state) == path
        with ControlClient(state) as client:
            client.status()

    with_daemon(state, ask)


def test_a_runtime_directory_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / ("long" * 30)
    state.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pratima").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(tmp_path))
    with pytest.raises(StateError, match="no directory of this user"):
        with_daemon(state, lambda path: None)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\0",
        LENGTH.pack(CONTROL_REQUEST_BYTES_MAX + 1),
        b"\xff\xff\xff\xff",
        LENGTH.pack(10) + b"half",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_garbage_costs_its_client_the_connection_and_no_more(state: Path, garbage: bytes) -> None:
    def attack(path: Path) -> NodeStatus:
        with connected(path) as client:
            client.sendall(garbage)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b""
        with ControlClient(state) as again:
            return again.status()

    assert with_daemon(state, attack) == node(primary(SYNCED))


@pytest.mark.parametrize(
    "request_",
    [b"", b"\x81", b"\xc1" * 50, encode_request(StatusRequest(group="x" * 200)), b"\x90" * 1000],
)
def test_a_request_that_makes_no_sense_is_refused_in_words(state: Path, request_: bytes) -> None:
    def attack(path: Path) -> None:
        with connected(path) as client:
            client.sendall(LENGTH.pack(len(request_)) + request_)
            (length,) = LENGTH.unpack(client.recv(LENGTH.size))
            refusal = decode_answer(client.recv(length))
            assert isinstance(refusal, requests.Failed)
            assert "not understood" in refusal.problem

    with_daemon(state, attack)


def test_too_many_clients_are_shut_and_leave_room_when_they_go(state: Path) -> None:
    def crowd(path: Path) -> None:
        clients = [connected(path) for _ in range(CONTROL_CLIENTS_MAX)]
        for client in clients:
            data = encode_request(StatusRequest())
            client.sendall(LENGTH.pack(len(data)) + data)
            assert client.recv(LENGTH.size)
        with connected(path) as refused:
            assert refused.recv(1) == b""
        for client in clients:
            client.close()
        while True:
            with contextlib.suppress(StateError), ControlClient(state) as again:
                again.status()
                return

    with_daemon(state, crowd)


def test_a_silent_client_is_dropped(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "CONTROL_IDLE_SECONDS", 0.01)

    def wait(path: Path) -> bytes:
        with connected(path) as client:
            return client.recv(1)

    assert with_daemon(state, wait) == b""


def fake_server(state: Path, reply: bytes) -> socket.socket:
    directory = state / "control"
    directory.mkdir()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(os.fspath(directory / "socket"))
    listening.listen()
    return listening


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (b"", "hung up"),
        (LENGTH.pack(5) + b"abc", "hung up"),
        (LENGTH.pack(CONTROL_BYTES_MAX + 1), "no Pratima daemon"),
        (LENGTH.pack(3) + b"abc", "not understood"),
    ],
)
def test_a_daemon_that_answers_nonsense_is_named(state: Path, reply: bytes, says: str) -> None:
    with fake_server(state, reply) as listening:
        client = ControlClient(state)
        peer, _ = listening.accept()
        peer.sendall(reply)
        peer.shutdown(socket.SHUT_WR)
        with pytest.raises(StateError, match=says):
            client.status()
        client.close()
        peer.close()


def test_a_daemon_that_is_stopped_is_named(state: Path) -> None:
    with (
        fake_server(state, b""),
        ControlClient(state, seconds=0.05) as client,
        pytest.raises(StateError, match="did not answer within"),
    ):
        client.status()


def test_requests_and_answers_survive_the_wire() -> None:
    request = ResyncRequest(group="g", replica="r", from_primary=True)
    assert decode_request(encode_request(request)) == request
    assert decode_answer(encode_answer(node(primary(SYNCED)))) == node(primary(SYNCED))


def test_an_answer_that_is_too_long_becomes_a_refusal() -> None:
    long = node(
        *(primary(LinkStatus("x" * 70_000, LinkState.SYNCED, False, "")) for _ in range(64))
    )
    assert isinstance(decode_answer(encode_answer(long)), requests.Failed)


BEHIND_STATES = {LinkState.DISABLED, LinkState.CONNECTING, LinkState.STALE, LinkState.RESYNCING}


@pytest.mark.parametrize("link_state", list(LinkState))
def test_the_exit_code_of_every_link_state(link_state: LinkState) -> None:
    code = exit_code(node(primary(SYNCED, LinkStatus("r", link_state, False, "why"))))
    expected = 0 if link_state is LinkState.SYNCED else 1 if link_state in BEHIND_STATES else 2
    assert code == expected


@pytest.mark.parametrize(
    ("group", "code"),
    [
        (primary(), 0),
        (primary(SYNCED), 0),
        (primary(LinkStatus("r", LinkState.SYNCED, True, "", lag=Lag(1, 2, 3.0))), 1),
        (primary(LinkStatus("r", LinkState.STALE, False, "lost power", must_act=True)), 2),
        (primary(SYNCED, failed="EIO"), 2),
        (primary(SYNCED, volume_failed="EIO"), 2),
        (replica(), 0),
        (replica(bound=False), 1),
        (replica(consistent=False), 1),
        (replica(heard=None), 1),
    ],
)
def test_the_exit_code_of_a_group(group: GroupStatus, code: int) -> None:
    assert exit_code(node(group)) == code
    assert exit_code(node(primary(SYNCED), group)) == code
