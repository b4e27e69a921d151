"""A source's side of one link: a control connection, always sought, and a data one per session.

It dials both ports of the replica; messages come and go as values, frames as bytes. One rule: it
repairs nothing. A data connection that ends, or a frame that finds no room, ends the session, and
whatever was not acknowledged is the core's to send again in another one.
"""

import asyncio
from typing import Protocol

import zmq

from pratima_iscsi.edges.curve import CurveKeys, check_public_key, plain_or_keys, secure_client
from pratima_iscsi.edges.link_address import LinkAddress
from pratima_iscsi.edges.link_dial import Dial, DialOptions, Loss, LossKind
from pratima_iscsi.edges.link_sockets import EventHook, LinkContext, Socket, parts_of
from pratima_iscsi.errors import RemoteProtocolError, UsageError
from pratima_iscsi.limits import (
    BACKOFF_SECONDS_MAX,
    BACKOFF_SECONDS_MIN,
    CONTROL_BYTES_MAX,
    CONTROL_MESSAGES_MAX,
    FAREWELL_SECONDS,
    FRAME_BYTES_MAX,
    FRAMES_UNSENT_MAX,
    HANDSHAKE_SECONDS,
    KIB,
)
from pratima_iscsi.operations import Buffer
from pratima_iscsi.replication.messages import Message, ToSource, decode_to_source, encode

_DATA_ANSWER_BYTES_MAX = 64 * KIB
"""A replica never answers on the data connection; this is for the transport's own commands."""


class SourceHandler(Protocol):
    """What a source's link tells; every call comes from the loop, none from inside a call to it."""

    def on_up(self) -> None:
        """The control connection stands: a good moment for HELLO."""

    def on_down(self, reason: str) -> None:
        """There is no control connection (told at each attempt that fails); it is sought again."""

    def on_control(self, message: ToSource) -> None:
        """The replica sent a control message."""

    def on_violation(self, error: RemoteProtocolError) -> None:
        """The replica sent what is no control message; its session is to be closed."""

    def on_data_ready(self) -> None:
        """The session's data connection stands; frames may be sent."""

    def on_data_lost(self, reason: str) -> None:
        """The session's data connection is gone for good; told once a session."""


class SourceLink:
    """One link's sockets. Raises UsageError at once for addresses and keys that cannot be."""

    def __init__(
        self,
        context: LinkContext,
        handler: SourceHandler,
        control: LinkAddress,
        data: LinkAddress | None = None,
        *,
        keys: CurveKeys | None = None,
        peer_key: str | None = None,
        hook: EventHook | None = None,
        handshake_seconds: float = HANDSHAKE_SECONDS,
        frames_unsent_max: int = FRAMES_UNSENT_MAX,
    ) -> None:
        self._context = context
        self._handler = handler
        self._control_address = control
        self._data_address = control.above() if data is None else data
        for address in (self._control_address, self._data_address):
            _check_address(address, keys)
        _check_keys(keys, peer_key)
        self._keys = keys
        self._peer_key = peer_key
        self._control_options = DialOptions(
            zmq.DEALER,
            "control",
            CONTROL_BYTES_MAX,
            CONTROL_MESSAGES_MAX,
            self._secure,
            handshake_seconds,
            self._read_control,
            hook,
        )
        self._data_options = DialOptions(
            zmq.PUSH,
            "data",
            _DATA_ANSWER_BYTES_MAX,
            frames_unsent_max,
            self._secure,
            handshake_seconds,
            hook=hook,
        )
        self._control: Dial | None = None
        self._data: Dial | None = None
        self._backoff_seconds = BACKOFF_SECONDS_MIN
        self._redial: asyncio.TimerHandle | None = None

    @property
    def is_up(self) -> bool:
        """Whether the control connection stands."""
        return self._control is not None and self._control.ready

    @property
    def is_data_ready(self) -> bool:
        """Whether the session's data connection stands."""
        return self._data is not None and self._data.ready

    def connect(self) -> None:
        """Seek the control connection, now: a back-off is cut short, a connection made anew."""
        self.disconnect()
        try:
            self._control = Dial(
                self._context,
                self._control_address,
                self._control_options,
                self._handler.on_up,
                self._control_lost,
            )
        except zmq.ZMQError as error:
            asyncio.get_running_loop().call_soon(self._control_lost, _no_socket(error))

    def disconnect(self) -> None:
        """End the control connection and seek no other."""
        if self._redial is not None:
            self._redial.cancel()
            self._redial = None
        if self._control is not None:
            self._control.close(FAREWELL_SECONDS if self._control.ready else 0.0)
            self._control = None

    def send_control(self, message: Message) -> bool:
        """Send one message; False when there is no connection or its queue is full."""
        return self._control is not None and self._control.send(encode(message))

    def open_session(self) -> None:
        """Dial a fresh data connection; the one before, if any, is closed first."""
        self.close_session()
        try:
            self._data = Dial(
                self._context,
                self._data_address,
                self._data_options,
                self._handler.on_data_ready,
                self._data_lost,
            )
        except zmq.ZMQError as error:
            asyncio.get_running_loop().call_soon(self._data_lost, _no_socket(error))

    def close_session(self) -> None:
        """End the session's data connection at once: frames not yet sent are dropped."""
        if self._data is not None:
            self._data.close()
            self._data = None

    def send_frame(self, frame: Buffer) -> bool:
        """Hand one frame over (copied); False: there is no room or no connection, and the session
        is to be closed, for a frame would be missing."""
        assert len(frame) <= FRAME_BYTES_MAX
        return self._data is not None and self._data.send(frame)

    def close(self) -> None:
        """Close both; a message sent just before still has FAREWELL_SECONDS to leave."""
        self.close_session()
        self.disconnect()

    def _secure(self, socket: Socket) -> None:
        secure_client(socket, self._keys, self._peer_key)

    def _control_lost(self, loss: Loss) -> None:
        self._control = None
        self._redial = asyncio.get_running_loop().call_later(self._backoff_seconds, self.connect)
        self._backoff_seconds = min(self._backoff_seconds * 2, BACKOFF_SECONDS_MAX)
        self._handler.on_down(loss.reason)

    def _data_lost(self, loss: Loss) -> None:
        self._data = None
        self._handler.on_data_lost(loss.reason)

    def _read_control(self, socket: Socket, first: zmq.Frame) -> int:
        parts = parts_of(socket, first)
        self._receive(parts)
        return sum(map(len, parts))

    def _receive(self, parts: list[bytes]) -> None:
        try:
            if len(parts) != 1:
                raise RemoteProtocolError(f"control message of {len(parts)} parts")
            message = decode_to_source(parts[0])
        except RemoteProtocolError as error:
            self._handler.on_violation(error)
            return
        self._backoff_seconds = BACKOFF_SECONDS_MIN  # only a peer that talks sense resets it
        self._handler.on_control(message)


def _no_socket(error: zmq.ZMQError) -> Loss:
    return Loss(LossKind.UNREACHABLE, f"this process has no room for a socket: {error}")


def _check_address(address: LinkAddress, keys: CurveKeys | None) -> None:
    plain_or_keys(address, keys)
    if not address.path and not address.port:
        raise UsageError(f"{address}: port 0 cannot be dialled", "give the replica's port")


def _check_keys(keys: CurveKeys | None, peer_key: str | None) -> None:
    if (keys is None) != (peer_key is None):
        raise UsageError(
            "a link needs both its own key pair and the replica's public key, or neither",
            "give --key and --allow",
        )
    if peer_key is not None:
        check_public_key(peer_key)
