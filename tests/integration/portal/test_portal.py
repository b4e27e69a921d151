"""The portal's sockets: sessions side by side, backpressure, floods, shutdown."""

import errno
import socket
import threading
import time

import pytest

from pratima_iscsi.edges import portal as edge
from pratima_iscsi.edges.descriptors import Descriptors
from pratima_iscsi.edges.initiator import Initiator, LoginError, Ticket, discover, read_16, write_16
from pratima_iscsi.edges.portal import Portal
from pratima_iscsi.errors import StateError
from pratima_iscsi.iscsi.chap import Account
from pratima_iscsi.iscsi.directory import ServedTarget
from pratima_iscsi.iscsi.pdu import Function, FunctionResponse
from pratima_iscsi.limits import (
    DATA_IN_BYTES_MAX,
    OUTPUT_BYTES_MAX,
    PING_TIMEOUT_SECONDS,
    PORTAL_LOGINS_MAX,
    RECEIVE_BUFFER_BYTES,
)
from pratima_iscsi.scsi.logical_unit import LogicalUnit
from pratima_iscsi.scsi.target import Target
from tests.support.memory_storage import MemoryStorage
from tests.support.portal_thread import ServedPortal, served
from tests.unit.iscsi.pair import MUTUAL, TARGET, Lab

CLOSED = (ConnectionError, TimeoutError)


def connect(portal: ServedPortal, **options: object) -> Initiator:
    """Log in to the lab's target."""
    return Initiator.connect(portal.host, portal.port, target=TARGET, **options)  # type: ignore[arg-type]


