"""The monitor's model: what it remembers of events, and what it calls trouble."""

import msgspec
import pytest

from pratima_iscsi import limits
from pratima_iscsi.control.events import SocketEvent, StartEvent, StatusEvent, StopEvent
from pratima_iscsi.control.status import ACT, BEHIND, OK, PositionStatus, VolumeStatus
from pratima_iscsi.monitor.model import Model, Rate
from pratima_iscsi.replication.states import Role
from tests.unit.monitor.scene import AWAY, REFUSED, SYNCED, Voice, alarm, primary, replica


def test_a_rate_is_growth_per_second_and_a_counter_that_went_back_began_anew() -> None:
    rate = Rate()
    for total, at in ((100, 1.0), (300, 2.0), (300, 3.0), (50, 4.0), (60, 4.0), (80, 4.5)):
        rate.count(total, at)
    assert list(rate.samples) == [200, 0, 50, 40]
    assert rate.now == 40


def test_a_status_gives_the_rates_of_writes_and_of_each_link() -> None:
    model, voice = Model(["p"], 0.0), Voice()
    for second in range(3):
        voice.at += 1
        link = msgspec.structs.replace(SYNCED, sent_bytes=second * 1000)
        position = PositionStatus("00000000000000ab", 7 + 10 * second)
        model.take("p", voice.status(primary(link, position=position)), second)
    ((_, view),) = model.groups()
    assert view.writes.now == 10
    assert list(view.links[SYNCED.replica].sent.samples) == [1000, 1000]
    position = PositionStatus("00000000000000cd", 2)
    model.take("p", voice.status(primary(SYNCED, position=position)), 3.0)
    assert view.writes.now == 10, "another generation counts from 1: that is no rate"


def test_a_silent_daemon_is_trouble_until_it_speaks() -> None:
    model, voice = Model(["p", "r"], 0.0), Voice()
    assert model.troubles(1.0) == []
    assert model.troubles(5.0) == ["p: no word yet, for 5 s", "r: no word yet, for 5 s"]
    model.take("p", voice.status(primary(SYNCED)), 5.0)
    model.take("r", Voice().status(replica()), 5.0)
    assert model.troubles(6.0) == [] and model.worst(6.0) == OK
    assert model.troubles(12.0) == ["p: no word since 7 s", "r: no word since 7 s"]
    assert model.worst(12.0) == ACT
    model.take("p", voice.status(primary(SYNCED)), 12.0)
    assert model.troubles(12.0) == ["r: no word since 7 s"]


def test_a_daemon_that_said_goodbye_is_silent_at_once() -> None:
    model, voice = Model(["p"], 0.0), Voice()
    model.take("p", voice.stamped(StopEvent()), 1.0)
    assert model.troubles(1.0) == ["p: no word since 0 s (it was stopped)"]
    start = StartEvent(role=Role.PRIMARY, version="1", pid=9)
    model.take("p", Voice("run2").stamped(start), 2.0)
    assert model.troubles(2.0) == []
    assert [change.text for change in model.changes] == ["stops", "primary starts, pid 9"]


def test_events_that_did_not_arrive_are_counted_also_the_first_of_a_new_run() -> None:
    model, voice = Model(["p"], 0.0), Voice()
    voice.skip(40)
    model.take("p", voice.change("before we listened nothing was missed"), 0.0)
    voice.skip(3)
    model.take("p", voice.change("three"), 0.0)
    again = Voice("run2")
    again.skip(5)
    model.take("p", again.change("a new run"), 0.0)
    assert model.sources["p"].missed == 3 + 5
    assert [change.text for change in model.changes][-2:] == [
        "a new run, whose first 5 events did not reach us",
        "open: a new run",
    ]
    model.take("p", Voice("run3").change("all of it is heard"), 0.0)
    assert model.sources["p"].missed == 3 + 5
    assert [change.text for change in model.changes][-1] == "open: all of it is heard"


def test_a_new_run_forgets_the_groups_of_the_old_one() -> None:
    model = Model(["p"], 0.0)
    model.take("p", Voice().status(primary(SYNCED, name="old")), 0.0)
    model.take("p", Voice("run2").status(primary(SYNCED, name="new")), 0.0)
    assert [view.status.group for _, view in model.groups()] == ["new"]


def test_a_group_that_is_gone_is_dropped_while_its_daemon_speaks() -> None:
    model, voice = Model(["p"], 0.0), Voice()
    model.take("p", voice.status(primary(SYNCED, name="gone")), 0.0)
    model.take("p", voice.status(primary(SYNCED, name="there")), 10.0)
    assert [view.status.group for _, view in model.groups()] == ["there"]


