"""Keys: the allowed are let in; all else is refused, also when there is nobody to judge."""

from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from pratima_iscsi.edges import curve
from pratima_iscsi.edges.curve import CurveKeys, ZapHandler, generate_keys, self_test
from pratima_iscsi.edges.link_address import LinkAddress, parse_address
from pratima_iscsi.edges.link_replica import ReplicaEndpoint
from pratima_iscsi.edges.link_sockets import LinkContext
from pratima_iscsi.edges.link_source import SourceLink
from pratima_iscsi.errors import StateError, UsageError

from .rig import (
    FREE,
    LOOPS,
    ReplicaRecorder,
    SourceRecorder,
    ack,
    counts,
    frame,
    hello,
    keyed,
    replica,
    run,
    source,
    source_of,
)

OURS, THEIRS, STRANGER = generate_keys(), generate_keys(), generate_keys()
FAR: dict[str, Any] = {"keys": THEIRS, "allowed": [OURS.public]}


@pytest.mark.parametrize("loop", LOOPS)
def test_an_allowed_key_works_and_tells_who_it_is(loop: str) -> None:
    async def main() -> None:
        async with replica(**FAR) as far, source_of(far, **keyed(OURS, THEIRS)) as near:
            await near.up()
            await near.session()
            assert near.link.send_control(hello())
            await far.told.until(lambda: far.told.messages)
            peer, user, _ = far.told.messages[0]
            assert user == OURS.public
            assert far.endpoint.send_control(peer, ack(1))
            for n in range(100):
                assert near.link.send_frame(frame(n))
            await far.told.until(lambda: len(far.told.frames) == 100)
            assert set(far.told.users) == {OURS.public}
            await near.told.until(lambda: near.told.messages)

    run(main(), loop)


def test_each_connection_tells_its_own_key() -> None:
    async def main() -> None:
        allowed = [OURS.public, STRANGER.public]
        async with (
            replica(keys=THEIRS, allowed=allowed) as far,
            source_of(far, **keyed(OURS, THEIRS)) as one,
            source_of(far, **keyed(STRANGER, THEIRS)) as two,
        ):
            for near, number in ((one, 1), (two, 2)):
                await near.session()
                assert near.link.send_frame(frame(number))
                await far.told.until(counts(far.told.frames, number))
            assert far.told.users == allowed

    run(main())


def test_an_unknown_key_is_refused_on_both_ports_with_a_reason() -> None:
    async def main() -> None:
        async with replica(**FAR) as far, source_of(far, **keyed(STRANGER, THEIRS)) as near:
            near.link.connect()
            near.link.open_session()
            await near.told.until(lambda: near.told.downs and near.told.losses)
            for reason in (near.told.downs[0], near.told.losses[0]):
                assert "does not allow our key" in reason
            refused = ("PEER_REFUSED", "127.0.0.1", f"key {STRANGER.public}")
            assert refused in far.hook.events
            assert near.told.ups == near.told.readies == 0

    run(main())


def test_another_server_key_than_the_pinned_one_is_refused() -> None:
    async def main() -> None:
        async with replica(**FAR) as far, source_of(far, **keyed(OURS, STRANGER)) as near:
            near.link.connect()
            await near.told.until(lambda: near.told.downs)
            assert "its public key?" in near.told.downs[0]
            assert near.told.ups == 0

    run(main())


@pytest.mark.parametrize(
    ("far_options", "near_options"),
    [(FAR, {}), ({}, keyed(OURS, THEIRS))],
    ids=["plain client", "plain server"],
)
def test_keys_on_one_side_alone_are_refused(
    far_options: dict[str, Any], near_options: dict[str, Any]
) -> None:
    async def main() -> None:
        async with replica(**far_options) as far, source_of(far, **near_options) as near:
            near.link.connect()
            near.link.open_session()
            await near.told.until(lambda: near.told.downs and near.told.losses)
            assert "one side uses keys and the other does not" in near.told.downs[0]
            assert near.told.ups == near.told.readies == 0
            assert (far.told.messages, far.told.frames) == ([], [])

    run(main())


