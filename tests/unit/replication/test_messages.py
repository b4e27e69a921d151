"""Control messages whose numbers cannot be: refused where they are decoded."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.positions import SEQUENCE_MAX, History, Position
from pratima_iscsi.records import End
from pratima_iscsi.replication.messages import (
    Ack,
    Hello,
    Message,
    Ping,
    Welcome,
    decode_to_replica,
    decode_to_source,
    encode,
)

ID = b"i" * 16
WELCOME = Welcome(
    1, ID, 2, ID, 1 << 20, True, True, 3, 4, ID, ((1, -1),), 5, 6, 0, False, 0, 1 << 30
)
HELLO = Hello(1, ID, "g", ID, 5, (), 3, 4, ((1, -1),), 2)


@pytest.mark.parametrize(
    ("message", "decode"),
    [
        (WELCOME, decode_to_source),
        (Ack(ID, 6, 6, 3, 4, ID), decode_to_source),
        (HELLO, decode_to_replica),
        (Ping(ID, 3, 4), decode_to_replica),
    ],
)
def test_a_position_that_no_database_could_hold_is_no_message(
    message: Message, decode: Callable[[bytes], Message]
) -> None:
    last = replace(message, sequence=SEQUENCE_MAX)
    assert decode(encode(last)) == last
    with pytest.raises(RemoteProtocolError):
        decode(encode(replace(message, sequence=SEQUENCE_MAX + 1)))


@pytest.mark.parametrize(
    ("message", "decode"), [(WELCOME, decode_to_source), (HELLO, decode_to_replica)]
)
def test_an_ancestor_that_ended_beyond_every_position_is_no_message(
    message: Message, decode: Callable[[bytes], Message]
) -> None:
    for last in (-2, SEQUENCE_MAX + 1):
        with pytest.raises(RemoteProtocolError):
            decode(encode(replace(message, ancestry=((1, last),))))


def test_an_end_beyond_every_position_is_refused() -> None:
    payload = End(1, History(Position(2, SEQUENCE_MAX)), ID).encode()
    assert End.decode(payload).history.position.sequence == SEQUENCE_MAX
    with pytest.raises(RemoteProtocolError):
        End.decode(End(1, History(Position(2, SEQUENCE_MAX + 1)), ID).encode())
