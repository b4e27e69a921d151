"""`pratima monitor` before real daemons: on a terminal, as lines of JSON, and with keys."""

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pratima_iscsi.edges.keys import allow_line, write_keys
from tests.conformance.tools import tool
from tests.integration.daemons.nodes import MIB, Pair, Primary, Replica, ports, pratima
from tests.integration.daemons.test_outage import write_blocks
from tests.torture.daemons import PRATIMA, wait_until

WAIT_SECONDS = 60.0


class Screen:
    """A terminal of 80 by 24 with a command in it, which tmux keeps."""

    def __init__(self, place: Path, command: list[str]) -> None:
        self._tmux = [tool("tmux", "tmux"), "-S", str(place / "tmux"), "-f", "/dev/null"]
        self._ask("new-session", "-d", "-x", "80", "-y", "24", shlex.join(command))

    def _ask(self, *words: str) -> str:
        done = subprocess.run(
            [*self._tmux, *words], capture_output=True, text=True, timeout=WAIT_SECONDS, check=True
        )
        return done.stdout

    @property
    def text(self) -> str:
        """What it shows."""
        return self._ask("capture-pane", "-p")

    def wait(self, shows: Callable[[str], object], what: str) -> str:
        """Wait until it shows something; what it shows then."""
        last: list[str] = []

        def found() -> str | None:
            last[:] = [self.text]
            return last[0] if shows(last[0]) else None

        try:
            return wait_until(found, WAIT_SECONDS, what)
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{last[0]}") from None

    def close(self) -> None:
        """End what runs in it."""
        self._ask("kill-server")


@contextmanager
def screen(place: Path, *options: str) -> Iterator[Screen]:
    shown = Screen(place, [*PRATIMA, "monitor", *options])
    try:
        yield shown
    finally:
        shown.close()


@pytest.mark.tools
def test_an_outage_as_a_terminal_shows_it(place: Path) -> None:
    pair = Pair(place, "--log-limit", "4MiB")
    primary, replica = pair.primary, pair.replica
    names = ("--state", str(primary.state), "--state", str(replica.state))
    with pair.in_step(), screen(place, *names) as shown:
        text = shown.wait(lambda text: "1 of 1 links SYNCED" in text, "both are heard")
        assert f"→ {replica.address}  SYNCED  async" in text
        assert "default primary on " in text and "default replica on " in text
        assert max(map(len, text.splitlines())) <= 80
        replica.kill()
        with primary.login() as session:
            write_blocks(session, list(range(4096)), Random(5))
        text = shown.wait(
            lambda text: f"{replica.address}: CONNECTING" in text and "no word since" in text,
            "the outage is told on top",
        )
        assert text.splitlines()[1].startswith("! "), text
        assert "lacks 4096 blocks" in text
        pair.bring_back()
        shown.wait(lambda text: "transaction: 4096 blocks" in text, "the resync is told")
        text = shown.wait(lambda text: "1 of 1 links SYNCED" in text, "in step again")
        alarms = [line for line in text.splitlines() if line.startswith("! ")]
        assert not [alarm for alarm in alarms if "loop late" not in alarm]  # a busy machine's own
        assert "resynced: consistent at" in text
        primary.finish()
        shown.wait(lambda text: "(it was stopped)" in text, "the primary's end is told")
        primary.start()
        shown.wait(lambda text: "1 of 1 links SYNCED" in text, "the primary's new run is heard")


