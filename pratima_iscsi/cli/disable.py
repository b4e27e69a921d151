"""``pratima disable``: stop a link."""

from pathlib import Path

import click

from pratima_iscsi.cli.common import ask, link_options, state_option
from pratima_iscsi.control.requests import DisableRequest


@click.command("disable")
@state_option
@link_options
def command(state: Path, group: str, replica: str) -> None:
    """Stop a link and forget which blocks its replica lacks; the replica keeps what it has.

    \b
    Example:
      pratima disable --state p --replica 127.0.0.1:7010
    """
    ask(state, DisableRequest(group=group, replica=replica))
