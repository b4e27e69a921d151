"""What status says, in the words of a tree: one line and a colour for each thing.

One rule: text that came over a link is printable before it reaches a terminal.
"""

from collections.abc import Iterable, Iterator

from pratima_iscsi.control.status import (
    ACT,
    OK,
    GroupStatus,
    JournalStatus,
    LinkStatus,
    NodeStatus,
    PositionStatus,
    ResyncStatus,
    VolumeStatus,
    exit_code,
    group_exit_code,
    link_exit_code,
)
from pratima_iscsi.control.units import format_seconds, format_size

Summary = tuple[str, bool | None]
"""A line, and its colour in the tree: True green, False red, None neither."""

GONE: Summary = ("no longer there", None)
"""Of a node whose daemon no longer tells of it."""


def printable(text: str) -> str:
    """``text`` without what a terminal could take for a command."""
    return "".join(character if character.isprintable() else "?" for character in text)


def count(number: int, noun: str, several: str = "") -> str:
    """``1 link``, ``2 links``."""
    return f"{number} {noun}" if number == 1 else f"{number} {several or noun + 's'}"


def position_text(position: PositionStatus | None) -> str:
    """``GENERATION:SEQUENCE``, ``-`` for an unknown one."""
    return "-" if position is None else f"{position.generation}:{position.sequence}"


def colour(code: int) -> bool | None:
    """Green for what is well, red for what wants somebody, neither for what mends itself."""
    return {OK: True, ACT: False}.get(code)


def worst(summaries: Iterable[Summary]) -> bool | None:
    """The colour of several things together."""
    colours = {colour for _, colour in summaries}
    return False if False in colours else None if None in colours or not colours else True


def node_summary(status: NodeStatus) -> Summary:
    """A daemon that answers."""
    roles = sorted({group.role.value for group in status.groups})
    alarms = len(status.node_alarms) + sum(len(group.alarms) for group in status.groups)
    said = [
        " and ".join(roles) or "idle",
        count(len(status.groups), "group"),
        f"up {format_seconds(status.uptime_seconds)}",
        *([count(alarms, "alarm")] if alarms else []),
    ]
    return ", ".join(said), colour(exit_code(status))


def group_summary(group: GroupStatus) -> Summary:
    """A group in whatever role."""
    code = colour(group_exit_code(group))
    if group.failed:
        return printable(f"{group.role.value}, FAILED: {group.failed}"), code
    size = sum(volume.size for volume in group.volumes)
    said = [group.role.value, f"{count(len(group.volumes), 'volume')} of {format_size(size)}"]
    if group.links:
        said.append(links_text(group.links))
    if group.target:
        said.append(count(group.sessions, "session"))
    if group.alarms:
        said.append(count(len(group.alarms), "alarm"))
    return ", ".join(said), code


def links_text(links: tuple[LinkStatus, ...]) -> str:
    """``2 SYNCED, 1 STALE``."""
    states = [link.state.value for link in links]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def links_summary(links: tuple[LinkStatus, ...]) -> Summary:
    """All links of a group, or of everything."""
    if not links:
        return "no replica", None
    return links_text(links), colour(max(map(link_exit_code, links)))


def link_summary(link: LinkStatus) -> Summary:
    """One link: state, mode, what is not confirmed, what is lacking, and why."""
    said = [link.state.value + (" degraded" if link.degraded else ""), link.mode]
    if link.lag.writes:
        lag = f"{count(link.lag.writes, 'write')}, {format_size(link.lag.bytes)}"
        said.append(f"lag {lag}, {format_seconds(link.lag.seconds)}")
    if link.bwt_blocks:
        said.append(f"lacks {count(link.bwt_blocks, 'block')}")
    if link.held_writes:
        said.append(f"{count(link.held_writes, 'write')} held")
    said += resync_texts(link.resync)
    if link.reason:
        said.append(link.reason)
    return printable(", ".join(said)), colour(link_exit_code(link))


def resync_texts(resync: ResyncStatus | None) -> list[str]:
    """How far a resync is; nothing of one that has ended."""
    if resync is None or resync.blocks_done >= resync.blocks_total:
        return []
    percent = 100 * resync.blocks_done // resync.blocks_total
    left = f"{format_seconds(resync.seconds_left)} left"
    return [f"{percent} % done at {format_size(resync.rate)}/s, {left}"]


def replica_summary(group: GroupStatus) -> Summary:
    """A copy: where recovery would bring it."""
    code = colour(group_exit_code(group))
    heard = group.heard_seconds
    if group.failed:
        return printable(f"FAILED: {group.failed}"), code
    if not group.bound:
        return "not bound: no primary has connected yet", code
    standing = f"consistent at {position_text(group.position)}"
    if not group.consistent:
        standing = f"INCONSISTENT: {group.reason}"
    last = "not heard in this run" if heard is None else f"heard {format_seconds(heard)} ago"
    return printable(", ".join([standing, *resync_texts(group.resync), last])), code


def journal_summary(journal: JournalStatus) -> Summary:
    """What the journal holds, and what waits in it."""
    said = [f"{format_size(journal.bytes)} of {format_size(journal.limit)}"]
    if journal.unapplied:
        said.append(f"{journal.unapplied} batches to apply")
    if journal.staged_bytes:
        said.append(f"{format_size(journal.staged_bytes)} staged")
    return ", ".join(said), True


def volume_summary(volume: VolumeStatus) -> Summary:
    """A volume: size and path, and why it takes no writes if it does not."""
    said = f"{volume.path} ({format_size(volume.size)})"
    if volume.failed:
        return printable(f"{said} FAILED: {volume.failed}"), False
    return printable(said), True


def group_lines(name: str, group: GroupStatus) -> Iterator[str]:
    """All of a group, for ``status``."""
    yield f"{name}: {group_summary(group)[0]}"
    if group.role.value == "replica":
        yield f"  {replica_summary(group)[0]}"
    else:
        yield f"  at {position_text(group.position)}"
    if group.target:
        yield f"  {group.target} at {group.portal}"
    for volume in group.volumes:
        yield f"  {volume.name}  {volume_summary(volume)[0]}"
    if group.log is not None:
        yield f"  ordered log {format_size(group.log.bytes)} of {format_size(group.log.limit)}"
    if group.journal is not None:
        yield f"  journal {journal_summary(group.journal)[0]}"
    for link in group.links:
        yield f"  {printable(link.replica)}  {link_summary(link)[0]}"
    for alarm in group.alarms:
        ago = format_seconds(alarm.seconds)
        yield printable(f"  ALARM {alarm.event}: {alarm.reason} ({ago} ago)")
