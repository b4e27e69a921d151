"""What a group is made of, as options: of ``pratima serve`` and of ``pratima target create``.

One rule: both give the section that a configuration file would have.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from pratima_iscsi import limits
from pratima_iscsi.cli.common import ANY_PATH, FILE
from pratima_iscsi.control.sections import ReplicaSection, ServeGroupSection, VolumeSection
from pratima_iscsi.errors import UsageError
from pratima_iscsi.replication.states import Mode

F = TypeVar("F", bound=Callable[..., Any])

_TARGET: Final = (
    click.option(
        "--volume",
        "volumes",
        type=ANY_PATH,
        multiple=True,
        help="A file or block device; repeat it for more LUNs, from 0 on, in one write order.",
    ),
    click.option(
        "--size",
        "sizes",
        metavar="SIZE",
        multiple=True,
        help="Make a new volume, a sparse file of this size: once for all, or per volume.",
    ),
    click.option("--replica", "replicas", metavar="HOST:PORT", multiple=True, help="Mirror to it."),
    click.option(
        "--mode",
        type=click.Choice([mode.value for mode in Mode]),
        default=Mode.ASYNC.value,
        show_default=True,
        help="When a write completes: written here; received there; durable there.",
    ),
    click.option(
        "--sync-timeout",
        type=float,
        default=limits.SYNC_TIMEOUT_SECONDS,
        show_default=True,
        help="Seconds that a write waits for a replica.",
    ),
    click.option(
        "--on-timeout",
        type=click.Choice(["degrade", "block"]),
        default="degrade",
        show_default=True,
        help="What happens then: go on without it, marked and alarmed; or hold writes.",
    ),
    click.option(
        "--resync",
        type=click.Choice(["staged", "direct"]),
        default="staged",
        show_default=True,
        help="Keep the replica at its old consistent point until a resync ends, or write over it.",
    ),
    click.option(
        "--overwrite", is_flag=True, help="Let the first sync replace what a replica has."
    ),
    click.option(
        "--log-limit", metavar="SIZE", default="256MiB", show_default=True, help="The ordered log."
    ),
    click.option("--iqn", default="", help="The target's iSCSI name."),
    click.option(
        "--initiator",
        "initiators",
        metavar="IQN",
        multiple=True,
        help="Who may see and use the target; repeat it. Anybody who may log in, unless given.",
    ),
    click.option(
        "--block-size",
        type=click.Choice(["512", "4096"]),
        default="512",
        show_default=True,
        help="Bytes of a logical block.",
    ),
)
_CHAP: Final = (
    click.option("--chap-user", default="", help="Initiators must log in with this name ..."),
    click.option("--chap-password-file", type=FILE, help="... and the secret on its first line."),
    click.option("--mutual-user", default="", help="We show them this name ..."),
    click.option("--mutual-password-file", type=FILE, help="... and prove it with this secret."),
)
TARGET_PARAMETERS: Final = frozenset(
    {
        "sizes",
        "replicas",
        "mode",
        "sync_timeout",
        "on_timeout",
        "resync",
        "overwrite",
        "log_limit",
        "iqn",
        "initiators",
        "block_size",
        "group",
    }
)
"""Parameters that say nothing without a volume."""


def target_options(command: F) -> F:
    """Volumes, replicas, and how the target shows itself."""
    return _all(_TARGET, command)


def chap_options(command: F) -> F:
    """One CHAP account."""
    return _all(_CHAP, command)


def _all(options: tuple[Callable[[F], F], ...], command: F) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def target_section(given: Mapping[str, Any], name: str) -> ServeGroupSection:
    """The section that the options make. Raises UsageError."""
    return ServeGroupSection(
        name=name,
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


def chap_section(given: Mapping[str, Any]) -> dict[str, str]:
    """The account's keys."""
    return {
        "chap_user": given["chap_user"],
        "chap_password_file": str(given["chap_password_file"] or ""),
        "mutual_user": given["mutual_user"],
        "mutual_password_file": str(given["mutual_password_file"] or ""),
    }


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