def test_a_daemon_without_a_group_is_not_silent() -> None:
    model, voice = Model(["p"], 0.0), Voice()
    model.take("p", voice.status(primary(SYNCED)), 0.0)
    alone = StatusEvent(version="", pid=1, uptime_seconds=0, group=None)
    model.take("p", voice.stamped(alone), 9.0)
    assert model.groups() == [] and model.troubles(9.0) == []


def test_what_is_worst_stands_first_and_primaries_before_replicas() -> None:
    model = Model(["p", "r"], 0.0)
    first, second = Voice(), Voice()
    model.take("r", first.status(replica("aa")), 0.0)
    for name, link in (("aa", SYNCED), ("bb", REFUSED), ("cc", AWAY)):
        model.take("p", second.status(primary(link, name=name)), 0.0)
    assert [(source.name, view.status.group) for source, view in model.groups()] == [
        ("p", "bb"),
        ("p", "cc"),
        ("p", "aa"),
        ("r", "aa"),
    ]
    assert model.worst(0.0) == ACT


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (primary(SYNCED), []),
        (primary(AWAY), ["p db → 10.0.0.2:7010: CONNECTING: connection refused"]),
        (primary(REFUSED), ["p db → 10.0.0.2:7010: REFUSED: size: too small"]),
        (
            primary(msgspec.structs.replace(SYNCED, degraded=True, mode="sync")),
            ["p db → 10.0.0.2:7010: degraded: writes do not wait for it"],
        ),
        (replica(failed="its disk"), ["p db: FAILED: its disk"]),
        (
            primary(volumes=(VolumeStatus("lun0", "/d", 1, "fdatasync failed"),)),
            ["p db volume lun0: fdatasync failed"],
        ),
    ],
)
def test_what_is_wrong_now_is_said_in_a_sentence(status: object, told: list[str]) -> None:
    model = Model(["p"], 0.0)
    model.take("p", Voice().status(status), 0.0)  # type: ignore[arg-type]
    assert model.troubles(0.0) == told


def test_alarms_are_the_recent_ones_newest_first() -> None:
    model = Model(["p"], 0.0)
    old = limits.MONITOR_ALARM_SECONDS + 1
    alarms = (alarm("old", old), alarm("first", 50.0), alarm("second", 5.0))
    model.take("p", Voice().status(primary(SYNCED, alarms=alarms)), 0.0)
    assert [(place, one.reason) for place, one in model.alarms()] == [
        ("p db", "second"),
        ("p db", "first"),
    ]


def test_everything_that_a_daemon_can_send_is_bounded() -> None:
    model, voice = Model(["p"], 0.0), Voice()
    links = [msgspec.structs.replace(SYNCED, replica=f"r:{n}") for n in range(1000)]
    for number in range(limits.MONITOR_GROUPS_MAX + 50):
        model.take("p", voice.status(primary(*links, name=f"g{number}")), 0.0)
    for number in range(2 * limits.MONITOR_CHANGES_KEPT):
        model.take("p", voice.change(f"{number}"), 0.0)
    model.take("p", voice.stamped(SocketEvent(event="CONNECTED", address="", detail="")), 0.0)
    for _ in range(2 * limits.MONITOR_SAMPLES_MAX):
        voice.at += 1
        model.take("p", voice.status(primary(SYNCED, name="g1")), 0.0)
    assert len(model.groups()) == limits.MONITOR_GROUPS_MAX
    assert len(model.changes) == limits.MONITOR_CHANGES_KEPT
    view = model.sources["p"].groups["g1"]
    assert len(view.links) == 1 and len(view.writes.samples) == limits.MONITOR_SAMPLES_MAX
    assert len(model.sources["p"].groups["g2"].links) == limits.LINKS_MAX


def test_an_alarm_that_belongs_to_no_group_is_shown_while_it_is_recent() -> None:
    model, voice = Model(["r"], 0.0), Voice()
    own = msgspec.structs.replace(alarm("in use", 5.0), place="events")
    for group in (None, replica()):
        event = StatusEvent(version="1", pid=1, uptime_seconds=1.0, group=group, node_alarms=(own,))
        model.take("r", voice.stamped(event), 0.0)
        assert model.alarms() == [("r events", own)]
    model.take("r", Voice("run2").status(replica()), 0.0)
    assert model.alarms() == []


def test_an_event_that_cannot_be_read_is_trouble_until_the_next_one() -> None:
    model = Model(["p"], 0.0)
    model.misunderstood("p", "event of schema 9, not 1")
    assert model.troubles(0.0) == ["p: not understood: event of schema 9, not 1"]
    model.take("p", Voice().status(primary(SYNCED)), 0.0)
    assert model.troubles(0.0) == [] and model.worst(0.0) == OK
    assert Model([], 0.0).worst(0.0) == BEHIND
