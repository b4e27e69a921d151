"""Strangers on either end: a readable reason, a closed connection, and nobody else notices."""

import asyncio
import contextlib
import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest
import zmq

from pratima_iscsi.edges.curve import generate_keys
from pratima_iscsi.edges.link_address import LinkAddress, parse_address
from pratima_iscsi.edges.peer_probe import Finding, probe
from pratima_iscsi.errors import StateError, UsageError
from pratima_iscsi.limits import (
    CONNECTIONS_MAX,
    CONTROL_BYTES_MAX,
    FRAME_BYTES_MAX,
    HANDSHAKES_MAX,
    MIB,
    TO_REPLICA_BYTES_MAX,
)
from pratima_iscsi.replication.messages import encode
from pratima_iscsi.replication.wire import FRAME_BYTES_LEAST

from .rig import (
    Answer,
    Replica,
    Source,
    ack,
    frame,
    hello,
    ipc,
    pair,
    replica,
    run,
    server,
    source,
    source_of,
)


async def _still_good(near: Source, far: Replica, number: int) -> None:
    """The session that was there before still works, both ways."""
    messages, frames = len(far.told.messages), len(far.told.frames)
    assert near.link.send_control(hello(number))
    assert near.link.send_frame(frame(number))
    await far.told.until(lambda: len(far.told.messages) > messages)
    await far.told.until(lambda: len(far.told.frames) > frames)
    assert far.told.frames[-1] == frame(number)
    answers = len(near.told.messages)
    assert far.endpoint.send_control(far.told.messages[-1][0], ack(number))
    await near.told.until(lambda: len(near.told.messages) > answers)
    assert near.told.losses == near.told.downs == []


async def _http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()


async def _patient_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 404 Not Found\r\n\r\n")
    await writer.drain()


async def _ssh(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
    await reader.read()


async def _tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"\x15\x03\x01\x00\x02\x02\x16")
    await writer.drain()


async def _smtp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mx ESMTP\r\n")
    await reader.read()


async def _noise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\0" + os.urandom(64))
    await reader.read()


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    await asyncio.Event().wait()


async def _hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _half_greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\xff\0\0\0\0\0\0\0\1\x7f")
    await reader.read()
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (_http, "speaks HTTP, not ZeroMQ"),
        (_patient_http, "speaks HTTP, not ZeroMQ"),
        (_ssh, "speaks SSH, not ZeroMQ"),
        (_tls, "speaks TLS, not ZeroMQ"),
        (_smtp, "says '220 mx ESMTP', not ZeroMQ"),
        (_noise, "says what is no text, not ZeroMQ: it is not Pratima"),
        (_silent, "says nothing: it is not Pratima"),
        (_hangs_up, "closes connections at once"),
        (_half_greeting, "it does speak ZeroMQ: is this its port"),
    ],
)
def test_a_peer_of_another_kind_is_named(answer: Answer, reason: str) -> None:
    async def main() -> None:
        async with (
            server(answer) as address,
            source(address, address, handshake_seconds=0.3) as near,
        ):
            near.link.connect()
            near.link.open_session()
            await near.told.until(lambda: near.told.downs and near.told.losses)
            assert reason in near.told.downs[0]
            assert reason in near.told.losses[0]
            assert near.told.ups == near.told.readies == 0

    run(main())


