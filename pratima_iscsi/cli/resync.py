"""``pratima resync``: bring over what the replica lacks, now."""

from pathlib import Path

import click

from pratima_iscsi.cli.common import ask, link_options, state_option
from pratima_iscsi.control.requests import ResyncRequest


@click.command("resync")
@state_option
@link_options
@click.option(
    "--from-primary",
    is_flag=True,
    help="The primary's content is the truth, though its replica may hold newer writes.",
)
def command(state: Path, group: str, replica: str, from_primary: bool) -> None:
    """Resync GROUP's links now, without waiting for back-off; ask a primary's daemon.

    A primary that lost power in sync or semi-sync mode sends nothing by itself: its replica may
    hold acknowledged writes that the primary has lost. --from-primary gives those up.

    \b
    Example:
      pratima resync --state p --from-primary
    """
    ask(state, ResyncRequest(group=group, replica=replica, from_primary=from_primary))
