"""The command line: one file per command.

One rule: an operator's error is caught here, once; it is printed with its next step, and the exit
code is the error's own. Any other exception is a bug and shows its traceback.
"""

import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click

from pratima_iscsi import EXIT_INTERRUPTED, __version__, hot_path
from pratima_iscsi.cli.lazy import LazyGroup
from pratima_iscsi.errors import OperatorError, in_words

COMMANDS: Final = (
    "serve",
    "replica",
    "status",
    "monitor",
    "target",
    "recover",
    "keygen",
    "resync",
    "reconnect",
    "enable",
    "disable",
    "clean",
    "kill",
    "resize",
)
"""Each in the module of its name, which is imported when the command is asked for."""

EXIT_USAGE: Final = 2


@click.group(
    cls=LazyGroup,
    package="pratima_iscsi.cli",
    names=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message=f"pratima %(version)s ({hot_path()})")
def cli() -> None:
    """Serve volumes over iSCSI and keep an exact, ordered copy of them on other hosts.

    \b
    A pair on one machine:
      pratima replica --state r --volume replica.img
      pratima serve   --state p --volume disk.img --size 1GiB --replica 127.0.0.1:7010
      pratima status  --state p
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = cli.main(arguments, prog_name="pratima", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except OperatorError as error:
        _say(error.problem, error.next_step)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads any more
        return EXIT_USAGE
    except OSError as error:
        _say(in_words(error), "see to the disk or the file, and try again")
        return EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED


def _say(problem: str, next_step: str) -> None:
    click.echo(f"pratima: {problem}", err=True)
    if next_step:
        click.echo(f"   next: {next_step}", err=True)
