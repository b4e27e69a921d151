"""State directories and the short names that their daemons have in the tree.

One rule: a name depends on what was said (options, environment), never on what a daemon answers,
so that a path in a script stays right when a daemon is down.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pratima_iscsi.control.client import OperatorError
from pratima_targetcli.limits import DAEMONS_MAX

ENVIRONMENT: Final = "PRATIMA_STATE"
"""State directories, divided by colons, where no option names one."""
DEFAULT: Final = Path("/var/lib/pratima")
"""One daemon's state directory, or the directory that holds those of several."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_CONTROL: Final = "control"
"""What a state directory has since its daemon's first start."""


class NotUnderstood(OperatorError):
    """What was said on the command line or in the environment cannot be."""


@dataclass(frozen=True, slots=True)
class Place:
    """A daemon's state directory and its name in the tree."""

    name: str
    state: Path


def node_name(text: str) -> str:
    """``text`` as the name of a node: what a path in the shell may hold, the rest replaced."""
    return re.sub(r"[^A-Za-z0-9:_.\[\]-]", "_", text) or "_"


def find_places(options: Sequence[str], environment: Mapping[str, str]) -> tuple[Place, ...]:
    """The places that ``[NAME=]DIR`` options name, else the environment, else what is there.

    Raises NotUnderstood.
    """
    said: Iterable[str] = options
    if not options:
        said = [text for text in environment.get(ENVIRONMENT, "").split(os.pathsep) if text]
    places = [_place(text) for text in said] or _usual(DEFAULT)
    if len(places) > DAEMONS_MAX:
        raise NotUnderstood(f"{len(places)} state directories", f"{DAEMONS_MAX} are the most")
    names = [place.name for place in places]
    for name in names:
        if names.count(name) > 1:
            raise NotUnderstood(
                f"two state directories would be named {name}",
                f"tell them apart: --state {name}1=DIR --state {name}2=DIR",
            )
    return tuple(places)


def _place(text: str) -> Place:
    name, equals, path = text.partition("=")
    if not equals:
        name, path = "", text
    elif not _NAME.fullmatch(name):
        raise NotUnderstood(
            f"{name!r} cannot name a daemon",
            "use letters, digits, '_', '.' and '-', a letter or digit first",
        )
    if not path:
        raise NotUnderstood(f"{text!r} names no directory", "write it as DIR or NAME=DIR")
    state = Path(path).absolute()
    return Place(name or _named_after(state), state)


def _named_after(state: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", state.name).lstrip("_.-") or "state"


def _usual(base: Path) -> list[Place]:
    """Where a packaged daemon keeps its state: right there, or a directory below for each."""
    try:
        if (base / _CONTROL).is_dir():
            return [_place(str(base))]
        below = sorted(path for path in base.iterdir() if (path / _CONTROL).is_dir())
    except OSError:
        return []
    return [_place(str(path)) for path in below]
