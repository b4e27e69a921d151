"""The fault proxy does to a connection what it was asked for, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
import zmq

from tests.torture.proxy import Direction, Fault, FaultProxy, Framing, RawFraming, ZmtpFraming

WAIT_SECONDS = 20.0
TO_SERVER, TO_CLIENT = Direction.TO_SERVER, Direction.TO_CLIENT


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


class Lines:
    """A client and the server's end of the same connection through a proxy."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def connect(self) -> "Lines":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.proxy.port)
        return self

    async def say(self, text: bytes) -> None:
        self.writer.write(text)
        await self.writer.drain()

    async def hear(self, count: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(count), WAIT_SECONDS)


@asynccontextmanager
async def proxied(seed: int = 1) -> AsyncIterator[tuple[FaultProxy, Lines]]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    upstream = server.sockets[0].getsockname()
    async with FaultProxy(upstream, RawFraming, seed) as proxy:
        lines = await Lines(proxy).connect()
        try:
            yield proxy, lines
        finally:
            lines.writer.close()
    server.close()
    await server.wait_closed()


def test_passes_everything_unchanged_without_a_fault() -> None:
    async def run() -> None:
        data = Random(1).randbytes(3 << 20)
        async with proxied() as (proxy, lines):
            heard = asyncio.create_task(lines.hear(len(data)))
            await lines.say(data)
            assert await heard == data
            assert not proxy.done

    asyncio.run(run())


def test_held_bytes_come_later_in_order_and_the_other_way_flows() -> None:
    async def run() -> None:
        async with proxied() as (proxy, lines):
            proxy.hold(TO_CLIENT)
            await lines.say(b"one")
            await lines.say(b"two")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(lines.reader.readexactly(1), 0.1)
            proxy.release(TO_CLIENT)
            assert await lines.hear(6) == b"onetwo"

    asyncio.run(run())


def test_bit_flip_turns_over_exactly_one_bit_and_the_seed_decides_which() -> None:
    async def run(seed: int) -> bytes:
        async with proxied(seed) as (proxy, lines):
            proxy.inject(TO_SERVER, Fault.FLIP)
            await lines.say(bytes(64))
            heard = await lines.hear(64)
            assert sum(byte.bit_count() for byte in heard) == 1
            assert proxy.done == [(TO_SERVER, Fault.FLIP)]
            return heard

    assert asyncio.run(run(3)) == asyncio.run(run(3))
    assert len({asyncio.run(run(seed)) for seed in range(4)}) > 1


def test_cut_passes_a_part_and_ends_both_connections() -> None:
    async def run() -> None:
        async with proxied() as (proxy, lines):
            proxy.inject(TO_CLIENT, Fault.CUT)
            await lines.say(b"x" * 1000)
            heard = await asyncio.wait_for(lines.reader.read(), WAIT_SECONDS)
            assert len(heard) < 1000 and set(heard) <= set(b"x")
            assert proxy.done == [(TO_CLIENT, Fault.CUT)]

    asyncio.run(run())


def test_reset_is_seen_as_one_and_a_new_connection_works() -> None:
    async def run() -> None:
        async with proxied() as (proxy, lines):
            await lines.say(b"a")
            assert await lines.hear(1) == b"a"
            proxy.reset()
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(lines.reader.read(), WAIT_SECONDS)
            again = await Lines(proxy).connect()
            await again.say(b"b")
            assert await again.hear(1) == b"b"
            again.writer.close()

    asyncio.run(run())


def test_blackhole_swallows_one_direction_and_healing_resets_the_connection() -> None:
    async def run() -> None:
        async with proxied() as (proxy, lines):
            await lines.say(b"a")
            assert await lines.hear(1) == b"a"
            proxy.paths[TO_SERVER].blackhole = True
            await lines.say(b"lost")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(lines.reader.readexactly(1), 0.1)
            proxy.heal()
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(lines.reader.read(), WAIT_SECONDS)

    asyncio.run(run())


