"""A data connection that ends, ends its session: nothing is repaired, nothing is sent again."""

import asyncio
from typing import Any

import pytest

from pratima_iscsi.edges.curve import generate_keys
from pratima_iscsi.edges.link_address import LinkAddress

from .rig import (
    LOOPS,
    ack,
    frame,
    hello,
    number_of,
    pair,
    proxy,
    replica,
    run,
    source,
    source_of,
)

loops = pytest.mark.parametrize("loop", LOOPS)
CLOSED = LinkAddress("127.0.0.1", 1)


@loops
def test_a_reset_connection_ends_the_session_and_resends_nothing(loop: str) -> None:
    async def main() -> None:
        async with (
            replica() as far,
            proxy(far.endpoint.data_address) as (middle, address),
            source(far.endpoint.control_address, address) as near,
        ):
            await near.session()
            middle.hold()
            for n in range(20):
                assert near.link.send_frame(frame(n, 1 << 20))
            middle.reset()
            await near.told.until(lambda: near.told.losses)
            assert not near.link.is_data_ready
            assert not near.link.send_frame(frame(99))
            middle.flow()
            await near.session()
            assert near.link.send_frame(frame(100))
            await far.told.until(lambda: far.told.frames and number_of(far.told.frames[-1]) == 100)
            assert [*map(number_of, far.told.frames)] == [100]
            assert len(near.told.losses) == 1
            assert "connection has ended" in near.told.losses[0]

    run(main(), loop)


def test_frames_of_a_closed_session_never_reach_the_next_peer() -> None:
    async def main() -> None:
        async with (
            replica() as first,
            replica() as second,
            proxy(first.endpoint.data_address) as (middle, address),
            source(first.endpoint.control_address, address) as near,
        ):
            await near.session()
            middle.hold()
            for n in range(50):
                assert near.link.send_frame(frame(n, 1 << 18))
            near.link.close_session()
            assert not near.link.send_frame(frame(51))
            middle.retarget(second.endpoint.data_address)
            middle.flow()
            await near.session()
            assert near.link.send_frame(frame(1000))
            await second.told.until(lambda: second.told.frames)
            assert [*map(number_of, second.told.frames)] == [1000]
            # What had left for the first peer is a prefix; the rest went with the socket.
            numbers = [*map(number_of, first.told.frames)]
            assert numbers == [*range(len(numbers))]
            assert near.told.losses == []

    run(main())


def test_a_frame_cut_in_the_middle_never_arrives() -> None:
    async def main() -> None:
        async with (
            replica() as far,
            proxy(far.endpoint.data_address) as (middle, address),
            source(far.endpoint.control_address, address) as near,
        ):
            await near.session()
            for n in range(12):
                assert near.link.send_frame(frame(n, 8 << 20))
            await far.told.until(lambda: len(far.told.frames) >= 2)
            middle.reset()
            await near.told.until(lambda: near.told.losses)
            await far.hook.until(lambda: far.hook.count("DISCONNECTED"))
            numbers = [*map(number_of, far.told.frames)]
            assert numbers == [*range(len(numbers))]
            assert all(len(data) == 8 << 20 for data in far.told.frames)

    run(main())


def test_a_replica_that_goes_away_ends_both_connections() -> None:
    async def main() -> None:
        async with replica() as far, source_of(far) as near:
            await near.up()
            await near.session()
            far.endpoint.close()
            await near.told.until(lambda: near.told.downs and near.told.losses)
            assert "connection has ended" in near.told.downs[0]

    run(main())


def test_the_control_connection_comes_back_by_itself() -> None:
    async def main() -> None:
        async with (
            replica() as far,
            proxy(far.endpoint.control_address) as (middle, address),
            source(address, far.endpoint.data_address) as near,
        ):
            await near.up()
            assert near.link.send_control(hello(1))
            await far.told.until(lambda: far.told.messages)
            middle.reset()
            await near.told.until(lambda: near.told.ups == 2)
            assert near.link.send_control(hello(2))
            await far.told.until(lambda: len(far.told.messages) == 2)
            (first, _, _), (second, _, _) = far.told.messages
            assert first != second, "a new connection is a new peer"
            assert far.endpoint.send_control(second, ack(2))
            await near.told.until(lambda: near.told.messages == [ack(2)])

    run(main())


