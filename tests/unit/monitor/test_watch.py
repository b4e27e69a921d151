"""The monitor's loop where nobody looks at a terminal: each change is a line."""

from collections.abc import Sequence
from typing import Final

import pytest

from pratima_iscsi.control.events import Event, encode_event
from pratima_iscsi.edges.event_sockets import EventSubscriber
from pratima_iscsi.monitor.watch import print_changes
from tests.unit.monitor.scene import SYNCED, Voice, primary

SOURCE: Final = "p"


class Told(EventSubscriber):
    """Hears what a test says, all at once, and is interrupted then."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._heard = [(SOURCE, encode_event(event) or b"") for event in events]

    def wait(self, seconds: float) -> list[tuple[str, bytes]]:
        if not self._heard:
            raise KeyboardInterrupt
        heard, self._heard = self._heard, []
        return heard


def printed(capsys: pytest.CaptureFixture[str], *events: Event) -> list[str]:
    """The lines without their time of day."""
    with pytest.raises(KeyboardInterrupt):
        print_changes(Told(events), [SOURCE])
    return [line.split(" ", 2)[2] for line in capsys.readouterr().out.splitlines()]


def test_each_change_is_one_line_and_a_status_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    voice = Voice()
    lines = printed(
        capsys,
        voice.status(primary(SYNCED)),
        voice.change("in step"),
        voice.status(primary(SYNCED)),
        voice.change("log full", alarm=True, event="overflow"),
    )
    assert lines == ["p db r:1: open: in step", "p db r:1: ALARM overflow: log full"]


def test_the_first_events_of_a_new_run_are_missed_in_a_line_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    again = Voice("run2")
    again.skip(1)
    lines = printed(capsys, Voice().change("in step"), again.status(primary(SYNCED)))
    assert lines == ["p db r:1: open: in step", "p: a new run, whose first event did not reach us"]
