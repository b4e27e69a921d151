"""``pratima enable``: put a link to work."""

from pathlib import Path

import click

from pratima_iscsi.cli.common import ask, link_options, state_option
from pratima_iscsi.control.requests import EnableRequest


@click.command("enable")
@state_option
@link_options
def command(state: Path, group: str, replica: str) -> None:
    """Put GROUP's disabled links to work; they start from a comparison by hash.

    \b
    Example:
      pratima enable db --state p --replica 127.0.0.1:7010
    """
    ask(state, EnableRequest(group=group, replica=replica))
