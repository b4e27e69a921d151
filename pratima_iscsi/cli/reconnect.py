"""``pratima reconnect``: connect now."""

from pathlib import Path

import click

from pratima_iscsi.cli.common import ask, link_options, state_option
from pratima_iscsi.control.requests import ReconnectRequest


@click.command("reconnect")
@state_option
@link_options
def command(state: Path, group: str, replica: str) -> None:
    """Connect to the replicas of GROUP now, without waiting for back-off.

    \b
    Example:
      pratima reconnect db --state p --replica 127.0.0.1:7010
    """
    ask(state, ReconnectRequest(group=group, replica=replica))
