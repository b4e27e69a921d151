"""Garbage on every port and in the journal: an error or a closed connection, and all goes on."""

import os
import shutil
import socket
import struct
from pathlib import Path
from random import Random

import pytest

from pratima_iscsi.control.requests import StatusRequest, encode_request
from pratima_iscsi.edges.control_socket import find_control_socket
from pratima_iscsi.edges.journal import PREFIX
from pratima_iscsi.edges.replica_state import STATE_NAME
from tests.integration.daemons.nodes import (
    BLOCK,
    MIB,
    Load,
    Node,
    Pair,
    pratima,
)
from tests.integration.daemons.test_outage import write_blocks
from tests.torture.daemons import wait_until

ZMTP_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00NULL" + bytes(16 + 32)


def noises(draw: Random) -> list[bytes]:
    """Things that no port expects."""
    return [
        draw.randbytes(4096),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes(48),
        b"\xff" * 200,
        b"\x43\x87" + bytes(2) + b"\x00\xff\xff\xff" + bytes(40) + draw.randbytes(2000),
        ZMTP_GREETING + draw.randbytes(500),
        ZMTP_GREETING[:20],
        struct.pack(">I", 0xFFFFFFFF) + b"x" * 100,
        b"",
    ]


def throw(family: int, address: object, data: bytes) -> None:
    """Connect, send, read what comes until the other side hangs up or is silent, go away."""
    with socket.socket(family) as endpoint:
        endpoint.settimeout(0.1)
        try:
            endpoint.connect(address)  # type: ignore[arg-type]
            endpoint.sendall(data)
            while endpoint.recv(4096):
                pass
        except OSError:
            pass


def test_garbage_on_every_port_leaves_a_good_session_alone(place: Path) -> None:
    pair = Pair(place, "--mode", "sync")
    draw = Random(21)
    with pair.in_step():
        host, _, portal = pair.primary.status().portal.rpartition(":")
        ports = [(host, int(portal)), ("127.0.0.1", pair.replica.port)]
        ports.append(("127.0.0.1", pair.replica.port + 1))
        sockets = [str(find_control_socket(node.state)) for node in (pair.primary, pair.replica)]
        with Load(pair.primary) as load:
            load.wait(20)
            for noise in noises(draw):
                for port in ports:
                    throw(socket.AF_INET, port, noise)
                for path in sockets:
                    throw(socket.AF_UNIX, path, noise)
                load.wait(1)
            load.wait(50)
        load.check()
        assert not pair.primary.link().degraded
        pair.wait_equal()
        for node in (pair.primary, pair.replica):
            assert "Traceback" not in node.log.read_text()
        assert not pair.replica.said("gap")


def test_requests_that_are_none_on_the_control_socket(place: Path) -> None:
    pair = Pair(place, size=8 * MIB)
    draw = Random(22)
    good = encode_request(StatusRequest())
    with pair.in_step():
        for node in (pair.primary, pair.replica):
            path = str(find_control_socket(node.state))
            for number in range(60):
                request = bytearray(good if number % 2 else draw.randbytes(draw.randrange(80)))
                if request:
                    request[draw.randrange(len(request))] ^= 1 << draw.randrange(8)
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(10)
                    client.connect(path)
                    client.sendall(struct.pack(">I", len(request)) + request)
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(65536):
                        pass
            # Clients that say nothing keep nobody out for long, and never crash it.
            silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
            for client in silent:
                client.connect(path)
            for client in silent:
                client.close()
            wait_until(node.ask, 30, "answers again", [node])
            assert "Traceback" not in node.log.read_text()
        pair.wait_equal()