async def _old_zmtp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What ZMTP 1 takes for an identity of 72 bytes and then messages, and a browser for HTTP."""
    await reader.read(1)
    writer.write(b"HTTP/1.1 200 OK\r\n".ljust(73, b"-") + b"\x05\x00nope" * 100)
    await reader.read()


def test_nothing_that_an_older_protocol_would_pass_is_taken_for_a_message() -> None:
    async def main() -> None:
        async with server(_old_zmtp) as address, source(address, address) as near:
            near.link.connect()
            await near.told.until(lambda: near.told.downs)
            assert (near.told.ups, near.told.violations) == (0, [])

    run(main())


def test_a_replica_is_recognised_by_the_probe() -> None:
    async def main() -> None:
        async with replica() as far:
            assert await probe(far.endpoint.control_address) == Finding(mechanism="NULL")
            assert await probe(far.endpoint.data_address) == Finding(mechanism="NULL")
        keys = generate_keys()
        async with replica(keys=keys, allowed=[keys.public]) as far:
            assert await probe(far.endpoint.control_address) == Finding(mechanism="CURVE")

    run(main())


GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: pratima\r\n\r\n" + b"A" * 300,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(200),
    b"\x00" * 4096,
    b"\xff" * 4096,
    b"\xff\0\0\0\0\0\0\0\1\x7f",
    b"\xff\0\0\0\0\0\0\0\1\x7f\x00" + bytes(40),  # ZMTP 1: a version of its own
    b"\xff\0\0\0\0\0\0\0\1\x7f\x01\x07" + b"\x00\x00" * 20,  # ZMTP 2, PULL and PUSH
    b"\xff\0\0\0\0\0\0\0\1\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32) + b"\x04\xff" * 99,
    b"\xff\0\0\0\0\0\0\0\1\x7f\x03\x00" + b"PLAIN".ljust(20, b"\0") + bytes(32),
    b"\x01\x00\x05\x00hello\x05\x00world" * 20,
    b"",
]


async def _throw(address: LinkAddress, data: bytes) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(data)
    return writer


def test_fifty_garbage_connections_do_not_hurt_a_good_session() -> None:
    async def main() -> None:
        async with replica() as far, source_of(far) as near:
            await near.up()
            await near.session()
            writers = []
            for n in range(50):
                for address in (far.endpoint.control_address, far.endpoint.data_address):
                    writers.append(await _throw(address, GARBAGE[n % len(GARBAGE)]))
                if n % 10 == 0:
                    await _still_good(near, far, n)
            await far.hook.until(lambda: far.hook.count("ACCEPTED") == 102)
            await _still_good(near, far, 50)
            assert far.told.violations == [], "garbage passed for a message"
            assert far.hook.count("HANDSHAKE_SUCCEEDED") == 2
            for writer in writers:
                writer.transport.abort()

    run(main())


def test_a_peer_that_never_finishes_its_handshake_is_dropped() -> None:
    async def main() -> None:
        async with replica(handshake_seconds=0.2) as far:
            for address in (far.endpoint.control_address, far.endpoint.data_address):
                reader, writer = await asyncio.open_connection(address.host, address.port)
                with contextlib.suppress(ConnectionError):
                    await reader.read(-1)  # until the replica hangs up
                writer.transport.abort()

    run(main())


def test_connections_beyond_the_cap_are_shut_and_the_others_live() -> None:
    async def main() -> None:
        async with replica(connections_max=8) as far, source_of(far) as near:
            await near.up()
            await near.session()
            idle = [await _throw(far.endpoint.control_address, b"") for _ in range(7)]
            await far.hook.until(lambda: far.hook.count("ACCEPTED") == 9)
            assert far.hook.count("CONNECTION_SHUT") == 0
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", far.endpoint.control_address.port
            )
            await far.hook.until(lambda: far.hook.count("CONNECTION_SHUT") == 1)
            with contextlib.suppress(ConnectionError):
                await reader.read(-1)
            writer.transport.abort()
            await _still_good(near, far, 1)
            idle.pop().transport.abort()  # one leaves: there is room for one again
            await far.hook.until(lambda: far.hook.count("DISCONNECTED") == 2)
            async with source_of(far) as another:
                await another.up()
            for stream in idle:
                stream.transport.abort()

    run(main())


CURVE_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)


async def _say_much(address: LinkAddress, size: int) -> asyncio.StreamWriter:
    """A stranger's command of ``size`` bytes, all but the last of it, where a key is expected."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(CURVE_GREETING)
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        await reader.readexactly(64)
        writer.write(b"\x06" + size.to_bytes(8, "big") + bytes(size - 1))
        await writer.drain()
    return writer


