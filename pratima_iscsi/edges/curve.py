"""CURVE: keys, the options of each side's sockets, the allow-list, and the proof that it holds.

libzmq's CURVE fails OPEN: a server without a ZAP handler takes any key. One rule: so every
listening socket has a ZAP domain that is enforced, the handler answers 400 to whatever is not on
its list, and a replica daemon starts only after a random key was seen to be refused.
"""

import asyncio
import ipaddress
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import zmq
from zmq.utils import z85

from pratima_iscsi.edges.link_address import LinkAddress
from pratima_iscsi.edges.link_dial import Dial, DialOptions, Loss, LossKind
from pratima_iscsi.edges.link_sockets import (
    EventHook,
    LinkContext,
    Socket,
    SocketReader,
    parts_of,
)
from pratima_iscsi.errors import StateError, UsageError
from pratima_iscsi.limits import CONTROL_BYTES_MAX, HANDSHAKE_SECONDS

KEY_CHARACTERS: Final = 40
"""A key in Z85: 32 bytes."""

CURVE_DOMAIN: Final = b"pratima-curve"
PLAIN_DOMAIN: Final = b"pratima-plain"
"""Also set on plain sockets of both sides: with a domain, libzmq refuses ZMTP 1 and 2, in which
whatever a web browser says would pass for messages."""

_ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"
_ZAP_VERSION: Final = b"1.0"
_NOBODY: Final = ""


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """A node's key pair in Z85; raises UsageError for a pair that is none."""

    public: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        check_public_key(self.public)
        try:
            derived = zmq.curve_public(self.secret.encode("ascii")).decode("ascii")
        except (ValueError, zmq.ZMQError):
            raise UsageError("the secret key is not one", "make a pair: pratima keygen") from None
        if derived != self.public:
            raise UsageError(
                "the secret key belongs to another public key", "make a pair: pratima keygen"
            )


def generate_keys() -> CurveKeys:
    """A fresh random pair."""
    public, secret = zmq.curve_keypair()
    return CurveKeys(public.decode("ascii"), secret.decode("ascii"))


def check_public_key(key: str) -> str:
    """The key itself; raises UsageError unless it is 32 bytes in Z85."""
    try:
        if len(key) == KEY_CHARACTERS and len(z85.decode(key.encode("ascii"))) == 32:
            return key
    except (ValueError, KeyError, struct.error):
        pass
    raise UsageError(
        f"{key[:KEY_CHARACTERS]!r} is not a public key of 40 characters",
        "take it from the public half that pratima keygen wrote",
    )


def plain_or_keys(address: LinkAddress, keys: CurveKeys | None) -> None:
    """Raises UsageError for an address that other machines reach, without keys."""
    if keys is None and not address.is_local:
        raise UsageError(
            f"{address} is not loopback: plain connections are refused there",
            "make keys with pratima keygen and give --key and --allow",
        )


def secure_client(socket: Socket, keys: CurveKeys | None, peer_key: str | None) -> None:
    """Set a dialling socket's keys, or plain for None; it then talks to ``peer_key`` alone."""
    if keys is None:
        socket.zap_domain = PLAIN_DOMAIN
        return
    assert peer_key is not None
    socket.curve_publickey = keys.public.encode("ascii")
    socket.curve_secretkey = keys.secret.encode("ascii")
    socket.curve_serverkey = peer_key.encode("ascii")


def secure_server(socket: Socket, keys: CurveKeys | None) -> None:
    """Set a listening socket's keys, or plain for None; before it binds."""
    socket.zap_domain = PLAIN_DOMAIN if keys is None else CURVE_DOMAIN
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    if keys is not None:
        socket.curve_server = 1
        socket.curve_secretkey = keys.secret.encode("ascii")


