"""The monitor's picture: a model becomes lines of text with styles, no wider than they may be.

Alarms stand on top, then each group with its links, what is worst first, and the latest changes
fill what is left of the height. One rule: nothing here reads a clock or a socket, and no text that
came from elsewhere is drawn before it was made printable.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Final

from rich.text import Text

from pratima_iscsi.control.status import ACT, BEHIND, OK, group_exit_code, link_exit_code
from pratima_iscsi.control.text import printable
from pratima_iscsi.control.units import format_seconds, format_size
from pratima_iscsi.monitor.model import Change, GroupView, LinkView, Model, Source
from pratima_iscsi.replication.states import LinkState, Role

COLUMNS_MIN: Final = 40
LINES_MIN: Final = 8
_ALARMS_MAX: Final = 5
"""Alarms that stand on top at once."""
_CHANGES_LEAST: Final = 4
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_COLOURS: Final = {OK: "green", BEHIND: "yellow", ACT: "red"}
_DIM: Final = "bright_black"


def picture(model: Model, now: float, clock: float, columns: int, lines: int) -> list[Text]:
    """At most ``lines`` lines of at most ``columns`` columns.

    ``now``: monotonic seconds, as the model had them; ``clock``: time of day.
    """
    columns, lines = max(columns, COLUMNS_MIN), max(lines, LINES_MIN)
    most = min(_ALARMS_MAX, lines // 4)
    head = [_title(model, now, clock, columns), *_alarms(model, now, most)]
    groups = [
        line for source, view in model.groups() for line in _group(source, view, now, columns)
    ]
    room = max(1, lines - len(head) - _CHANGES_LEAST)
    if len(groups) > room:
        hidden = len(groups) - room + 1
        groups = [*groups[: room - 1], Text(f"… {hidden} more lines", style=_DIM)]
    changes = list(model.changes)[-max(0, lines - len(head) - len(groups) - 1) :]
    body = [*head, *groups, _rule("changes", columns), *map(_change, changes)]
    for line in body:
        line.no_wrap = True
        line.truncate(columns, overflow="ellipsis")
    return body[:lines]


def spark(samples: Iterable[float], width: int) -> str:
    """The latest ``width`` samples, each as high as it is beside the highest of them."""
    latest = list(samples)[-width:]
    top = max(latest, default=0.0)
    if top <= 0:
        return (_SPARKS[0] * len(latest)).rjust(width)
    steps = len(_SPARKS) - 1
    bars = (_SPARKS[min(steps, -int(-value * steps // top))] for value in latest)
    return "".join(bars).rjust(width)


def bar(part: float, width: int) -> str:
    """``part`` of ``width``, 0 to 1."""
    full = round(max(0.0, min(1.0, part)) * width)
    return "━" * full + "─" * (width - full)


# --- the top -------------------------------------------------------------------------------------


def _title(model: Model, now: float, clock: float, columns: int) -> Text:
    silent = sum(source.silent_for(now) is not None for source in model.sources.values())
    links = [link for _, view in model.groups() for link in view.status.links]
    synced = sum(link.state is LinkState.SYNCED for link in links)
    missed = sum(source.missed for source in model.sources.values())
    words = f"  {len(model.sources)} daemons"
    words += f", {silent} silent" if silent else ""
    words += f", {synced} of {len(links)} links SYNCED"
    words += f", {missed} events missed" if missed else ""
    line = Text("pratima monitor", style="bold")
    line.append(words, style=_COLOURS[model.worst(now)])
    time_of_day = time.strftime("%H:%M:%S", time.localtime(clock))
    line.append(time_of_day.rjust(max(0, columns - line.cell_len)), style=_DIM)
    return line


def _alarms(model: Model, now: float, most: int) -> list[Text]:
    lines = [Text(printable(f"! {trouble}"), style="bold red") for trouble in model.troubles(now)]
    for place, alarm in model.alarms():
        ago = format_seconds(alarm.seconds)
        words = f"! {place}: {alarm.event}: {alarm.reason} ({ago} ago)"
        lines.append(Text(printable(words), style="red"))
    if len(lines) > most:
        hidden = len(lines) - most + 1
        lines = [*lines[: most - 1], Text(f"! … {hidden} more alarms", style="red")]
    return lines


def _rule(title: str, columns: int) -> Text:
    return Text(f"── {title} ".ljust(columns, "─"), style=_DIM)


# --- groups --------------------------------------------------------------------------------------


def _group(source: Source, view: GroupView, now: float, columns: int) -> list[Text]:
    status = view.status
    colour = _COLOURS[group_exit_code(status)]
    line = Text("── ", style=_DIM)
    line.append(printable(status.group), style=f"bold {colour}")
    line.append(f" {status.role.value} ", style=colour)
    line.append(printable(f"on {source.name} "), style=_DIM)
    if source.silent_for(now) is not None:
        line.append(f"as of {format_seconds(now - view.heard_at)} ago ", style="bold red")
    line.append("─" * max(0, columns - line.cell_len), style=_DIM)
    if status.role is Role.REPLICA:
        return [line, *_replica(view)]
    words = f"   at {status.position.generation[:8]}:{status.position.sequence}"
    words += f", {view.writes.now:.0f} writes/s"
    if status.log is not None:
        words += f", log {format_size(status.log.bytes)} of {format_size(status.log.limit)}"
    words += f", {status.sessions} sessions" if status.sessions else ""
    lines = [line, Text(printable(words))]
    for link in view.links.values():
        lines += _link(link)
    return lines


def _replica(view: GroupView) -> list[Text]:
    status = view.status
    line = Text("   ")
    if status.failed:
        line.append(printable(f"FAILED: {status.failed}"), style="bold red")
    elif not status.bound:
        line.append("not bound: no primary has connected yet", style="yellow")
    elif not status.consistent:
        line.append(printable(f"INCONSISTENT: {status.reason}"), style="yellow")
    else:
        position = f"{status.position.generation[:8]}:{status.position.sequence}"
        line.append(f"consistent at {position}", style="green")
    heard = status.heard_seconds
    line.append(
        ", primary not heard yet" if heard is None else f", heard {format_seconds(heard)} ago"
    )
    lines = [line]
    if status.journal is not None:
        words = f"   journal {format_size(status.journal.bytes)}"
        words += f" of {format_size(status.journal.limit)}"
        words += f", {status.journal.unapplied} to apply" if status.journal.unapplied else ""
        flow = Text(words.ljust(38))
        flow.append(f"received {spark(view.received.samples, 16)}", style="cyan")
        flow.append(f" {format_size(view.received.now)}/s")
        lines.append(flow)
    return lines


def _link(view: LinkView) -> list[Text]:
    link = view.status
    colour = _COLOURS[link_exit_code(link)]
    line = Text(printable(f"   → {link.replica}  "))
    line.append(link.state.value, style=f"bold {colour}")
    line.append(" degraded" if link.degraded else "", style="bold yellow")
    line.append(printable(f"  {link.mode}"), style=_DIM)
    if link.bwt_blocks:
        line.append(f"  lacks {link.bwt_blocks} blocks", style="yellow")
    if link.held_writes:
        line.append(f"  {link.held_writes} writes held", style="bold red")
    lag = link.lag
    behind = f"{lag.writes} writes, {format_size(lag.bytes)}, {format_seconds(lag.seconds)}"
    flow = Text("     lag  ")
    flow.append(spark(view.lag, 16), style="magenta")
    flow.append(f" {behind}".ljust(27))
    flow.append(f" sent {spark(view.sent.samples, 10)}", style="cyan")
    flow.append(f" {format_size(view.sent.now)}/s")
    lines = [line, Text(printable(f"     {link.reason}"), style=_DIM), flow]
    resync = link.resync
    if link.state is LinkState.RESYNCING and resync.blocks_total:
        part = resync.blocks_done / resync.blocks_total
        progress = Text("     ")
        progress.append(bar(part, 30), style="green")
        progress.append(f" {int(100 * part)} %  {format_size(resync.rate)}/s")
        left = resync.seconds_left
        if left is not None:
            progress.append(f"  {format_seconds(left)} left")
        lines.append(progress)
    return lines


def _change(change: Change) -> Text:
    line = Text(time.strftime("%H:%M:%S ", time.localtime(change.at)), style=_DIM)
    place = " ".join(part for part in (change.source, change.group) if part)
    place += f" → {change.replica}" if change.replica else ""
    line.append(printable(place), style="bold")
    line.append(printable(f"  {change.text}"), style="red" if change.alarm else "")
    return line


def plain(lines: Sequence[Text]) -> str:
    """The picture without styles."""
    return "\n".join(line.plain for line in lines)
