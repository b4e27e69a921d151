"""``pratima replica``: the daemon that keeps copies of groups."""

import sys
from pathlib import Path

import click

from pratima_iscsi.cli.common import ANY_PATH, DIRECTORY, FILE, refuse_beside_config
from pratima_iscsi.control.config import read_file, replica_options
from pratima_iscsi.control.options import ReplicaDaemonOptions
from pratima_iscsi.control.sections import (
    DEFAULT_GROUP,
    DEFAULT_LISTEN,
    ReplicaFile,
    ReplicaGroupSection,
    VolumeSection,
)
from pratima_iscsi.errors import UsageError


@click.command("replica")
@click.option("--config", type=FILE, help="A TOML file instead of the options below.")
@click.option("--state", type=DIRECTORY, help="Directory of the journal and the state.")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default=DEFAULT_LISTEN,
    show_default=True,
    help="The control port, to which primaries connect.",
)
@click.option("--data-listen", metavar="HOST:PORT", default="", help="[default: the port above]")
@click.option(
    "--volume",
    "volumes",
    type=ANY_PATH,
    multiple=True,
    help="A file (made where there is none) or block device, in the primary's order.",
)
@click.option("--group", default=DEFAULT_GROUP, show_default=True, help="The group's name.")
@click.option("--key", type=FILE, help="This node's key pair (pratima keygen).")
@click.option("--allow", type=FILE, help="The primaries' public keys, one a line.")
@click.option(
    "--events",
    metavar="HOST:PORT",
    default="",
    help="The port for pratima monitor, or none. [default: two above the control port]",
)
@click.option(
    "--events-allow", type=FILE, help="Public keys of who may watch. [default: those of --allow]"
)
@click.option(
    "--journal-limit", metavar="SIZE", default="256MiB", show_default=True, help="The journal."
)
@click.option("--overwrite", is_flag=True, help="Let the first sync replace what a volume has.")
@click.pass_context
def command(context: click.Context, /, **options: object) -> None:
    """Keep a copy of volumes that another node serves: always consistent after its first sync.

    \b
    Examples:
      pratima replica --state r --volume replica.img
      pratima replica --state /var/lib/pratima --listen 10.0.0.2:7010 --volume /dev/vg0/copy \\
          --key node.key --allow allow
      pratima replica --config pratima.toml

    SIGTERM, SIGHUP and Ctrl-C are a clean stop. What is stored here can be looked at with pratima
    recover once the daemon has stopped.
    """
    parsed = parse(context)
    from pratima_iscsi.replica_daemon import run  # what it pulls in is not needed for --help

    sys.exit(run(parsed))


def parse(context: click.Context) -> ReplicaDaemonOptions:
    """The command line's options, or the file's, checked."""
    given = context.params
    if given["config"] is not None:
        refuse_beside_config(context, {"config", "state", "listen"})
        config: Path = given["config"]
        file = read_file(config, ReplicaFile)
        if given["state"] is not None:
            file.state = str(given["state"].absolute())
        if context.get_parameter_source("listen") is click.core.ParameterSource.COMMANDLINE:
            file.listen = given["listen"]
        return replica_options(file, config.absolute().parent)
    if given["state"] is None:
        raise UsageError("--state is missing", "name a directory for the journal and the state")
    group = ReplicaGroupSection(
        name=given["group"],
        volume=tuple(VolumeSection(path=str(path)) for path in given["volumes"]),
        overwrite=given["overwrite"],
    )
    file = ReplicaFile(
        state=str(given["state"]),
        group=(group,),
        listen=given["listen"],
        data_listen=given["data_listen"],
        key=str(given["key"] or ""),
        allow=str(given["allow"] or ""),
        events=given["events"],
        events_allow=str(given["events_allow"] or ""),
        journal_limit=given["journal_limit"],
    )
    return replica_options(file, Path.cwd())
