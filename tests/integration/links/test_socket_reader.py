"""What a reader does with the wake-ups of its socket."""

import asyncio
import select

import pytest
import zmq

from pratima_iscsi.edges.link_sockets import LinkContext, SocketReader, parts_of
from tests.integration.links.rig import LOOPS, Waiter, run

PLACE = "inproc://reader"


class Got(Waiter):
    """The messages that came."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        super().__init__()
        self._socket = socket
        self.messages: list[list[bytes]] = []

    def read(self, first: zmq.Frame) -> int:
        parts = parts_of(self._socket, first)
        self.messages.append(parts)
        self.tell()
        return sum(map(len, parts))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_wake_up_without_a_message_is_no_error_and_the_next_message_comes(loop: str) -> None:
    async def main() -> None:
        context = LinkContext()
        socket = context.socket(zmq.SocketType.PAIR)
        socket.bind(PLACE)
        peer = context.socket(zmq.SocketType.PAIR)
        peer.connect(PLACE)
        got = Got(socket)
        reader = SocketReader(asyncio.get_running_loop(), socket, got.read)
        peer.send(b"first")
        await got.until(lambda: got.messages)
        peer.close()
        assert select.select([socket.FD], [], [], 30)[0], "the end of a peer wakes nobody"
        while select.select([socket.FD], [], [], 0)[0]:
            await asyncio.sleep(0)
        peer = context.socket(zmq.SocketType.PAIR)
        peer.connect(PLACE)
        peer.send_multipart([b"one", b"two"])
        await got.until(lambda: len(got.messages) > 1)
        assert got.messages == [[b"first"], [b"one", b"two"]]
        reader.close()
        context.close()

    run(main(), loop)
