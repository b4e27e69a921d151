"""Messages and frames go both ways, in order, and no wake-up is lost."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from pratima_iscsi.edges.link_address import LinkAddress
from pratima_iscsi.limits import (
    ANCESTRY_MAX,
    CONTROL_BYTES_MAX,
    FRAME_BYTES_MAX,
    NAME_BYTES_MAX,
    READS_PER_TURN_MAX,
    VOLUMES_MAX,
)
from pratima_iscsi.replication.messages import Ack, Ping, ToReplica, VolumeOffer
from pratima_iscsi.replication.wire import FRAME_BYTES_LEAST

from .rig import (
    LOOPS,
    Replica,
    Source,
    ack,
    counts,
    frame,
    free_port_pair,
    hello,
    ipc,
    number_of,
    pair,
    ping,
    proxy,
    replica,
    run,
    source,
    source_of,
)

loops = pytest.mark.parametrize("loop", LOOPS)


async def _greet(near: Source, far: Replica) -> bytes:
    assert near.link.send_control(hello())
    await far.told.until(lambda: far.told.messages)
    return far.told.messages[0][0]


@loops
def test_messages_go_both_ways(loop: str) -> None:
    async def main() -> None:
        async with pair() as (near, far):
            peer = await _greet(near, far)
            assert far.told.messages == [(peer, None, hello())]
            assert far.endpoint.send_control(peer, ack(5))
            await near.told.until(lambda: near.told.messages)
            assert near.told.messages == [ack(5)]

    run(main(), loop)


def test_data_goes_to_the_port_above_unless_given() -> None:
    async def main() -> None:
        listen = LinkAddress("127.0.0.1", free_port_pair())
        async with replica(listen) as far, source(listen) as near:
            await near.up()
            await near.session()
            assert near.link.send_frame(frame(1))
            await far.told.until(lambda: far.told.frames)
            assert far.endpoint.data_address.port == listen.port + 1

    run(main())


@loops
def test_both_ports_work_over_ipc(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with replica(ipc(tmp_path)) as far, source(ipc(tmp_path)) as near:
            for path in (tmp_path / "link", tmp_path / "link.data"):
                assert path.stat().st_mode & 0o777 & ~0o700 == 0
            await near.up()
            await near.session()
            peer = await _greet(near, far)
            assert far.endpoint.send_control(peer, ack(1))
            assert near.link.send_frame(frame(1))
            await far.told.until(lambda: far.told.frames)
            await near.told.until(lambda: near.told.messages)

    run(main(), loop)


@loops
def test_frames_arrive_in_order_and_whole(loop: str) -> None:
    async def main() -> None:
        async with pair() as (near, far):
            sizes = (4096, 64, 65536, 1 << 20)
            sent = [frame(n, max(sizes[n % 4], -(-FRAME_BYTES_LEAST // 8) * 8)) for n in range(400)]
            for data in sent:
                assert near.link.send_frame(bytearray(data))
            await far.told.until(lambda: len(far.told.frames) == len(sent))
            assert far.told.frames == sent

    run(main(), loop)


def test_a_frame_may_be_reused_once_it_was_sent() -> None:
    async def main() -> None:
        async with (
            replica() as far,
            proxy(far.endpoint.data_address) as (middle, address),
            source(far.endpoint.control_address, address) as near,
        ):
            await near.session()
            middle.hold()
            buffer = bytearray(1 << 20)
            for n in range(20):
                buffer[:] = frame(n, 1 << 20)
                assert near.link.send_frame(buffer)
            middle.flow()
            await far.told.until(counts(far.told.frames, 20))
            assert [*map(number_of, far.told.frames)] == [*range(20)]

    run(main())


@loops
def test_a_connection_takes_messages_as_soon_as_it_is_told_of(loop: str) -> None:
    async def main() -> None:
        async with replica() as far, source_of(far) as near:
            taken: list[bool] = []
            near.told.on_up = lambda: taken.append(near.link.send_control(hello()))
            near.told.on_data_ready = lambda: taken.append(near.link.send_frame(frame(1)))
            for n in range(1, 21):
                near.link.connect()
                near.link.open_session()
                await far.told.until(counts(far.told.messages, n))
                await far.told.until(counts(far.told.frames, n))
            assert taken == [True] * 40

    run(main(), loop)


@loops
def test_no_wake_up_is_lost_when_both_sides_send_at_once(loop: str) -> None:
    """A send may swallow the edge that told of a message: the message must still be read."""
    rounds, burst = 40, READS_PER_TURN_MAX + 7

    async def main() -> None:
        async with pair() as (near, far):
            peer = await _greet(near, far)
            for turn in range(1, rounds + 1):
                for n in range(burst):
                    assert near.link.send_control(ping(n))
                    assert far.endpoint.send_control(peer, ack(n))
                    assert near.link.send_frame(frame(n))
                total = turn * burst
                await far.told.until(counts(far.told.messages, total + 1))
                await near.told.until(counts(near.told.messages, total))
                await far.told.until(counts(far.told.frames, total))
            pings = [m.sequence for _, _, m in far.told.messages if isinstance(m, Ping)]
            assert pings == [*range(burst)] * rounds
            acks = [m.received for m in near.told.messages if isinstance(m, Ack)]
            assert acks == [*range(burst)] * rounds
            assert [*map(number_of, far.told.frames)] == [*range(burst)] * rounds

    run(main(), loop)


def test_an_echo_a_turn_is_never_left_waiting() -> None:
    """One message at a time, answered from inside the callback: each needs its own wake-up."""

    async def main() -> None:
        async with pair() as (near, far):
            peer = await _greet(near, far)
            note = far.told.on_control

            def answer(sender: bytes, user: str | None, message: ToReplica) -> None:
                note(sender, user, message)
                assert far.endpoint.send_control(peer, ack(len(far.told.messages)))

            far.told.on_control = answer  # type: ignore[method-assign,assignment]
            for n in range(500):
                assert near.link.send_control(ping(n))
                await near.told.until(counts(near.told.messages, n + 1))

    run(main())


def test_a_full_socket_says_so_and_takes_frames_again_later() -> None:
    async def main() -> None:
        async with (
            replica() as far,
            proxy(far.endpoint.data_address) as (middle, address),
            source(far.endpoint.control_address, address, frames_unsent_max=4) as near,
        ):
            await near.session()
            middle.hold()
            sent = refused = 0
            # The I/O thread may make room once more, while there is some in what it sends into.
            while refused < 10:
                if near.link.send_frame(frame(sent, 1 << 20)):
                    sent, refused = sent + 1, 0
                    assert sent < 1000, "the socket never filled up"
                else:
                    refused += 1
                await asyncio.sleep(0.01)
            middle.flow()
            await far.told.until(lambda: len(far.told.frames) == sent)
            assert near.link.send_frame(frame(sent))
            await far.told.until(lambda: len(far.told.frames) == sent + 1)
            assert [*map(number_of, far.told.frames)] == [*range(sent + 1)]
            assert near.told.losses == []

    run(main())


def test_nothing_is_taken_without_a_connection() -> None:
    async def main() -> None:
        async with replica() as far, source_of(far) as near:
            assert not near.link.send_control(hello())
            assert not near.link.send_frame(frame(1))
            near.link.connect()
            near.link.open_session()
            assert not near.link.send_control(hello())
            assert not near.link.send_frame(frame(1))
            await near.told.until(lambda: near.link.is_up and near.link.is_data_ready)
            assert near.link.send_control(hello())
            assert near.link.send_frame(frame(2))
            await far.told.until(lambda: far.told.messages and far.told.frames)
            assert (len(far.told.messages), [*map(number_of, far.told.frames)]) == (1, [2])

    run(main())


def test_an_answer_to_a_peer_that_left_is_refused() -> None:
    async def main() -> None:
        async with pair() as (near, far):
            peer = await _greet(near, far)
            near.link.disconnect()
            await far.hook.until(lambda: far.hook.count("DISCONNECTED"))
            # libzmq tells its monitor first and the socket a little later, of which no event tells.
            while far.endpoint.send_control(peer, ack(1)):
                await asyncio.sleep(0.01)
            assert not far.endpoint.send_control(b"nobody", ack(1))

    run(main())


def test_a_message_sent_just_before_the_close_still_arrives() -> None:
    async def main() -> None:
        async with pair() as (near, far):
            assert near.link.send_control(hello())
            near.link.close()
            await far.told.until(lambda: far.told.messages)

    run(main())


def test_the_largest_messages_pass() -> None:
    async def main() -> None:
        async with pair() as (near, far):
            assert near.link.send_frame(bytes(FRAME_BYTES_MAX))
            await far.told.until(lambda: far.told.frames)
            assert len(far.told.frames[0]) == FRAME_BYTES_MAX
            assert CONTROL_BYTES_MAX < FRAME_BYTES_MAX
            volume = VolumeOffer("\U0001f5b4" * NAME_BYTES_MAX, (1 << 64) - 1)
            longest = replace(
                hello((1 << 64) - 1),
                group_name=volume.name,
                volumes=(volume,) * VOLUMES_MAX,
                ancestry=(((1 << 64) - 1, (1 << 63) - 1),) * ANCESTRY_MAX,
            )
            assert near.link.send_control(longest)
            await far.told.until(lambda: far.told.messages)
            assert far.told.messages[0][2] == longest

    run(main())


def test_a_hook_hears_the_events_of_every_socket() -> None:
    async def main() -> None:
        async with pair() as (near, far):
            await far.hook.until(lambda: far.hook.count("HANDSHAKE_SUCCEEDED") == 2)
            assert near.hook.count("CONNECTED") == near.hook.count("HANDSHAKE_SUCCEEDED") == 2
            assert far.hook.count("ACCEPTED") == 2
            assert {address for _, address, _ in near.hook.events} == {
                far.endpoint.control_address.endpoint,
                far.endpoint.data_address.endpoint,
            }

    run(main())
