"""Options and steps that several commands share."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from pratima_iscsi.control.client import ControlClient
from pratima_iscsi.control.requests import Request
from pratima_iscsi.errors import UsageError
from pratima_iscsi.limits import CONTROL_ANSWER_SECONDS

F = TypeVar("F", bound=Callable[..., Any])

DIRECTORY = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
ANY_PATH = click.Path(path_type=Path)
WIDTH_UNREAD = 160
"""Columns where nobody looks at a terminal."""


def state_option(command: F) -> F:
    """``--state DIR``, which must be given."""
    return click.option(
        "--state", type=DIRECTORY, required=True, help="The daemon's state directory."
    )(command)


def group_options(command: F) -> F:
    """``GROUP``, or ``--group``, which says the same; both give the command its ``group``."""

    @functools.wraps(command)
    def merged(*arguments: Any, group: str, group_named: str, **options: Any) -> Any:
        if group and group_named and group != group_named:
            raise UsageError(f"two groups: {group} and --group {group_named}", "name one of them")
        return command(*arguments, group=group or group_named, **options)

    named = click.option(
        "--group", "group_named", metavar="NAME", default="", help="The same as GROUP."
    )(merged)
    return cast(F, click.argument("group", required=False, default="")(named))


def link_options(command: F) -> F:
    """``GROUP`` and ``--replica``: which links a verb is about."""
    command = click.option(
        "--replica",
        metavar="HOST:PORT",
        default="",
        help="One link only, by its replica's address.",
    )(command)
    return group_options(command)


def ask(state: Path, request: Request, seconds: float = CONTROL_ANSWER_SECONDS) -> None:
    """Ask the daemon of ``state`` and print what it did."""
    with ControlClient(state, seconds) as client:
        click.echo(getattr(client.ask(request), "message", ""))


def refuse_beside_config(context: click.Context, allowed: set[str]) -> None:
    """Raises UsageError for options of the command line that the file should say instead."""
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and name not in allowed:
            raise UsageError(
                f"{parameter.opts[0]} beside --config", "write it into the configuration file"
            )
