"""The event sockets over real ZeroMQ: who gets what, who is refused, and that nobody waits."""

import asyncio
import stat
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import zmq

from pratima_iscsi import limits
from pratima_iscsi.edges.curve import CurveKeys, generate_keys
from pratima_iscsi.edges.event_sockets import (
    EventPublisher,
    EventSubscriber,
    Watched,
    find_event_socket,
)
from pratima_iscsi.edges.link_address import LinkAddress
from pratima_iscsi.errors import StateError, UsageError
from tests.torture.daemons import free_ports

SECONDS = 20.0


class Desk:
    """A publisher that counts its subscribers."""

    def __init__(self, keys: CurveKeys | None = None, allowed: tuple[str, ...] = ()) -> None:
        self.came = 0
        self.arrived = asyncio.Event()
        self.refused: list[str] = []
        self.publisher = EventPublisher(
            keys=keys,
            allowed=allowed,
            on_subscriber=self._came,
            on_refused=self.refused.append,
        )

    def _came(self) -> None:
        self.came += 1
        self.arrived.set()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(SECONDS):
            while self.came < count:
                self.arrived.clear()
                await self.arrived.wait()


def run(step: Callable[[Desk], Awaitable[None]], desk: Callable[[], Desk] = Desk) -> None:
    async def body() -> None:
        at_work = desk()
        try:
            await step(at_work)
        finally:
            at_work.publisher.close()

    asyncio.run(body())


async def hear(subscriber: EventSubscriber, count: int) -> list[tuple[str, bytes]]:
    """The next ``count`` events, while the publisher's loop goes on."""
    heard: list[tuple[str, bytes]] = []
    async with asyncio.timeout(SECONDS):
        while len(heard) < count:
            heard += await asyncio.to_thread(subscriber.wait, 0.2)
    return heard


def loopback() -> LinkAddress:
    return LinkAddress("127.0.0.1", free_ports())


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


def test_events_reach_subscribers_on_both_endpoints_by_the_senders_name(state: Path) -> None:
    async def step(desk: Desk) -> None:
        local = desk.publisher.open_local(state)
        assert local == find_event_socket(state)
        for path in (Path(local.path), Path(local.path).parent):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        port = await desk.publisher.open(loopback())
        subscriber = EventSubscriber([Watched("here", local), Watched("there", port)])
        try:
            await desk.wait_for(2)
            desk.publisher.publish(b"one")
            assert sorted(await hear(subscriber, 2)) == [("here", b"one"), ("there", b"one")]
        finally:
            subscriber.close()

    run(step)


def test_a_long_state_directory_has_its_socket_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / ("d" * 120)
    state.mkdir()
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        run(lambda desk: _elsewhere(desk, state, runtime))


async def _elsewhere(desk: Desk, state: Path, runtime: str) -> None:
    local = desk.publisher.open_local(state)
    assert find_event_socket(state) == local and local.path.startswith(runtime)
    subscriber = EventSubscriber([Watched("s", local)])
    await desk.wait_for(1)
    subscriber.close()


def test_a_subscriber_comes_back_to_a_daemon_that_was_restarted(state: Path) -> None:
    async def body() -> None:
        subscriber = EventSubscriber([Watched("s", find_event_socket(state))])
        try:
            for word in (b"first life", b"second life"):
                desk = Desk()
                desk.publisher.open_local(state)
                heard: list[tuple[str, bytes]] = []
                async with asyncio.timeout(SECONDS):
                    while ("s", word) not in heard:
                        # ZeroMQ asks again for what was asked for while somebody listens.
                        heard = await asyncio.to_thread(subscriber.wait, 0.05)
                        desk.publisher.publish(word)
                assert desk.came == 1
                desk.publisher.close()
                assert not Path(find_event_socket(state).path).exists()
        finally:
            subscriber.close()

    asyncio.run(body())


