"""``pratima target create``: serve one more group, from now on and after every restart."""

from pathlib import Path

import click

from pratima_iscsi.cli.common import ask, state_option
from pratima_iscsi.cli.target_options import (
    chap_options,
    chap_section,
    target_options,
    target_section,
)
from pratima_iscsi.control.requests import CreateTargetRequest
from pratima_iscsi.control.sections import ServeGroupSection
from pratima_iscsi.errors import UsageError
from pratima_iscsi.limits import TARGET_ANSWER_SECONDS


@click.command("create")
@click.argument("name")
@state_option
@target_options
@click.option(
    "--portal",
    "portals",
    metavar="HOST:PORT",
    multiple=True,
    help="Where the kernel serves it; the daemon's portal, unless given.",
)
@chap_options
@click.pass_context
def command(context: click.Context, /, **options: object) -> None:
    """Serve one more group as a target, from now on and after every restart.

    \b
    Examples:
      pratima target create db --state p --volume /dev/vg0/data --volume /dev/vg0/log
      pratima target create mail --state p --volume mail.img --size 8GiB \\
          --initiator iqn.1993-08.org.debian:01:5e2 --chap-user mail --chap-password-file chap \\
          --replica 127.0.0.1:7010 --mode sync

    The daemon notes it in its state directory (targets.toml) before it acts. The same command again
    changes nothing. Secrets are read from their files, by the daemon, at each of its starts.
    """
    given = context.params
    if not given["volumes"]:
        raise UsageError("--volume is missing", "name a file or a block device")
    section = absolute(target_section(given, given["name"]), Path.cwd())
    section.portals = given["portals"]
    for key, value in chap_section(given).items():
        of_file = value and key.endswith("_file")
        setattr(section, key, str(Path.cwd() / value) if of_file else value)
    ask(given["state"], CreateTargetRequest(target=section), TARGET_ANSWER_SECONDS)


def absolute(section: ServeGroupSection, base: Path) -> ServeGroupSection:
    """The daemon works elsewhere: its volumes' paths, from ``base`` on, in whole."""
    for volume in section.volume:
        volume.path = str(base / volume.path)
    return section
