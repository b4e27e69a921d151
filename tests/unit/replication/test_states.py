"""The one word of status over every combination, and any event in any state of a link."""

from itertools import product

import pytest

from pratima_iscsi.backstore import Backstore, GroupOptions
from pratima_iscsi.positions import ORIGIN
from pratima_iscsi.replication import effects as fx
from pratima_iscsi.replication.group import LinkOptions
from pratima_iscsi.replication.messages import (
    Ack,
    Closed,
    Hello,
    Refused,
    VerifyAnswer,
    VolumeOffer,
    Welcome,
)
from pratima_iscsi.replication.source_state import SourceState
from pratima_iscsi.replication.states import Connection, LinkState, Mode, Replication, link_state

SESSION = b"s" * 16


@pytest.mark.parametrize(
    ("connection", "replication", "covered"),
    list(product(Connection, Replication, (False, True))),
)
def test_every_combination_has_one_word(
    connection: Connection, replication: Replication, covered: bool
) -> None:
    state = link_state(connection, replication, covered=covered)
    assert (state is LinkState.SYNCED) == (
        connection is Connection.OPEN and replication is Replication.STREAM and covered
    )
    if state is LinkState.RESYNCING:
        assert connection is Connection.OPEN and replication is not Replication.TABLE


def test_every_word_is_used() -> None:
    words = {
        link_state(connection, replication, covered=covered)
        for connection, replication, covered in product(Connection, Replication, (False, True))
    }
    assert words == set(LinkState)


def welcome(attempt: int, *, consistent: bool = False) -> Welcome:
    """A fresh replica's answer."""
    return Welcome(
        version=1,
        node=b"n" * 16,
        attempt=attempt,
        session=SESSION,
        credit=1 << 20,
        bound=consistent,
        consistent=consistent,
        generation=0,
        sequence=0,
        history=bytes(16),
        ancestry=(),
        incarnation=0,
        durable=0,
        transaction=0,
        direct=False,
        ended=0,
        staging_bytes=1 << 40,
    )


def bring_to(connection: Connection) -> tuple[Backstore, float]:
    """A group whose one link stands at ``connection``."""
    options = GroupOptions((VolumeOffer("v0", 1 << 16),), (LinkOptions("r", Mode.SYNC),), 1 << 20)
    state = SourceState(b"g" * 16, "default", b"n" * 16)
    group = Backstore(options, state)
    link, now = group.links[0], 100.0
    if connection is Connection.WAITING:
        return group, now
    if connection is Connection.DISABLED:
        group.disable(0, now)
        return group, now
    group.tick(now)
    refusals = {Connection.REFUSED: "group", Connection.FAILED: "failed"}
    if connection in refusals:
        group.control(0, Refused(1, link.attempt, refusals[connection], "says so"), now)
    elif connection in (Connection.DIVERGED, Connection.HELD):
        link.stand_back(connection, "for the test", now)
    elif connection is not Connection.GREETING:
        group.control(0, welcome(link.attempt), now)
        if connection is not Connection.OPENING:
            group.data_ready(0, SESSION, now)
        if connection is Connection.SILENT:
            now += 4.0
            group.tick(now)
    return group, now


EVENTS = (
    "welcome",
    "old welcome",
    "refused",
    "ack",
    "ack of another session",
    "ack beyond",
    "verify answer",
    "closed",
    "data ready",
    "data lost",
    "reachable",
    "unreachable",
    "sought",
    "violation",
    "tick",
    "late tick",
    "reconnect",
    "kill",
    "disable",
    "enable",
    "clean",
    "clean without proof",
    "resync from primary",
    "degraded",
)


def happen(group: Backstore, event: str, now: float) -> None:
    """One event."""
    link = group.links[0]
    ack = Ack(SESSION, 0, 0, 0, 0, bytes(16))
    messages = {
        "welcome": welcome(link.attempt),
        "old welcome": welcome(link.attempt - 1),
        "refused": Refused(1, link.attempt, "size", "differs"),
        "ack": ack,
        "ack of another session": Ack(b"x" * 16, 1, 1, 0, 0, bytes(16)),
        "ack beyond": Ack(SESSION, 1000, 1000, 0, 0, bytes(16)),
        "verify answer": VerifyAnswer(SESSION, 1, 1, (0,)),
        "closed": Closed(SESSION, "over"),
    }
    if event in messages:
        group.control(0, messages[event], now)
        return
    match event:
        case "data ready":
            group.data_ready(0, SESSION, now)
        case "data lost":
            group.data_lost(0, SESSION, "reset", now)
        case "reachable":
            link.reachable(now)
        case "unreachable":
            link.unreachable("nobody there", now)
        case "sought":
            link.sought()
        case "violation":
            link.break_off("not understood", now)
        case "tick":
            group.tick(now)
        case "late tick":
            group.tick(now + 100.0)
        case "reconnect":
            group.reconnect(0, now)
        case "kill":
            group.kill(0, now)
        case "disable":
            group.disable(0, now)
        case "enable":
            group.enable(0, now)
        case "clean":
            group.clean(0, now, proof=True)
        case "clean without proof":
            group.clean(0, now, proof=False)
        case "resync from primary":
            group.resync_from_primary(now)
        case "degraded":
            group.degraded_persisted(0, True, now)


@pytest.mark.parametrize("connection", list(Connection))
@pytest.mark.parametrize("event", EVENTS)
def test_any_event_in_any_state_keeps_the_cover_and_the_session_straight(
    connection: Connection, event: str
) -> None:
    group, now = bring_to(connection)
    link = group.links[0]
    assert link.connection is connection
    covered = len(link.cover())
    group.take_effects()
    happen(group, event, now)
    group.pump(now)
    in_session = (Connection.OPENING, Connection.OPEN, Connection.SILENT)
    assert (link.session != b"") == (link.connection in in_session)
    if link.connection is Connection.DISABLED:
        assert link.must_compare
    else:
        assert len(link.cover()) >= covered, "a block was forgotten"
    effects = group.take_effects()
    if link.connection is Connection.DISABLED:
        frames = [effect for effect in effects if isinstance(effect, fx.SendFrame)]
        assert not frames
    hellos = [e for e in effects if isinstance(e, fx.SendControl) and isinstance(e.message, Hello)]
    assert len(hellos) <= 1
    assert group.next_timer(now) > now - 1e-9 or link.connection in (
        Connection.WAITING,
        Connection.GREETING,
    )
    assert link.base == ORIGIN
