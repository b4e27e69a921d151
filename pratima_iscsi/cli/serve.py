"""``pratima serve``: the target of one or more groups."""

import sys
from pathlib import Path

import click

from pratima_iscsi import limits
from pratima_iscsi.cli.common import DIRECTORY, FILE, refuse_beside_config
from pratima_iscsi.cli.target_options import (
    TARGET_PARAMETERS,
    chap_options,
    chap_section,
    target_options,
    target_section,
)
from pratima_iscsi.control.config import read_file, serve_options
from pratima_iscsi.control.options import FrontEndKind, ServeOptions
from pratima_iscsi.control.sections import (
    DEFAULT_GROUP,
    DEFAULT_PORTAL,
    PortalSection,
    ServeFile,
)
from pratima_iscsi.errors import UsageError


@click.command("serve")
@click.option("--config", type=FILE, help="A TOML file instead of the options below.")
@click.option("--state", type=DIRECTORY, help="Directory for what must outlive the process.")
@click.option(
    "--portal",
    metavar="HOST:PORT",
    default=DEFAULT_PORTAL,
    show_default=True,
    help="Where initiators connect; port 0: any free one.",
)
@click.option(
    "--front-end",
    type=click.Choice([kind.value for kind in FrontEndKind]),
    default=FrontEndKind.AUTO.value,
    show_default=True,
    help="The kernel's target (tcmu), or the portal; auto: the kernel's where it is loaded.",
)
@click.option(
    "--command-timeout",
    metavar="SECONDS",
    type=int,
    default=limits.LIO_COMMAND_SECONDS,
    show_default=True,
    help="With the kernel: how long it waits for our answer before initiators get an error.",
)
@click.option(
    "--no-lio-setup",
    is_flag=True,
    help="With the kernel: carry out commands, and leave targets to whoever makes them.",
)
@target_options
@click.option("--group", default=DEFAULT_GROUP, show_default=True, help="The group's name.")
@click.option("--key", type=FILE, help="This node's key pair (pratima keygen).")
@click.option("--allow", type=FILE, help="The replicas' public keys, one a line.")
@click.option(
    "--events",
    metavar="HOST:PORT",
    default="",
    help="Publish events there, too, for pratima monitor.",
)
@click.option(
    "--events-allow", type=FILE, help="Public keys of who may watch. [default: those of --allow]"
)
@chap_options
@click.option(
    "--insecure-no-chap", is_flag=True, help="Off loopback without CHAP: anybody may write."
)
@click.pass_context
def command(context: click.Context, /, **options: object) -> None:
    """Serve volumes over iSCSI, and mirror them in write order.

    \b
    Examples:
      pratima serve --state p --volume disk.img --size 1GiB
      pratima serve --state p --volume /dev/vg0/data --volume /dev/vg0/log \\
          --replica 127.0.0.1:7010 --mode sync
      pratima serve --state /var/lib/pratima --portal 10.0.0.1:3260 --volume /dev/vg0/data \\
          --chap-user backup --chap-password-file chap --replica 10.0.0.2:7010 \\
          --key node.key --allow allow
      pratima serve --config pratima.toml

    Without --volume and --config it serves what pratima target create makes, over restarts too.
    SIGTERM, SIGHUP and Ctrl-C are a clean stop: the next start goes on from there.
    """
    parsed = parse(context)
    from pratima_iscsi.target_daemon import run  # what it pulls in is not needed for --help

    sys.exit(run(parsed))


def parse(context: click.Context) -> ServeOptions:
    """The command line's options, or the file's, checked."""
    given = context.params
    if given["config"] is not None:
        refuse_beside_config(context, {"config", "state", "portal", "front_end"})
        config: Path = given["config"]
        file = read_file(config, ServeFile)
        if given["state"] is not None:
            file.state = str(given["state"].absolute())
        if context.get_parameter_source("portal") is click.core.ParameterSource.COMMANDLINE:
            file.portal.listen = given["portal"]
        if context.get_parameter_source("front_end") is click.core.ParameterSource.COMMANDLINE:
            file.front_end = FrontEndKind(given["front_end"])
        return serve_options(file, config.absolute().parent)
    if given["state"] is None:
        raise UsageError("--state is missing", "name a directory for what must outlive the process")
    if not given["volumes"]:
        _refuse_without_volume(context)
    group = (target_section(given, given["group"]),) if given["volumes"] else ()
    portal = PortalSection(
        listen=given["portal"],
        insecure_no_chap=given["insecure_no_chap"],
        **chap_section(given),
    )
    file = ServeFile(
        state=str(given["state"]),
        group=group,
        portal=portal,
        front_end=FrontEndKind(given["front_end"]),
        lio_setup=not given["no_lio_setup"],
        command_timeout=given["command_timeout"],
        key=str(given["key"] or ""),
        allow=str(given["allow"] or ""),
        events=given["events"],
        events_allow=str(given["events_allow"] or ""),
    )
    return serve_options(file, Path.cwd())


def _refuse_without_volume(context: click.Context) -> None:
    """Raises UsageError for what describes a group where there is none."""
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and name in TARGET_PARAMETERS:
            raise UsageError(
                f"{parameter.opts[0]} without --volume",
                "name the group's volumes too, or leave it to pratima target create",
            )
