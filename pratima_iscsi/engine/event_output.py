"""Where a daemon's events go: its ipc endpoint always, and a port where there is one.

One rule: a port that the operator named must be had; the usual one is given up, with an alarm, for
the sake of the copies.
"""

from pathlib import Path

from pratima_iscsi.control.options import EventOptions
from pratima_iscsi.edges.curve import CurveKeys
from pratima_iscsi.edges.descriptors import Descriptors
from pratima_iscsi.edges.event_sockets import EventPublisher
from pratima_iscsi.engine.process import Events
from pratima_iscsi.errors import StateError


async def open_publisher(
    state: Path,
    options: EventOptions,
    keys: CurveKeys | None,
    events: Events,
    descriptors: Descriptors,
) -> EventPublisher:
    """Publish for the daemon whose state directory the caller holds locked.

    Raises StateError or UsageError, with nothing left open.
    """
    publisher = EventPublisher(
        keys=keys if options.allowed else None,
        allowed=options.allowed,
        on_subscriber=events.stream.snapshot,
        on_refused=lambda who: events.note("events", "watcher refused", who, alarm=False),
        descriptors=descriptors,
    )
    try:
        publisher.open_local(state)
        if options.address is not None:
            try:
                await publisher.open(options.address)
            except StateError as error:
                if options.is_asked_for:
                    raise
                reason = f"{error.problem}: they are published in the state directory alone"
                events.note("events", "no events port", reason, alarm=True)
    except BaseException:
        publisher.close()
        raise
    return publisher
