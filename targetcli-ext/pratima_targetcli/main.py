"""``pratima-targetcli``: options, and which root the rest of the line runs in.

One rule: whatever cannot be is said in a line with what to do next, and exits with 1, as stock
targetcli does.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from configshell import ExecutionError

from pratima_iscsi.control.client import OperatorError
from pratima_targetcli import __version__, standalone
from pratima_targetcli.daemons import Daemons
from pratima_targetcli.kernel import no_lio
from pratima_targetcli.limits import REST_CHARACTERS_SHOWN
from pratima_targetcli.places import DEFAULT, ENVIRONMENT, NotUnderstood, find_places

PREFERENCES = "TARGETCLI_HOME"
"""The environment's name for the directory of preferences and history, as of stock targetcli."""


def parser() -> argparse.ArgumentParser:
    """The options; all that follows them is a line for the shell."""
    made = argparse.ArgumentParser(
        prog="pratima-targetcli",
        description="targetcli with Pratima in its tree. Without a command it is a shell.",
        epilog="Example: pratima-targetcli --state /var/lib/pratima /pratima ls",
    )
    made.add_argument(
        "--state",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help=f"a daemon's state directory; may be repeated. Else ${ENVIRONMENT} names them, divided"
        f" by colons; else they are sought in {DEFAULT}",
    )
    made.add_argument(
        "--standalone",
        action="store_true",
        help="without LIO's part of the tree; so it is by itself where the kernel has no LIO",
    )
    made.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    made.add_argument("command", nargs=argparse.REMAINDER, help="a line for the shell")
    return made


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; its exit code."""
    said = parser().parse_args(words)
    try:
        check_words(said.command)
        daemons = Daemons(find_places(said.state, os.environ))
        why = "as it was asked for" if said.standalone else no_lio()
        if not why:
            run_stock(daemons, said.command)
            return 0
        preferences = Path(os.environ.get(PREFERENCES, "~/.targetcli"))
        standalone.run(daemons, " ".join(said.command), preferences, why)
    except (OperatorError, ExecutionError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def check_words(words: Sequence[str]) -> None:
    """Refuse what the shell's line would divide or drop: it knows no quotes, so each word must stay
    one in it. A word that stands alone is the whole line. Raises NotUnderstood."""
    for word in words:
        if not word.strip() or (len(words) > 1 and len(word.split()) > 1):
            raise NotUnderstood(
                f"the shell cannot take {word[:REST_CHARACTERS_SHOWN]!r} as one word",
                "name files and values without spaces, and leave none empty",
            )


def run_stock(daemons: Daemons, words: Sequence[str]) -> None:
    """Stock targetcli, with its imports only now: the standalone root needs none of them.

    It returns from a session, and leaves by SystemExit after a line.
    """
    try:
        stock = importlib.import_module("pratima_targetcli.stock")
    except ModuleNotFoundError as error:
        raise NotUnderstood(
            f"targetcli is not installed ({error})",
            "pip install --no-deps 'targetcli>=3,<4', or say --standalone",
        ) from None
    stock.run(daemons, words)
