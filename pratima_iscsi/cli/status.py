"""``pratima status``: how things stand."""

import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pratima_iscsi.cli.common import WIDTH_UNREAD, group_options, state_option
from pratima_iscsi.control.client import ControlClient
from pratima_iscsi.control.status import (
    BEHIND,
    OK,
    Alarm,
    GroupStatus,
    LinkStatus,
    NodeStatus,
    ResyncStatus,
    exit_code,
    group_exit_code,
    link_exit_code,
)
from pratima_iscsi.control.units import format_seconds, format_size
from pratima_iscsi.replication.states import Role

_COLOURS = {OK: "green", BEHIND: "yellow"}


@click.command("status")
@state_option
@group_options
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(state: Path, group: str, as_json: bool) -> int:
    """Say how a daemon's groups and links stand.

    \b
    Exit code:
      0  all links SYNCED and none degraded; a replica is consistent and has heard its primary
      1  something is behind or degraded, and mends itself
      2  somebody must act, or nobody answers

    \b
    Examples:
      pratima status --state p
      pratima status --state p --json | jq '.links[0].lag'

    Of several groups GROUP shows one; without it --json prints a list under "groups".
    """
    with ControlClient(state) as client:
        status = client.status(group)
    if as_json:
        click.echo(as_text(status))
    else:
        width = None if sys.stdout.isatty() else WIDTH_UNREAD
        console = Console(width=width, highlight=False)
        for number, one in enumerate(status.groups):
            if number:
                console.print()
            _print_group(console, one)
        for alarm in status.node_alarms:
            _print_alarm(console, alarm, f"ALARM {alarm.place}: ")
    return exit_code(status)


def as_text(status: NodeStatus) -> str:
    """The JSON of one group, or of several as a list under ``groups``; ``node_alarms`` beside."""
    groups = [msgspec.structs.asdict(group) for group in status.groups]
    found: dict[str, object] = groups[0] if len(groups) == 1 else {"groups": groups}
    found["node_alarms"] = status.node_alarms
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()


def _print_group(console: Console, group: GroupStatus) -> None:
    position = f"{group.position.generation}:{group.position.sequence}"
    head = Text.assemble((group.group, "bold"), "  ", group.role.value, "  ")
    head.append(_standing(group, position), style=_COLOURS.get(group_exit_code(group), "red"))
    console.print(head)
    if group.target:
        console.print(
            f"  {group.target} at {group.portal}, {group.sessions} sessions", markup=False
        )
    if group.front_end:
        console.print(f"  front end {group.front_end}", markup=False)
    for volume in group.volumes:
        failed = f"  FAILED: {volume.failed}" if volume.failed else ""
        line = f"  {volume.name}  {format_size(volume.size)}  {volume.path}{failed}"
        console.print(line, markup=False)
    if group.log is not None:
        log = f"{format_size(group.log.bytes)} of {format_size(group.log.limit)}"
        console.print(f"  ordered log {log}", markup=False)
    if group.journal is not None:
        journal = f"{format_size(group.journal.bytes)} of {format_size(group.journal.limit)}"
        behind = f", {group.journal.unapplied} batches to apply" if group.journal.unapplied else ""
        console.print(f"  journal {journal}{behind}", markup=False)
    if group.links:
        console.print(_table(group.links))
    for alarm in group.alarms:
        _print_alarm(console, alarm, "  ALARM ")


def _print_alarm(console: Console, alarm: Alarm, before: str) -> None:
    ago = format_seconds(alarm.seconds)
    console.print(Text(f"{before}{alarm.event}: {alarm.reason} ({ago} ago)", style="red"))


def _standing(group: GroupStatus, position: str) -> str:
    if group.failed:
        return f"FAILED: {group.failed}"
    if group.role is Role.PRIMARY:
        return f"at {position}"
    if not group.bound:
        return "not bound: no primary has connected yet"
    heard = (
        "not heard in this run"
        if group.heard_seconds is None
        else f"last heard {format_seconds(group.heard_seconds)} ago"
    )
    if not group.consistent:
        return f"INCONSISTENT: {group.reason}{_progress(group.resync)}, {heard}"
    return f"consistent at {position}{_progress(group.resync)}, {heard}"


def _table(links: tuple[LinkStatus, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("  replica", "state", "mode", "lag", "lacks", "reason"):
        table.add_column(title, header_style="dim", overflow="fold")
    for link in links:
        colour = _COLOURS.get(link_exit_code(link), "red")
        state = link.state.value + (" degraded" if link.degraded else "")
        lag = link.lag
        lacks = f"{link.bwt_blocks} blocks" if link.bwt_blocks else "-"
        behind = f"{lag.writes} writes, {format_size(lag.bytes)}, {format_seconds(lag.seconds)}"
        held = f" ({link.held_writes} writes held)" if link.held_writes else ""
        table.add_row(
            Text(f"  {link.replica}"),
            Text(state, style=colour),
            Text(link.mode),
            Text(behind),
            Text(lacks + _progress(link.resync)),
            Text(link.reason + held),
        )
    return table


def _progress(resync: ResyncStatus | None) -> str:
    if resync is None or resync.blocks_done >= resync.blocks_total:
        return ""
    percent = 100 * resync.blocks_done // resync.blocks_total
    rate = f"{format_size(resync.rate)}/s"
    return f" ({percent} % done, {rate}, {format_seconds(resync.seconds_left)} left)"
