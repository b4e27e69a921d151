"""Attempts that go one way again and again: told once, then with a count; what lasts is told."""

from pratima_iscsi.engine.repeats import Note, Place
from pratima_iscsi.limits import REPEAT_LASTS_SECONDS, REPEAT_SECONDS, REPEATS_KEPT

WELCOME = Note("welcome", "first sync", alarm=False)
AWAY = Note("waiting", "data port: connection refused", alarm=False)
OPEN = Note("open", "first sync", alarm=False)
BACK = Note("replica went back", "it is older than what it acknowledged", alarm=True)
CYCLE = (BACK, WELCOME, AWAY)
STEP = 2.0


def attempts(place: Place, now: float, count: int) -> tuple[list[Note], float]:
    """What is told of so many attempts, and when they are over."""
    told = []
    for note in CYCLE * count:
        told.append(place.note(note, now))
        now += STEP
    return [note for note in told if note is not None], now


def test_attempts_that_go_the_same_way_are_told_once() -> None:
    told, _ = attempts(Place(), 0.0, 20)
    assert told == [*CYCLE]


def test_what_comes_back_after_a_session_is_told_again_at_once() -> None:
    place = Place()
    _, now = attempts(place, 0.0, 3)
    assert place.note(OPEN, now) == OPEN
    assert attempts(place, now, 3)[0] == [*CYCLE]


def test_an_attempt_that_goes_another_way_is_told_at_once() -> None:
    place = Place()
    _, now = attempts(place, 0.0, 3)
    other = Note("waiting", "control port: connection refused", alarm=False)
    assert place.note(other, now) == other


def test_what_goes_on_is_told_once_in_a_while_with_a_count() -> None:
    place = Place()
    period = len(CYCLE) * STEP
    count = int(3 * REPEAT_SECONDS / period)
    told, _ = attempts(place, 0.0, count)
    assert len(told) == 3 * len(CYCLE)
    times = int(REPEAT_SECONDS / period)
    assert told[-1] == Note("waiting", f"{AWAY.reason} (again, {times} times)", alarm=False)
    assert told[-3].alarm


def test_what_was_kept_back_and_lasts_is_told() -> None:
    place = Place()
    _, now = attempts(place, 0.0, 2)
    assert place.look(now) is None
    assert place.note(AWAY, now) is None, "it only lasts"
    assert place.due == now - STEP + REPEAT_LASTS_SECONDS
    assert place.look(place.due) == AWAY
    assert place.look(now + 2 * REPEAT_SECONDS) is None, "once"


def test_what_a_later_note_replaced_does_not_last() -> None:
    place = Place()
    _, now = attempts(place, 0.0, 2)
    assert place.note(OPEN, now) == OPEN
    assert place.look(now + REPEAT_LASTS_SECONDS) is None


def test_what_is_remembered_of_a_place_is_bounded() -> None:
    place = Place()
    notes = [Note("waiting", f"reason {number}", alarm=False) for number in range(REPEATS_KEPT + 1)]
    for note in notes:
        assert place.note(note, 0.0) == note
    assert place.note(notes[1], 0.0) is None, "one of the latest"
    assert place.note(notes[0], 0.0) == notes[0], "the oldest is forgotten"