def test_refused_connections_are_reset_until_healed() -> None:
    async def run() -> None:
        async with proxied() as (proxy, _):
            proxy.refuse()
            refused = await Lines(proxy).connect()
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(refused.reader.readexactly(1), WAIT_SECONDS)
            proxy.heal()
            again = await Lines(proxy).connect()
            await again.say(b"b")
            assert await again.hear(1) == b"b"
            again.writer.close()

    asyncio.run(run())


def test_delay_and_rate_lose_nothing() -> None:
    async def run() -> None:
        async with proxied() as (proxy, lines):
            proxy.paths[TO_SERVER].delay_seconds = 0.02
            proxy.paths[TO_CLIENT].rate_bytes = 4 << 20
            data = Random(2).randbytes(300_000)
            heard = asyncio.create_task(lines.hear(len(data)))
            await lines.say(data)
            assert await heard == data

    asyncio.run(run())


# --- ZeroMQ messages ----------------------------------------------------------------------------


def pieces(data: bytes, random: Random) -> list[bytes]:
    found = []
    while data:
        count = random.randint(1, 40)
        found.append(data[:count])
        data = data[count:]
    return found


@pytest.mark.parametrize("seed", range(20))
def test_zmtp_units_are_whole_messages_however_the_stream_is_cut(seed: int) -> None:
    random = Random(seed)
    units = [random.randbytes(64)]
    for _ in range(random.randint(1, 20)):
        unit = b""
        for more in [1] * random.randint(0, 3) + [0]:
            body = random.randbytes(random.choice([0, 1, 200, 255, 256, 3000]))
            if len(body) > 255 or random.random() < 0.2:
                unit += bytes([2 | more]) + len(body).to_bytes(8, "big") + body
            else:
                unit += bytes([more, len(body)]) + body
        units.append(unit)
    framing: Framing = ZmtpFraming()
    stream = b"".join(units) + b"\x00\x05abc"
    cut = [unit for piece in pieces(stream, random) for unit in framing.feed(piece)]
    while sum(map(len, cut[:1])) < 64:
        cut[:2] = [cut[0] + cut[1]]
    assert cut == units
    assert framing.rest() == b"\x00\x05abc"


def test_endless_zmtp_frame_is_refused() -> None:
    framing = ZmtpFraming()
    with pytest.raises(ConnectionError):
        list(framing.feed(bytes(64) + b"\x02" + b"\xff" * 8))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.DUPLICATE, [b"0", b"1", b"2", b"2", b"3", b"4"]),
        (Fault.DROP, [b"0", b"1", b"3", b"4"]),
        (Fault.SWAP, [b"0", b"1", b"3", b"2", b"4"]),
    ],
)
def test_whole_zeromq_messages_are_lost_doubled_or_swapped(
    fault: Fault, expected: list[bytes]
) -> None:
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        port = pull.bind_to_random_port("tcp://127.0.0.1")
        proxy = FaultProxy(("127.0.0.1", port), ZmtpFraming)
        with proxy.in_thread(), context.socket(zmq.PUSH) as push:
            push.linger = pull.linger = 0
            pull.rcvtimeo = int(WAIT_SECONDS * 1000)
            proxy.inject(Direction.TO_SERVER, fault, matching=lambda unit: unit.endswith(b"2"))
            push.connect(f"tcp://127.0.0.1:{proxy.port}")
            for number in range(5):
                push.send_multipart([b"batch", str(number).encode()])
            heard = [pull.recv_multipart()[1] for _ in expected]
            assert heard == expected
            assert proxy.done == [(Direction.TO_SERVER, fault)]


def test_taken_port_is_reported_to_whoever_starts_the_proxy() -> None:
    with FaultProxy(("127.0.0.1", 1)).in_thread() as first:
        other = FaultProxy(("127.0.0.1", 1), port=first.port)
        with pytest.raises(OSError), other.in_thread():
            pass
