"""The monitor's picture: what is drawn where, within which width and height, and safely."""

import msgspec
import pytest

from pratima_iscsi.monitor.model import Model
from pratima_iscsi.monitor.picture import bar, picture, plain, spark
from tests.unit.monitor.scene import (
    AWAY,
    CLOCK,
    REFUSED,
    RESYNCING,
    SYNCED,
    Voice,
    alarm,
    primary,
    replica,
)


def drawn(model: Model, *, now: float = 0.0, columns: int = 80, lines: int = 24) -> list[str]:
    return plain(picture(model, now, CLOCK, columns, lines)).split("\n")


def pair(link: msgspec.Struct = SYNCED) -> Model:
    model = Model(["p", "r"], 0.0)
    model.take("p", Voice().status(primary(link)), 0.0)  # type: ignore[arg-type]
    model.take("r", Voice().status(replica()), 0.0)
    return model


def test_a_sparkline_shows_each_sample_beside_the_highest() -> None:
    assert spark([0, 1, 4, 8], 4) == "▁▂▅█"
    assert spark([0, 0], 4) == "  ▁▁"
    assert spark([], 3) == "   "
    assert spark(range(100), 3) == "███"
    assert spark([1, 8, 0.001], 2) == "█▂", "what is not nothing is seen"


def test_a_bar_is_full_when_all_is_done() -> None:
    assert (bar(0, 4), bar(0.5, 4), bar(1, 4), bar(7, 4)) == ("────", "━━──", "━━━━", "━━━━")


def test_a_pair_in_step() -> None:
    lines = drawn(pair())
    assert lines[0].startswith("pratima monitor  2 daemons, 1 of 1 links SYNCED")
    assert lines[1].startswith("── db primary on p ──")
    assert lines[2] == "   at 00000000:7, 0 writes/s, log 1 MiB of 256 MiB"
    assert lines[3] == "   → 10.0.0.2:7010  SYNCED  async"
    assert lines[4] == "     in step since 1:7"
    assert lines[5].startswith("     lag ") and "0 writes, 0 B, 0.0 s" in lines[5]
    assert lines[6].startswith("── db replica on r ──")
    assert lines[7] == "   consistent at 00000000:7, heard 0.2 s ago"
    assert lines[8].startswith("   journal 4 MiB of 256 MiB, 3 to apply")
    assert lines[9].startswith("── changes ──")


def test_a_resync_has_a_bar_with_rate_and_time_left() -> None:
    lines = drawn(pair(RESYNCING))
    assert "   → 10.0.0.2:7010  RESYNCING  async  lacks 1000 blocks" in lines
    (progress,) = [line for line in lines if "%" in line]
    assert progress == f"     {bar(0.43, 30)} 43 %  51 MiB/s  12 s left"


def test_alarms_stand_on_top_and_there_are_not_too_many() -> None:
    model = Model(["p"], 0.0)
    alarms = tuple(alarm(f"reason {n}", float(n)) for n in range(20))
    model.take("p", Voice().status(primary(REFUSED, alarms=alarms)), 0.0)
    lines = drawn(model)
    assert lines[1] == "! p db → 10.0.0.2:7010: REFUSED: size: too small"
    assert lines[2] == "! p db: overflow: reason 0 (0.0 s ago)"
    assert lines[5] == "! … 17 more alarms"
    assert lines[6].startswith("── db primary")


def test_a_daemon_without_a_word_says_since_when_and_how_old_its_picture_is() -> None:
    lines = drawn(pair(), now=9.0)
    assert "! p: no word since 9 s" in lines and "! r: no word since 9 s" in lines
    assert any("db primary on p as of 9.0 s ago ─" in line for line in lines)
    assert "2 silent" in lines[0]


@pytest.mark.parametrize("columns", [40, 80, 132])
@pytest.mark.parametrize("lines", [8, 24, 60])
def test_it_stays_within_its_size(columns: int, lines: int) -> None:
    model = Model(["p" * 30, "r"], 0.0)
    voice = Voice()
    for number in range(12):
        links = [msgspec.structs.replace(AWAY, reason="why " * 100, held_writes=9)] * 3
        model.take("p" * 30, voice.status(primary(*links, name=f"group{number}")), 0.0)
        model.take("r", voice.change("because " * 40), 0.0)
    found = picture(model, 99.0, CLOCK, columns, lines)
    assert len(found) <= lines
    assert all(line.cell_len <= columns for line in found)
    assert any("more lines" in line.plain for line in found)
    assert any(line.plain.startswith("── changes") for line in found)


def test_the_latest_changes_fill_what_is_left() -> None:
    model, voice = pair(), Voice()
    for number in range(50):
        model.take("p", voice.change(f"reason {number}", alarm=number == 49), 0.0)
    found = picture(model, 0.0, CLOCK, 80, 24)
    assert len(found) == 24
    assert found[-1].plain.endswith("p db → r:1  open: reason 49")
    assert any("red" in str(span.style) for span in found[-1].spans)


def test_nothing_that_a_peer_says_moves_the_cursor() -> None:
    evil = "a\x1b[2J\x1b]0;x\x07\r\n\x9b31mb\u202e"
    link = msgspec.structs.replace(SYNCED, replica=evil, reason=evil, mode=evil)
    model = Model(["p"], 0.0)
    alarms = (alarm(evil, 1.0),)
    shown = [
        primary(link, name=evil, alarms=alarms),
        replica(evil, failed=evil, alarms=alarms),
        replica("b", consistent=False, reason=evil),
    ]
    voice = Voice()
    for status in shown:
        model.take("p", voice.status(status), 0.0)
        model.take("p", voice.change(evil, event=evil), 0.0)
    model.misunderstood("p", evil)
    for line in picture(model, 0.0, CLOCK, 132, 60):
        assert line.plain.isprintable(), line
