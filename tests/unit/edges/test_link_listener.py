"""Which connections of a port may still be in their handshake, as far as libzmq tells."""

from pratima_iscsi.edges.link_listener import Handshakes


def test_one_beyond_the_limit_is_too_many_until_another_is_through() -> None:
    handshakes = Handshakes(2, 5.0)
    assert handshakes.began(7, 0.0) and handshakes.began(8, 0.0)
    assert not handshakes.began(9, 0.0)
    handshakes.closed(9)
    handshakes.succeeded()
    assert handshakes.began(9, 0.0)
    assert not handshakes.began(10, 0.0)


def test_a_connection_that_is_gone_makes_room() -> None:
    handshakes = Handshakes(1, 5.0)
    assert handshakes.began(7, 0.0)
    handshakes.closed(7)
    assert handshakes.began(7, 0.0), "its number is used again"


def test_a_connection_older_than_a_handshake_can_be_is_through() -> None:
    handshakes = Handshakes(1, 5.0)
    assert handshakes.began(7, 0.0)
    assert not handshakes.began(8, 4.9)
    handshakes.closed(8)
    assert handshakes.began(9, 5.0)


def test_what_is_told_of_a_connection_that_is_through_changes_nothing() -> None:
    handshakes = Handshakes(1, 5.0)
    handshakes.succeeded()
    handshakes.closed(7)
    assert handshakes.began(7, 0.0)
    assert not handshakes.began(8, 0.0)
