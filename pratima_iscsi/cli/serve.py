"""``pratima serve``: the target of one or more groups."""

import sys
from pathlib import Path

import click

from pratima_iscsi import limits
from pratima_iscsi.cli.common import ANY_PATH, DIRECTORY, FILE, refuse_beside_config
from pratima_iscsi.control.config import read_file, serve_options
from pratima_iscsi.control.options import ServeOptions
from pratima_iscsi.control.sections import (
    DEFAULT_GROUP,
    DEFAULT_PORTAL,
    PortalSection,
    ReplicaSection,
    ServeFile,
    ServeGroupSection,
    VolumeSection,
)
from pratima_iscsi.errors import UsageError
from pratima_iscsi.replication.states import Mode


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
    "--volume",
    "volumes",
    type=ANY_PATH,
    multiple=True,
    help="A file or block device; repeat it for more LUNs, from 0 on, in one write order.",
)
@click.option(
    "--size",
    "sizes",
    metavar="SIZE",
    multiple=True,
    help="Make a sparse file of this size where there is none: once for all, or per volume.",
)
@click.option("--replica", "replicas", metavar="HOST:PORT", multiple=True, help="Mirror to it.")
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Mode]),
    default=Mode.ASYNC.value,
    show_default=True,
    help="When a write completes: written here; received there; durable there.",
)
@click.option(
    "--sync-timeout",
    type=float,
    default=limits.SYNC_TIMEOUT_SECONDS,
    show_default=True,
    help="Seconds that a write waits for a replica.",
)
@click.option(
    "--on-timeout",
    type=click.Choice(["degrade", "block"]),
    default="degrade",
    show_default=True,
    help="What happens then: go on without it, marked and alarmed; or hold writes.",
)
@click.option(
    "--resync",
    type=click.Choice(["staged", "direct"]),
    default="staged",
    show_default=True,
    help="Keep the replica at its old consistent point until a resync ends, or write over it.",
)
@click.option("--overwrite", is_flag=True, help="Let the first sync replace what a replica has.")
@click.option(
    "--log-limit", metavar="SIZE", default="256MiB", show_default=True, help="The ordered log."
)
@click.option("--group", default=DEFAULT_GROUP, show_default=True, help="The group's name.")
@click.option("--iqn", default="", help="The target's iSCSI name.")
@click.option(
    "--initiator",
    "initiators",
    metavar="IQN",
    multiple=True,
    help="Who may see and use the target; repeat it. Anybody who may log in, unless given.",
)
@click.option(
    "--block-size",
    type=click.Choice(["512", "4096"]),
    default="512",
    show_default=True,
    help="Bytes of a logical block.",
)
@click.option("--key", type=FILE, help="This node's key pair (pratima keygen).")
@click.option("--allow", type=FILE, help="The replicas' public keys, one a line.")
@click.option("--chap-user", default="", help="Initiators must log in with this name ...")
@click.option("--chap-password-file", type=FILE, help="... and the secret on its first line.")
@click.option("--mutual-user", default="", help="We show them this name ...")
@click.option("--mutual-password-file", type=FILE, help="... and prove it with this secret.")
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

    SIGTERM and Ctrl-C are a clean stop: the next start goes on from there.
    """
    parsed = parse(context)
    from pratima_iscsi.target_daemon import run  # what it pulls in is not needed for --help

    sys.exit(run(parsed))


def parse(context: click.Context) -> ServeOptions:
    """The command line's options, or the file's, checked."""
    given = context.params
    if given["config"] is not None:
        refuse_beside_config(context, {"config", "state", "portal"})
        config: Path = given["config"]
        file = read_file(config, ServeFile)
        if given["state"] is not None:
            file.state = str(given["state"].absolute())
        if context.get_parameter_source("portal") is click.core.ParameterSource.COMMANDLINE:
            file.portal.listen = given["portal"]
        return serve_options(file, config.absolute().parent)
    if given["state"] is None:
        raise UsageError("--state is missing", "name a directory for what must outlive the process")
    group = ServeGroupSection(
        name=given["group"],
        iqn=given["iqn"],
        volume=_volumes(given["volumes"], given["sizes"]),
        replica=tuple(
            ReplicaSection(
                address=address,
                mode=Mode(given["mode"]),
                sync_timeout=given["sync_timeout"],
                on_timeout=given["on_timeout"],
                resync=given["resync"],
                overwrite=given["overwrite"],
            )
            for address in given["replicas"]
        ),
        log_limit=given["log_limit"],
        block_size=4096 if given["block_size"] == "4096" else 512,
        initiators=given["initiators"] or None,
    )
    portal = PortalSection(
        listen=given["portal"],
        chap_user=given["chap_user"],
        chap_password_file=str(given["chap_password_file"] or ""),
        mutual_user=given["mutual_user"],
        mutual_password_file=str(given["mutual_password_file"] or ""),
        insecure_no_chap=given["insecure_no_chap"],
    )
    file = ServeFile(
        state=str(given["state"]),
        group=(group,),
        portal=portal,
        key=str(given["key"] or ""),
        allow=str(given["allow"] or ""),
    )
    return serve_options(file, Path.cwd())


def _volumes(paths: tuple[Path, ...], sizes: tuple[str, ...]) -> tuple[VolumeSection, ...]:
    if len(sizes) not in {0, 1, len(paths)}:
        raise UsageError(
            f"{len(sizes)} sizes for {len(paths)} volumes", "give one for all, or one for each"
        )
    each: tuple[str | None, ...] = (sizes or (None,)) * len(paths)
    return tuple(
        VolumeSection(path=str(path), size=size)
        for path, size in zip(paths, each[: len(paths)], strict=True)
    )