def test_a_list_may_change_and_holds_for_the_next_connection() -> None:
    async def main() -> None:
        context = LinkContext()
        handler = ZapHandler(context, [OURS.public])
        try:
            assert handler._judge(_request()) == OURS.public
            handler.allowed = frozenset()
            assert handler._judge(_request()) is None
        finally:
            handler.close()
            context.close()

    run(main())


def test_a_second_handler_in_one_context_is_refused() -> None:
    async def main() -> None:
        context = LinkContext()
        handler = ZapHandler(context, [])
        with pytest.raises(StateError, match="allow-list"):
            ZapHandler(context, [])
        handler.close()
        context.close()

    run(main())


class _NoHandler:
    """What stands where the handler should: nobody."""

    def __init__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass


class _YesHandler(ZapHandler):
    """A list that lets everybody in."""

    def _judge(self, request: list[bytes]) -> str | None:
        return "somebody"


@pytest.mark.parametrize(
    ("handler", "seen"), [(_NoHandler, "was not refused by the list"), (_YesHandler, "was let in")]
)
def test_an_endpoint_whose_list_does_not_hold_does_not_start(
    monkeypatch: pytest.MonkeyPatch, handler: type, seen: str
) -> None:
    monkeypatch.setattr("pratima_iscsi.edges.link_replica.ZapHandler", handler)

    async def main() -> None:
        with pytest.raises(StateError, match=seen):
            async with replica(**FAR, handshake_seconds=0.3):
                raise AssertionError("it started")

    run(main())


def test_a_domain_that_is_not_enforced_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """libzmq's trap: CURVE without ZAP takes any key."""

    def careless(socket: Any, keys: CurveKeys) -> None:
        socket.curve_server = 1
        socket.curve_secretkey = keys.secret.encode()

    monkeypatch.setattr("pratima_iscsi.edges.link_replica.ZapHandler", _NoHandler)
    monkeypatch.setattr("pratima_iscsi.edges.link_replica.secure_server", careless)

    async def main() -> None:
        with pytest.raises(StateError, match="an unknown key was let in"):
            async with replica(**FAR, handshake_seconds=0.5):
                raise AssertionError("it started")

    run(main())


def test_the_handler_gone_later_lets_nobody_in() -> None:
    async def main() -> None:
        async with replica(**FAR) as far:
            handler = next(c for c in far.endpoint._closing if isinstance(c, ZapHandler))
            handler.close()
            options = keyed(OURS, THEIRS)
            async with source_of(far, **options, handshake_seconds=0.5) as near:
                near.link.connect()
                await near.told.until(lambda: near.told.downs)
                assert near.told.ups == 0

    run(main())


def test_the_self_test_needs_a_server_that_judges() -> None:
    async def main() -> None:
        context = LinkContext()
        nobody: list[tuple[zmq.SocketType, LinkAddress]] = [
            (zmq.DEALER, LinkAddress("127.0.0.1", 1))
        ]
        with pytest.raises(StateError, match="does not hold"):
            await self_test(context, nobody, THEIRS.public, 0.5)
        context.close()

    run(main())


def _request(**changes: bytes) -> list[bytes]:
    from zmq.utils import z85

    fields = {
        "version": b"1.0",
        "id": b"1",
        "domain": curve.CURVE_DOMAIN,
        "address": b"192.0.2.1",
        "identity": b"",
        "mechanism": b"CURVE",
        "key": z85.decode(OURS.public.encode()),
    } | changes
    return list(fields.values())


def _requests_to_refuse() -> Iterator[list[bytes]]:
    yield []
    yield [b"1.0", b"1"]
    yield _request(version=b"2.0")
    yield _request(domain=b"")
    yield _request(domain=b"global")
    yield _request(domain=curve.PLAIN_DOMAIN)
    yield _request(mechanism=b"PLAIN")
    yield _request(mechanism=b"GSSAPI")
    yield _request(key=b"")
    yield _request(key=b"k" * 31)
    yield _request(key=bytes(32))
    yield [*_request(), b"one more"]
    yield _request(mechanism=b"NULL", domain=curve.CURVE_DOMAIN, address=b"127.0.0.1")
    for address in (b"192.0.2.1", b"10.0.0.1", b"::ffff:192.0.2.1", b"localhosts", b"\xff"):
        yield _request(mechanism=b"NULL", domain=curve.PLAIN_DOMAIN, address=address)[:-1]


