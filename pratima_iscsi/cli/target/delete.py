"""``pratima target delete``: serve a group no more."""

from pathlib import Path

import click

from pratima_iscsi.cli.common import ask, state_option
from pratima_iscsi.control.requests import DeleteTargetRequest
from pratima_iscsi.limits import TARGET_ANSWER_SECONDS


@click.command("delete")
@click.argument("name")
@state_option
@click.option(
    "--end-sessions",
    is_flag=True,
    help="Also where initiators are logged in: they lose the disk, and what they have under way.",
)
def command(name: str, state: Path, end_sessions: bool) -> None:
    """Serve a group no more. Its volumes and its state stay, so it can be created again.

    \b
    Example:
      pratima target delete db --state p
    """
    request = DeleteTargetRequest(group=name, end_sessions=end_sessions)
    ask(state, request, TARGET_ANSWER_SECONDS)