def test_strangers_in_their_handshake_are_few_at_a_time_and_the_others_live() -> None:
    async def main() -> None:
        ours, theirs = generate_keys(), generate_keys()
        async with (
            replica(keys=ours, allowed=[theirs.public], handshakes_max=4) as far,
            source_of(far, keys=theirs, peer_key=ours.public) as near,
        ):
            await near.up()
            await near.session()
            address = far.endpoint.data_address
            strangers = await asyncio.gather(*(_say_much(address, MIB) for _ in range(12)))
            await far.hook.until(lambda: far.hook.count("CONNECTION_SHUT") == 8)
            await _still_good(near, far, 1)
            for stranger in strangers:
                stranger.transport.abort()
            await far.hook.until(lambda: far.hook.count("DISCONNECTED") == 12 + 2)  # its own two
            async with source_of(far, keys=theirs, peer_key=ours.public) as another:
                await another.up()
                await another.session()

    run(main())


def test_a_stranger_who_stays_in_his_handshake_makes_room_when_its_time_is_over() -> None:
    async def main() -> None:
        async with replica(handshakes_max=1, handshake_seconds=0.3) as far, source_of(far) as near:
            stranger = await _throw(far.endpoint.data_address, b"")
            await far.hook.until(lambda: far.hook.count("ACCEPTED") == 1)
            await far.hook.until(lambda: far.hook.count("DISCONNECTED") == 1)
            await near.up()
            await near.session()
            await _still_good(near, far, 1)
            stranger.transport.abort()

    run(main())


def test_a_stranger_cannot_say_much_on_the_control_port() -> None:
    async def main() -> None:
        keys = generate_keys()
        async with replica(keys=keys, allowed=[keys.public]) as far:
            before = far.hook.count("DISCONNECTED")
            writer = await _say_much(far.endpoint.control_address, TO_REPLICA_BYTES_MAX + 1)
            await far.hook.until(lambda: far.hook.count("DISCONNECTED") > before)
            writer.transport.abort()

    run(main())


def test_the_memory_that_strangers_can_make_a_replica_hold_is_what_the_docs_say() -> None:
    assert HANDSHAKES_MAX * FRAME_BYTES_MAX == 144 * MIB
    assert CONNECTIONS_MAX * TO_REPLICA_BYTES_MAX == 16 * MIB


def _raw(
    kind: int, address: LinkAddress
) -> tuple["zmq.Context[zmq.Socket[bytes]]", zmq.Socket[bytes]]:
    context = zmq.Context()
    socket = context.socket(kind)
    socket.linger = 0
    socket.reconnect_ivl = -1
    socket.connect(address.endpoint)
    return context, socket


def test_what_is_no_message_is_a_violation_of_that_peer_alone() -> None:
    async def main() -> None:
        async with pair() as (near, far):
            context, stranger = _raw(zmq.DEALER, far.endpoint.control_address)
            bad = [
                [b""],
                [b"\xc1"],
                [b"GET / HTTP/1.1"],
                [encode(ack(1))],  # a replica's message, to a replica
                [encode(hello())[:-1]],
                [encode(hello()), b"a second part"],
                [os.urandom(1000)],
            ]
            for parts in bad:
                stranger.send_multipart(parts)
            await far.told.until(lambda: len(far.told.violations) == len(bad))
            assert len({peer for peer, _, _ in far.told.violations}) == 1
            assert far.told.messages == []
            await _still_good(near, far, 1)
            context.destroy(linger=0)

    run(main())


def test_what_is_no_frame_is_a_violation_and_dropped() -> None:
    async def main() -> None:
        async with pair() as (near, far):
            context, stranger = _raw(zmq.PUSH, far.endpoint.data_address)
            bad = [[b""], [bytes(FRAME_BYTES_LEAST - 1)], [frame(1), frame(2)], [b"x"] * 100]
            for parts in bad:
                stranger.send_multipart(parts)
            await far.told.until(lambda: len(far.told.violations) == len(bad))
            assert far.told.frames == []
            assert "2 parts" in far.told.violations[2][2]
            await _still_good(near, far, 1)
            context.destroy(linger=0)

    run(main())