def test_the_list_refuses_what_is_not_on_it_and_answers_every_request() -> None:
    async def main() -> None:
        context = LinkContext()
        handler = ZapHandler(context, [OURS.public])
        try:
            assert handler._reply(_request())[2:5] == [b"200", b"OK", OURS.public.encode()]
            for request in _requests_to_refuse():
                reply = handler._reply(request)
                assert (len(reply), reply[0], reply[2], reply[4]) == (6, b"1.0", b"400", b"")
            for address in (b"127.0.0.1", b"::1", b"localhost:0:0:42", b""):
                plain = _request(mechanism=b"NULL", domain=curve.PLAIN_DOMAIN, address=address)[:-1]
                assert handler._reply(plain)[2] == b"200"
        finally:
            handler.close()
            context.close()

    run(main())


@pytest.mark.parametrize("address", ["192.0.2.1:7010", "*:7010", "0.0.0.0:7010", "host.example:1"])
def test_plain_off_loopback_is_refused_on_both_sides(address: str) -> None:
    async def main() -> None:
        context = LinkContext()
        there = parse_address(address)
        with pytest.raises(UsageError, match="plain connections are refused"):
            SourceLink(context, SourceRecorder(), there)
        with pytest.raises(UsageError, match="plain connections are refused"):
            SourceLink(context, SourceRecorder(), FREE_GIVEN, there)
        with pytest.raises(UsageError, match="plain connections are refused"):
            ReplicaEndpoint(context, ReplicaRecorder(), there)
        with pytest.raises(UsageError, match="plain connections are refused"):
            ReplicaEndpoint(context, ReplicaRecorder(), FREE, there)
        context.close()

    run(main())


FREE_GIVEN = LinkAddress("127.0.0.1", 7010)


def test_half_a_set_of_keys_is_refused() -> None:
    async def main() -> None:
        context = LinkContext()
        with pytest.raises(UsageError, match="both"):
            SourceLink(context, SourceRecorder(), FREE_GIVEN, keys=OURS)
        with pytest.raises(UsageError, match="both"):
            SourceLink(context, SourceRecorder(), FREE_GIVEN, peer_key=THEIRS.public)
        with pytest.raises(UsageError, match="both"):
            ReplicaEndpoint(context, ReplicaRecorder(), FREE, keys=THEIRS)
        with pytest.raises(UsageError, match="both"):
            ReplicaEndpoint(context, ReplicaRecorder(), FREE, allowed=[OURS.public])
        with pytest.raises(UsageError, match="not a public key"):
            ReplicaEndpoint(context, ReplicaRecorder(), FREE, keys=THEIRS, allowed=["short"])
        context.close()

    run(main())


def test_keys_are_checked_and_a_secret_is_never_shown() -> None:
    assert OURS.secret not in repr(OURS)
    for public, secret in (
        ("", OURS.secret),
        ("x" * 39, OURS.secret),
        ("\u00e9" * 40, OURS.secret),
        ("~" * 40, OURS.secret),
        (OURS.public, ""),
        (OURS.public, "~" * 40),
        (OURS.public, THEIRS.secret),
    ):
        with pytest.raises(UsageError) as caught:
            CurveKeys(public, secret)
        assert not secret or secret not in str(caught.value)


def test_a_wildcard_listener_tests_itself_on_loopback() -> None:
    async def main() -> None:
        async with replica(parse_address("0.0.0.0:0"), **FAR) as far:
            port = far.endpoint.control_address.port
            data = LinkAddress("127.0.0.1", far.endpoint.data_address.port)
            local = LinkAddress("127.0.0.1", port)
            async with source(local, data, **keyed(OURS, THEIRS)) as near:
                await near.up()

    run(main())