def filled_replica(place: Path) -> tuple[Pair, list[bytes]]:
    """A pair whose replica was killed with a journal in use, and each state its image had."""
    pair = Pair(place, size=MIB)
    draw = Random(23)
    images = []
    image = bytearray(MIB)
    with pair.in_step(), pair.primary.login() as session:
        images.append(bytes(image))
        for _ in range(40):
            number = draw.randrange(MIB // BLOCK)
            data = draw.randbytes(BLOCK)
            session.write(number * 8, data)
            image[number * BLOCK : (number + 1) * BLOCK] = data
            images.append(bytes(image))
        pair.primary.wait_synced(pair.replica)
        pair.replica.kill()
    return pair, images


LAST = 7


def test_a_journal_cut_or_flipped_gives_a_prefix_or_a_refusal(place: Path) -> None:
    pair, images = filled_replica(place)
    draw = Random(24)
    outcomes = {"prefix": 0, "refused": 0}
    for number in range(LAST + 1):
        state, (volume,) = pair.replica.copied(f"copy-{number}")
        files = sorted((state / "groups" / "default").glob("*"))
        journal = [path for path in files if path.name.startswith(PREFIX)]
        # Units lie one behind the other from the first segment's beginning on.
        victim = draw.choice(files) if number % 2 else journal[0]
        if number == LAST:  # refused for certain: how much of the journal matters still is chance
            victim = state / "groups" / "default" / STATE_NAME
        size = victim.stat().st_size
        with victim.open("r+b") as file:
            if number == LAST:
                file.truncate()
            elif number in (1, 5):
                file.truncate(draw.randrange(size))
            else:
                file.seek(draw.randrange(min(size, 120_000)))
                old = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([old[0] ^ 1 << draw.randrange(8)]))
        ran = pratima("recover", "--state", str(state), "--volume", str(volume))
        assert "Traceback" not in ran.stderr, (victim, ran.stderr)
        assert ran.returncode in (0, 2), (victim, ran)
        if ran.returncode == 0:
            assert volume.read_bytes() in images, victim
            outcomes["prefix"] += 1
        else:
            assert ran.stdout + ran.stderr
            outcomes["refused"] += 1
    assert all(outcomes.values()), outcomes


def test_a_damaged_replica_says_so_and_is_fetched_again(place: Path) -> None:
    pair = Pair(place, size=8 * MIB)
    draw = Random(25)
    with pair.in_step(), pair.primary.login() as session:
        write_blocks(session, list(range(200)), draw)
        pair.primary.wait_synced(pair.replica)
        pair.replica.kill()
        journals = sorted((pair.replica.state / "groups" / "default").glob("*"))
        for path in journals:
            if path.is_file() and path.stat().st_size > 2 * MIB:
                with path.open("r+b") as file:
                    for at in range(100, 400_000, 1000):
                        file.seek(at)
                        file.write(b"\xa5")
        with pair.replica as replica:
            replica.launch()
            wait_until(lambda: replica.ask() or not replica.runs, 30, "it starts or refuses")
            if replica.runs:
                pair.wait_equal()
            else:
                assert replica.wait() == 2 and "next: " in replica.output(), replica.output()


@pytest.mark.parametrize("side", ["primary", "replica"])
def test_random_bytes_in_every_file_of_a_state_never_crash_a_start(place: Path, side: str) -> None:
    pair = Pair(place, size=2 * MIB)
    draw = Random(26)
    with pair.in_step(), pair.primary.login() as session:
        write_blocks(session, list(range(50)), draw)
        pair.primary.wait_synced(pair.replica)
        session.logout()
        pair.primary.finish()
        pair.replica.finish()
    node: Node = pair.primary if side == "primary" else pair.replica
    state = node.state
    saved = place / "saved"
    state.rename(saved)
    files = [path for path in saved.rglob("*") if path.is_file() and path.stat().st_size]
    assert files
    for victim in sorted(files):
        copied(saved, state)
        target = state / victim.relative_to(saved)
        size = min(target.stat().st_size, 65536)
        with target.open("r+b") as file:
            file.write(draw.randbytes(size))
        with node:
            node.launch()
            wait_until(lambda: node.ask() or not node.runs, 30, "it starts or refuses")
            if not node.runs:
                assert node.wait() == 2, (victim, node.output())
                assert "next: " in node.output(), (victim, node.output())
            assert "Traceback" not in node.output(), (victim, node.output())


def copied(source: Path, target: Path) -> None:
    """A fresh copy of a state directory."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)


def test_a_replica_that_is_flooded_with_sessions_of_strangers_goes_on(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step():
        with Load(pair.primary) as load:
            held = []
            for number in range(300):
                endpoint = socket.socket()
                endpoint.connect(("127.0.0.1", pair.replica.port + number % 2))
                held.append(endpoint)
            load.wait(50)
            for endpoint in held:
                endpoint.close()
            load.wait(50)
        load.check()
        pair.wait_equal()