class ZapHandler:
    """Answers libzmq's question for each new connection: who is it, and may it (ZeroMQ RFC 27).

    Allowed are a listed key in the CURVE domain, and NULL in the plain domain from this machine;
    everything else is refused. One per context, and there before any socket listens.
    """

    def __init__(
        self, context: LinkContext, allowed: Iterable[str], hook: EventHook | None = None
    ) -> None:
        self.allowed = frozenset(map(check_public_key, allowed))
        self._hook = hook
        self._socket = context.socket(zmq.REP)
        try:
            self._socket.bind(_ZAP_ENDPOINT)
        except zmq.ZMQError as error:
            self._socket.close()
            raise StateError(f"the allow-list cannot be enforced: {error}") from None
        self._reader = SocketReader(asyncio.get_running_loop(), self._socket, self._read)

    def close(self) -> None:
        """Stop answering: from now on every connection is refused."""
        if not self._socket.closed:
            self._reader.close()
            self._socket.close()

    def _read(self, first: zmq.Frame) -> int:
        request = parts_of(self._socket, first)
        self._socket.send_multipart(self._reply(request))
        return sum(map(len, request))

    def _reply(self, request: list[bytes]) -> list[bytes]:
        request_id = request[1] if len(request) > 1 else b""
        user = self._judge(request)
        if user is None:
            return [_ZAP_VERSION, request_id, b"400", b"not allowed", b"", b""]
        return [_ZAP_VERSION, request_id, b"200", b"OK", user.encode("ascii"), b""]

    def _judge(self, request: list[bytes]) -> str | None:
        """The user of an allowed request (a public key, or nobody), None for any other."""
        if len(request) < 6 or request[0] != _ZAP_VERSION:
            self._refused("", "malformed request")
            return None
        domain, address_bytes, mechanism, credentials = *request[2:4], request[5], request[6:]
        address = address_bytes.decode(errors="replace")
        if mechanism == b"CURVE" and domain == CURVE_DOMAIN:
            key = _key_of(credentials)
            if key in self.allowed:
                return key
            self._refused(address, f"key {key or 'malformed'}")
        elif mechanism == b"NULL" and domain == PLAIN_DOMAIN and _is_local(address):
            return _NOBODY
        else:
            self._refused(address, f"mechanism {mechanism!r} in domain {domain!r}")
        return None

    def _refused(self, address: str, what: str) -> None:
        if self._hook is not None:
            self._hook("PEER_REFUSED", address, what)


def _key_of(credentials: list[bytes]) -> str:
    if len(credentials) != 1 or len(credentials[0]) != 32:
        return ""
    return z85.encode(credentials[0]).decode("ascii")


def _is_local(address: str) -> bool:
    """Loopback, or a UNIX socket's peer (libzmq: ``localhost:uid:gid:pid``)."""
    if not address or address.startswith("localhost:"):
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def reachable(address: LinkAddress) -> LinkAddress:
    """The address itself, or loopback for one that means every address."""
    if address.host == "0.0.0.0":
        return LinkAddress("127.0.0.1", address.port)
    if address.host == "::":
        return LinkAddress("::1", address.port)
    return address


async def self_test(
    context: LinkContext,
    addresses: Iterable[tuple[zmq.SocketType, LinkAddress]],
    server_key: str,
    seconds: float = HANDSHAKE_SECONDS,
) -> None:
    """Dial each address with a random key; raises StateError unless each one refuses it by ZAP.

    That a connection merely fails is not enough: then nobody has judged the key.
    """
    for kind, address in addresses:
        loss = await _dial_with(context, kind, address, generate_keys(), server_key, seconds)
        if loss is None or loss.kind is not LossKind.REFUSED:
            seen = "was let in" if loss is None else f"was not refused by the list ({loss.reason})"
            raise StateError(
                f"the allow-list does not hold at {address}: an unknown key {seen}",
                "the daemon does not listen like this; check pyzmq and libzmq",
            )


async def _dial_with(
    context: LinkContext,
    kind: zmq.SocketType,
    address: LinkAddress,
    keys: CurveKeys,
    server_key: str,
    seconds: float,
) -> Loss | None:
    """How a dial with ``keys`` ended; None when it was let in."""
    outcome: asyncio.Future[Loss | None] = asyncio.get_running_loop().create_future()

    def settle(loss: Loss | None) -> None:
        if not outcome.done():
            outcome.set_result(loss)

    def secure(socket: Socket) -> None:
        secure_client(socket, keys, server_key)

    ready: Callable[[], None] = lambda: settle(None)  # noqa: E731
    options = DialOptions(kind, "own", CONTROL_BYTES_MAX, 1, secure, seconds)
    dial = Dial(context, address, options, ready, settle)
    try:
        return await outcome
    finally:
        dial.close()
