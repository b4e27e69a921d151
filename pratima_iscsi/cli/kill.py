"""``pratima kill``: drop a link's queue and session."""

from pathlib import Path

import click

from pratima_iscsi.cli.common import ask, link_options, state_option
from pratima_iscsi.control.requests import KillRequest


@click.command("kill")
@state_option
@link_options
def command(state: Path, group: str, replica: str) -> None:
    """Drop a link's queue and session at once; the blocks are remembered and a resync brings them.

    \b
    Example:
      pratima kill --state p --replica 127.0.0.1:7010
    """
    ask(state, KillRequest(group=group, replica=replica))