def test_every_command_of_the_initiator() -> None:
    lab = Lab()
    with served(lab.directory) as portal, connect(portal) as initiator:
        assert initiator.read_capacity() == (lab.storage.size // 512, 512)
        assert initiator.report_luns() == [0]
        assert initiator.inquiry()[8:15] == b"PRATIMA"
        assert initiator.inquiry(0x80)[4:] == b"a-serial-of-the-lab"
        old, new = b"o" * 1024, b"n" * 1024
        initiator.write(8, old, fua=True)
        assert initiator.read(8, 2) == old
        assert initiator.compare_and_write(8, old, new)
        assert not initiator.compare_and_write(8, old, old)
        assert initiator.read(8, 2) == new
        initiator.write_same(8, 16, b"s" * 512)
        assert initiator.read(8, 16) == b"s" * 8192
        initiator.unmap([(8, 8), (16, 8)])
        assert initiator.read(8, 16) == bytes(8192)
        initiator.flush()
        assert initiator.ping(b"there?") == b"there?"
        assert initiator.manage(Function.LOGICAL_UNIT_RESET) == FunctionResponse.COMPLETE


@pytest.mark.parametrize("digest", ["None", "CRC32C"])
def test_a_queue_of_overlapping_writes_takes_effect_in_order(digest: str) -> None:
    lab = Lab()
    offers = {"HeaderDigest": digest, "DataDigest": digest}
    settled: list[Ticket] = []
    with served(lab.directory) as portal, connect(portal, offers=offers) as initiator:
        for number in range(500):
            while initiator.in_flight >= 32:
                initiator.poll()
            data = number.to_bytes(2, "big") * 2048
            lba = number % 5
            initiator.submit(write_16(lba, 8), data_out=data, done=settled.append, tag=number)
        initiator.drain()
        assert sorted(ticket.tag for ticket in settled if ticket.good) == list(range(500))  # type: ignore[type-var]
        assert all(ticket.issued_ns <= ticket.settled_ns for ticket in settled)
        assert initiator.read(4, 8) == (499).to_bytes(2, "big") * 2048


def test_several_sessions_and_targets_at_once() -> None:
    lab = Lab()
    device = Target()
    storages = [MemoryStorage(1 << 20) for _ in range(3)]
    for lun, storage in enumerate(storages):
        device.add(lun, LogicalUnit(storage, serial=f"unit-{lun}"))
    lab.directory.add(ServedTarget("iqn.2024-01.test.pratima:second", device))
    with served(lab.directory) as portal:
        found = discover(portal.host, portal.port)
        assert [name for name, _ in found] == [TARGET, "iqn.2024-01.test.pratima:second"]
        assert {address for _, address in found} == {f"{portal.host}:{portal.port},1"}
        sessions = [connect(portal, isid=number) for number in range(4)]
        for lun in range(3):
            with Initiator.connect(portal.host, portal.port, target=found[1][0], lun=lun) as one:
                assert one.report_luns() == [0, 1, 2]
                one.write(0, bytes([lun + 1]) * 512)
        for number, session in enumerate(sessions):
            session.write(number, bytes([number]) * 512)
            session.logout()
    assert [storage.data[0] for storage in storages] == [1, 2, 3]
    assert [lab.storage.data[512 * number] for number in range(4)] == [0, 1, 2, 3]


def test_chap_over_sockets() -> None:
    lab = Lab(accounts=(MUTUAL,), discovery_accounts=(MUTUAL,))
    with served(lab.directory) as portal:
        assert discover(portal.host, portal.port, account=MUTUAL)
        with connect(portal, account=MUTUAL) as initiator:
            initiator.write(0, b"x" * 512)
        for wrong in (None, Account("host", "guess")):
            with pytest.raises(LoginError):
                connect(portal, account=wrong)


def test_an_initiator_that_does_not_read_stops_being_read() -> None:
    lab = Lab(MemoryStorage(16 << 20))
    with served(lab.directory) as portal:
        initiator = connect(portal)
        length = 4 << 20
        for _ in range(64):
            initiator.submit(read_16(0, length // 512), data_in_bytes=length)
        initiator.session.ping(b"x" * 1000)
        # The other sessions are served meanwhile, and nothing grows without bound.
        with connect(portal, isid=77) as other:
            assert other.ping(b"still here") == b"still here"
        backlogs = portal.call(lambda: [one._backlog_bytes for one in portal.portal.connections])
        assert 0 < max(backlogs) <= DATA_IN_BYTES_MAX + OUTPUT_BYTES_MAX
        initiator.drain()
        initiator.logout()


def test_writes_that_settle_later_are_answered_later() -> None:
    lab = Lab()
    with served(lab.directory) as portal, connect(portal) as initiator:
        lab.storage.deferred = True
        ticket = initiator.submit(write_16(0, 8), data_out=b"w" * 4096)
        assert initiator.ping() == b"", "answered apart from disk I/O"
        assert ticket.status == -1
        portal.call(lab.storage.complete)
        initiator.wait(ticket)
        assert ticket.good
        lab.storage.deferred = False


def test_answers_of_what_was_submitted_at_the_end_of_a_wake_up_go_with_it() -> None:
    lab = Lab()
    lab.storage.deferred = True
    with served(lab.directory) as portal:
        submitted: list[int] = []

        def on_drained() -> None:
            submitted.append(lab.storage.waiting)
            lab.storage.complete()

        portal.portal.on_drained = on_drained
        with connect(portal) as initiator:
            tickets = [
                initiator.submit(write_16(8 * number, 8), data_out=b"w" * 4096)
                for number in range(64)
            ]
            initiator.drain()
            assert all(ticket.good for ticket in tickets)
    assert sum(submitted) == 64


# --- floods and limits ---------------------------------------------------------------------------


def test_a_flood_of_connections_keeps_nobody_out() -> None:
    lab = Lab()
    with served(lab.directory) as portal:
        address = (portal.host, portal.port)
        idle = [socket.create_connection(address) for _ in range(3 * PORTAL_LOGINS_MAX)]
        with connect(portal) as initiator:
            initiator.write(0, b"x" * 512)
            assert portal.call(lambda: len(portal.portal.connections)) <= PORTAL_LOGINS_MAX + 1
        for one in idle:
            one.close()


@pytest.mark.plain
@pytest.mark.parametrize("shortage", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"])
def test_a_shortage_is_told_once_and_slept_through(
    monkeypatch: pytest.MonkeyPatch, shortage: str
) -> None:
    monkeypatch.setattr(edge, "ACCEPT_PAUSE_SECONDS", 0.05)
    attempts: list[float] = []

    def failing(listener: socket.socket) -> None:
        attempts.append(time.monotonic())
        raise OSError(getattr(errno, shortage), "made to fail")

    told: list[str] = []
    with served(Lab().directory, Descriptors(told.append)) as portal:
        with monkeypatch.context() as short:
            short.setattr(socket.socket, "accept", failing)
            waiting = socket.create_connection((portal.host, portal.port))
            began = time.monotonic()
            while len(attempts) < 4:
                assert time.monotonic() < began + 10.0
                time.sleep(0.01)
        assert attempts[3] - attempts[0] >= 3 * 0.045, "it does not spin"
        assert len(told) == 1
        with connect(portal) as initiator:
            assert initiator.ping(b"let in") == b"let in"
        waiting.close()


@pytest.mark.plain
def test_a_listener_that_rests_is_not_looked_at_again_once_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(edge, "ACCEPT_PAUSE_SECONDS", 0.05)
    attempts: list[None] = []

    def failing(listener: socket.socket) -> None:
        attempts.append(None)
        raise OSError(errno.EMFILE, "made to fail")

    monkeypatch.setattr(socket.socket, "accept", failing)
    with served(Lab().directory) as portal:
        with socket.create_connection((portal.host, portal.port)):
            while not attempts:
                time.sleep(0.01)
            portal.close()
        count = len(attempts)
        time.sleep(0.2)
        assert len(attempts) == count


def test_an_ipv4_peer_of_a_dual_stack_portal_is_told_an_ipv4_address() -> None:
    with served(Lab().directory) as portal:
        try:
            _, port = portal.call(lambda: portal.portal.listen("::", 0))
        except (StateError, OSError):
            pytest.skip("there is no IPv6 here")
        assert discover("127.0.0.1", port) == [(TARGET, f"127.0.0.1:{port},1")]
        assert discover("::1", port) == [(TARGET, f"[::1]:{port},1")]


@pytest.mark.plain
def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "PORTAL_CONNECTIONS_MAX", 3)
    with served(Lab().directory) as portal:
        sessions = [connect(portal) for _ in range(3)]
        with pytest.raises(CLOSED):
            connect(portal)
        sessions.pop().logout()
        while portal.call(lambda: len(portal.portal.connections)) == 3:
            sessions[0].ping()
        with connect(portal) as another:
            assert another.ping(b"let in") == b"let in"
        for session in sessions:
            session.logout()


@pytest.mark.plain
def test_an_initiator_is_not_dropped_for_the_time_in_which_the_loop_stood_still() -> None:
    with served(Lab().directory) as portal, connect(portal) as initiator:

        def stood_still(seconds: float) -> bool:
            """As if the loop, and so the initiator, had done nothing for so long."""
            (connection,) = portal.portal.connections
            connection.state.tick(portal.portal._loop.time())
            connection.state._heard_at -= seconds
            portal.portal._ticker.cancel()
            portal.portal._tick_at -= seconds
            portal.portal._tick()
            return connection.state._pinged_at is not None

        assert not portal.call(lambda: stood_still(10 * PING_TIMEOUT_SECONDS))
        assert initiator.ping(b"there?") == b"there?"


def test_reinstatement_closes_the_old_connection() -> None:
    lab = Lab()
    with served(lab.directory) as portal:
        old = connect(portal, isid=1)
        with connect(portal, isid=1) as new:
            new.write(0, b"n" * 512)
        with pytest.raises(CLOSED):
            old.write(0, b"o" * 512)
        old.close()
    assert lab.storage.data[0] == ord("n")


def test_a_cold_reset_closes_every_connection_of_the_target() -> None:
    lab = Lab()
    with served(lab.directory) as portal:
        other, initiator = connect(portal), connect(portal)
        assert initiator.manage(Function.TARGET_COLD_RESET) == FunctionResponse.COMPLETE
        for one in (other, initiator):
            with pytest.raises(CLOSED):
                one.write(0, b"x" * 512)
            one.close()
        with connect(portal) as again:
            again.write(0, b"y" * 512)


# --- the end -------------------------------------------------------------------------------------


def test_a_shutdown_asks_for_logouts_and_waits_for_them() -> None:
    lab = Lab()
    with served(lab.directory) as portal:
        initiator = connect(portal)
        closer = threading.Thread(target=portal.close, args=(10.0,))
        closer.start()
        while not initiator.session.events:
            initiator.poll()
        initiator.write(0, b"last" * 128)
        initiator.logout()
        closer.join(5.0)
        assert not closer.is_alive(), "it waited for no more than the logout"
    assert lab.storage.data[:4] == b"last"


def test_a_shutdown_drops_whoever_stays() -> None:
    lab = Lab()
    with served(lab.directory) as portal:
        initiator = connect(portal)
        portal.close(0.05)
        with pytest.raises(CLOSED):
            while True:
                initiator.poll()
        with pytest.raises(ConnectionRefusedError):
            connect(portal)


def test_a_target_that_is_withdrawn_lets_its_sessions_go_and_no_others() -> None:
    lab = Lab()
    other = "iqn.2026-01.org.example:other"
    lab.directory.add(ServedTarget(other, Target()))
    with served(lab.directory) as portal:
        leaving = connect(portal)
        staying = Initiator.connect(portal.host, portal.port, target=other)
        assert lab.directory.sessions_of(TARGET) == 1
        gone = threading.Thread(target=portal.withdraw, args=(TARGET, 10.0))
        gone.start()
        while not leaving.session.events:
            leaving.poll()
        with pytest.raises(LoginError, match="0203"):
            connect(portal)
        leaving.write(0, b"last" * 128)
        leaving.logout()
        gone.join(5.0)
        assert not gone.is_alive(), "it waited for no more than the logout"
        assert staying.ping(b"there?") == b"there?"
        assert lab.directory.sessions_of(TARGET) == 0
        staying.close()
    assert lab.storage.data[:4] == b"last"


def test_who_does_not_leave_a_withdrawn_target_is_dropped() -> None:
    lab = Lab()
    with served(lab.directory) as portal:
        initiator = connect(portal)
        portal.withdraw(TARGET, 0.05)
        with pytest.raises(CLOSED):
            while True:
                initiator.poll()


def test_a_port_in_use_is_told_by_name() -> None:
    lab = Lab()
    with served(lab.directory) as portal:

        def listen() -> Portal:
            portal.portal.listen(portal.host, portal.port)
            return portal.portal

        with pytest.raises(StateError, match=f"{portal.port}"):
            portal.call(listen)


def test_a_connection_that_is_closed_holds_no_buffer() -> None:
    lab = Lab()
    with served(lab.directory) as portal:
        with connect(portal) as initiator:
            assert initiator.ping(b"there?") == b"there?"
            (connection,) = portal.call(lambda: list(portal.portal.connections))
            assert len(connection._buffer) == RECEIVE_BUFFER_BYTES
            initiator.close()
        portal.close(grace_seconds=10.0)
        assert len(connection._buffer) == 0, "nothing large waits for the garbage collector"