def test_a_replica_that_starts_later_is_found() -> None:
    async def main() -> None:
        async with replica() as far:
            control, data = far.endpoint.control_address, far.endpoint.data_address
        async with source(control, data) as near:
            near.link.connect()
            await near.told.until(lambda: near.told.downs)
            async with replica(control, data):
                await near.told.until(lambda: near.link.is_up)

    run(main())


def test_connect_cuts_a_back_off_short() -> None:
    async def main() -> None:
        async with replica() as far:
            control, data = far.endpoint.control_address, far.endpoint.data_address
        async with source(control, data) as near:
            near.link.connect()
            await near.told.until(lambda: len(near.told.downs) >= 3)
            async with replica(control, data):
                await near.up()
            assert near.told.ups == 1

    run(main())


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (CLOSED, "connection refused"),
        (LinkAddress("no-such-host.invalid", 7010), "name"),
        (LinkAddress("", 0, "/nonexistent/pratima"), "no such file"),
    ],
)
def test_a_port_that_is_not_there_is_named_with_its_cause(
    address: LinkAddress, reason: str
) -> None:
    async def main() -> None:
        seconds = {"handshake_seconds": 0.5}
        if address.is_local:
            near = source(address, CLOSED, **seconds)
        else:
            near = source(address, CLOSED, **seconds, **_some_keys())
        async with near as link:
            link.link.connect()
            await link.told.until(lambda: link.told.downs)
            assert link.told.downs[0].startswith("control port")
            assert reason in link.told.downs[0].lower()
            assert not link.link.is_up

    run(main())


def test_a_data_port_that_is_not_there_ends_the_session() -> None:
    async def main() -> None:
        async with replica() as far, source(far.endpoint.control_address, CLOSED) as near:
            await near.up()
            near.link.open_session()
            await near.told.until(lambda: near.told.losses)
            assert near.told.losses == ["data port: 127.0.0.1:1: connection refused"]
            assert near.told.readies == 0
            assert near.link.is_up

    run(main())


def test_a_control_port_given_for_data_is_named() -> None:
    async def main() -> None:
        async with replica() as far:
            control = far.endpoint.control_address
            async with source(control, control) as near:
                near.link.open_session()
                await near.told.until(lambda: near.told.losses)
                assert "it does speak ZeroMQ: is this its port" in near.told.losses[0]

    run(main())


def test_nothing_is_told_after_the_close() -> None:
    async def main() -> None:
        async with pair() as (near, far):
            near.link.close()
            far.endpoint.close()
            told = (list(near.told.downs), list(near.told.losses))
            for _ in range(50):
                await asyncio.sleep(0)
            assert (near.told.downs, near.told.losses) == told == ([], [])
            near.link.close()  # twice is once

    run(main())


def test_a_session_may_be_opened_and_closed_from_inside_a_callback() -> None:
    async def main() -> None:
        async with replica() as far, source_of(far) as near:
            lost, ready = near.told.on_data_lost, near.told.on_data_ready

            def reopen(reason: str) -> None:
                lost(reason)
                near.link.open_session()

            def once() -> None:
                ready()
                if near.told.readies < 5:
                    near.link.close_session()
                    near.link.open_session()

            near.told.on_data_lost = reopen
            near.told.on_data_ready = once
            near.link.open_session()
            await near.told.until(lambda: near.told.readies == 5)
            assert near.link.send_frame(frame(1))
            await far.told.until(lambda: far.told.frames)

    run(main())


def _some_keys() -> dict[str, Any]:
    return {"keys": generate_keys(), "peer_key": generate_keys().public}
