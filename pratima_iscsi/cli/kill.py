"""``pratima kill``: drop a link's queue and session."""

from pathlib import Path

import click

from pratima_iscsi.cli.common import ask, link_options, state_option
from pratima_iscsi.control.requests import KillRequest


@click.command("kill")
@state_option
@link_options
@click.option(
    "--drop-queue",
    is_flag=True,
    help="Say that the queue may go: the replica leaves the order of the writes until a resync.",
)
def command(state: Path, group: str, replica: str, drop_queue: bool) -> None:
    """Drop the queue and session of GROUP's links at once.

    The blocks are remembered, and a resync brings them. What is given up is the order: until that
    resync has ended the replica stays at the point that it has now.

    \b
    Example:
      pratima kill db --state p --replica 127.0.0.1:7010 --drop-queue
    """
    ask(state, KillRequest(group=group, replica=replica, drop_queue=drop_queue))
