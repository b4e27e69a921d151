"""What a daemon notes: each change once in its log, alarms by group for status."""

import logging

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
