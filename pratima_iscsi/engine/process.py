"""What both daemons share: the loop, signals, the lock on the state directory, the control socket.

One rule: SIGTERM, SIGINT and SIGHUP are a clean stop, a second one changes nothing.
"""

import asyncio
import collections
import contextlib
import gc
import importlib
import logging
import math
import secrets
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Final

import msgspec

from pratima_iscsi import limits
from pratima_iscsi.control.status import Alarm
from pratima_iscsi.control.text import printable
from pratima_iscsi.edges.descriptors import Descriptors, raise_descriptor_limit
from pratima_iscsi.edges.directory import DiskDirectory
from pratima_iscsi.edges.heap import keep_freed_memory
from pratima_iscsi.edges.output import Output, OutputHandler
from pratima_iscsi.engine.event_stream import EventStream
from pratima_iscsi.engine.repeats import Note, Place

GARBAGE_THRESHOLD: Final = 20_000
"""Objects that come before the collector looks among them for cycles, of which nothing that is done
for each command makes any. Python's own 700 is less than what the ordered log holds for an instant.
"""
LOG = logging.getLogger("pratima")
STDOUT: Final = Output(1)
STDERR: Final = Output(2)

Later = Callable[..., object]
"""Calls a function, with what else it is given, after so many seconds: ``call_later`` of a loop."""


def run_loop(main: Callable[[], Coroutine[object, object, int]]) -> int:
    """Run a daemon's main coroutine, on uvloop where it is installed; its exit code.

    It is made only once there is a loop: an interrupt before that leaves nothing behind.
    """
    gc.freeze()  # what is loaded by now stays: no collection need look at it
    gc.set_threshold(GARBAGE_THRESHOLD)
    keep_freed_memory()
    raise_descriptor_limit()
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        factory = importlib.import_module("uvloop").new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main())
    finally:
        for output in (STDOUT, STDERR):
            output.flush(limits.OUTPUT_FAREWELL_SECONDS)


def until_signalled(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets, or SIGHUP unless that is ignored (nohup)."""
    stop = asyncio.Event()
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    return stop


def node_id(directory: DiskDirectory) -> bytes:
    """This node's id, 16 bytes, made at the first start and kept in its state directory."""
    name = "node"
    if directory.exists(name):
        file = directory.open(name)
        value = file.pread(16, 0)
        file.close()
        if any(value):
            return value
    value = secrets.token_bytes(16)
    directory.replace(name, value)
    return value


def log_to_stderr() -> None:
    """Quiet, structured, one line per state change."""
    logging.basicConfig(
        handlers=[OutputHandler(STDERR)],
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )


class Events:
    """State changes: logged, published, and the alarms among them kept for status.

    What only says again what was said at the same place (a refusal each time it is tried) is one
    line of the log, and one alarm.
    """

    def __init__(self, stream: EventStream | None = None, later: Later | None = None) -> None:
        """``later`` looks again at what was kept back."""
        self.stream = stream or EventStream(b"")
        self._later = later
        self._alarms: collections.deque[tuple[float, str, str, str]] = collections.deque(
            maxlen=limits.ALARMS_KEPT
        )
        self._places: dict[str, Place] = {}

    def note(self, where: str, event: str, reason: str, *, alarm: bool) -> None:
        """Something changed at ``where``: "group NAME", and what of it after a space; or a part of
        the node that is no group's."""
        now = time.monotonic()
        place = self._places.setdefault(where, Place())
        told = place.note(Note(event, reason, alarm), now)
        if told is not None:
            self._tell(where, told)
        elif not place.is_watched:
            self._watch(where, place, now)
        if alarm:
            same = [one for one in self._alarms if one[1:] == (where, event, reason)]
            for one in same:
                self._alarms.remove(one)
            self._alarms.append((now, where, event, reason))

    def _tell(self, where: str, note: Note) -> None:
        self.stream.change(where, note.event, note.reason, alarm=note.alarm)
        level = logging.WARNING if note.alarm else logging.INFO
        LOG.log(level, "%s: %s: %s", where, note.event, printable(note.reason))

    def _watch(self, where: str, place: Place, now: float) -> None:
        place.is_watched = self._later is not None and place.due < math.inf
        if self._later is not None and place.is_watched:
            self._later(place.due - now, self._look, where, place)

    def _look(self, where: str, place: Place) -> None:
        if self._places.get(where) is place:
            now = time.monotonic()
            if (told := place.look(now)) is not None:
                self._tell(where, told)
            self._watch(where, place, now)

    def forget(self, group: str) -> None:
        """The group is served no more: what was said of it and its links is not kept."""
        for where in [where for where in self._places if _is_of(where, group)]:
            del self._places[where]

    def control(self, where: str, verb: str) -> None:
        """An operator gave a command about ``where``."""
        self.stream.control(where, verb)
        LOG.info("%s: control: %s", where, verb)

    def alarms(self, group: str) -> tuple[Alarm, ...]:
        """The latest alarms of a group, newest last."""
        return tuple(alarm for where, alarm in self._told() if _is_of(where, group))

    def node_alarms(self) -> tuple[Alarm, ...]:
        """The latest alarms that belong to no group, newest last."""
        return tuple(
            msgspec.structs.replace(alarm, place=where)
            for where, alarm in self._told()
            if not where.startswith("group ")
        )

    def _told(self) -> Iterator[tuple[str, Alarm]]:
        now = time.monotonic()
        for at, where, event, reason in self._alarms:
            yield where, Alarm(event, printable(reason), round(now - at, 1))


def _is_of(where: str, group: str) -> bool:
    return f"{where} ".startswith(f"group {group} ")


def descriptors_of(events: Events) -> Descriptors:
    """The daemon's descriptors, watched by its loop; too few of them is an alarm."""
    descriptors = Descriptors(lambda why: events.note("descriptors", "too few", why, alarm=True))
    descriptors.watch()
    return descriptors


def say(line: str) -> None:
    """Tell whoever started the daemon where it serves."""
    STDOUT.say(line)


def state_directory(path: Path) -> DiskDirectory:
    """The daemon's own directory, locked; made where there is none."""
    return DiskDirectory.open_at(path, create=True)
