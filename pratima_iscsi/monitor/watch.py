"""The monitor's loop: events from the sockets into the model, its picture onto the terminal.

One rule: it only listens. Whatever becomes of it, a daemon does not notice.
"""

import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console, Group
from rich.live import Live

from pratima_iscsi.control.events import AnyEvent, decode_event, event_line
from pratima_iscsi.edges.event_sockets import EventSubscriber
from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.limits import MONITOR_REFRESH_SECONDS
from pratima_iscsi.monitor.model import Model
from pratima_iscsi.monitor.picture import picture

Heard = Callable[[str, AnyEvent], None]
Misunderstood = Callable[[str, str], None]


def hear(
    subscriber: EventSubscriber, seconds: float, heard: Heard, misunderstood: Misunderstood
) -> None:
    """Take in what arrives within ``seconds``."""
    for source, data in subscriber.wait(seconds):
        try:
            event = decode_event(data)
        except RemoteProtocolError as error:
            misunderstood(source, str(error))
        else:
            heard(source, event)


def draw(subscriber: EventSubscriber, sources: Sequence[str], console: Console) -> None:
    """Draw until interrupted."""
    model = Model(sources, time.monotonic())

    def heard(source: str, event: AnyEvent) -> None:
        model.take(source, event, time.monotonic())

    def now() -> Group:
        size = console.size
        return Group(*picture(model, time.monotonic(), time.time(), size.width, size.height - 1))

    with Live(now(), console=console, screen=True, auto_refresh=False) as live:
        drawn = time.monotonic()
        while True:
            left = drawn + MONITOR_REFRESH_SECONDS - time.monotonic()
            if left > 0:
                hear(subscriber, left, heard, model.misunderstood)
                continue
            drawn = time.monotonic()
            live.update(now(), refresh=True)


def print_events(subscriber: EventSubscriber) -> None:
    """One event a line, as JSON, until interrupted or nobody reads."""

    def heard(source: str, event: AnyEvent) -> None:
        sys.stdout.write(event_line(source, event) + "\n")
        sys.stdout.flush()

    while True:
        hear(subscriber, MONITOR_REFRESH_SECONDS, heard, _say_misunderstood)


def print_changes(subscriber: EventSubscriber, sources: Sequence[str]) -> None:
    """Where nobody looks at a terminal: each change as a line, statuses and sockets left out."""
    model = Model(sources, time.monotonic())

    def heard(source: str, event: AnyEvent) -> None:
        model.take(source, event, time.monotonic())
        while model.changes:
            change = model.changes.popleft()
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(change.at))
            place = " ".join(part for part in (source, change.group, change.replica) if part)
            alarm = "ALARM " if change.alarm else ""
            sys.stdout.write(f"{at} {place}: {alarm}{change.text}\n")
            sys.stdout.flush()

    while True:
        hear(subscriber, MONITOR_REFRESH_SECONDS, heard, _say_misunderstood)


def _say_misunderstood(source: str, problem: str) -> None:
    sys.stderr.write(f"pratima: {source}: {problem}\n")