class Lines:
    """`pratima monitor --json` as a process, its events as they come."""

    def __init__(self, *options: str) -> None:
        self._process = subprocess.Popen(
            [*PRATIMA, "monitor", "--json", *options], stdout=subprocess.PIPE, text=True
        )

    def until(self, wanted: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
        """Every event up to the first that is wanted."""
        events = []
        assert self._process.stdout is not None
        for line in self._process.stdout:
            events.append(json.loads(line))
            if wanted(events[-1]):
                return events
        raise AssertionError(f"it ended: {events[-3:]}")

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.wait(WAIT_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.mark.timeout(120)
def test_json_has_statuses_changes_commands_and_sockets(place: Path) -> None:
    pair = Pair(place, size=8 * MIB)
    primary = pair.primary
    with pair.in_step(), Lines("--state", str(primary.state)) as lines:
        (first,) = lines.until(lambda event: event["type"] == "status")
        assert first["source"] == str(primary.state)
        assert first["group"]["links"][0]["state"] == "SYNCED"
        ran = pratima("kill", "default", "--drop-queue", "--state", str(primary.state))
        assert ran.returncode == 0
        events = lines.until(lambda event: event.get("event") == "open")
        (command,) = [event for event in events if event["type"] == "control"]
        assert command["verb"] == "kill --drop-queue"
        assert (command["group"], command["replica"]) == ("default", pair.replica.address)
        reasons = [event["reason"] for event in events if event["type"] == "change"]
        assert "killed by the operator" in reasons
        sockets = {event["event"] for event in events if event["type"] == "socket"}
        assert {"CONNECTED", "HANDSHAKE_SUCCEEDED"} <= sockets
        numbers = [event["number"] for event in (first, *events)]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.mark.timeout(120)
def test_over_tcp_a_monitor_needs_a_key_that_the_daemon_lists(place: Path) -> None:
    node, other, watcher = (write_keys(place / name) for name in ("node", "other", "watcher"))
    (place / "primaries").write_text(allow_line(other.public, "primary"))
    (place / "watchers").write_text(allow_line(watcher.public, "watcher"))
    replica = Replica(
        place,
        *("--key", str(place / "node"), "--allow", str(place / "primaries")),
        *("--events-allow", str(place / "watchers")),
    )
    events = f"127.0.0.1:{replica.port + 2}"
    (place / "daemons").write_text(allow_line(node.public, events))
    keys = ("--key", str(place / "watcher"), "--allow", str(place / "daemons"))
    with replica:
        replica.start()
        with Lines(events, *keys) as lines:
            (status,) = lines.until(lambda event: event["type"] == "status")
            assert status["source"] == events and status["group"]["role"] == "replica"
        primaries = ("--key", str(place / "other"), "--allow", str(place / "daemons"))
        with Lines(events, *primaries) as refused, Lines(events, *keys) as lines:
            for _ in range(2):
                lines.until(lambda event: event["type"] == "status")
            refused._process.terminate()
            assert refused._process.stdout is not None and refused._process.stdout.read() == ""


def test_an_events_port_that_is_asked_for_must_be_had(place: Path) -> None:
    port = ports(1)
    first = Primary(place, "--events", f"127.0.0.1:{port}", name="first", size=8 * MIB)
    with first:
        first.start()
        second = Primary(place, "--events", f"127.0.0.1:{port}", name="second", size=8 * MIB)
        with second:
            second.launch()
            assert second.wait() == 2
            assert f"port {port}" in second.output() and "next:" in second.output()


def test_the_usual_events_port_is_given_up_with_an_alarm(place: Path) -> None:
    replica = Replica(place)
    taken = Primary(place, "--events", f"127.0.0.1:{replica.port + 2}", size=8 * MIB)
    with taken, replica:
        taken.start()
        replica.start()
        replica.wait_said("no events port")
        shown = pratima("status", "--state", str(replica.state))
        assert "ALARM events: no events port: " in shown.stdout
        with Lines("--state", str(replica.state)) as lines:
            (status,) = lines.until(lambda event: event["type"] == "status")
            (alarm,) = status["node_alarms"]
            assert (alarm["place"], alarm["event"]) == ("events", "no events port")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "nobody to watch"),
        (("127.0.0.1:0",), "has no port"),
        (("192.0.2.1:7012",), "not loopback"),
        (("127.0.0.1:7012", "127.0.0.1:7012"), "named twice"),
        (("127.0.0.1:7012", "--key", "k"), "--key and --allow"),
    ],
)
def test_what_a_monitor_cannot_do_it_says(options: tuple[str, ...], told: str) -> None:
    ran = pratima("monitor", *options)
    assert ran.returncode == 2 and told in ran.stderr and "next:" in ran.stderr
