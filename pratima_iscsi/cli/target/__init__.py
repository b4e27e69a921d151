"""``pratima target``: targets that come and go while their daemon runs, one file per command."""

from typing import Final

import click

from pratima_iscsi.cli.lazy import LazyGroup

COMMANDS: Final = ("create", "delete", "list")


@click.group("target", cls=LazyGroup, package=__name__, names=COMMANDS)
def command() -> None:
    """Make, end and show the targets of a daemon that runs.

    \b
    Example:
      pratima serve --state p &
      pratima target create db --state p --volume /dev/vg0/data --chap-user backup \\
          --chap-password-file chap
      pratima target list --state p
      pratima target delete db --state p
    """
