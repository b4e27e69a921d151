"""What a daemon notes: each change once in its log, alarms by group for status."""

import logging
from collections.abc import Callable

import pytest

from pratima_iscsi import limits
from pratima_iscsi.engine.process import Events

LINK = "group db replica 127.0.0.1:7010"


def test_what_is_said_again_is_one_line_and_one_alarm(caplog: pytest.LogCaptureFixture) -> None:
    events = Events()
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            events.note(LINK, "refused", "size: too small", alarm=True)
        events.note(LINK, "open", "in step", alarm=False)
        events.note(LINK, "refused", "size: too small", alarm=True)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]
    assert [(alarm.event, alarm.reason) for alarm in events.alarms("db")] == [
        ("refused", "size: too small")
    ]


def test_what_two_reasons_say_in_turn_is_two_lines_until_one_of_them_lasts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[tuple[Callable[..., None], tuple[object, ...]]] = []
    events = Events(later=lambda seconds, call, *words: calls.append((call, words)))
    with caplog.at_level(logging.INFO), pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.monotonic", lambda: 0.0)
        for _ in range(5):
            events.note(LINK, "welcome", "first sync", alarm=False)
            events.note(LINK, "waiting", "data port", alarm=False)
        assert len(caplog.records) == 2
        patch.setattr("time.monotonic", lambda: limits.REPEAT_LASTS_SECONDS)
        ((look, words),) = calls
        look(*words)
    assert caplog.records[-1].message == f"{LINK}: waiting: data port (again, 4 times)"
    assert len(calls) == 1, "nobody looks for more"


def test_a_group_that_is_served_no_more_leaves_nothing_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events = Events()
    with caplog.at_level(logging.INFO):
        for where in (LINK, "group db", "group db2"):
            events.note(where, "refused", "size", alarm=False)
        events.forget("db")
        for where in (LINK, "group db", "group db2"):
            events.note(where, "refused", "size", alarm=False)
    said = [record.message.partition(":")[0] for record in caplog.records]
    assert said.count("group db") == 2 and said.count("group db2") == 1


def test_alarms_belong_to_their_group_and_the_newest_stands_last() -> None:
    events = Events()
    events.note("group db", "one", "", alarm=True)
    events.note("group db2", "other", "", alarm=True)
    events.note(LINK, "two", "", alarm=True)
    events.note("group db", "one", "", alarm=True)
    assert [alarm.event for alarm in events.alarms("db")] == ["two", "one"]
    assert [alarm.event for alarm in events.alarms("db2")] == ["other"]


def test_an_alarm_that_belongs_to_no_group_is_the_nodes_own() -> None:
    events = Events()
    events.note("events", "no events port", "in use", alarm=True)
    events.note("group db", "one", "", alarm=True)
    events.note("kernel", "not as it should be", "no \x1b", alarm=True)
    events.note("link", "violation", "no alarm", alarm=False)
    assert [(alarm.place, alarm.event, alarm.reason) for alarm in events.node_alarms()] == [
        ("events", "no events port", "in use"),
        ("kernel", "not as it should be", "no \\x1b"),
    ]
    assert [alarm.event for alarm in events.alarms("db")] == ["one"]


def test_alarms_are_bounded_and_printable() -> None:
    events = Events()
    for number in range(2 * limits.ALARMS_KEPT):
        events.note("group db", "event", f"{number}\x1b[2J", alarm=True)
    alarms = events.alarms("db")
    assert len(alarms) == limits.ALARMS_KEPT
    assert alarms[-1].reason == f"{2 * limits.ALARMS_KEPT - 1}\\x1b[2J"