def test_a_subscriber_that_does_not_read_holds_nobody_up(state: Path) -> None:
    event = bytes(4096)
    many = 8 * limits.EVENTS_UNSENT_MAX

    async def step(desk: Desk) -> None:
        local = desk.publisher.open_local(state)
        asleep = EventSubscriber([Watched("asleep", local)])
        awake = EventSubscriber([Watched("awake", local)])
        try:
            await desk.wait_for(2)
            for _ in range(many):
                desk.publisher.publish(event)
            desk.publisher.publish(b"last")
            # The queue of who sleeps is full by now; who wakes up later still gets what fits it.
            heard = await hear(awake, 100)
            assert set(heard) == {("awake", event)}
            async with asyncio.timeout(SECONDS):
                while heard[-1][1] != b"now":
                    desk.publisher.publish(b"now")
                    heard += await asyncio.to_thread(awake.wait, 0.05)
            got = len(await hear(asleep, 1))
            assert got < many
        finally:
            asleep.close()
            awake.close()

    run(step)


def test_only_everything_can_be_asked_for(state: Path) -> None:
    async def step(desk: Desk) -> None:
        local = desk.publisher.open_local(state)
        with zmq.Context() as context, context.socket(zmq.SUB) as stranger:
            stranger.linger = 0
            for number in range(1000):
                stranger.setsockopt(zmq.SUBSCRIBE, b"topic %d" % number)
            stranger.zap_domain = b"pratima-plain"
            stranger.connect(local.endpoint)
            subscriber = EventSubscriber([Watched("s", local)])
            await desk.wait_for(1)
            desk.publisher.publish(b"topic 7 is not for you")
            assert await hear(subscriber, 1) == [("s", b"topic 7 is not for you")]
            assert not await asyncio.to_thread(stranger.poll, 200)
            assert desk.came == 1
            subscriber.close()

    run(step)


def test_with_keys_only_who_is_on_the_list_hears_anything() -> None:
    node, watcher, stranger = generate_keys(), generate_keys(), generate_keys()

    async def step(desk: Desk) -> None:
        port = await desk.publisher.open(loopback())
        daemon = Watched("d", port, node.public)
        allowed = EventSubscriber([daemon], watcher)
        refused = EventSubscriber([daemon], stranger)
        plain = EventSubscriber([Watched("d", port)])
        mistaken = EventSubscriber([Watched("d", port, stranger.public)], watcher)
        others = (refused, plain, mistaken)
        try:
            await desk.wait_for(1)
            desk.publisher.publish(b"secret")
            assert await hear(allowed, 1) == [("d", b"secret")]
            for other in others:
                assert await asyncio.to_thread(other.wait, 0.3) == []
            assert desk.came == 1
            # It dials again and again; the key that the list was tried with is not told.
            assert set(desk.refused) == {f"127.0.0.1: key {stranger.public}"}
        finally:
            for subscriber in (allowed, *others):
                subscriber.close()

    run(step, lambda: Desk(node, (watcher.public,)))


def test_off_loopback_nothing_is_plain() -> None:
    async def step(desk: Desk) -> None:
        with pytest.raises(UsageError, match="not loopback"):
            await desk.publisher.open(LinkAddress("0.0.0.0", free_ports()))

    run(step)
    with pytest.raises(UsageError, match="not loopback"):
        EventSubscriber([Watched("d", LinkAddress("192.0.2.1", 7012))])
    with pytest.raises(UsageError, match="both"):
        EventPublisher(keys=generate_keys())


def test_a_port_that_is_taken_is_said_and_the_other_endpoint_goes_on(state: Path) -> None:
    async def step(desk: Desk) -> None:
        local = desk.publisher.open_local(state)
        other = Desk()
        address = await other.publisher.open(loopback())
        with pytest.raises(StateError, match="taken"):
            await desk.publisher.open(address)
        other.publisher.close()
        subscriber = EventSubscriber([Watched("s", local)])
        await desk.wait_for(1)
        subscriber.close()

    run(step)