@pytest.mark.parametrize(
    ("kind", "port", "size"),
    [
        (zmq.PUSH, "data_address", FRAME_BYTES_MAX + 1),
        (zmq.DEALER, "control_address", TO_REPLICA_BYTES_MAX + 1),
    ],
)
def test_an_oversize_message_closes_its_connection_only(kind: int, port: str, size: int) -> None:
    async def main() -> None:
        async with pair() as (near, far):
            context, stranger = _raw(kind, getattr(far.endpoint, port))
            stranger.send(bytes(size))
            await far.hook.until(lambda: far.hook.count("DISCONNECTED") == 1)
            await _still_good(near, far, 1)
            assert far.told.violations == []
            context.destroy(linger=0)

    run(main())


def test_a_replica_that_talks_nonsense_is_a_violation_at_the_source() -> None:
    async def main() -> None:
        context = zmq.Context()
        router = context.socket(zmq.ROUTER)
        router.linger = 0
        port = router.bind_to_random_port("tcp://127.0.0.1")
        control = LinkAddress("127.0.0.1", port)
        async with source(control, LinkAddress("127.0.0.1", 1)) as near:
            await near.up()
            assert near.link.send_control(hello())
            while not router.poll(0):
                await asyncio.sleep(0)
            peer, _ = router.recv_multipart()
            bad = [[b""], [b"nonsense"], [encode(hello())], [encode(ack(1)), b"more"]]
            for parts in bad:
                router.send_multipart([peer, *parts])
            router.send_multipart([peer, encode(ack(7))])
            await near.told.until(lambda: near.told.messages)
            assert len(near.told.violations) == len(bad)
            assert near.told.messages == [ack(7)]
            router.send_multipart([peer, bytes(CONTROL_BYTES_MAX + 1)])
            await near.told.until(lambda: near.told.downs)
        context.destroy(linger=0)

    run(main())


def test_a_taken_port_is_named_with_the_next_step() -> None:
    async def main() -> None:
        async with replica() as far:
            control, data = far.endpoint.control_address, far.endpoint.data_address
            with pytest.raises(StateError, match=rf"port {control.port} on .* is taken; stop what"):
                async with replica(control, data):
                    pass
            free = parse_address("127.0.0.1:0")
            with pytest.raises(StateError, match=rf"port {data.port} on .* is taken"):
                async with replica(free, data):
                    pass
            async with source_of(far) as near:
                await near.up()

    run(main())


def test_an_address_of_another_machine_is_named() -> None:
    async def main() -> None:
        options: dict[str, Any] = {"keys": generate_keys(), "allowed": [generate_keys().public]}
        with pytest.raises(UsageError, match="no address of this machine"):
            async with replica(parse_address("192.0.2.1:7010"), **options):
                pass

    run(main())


def test_an_ipc_path_in_use_is_not_taken_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with replica(ipc(tmp_path)), source(ipc(tmp_path)) as near:
            with pytest.raises(StateError, match="another process listens"):
                async with replica(ipc(tmp_path)):
                    pass
            await near.up()
        async with replica(ipc(tmp_path)), source(ipc(tmp_path)) as near:  # a path left behind
            await near.up()

    run(main())


def test_an_ipc_path_that_is_a_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "link").write_text("precious")

    async def main() -> None:
        with pytest.raises(StateError, match="no socket"):
            async with replica(ipc(tmp_path)):
                pass

    run(main())
    assert (tmp_path / "link").read_text() == "precious"


@pytest.mark.plain
def test_a_process_without_descriptors_says_so_and_recovers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with replica() as far, source_of(far) as near:
            with monkeypatch.context() as patch:

                def none_left(kind: int) -> zmq.Socket[bytes]:
                    raise zmq.ZMQError(errno.EMFILE)

                patch.setattr(near.link._context, "socket", none_left)
                near.link.connect()
                near.link.open_session()
                await near.told.until(lambda: near.told.downs and near.told.losses)
                assert re.search("no room for a socket: .*open files", near.told.downs[0])
            await near.told.until(lambda: near.link.is_up)
            await near.session()

    run(main())
