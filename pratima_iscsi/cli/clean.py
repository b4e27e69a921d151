"""``pratima clean``: declare a replica equal, with nothing copied."""

from pathlib import Path

import click

from pratima_iscsi.cli.common import ask, link_options, state_option
from pratima_iscsi.control.requests import CleanRequest


@click.command("clean")
@state_option
@link_options
@click.option(
    "--without-proof",
    is_flag=True,
    help="Compare nothing. What differs stays different, and nobody will know of it.",
)
def command(state: Path, group: str, replica: str, without_proof: bool) -> None:
    """Declare the replicas of GROUP's links equal, with nothing copied.

    All that a link's table names is compared by hash. Where no difference is found the link is in
    step; the first one is told by name, and the link is as it was: a disabled one is disabled,
    another one resyncs. Writes go on meanwhile and reach the replica. A restart of the daemon
    before it has ended forgets the command.

    --without-proof takes your word instead: for a replica that you have just filled yourself.

    \b
    Examples:
      pratima clean db --state p --replica 127.0.0.1:7010
      pratima clean db --state p --replica 127.0.0.1:7010 --without-proof
    """
    ask(state, CleanRequest(group=group, replica=replica, without_proof=without_proof))
