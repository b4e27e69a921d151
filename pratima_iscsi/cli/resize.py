"""``pratima resize``: grow a volume while it is used."""

from pathlib import Path

import click

from pratima_iscsi.cli.common import ask, group_options, state_option
from pratima_iscsi.control.requests import ResizeRequest
from pratima_iscsi.control.units import parse_size


@click.command("resize")
@state_option
@group_options
@click.option("--volume", metavar="NAME", default="", help="The volume, where there are several.")
@click.option(
    "--size",
    metavar="SIZE",
    help="Its new size; of a block device what it has by now, if left out.",
)
@click.option(
    "--replicas-later",
    is_flag=True,
    help="Also while a replica cannot be asked: it grows when it is back, if it can.",
)
def command(state: Path, group: str, volume: str, size: str | None, replicas_later: bool) -> None:
    """Grow a volume of GROUP online; ask a primary's daemon.

    First every replica makes room, then the primary, then initiators are told (capacity data has
    changed). Files are made longer; a block device must have been extended before, with lvextend
    for instance, at the replicas first. A volume never shrinks.

    \b
    Example:
      pratima resize --state p --size 2GiB
      pratima resize --state p db --volume data
    """
    wanted = None if size is None else parse_size(size)
    ask(
        state,
        ResizeRequest(group=group, volume=volume, size=wanted, replicas_later=replicas_later),
    )
