"""``pratima disable``: stop a link."""

from pathlib import Path

import click

from pratima_iscsi.cli.common import ask, link_options, state_option
from pratima_iscsi.control.requests import DisableRequest


@click.command("disable")
@state_option
@link_options
@click.option(
    "--forget-table",
    is_flag=True,
    help="Say that the table may go: which blocks the replica lacks is found by comparison later.",
)
def command(state: Path, group: str, replica: str, forget_table: bool) -> None:
    """Stop GROUP's links and forget which blocks their replicas lack.

    A replica keeps what it has. enable then compares the whole of each volume by hash.

    \b
    Example:
      pratima disable db --state p --replica 127.0.0.1:7010 --forget-table
    """
    ask(state, DisableRequest(group=group, replica=replica, forget_table=forget_table))
