"""What every node of ours is, whatever root it hangs from, and the shell that keeps them fresh.

One rule: what a node shows was said after the command line was given. The shell looks at the
daemons before it runs a line; nodes keep names and no values, and stay the same objects while
their names are there.
"""

import glob
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from configshell import ConfigNode, ConfigShell, ExecutionError
from pyparsing import ParseException

from pratima_iscsi.control.client import OperatorError
from pratima_iscsi.control.requests import Request
from pratima_iscsi.control.units import format_seconds, format_size, parse_size
from pratima_targetcli.daemons import Daemon
from pratima_targetcli.limits import ANSWER_SECONDS, COMPLETIONS_MAX, REST_CHARACTERS_SHOWN
from pratima_targetcli.summaries import GONE, Summary, printable

STATUS: Final = "status"
"""The group of what is only told."""
SETTING: Final = "setting"
"""The group of what may also be set, where the daemon lets it be."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value that ``get`` tells of the status value that a node stands for."""

    name: str
    type: str
    """``string``, ``number``, ``bool``, ``size`` or ``seconds``."""
    description: str
    read: Callable[[Any], object]
    writable: bool = False


class Typed(ConfigNode):
    """Adds the types and the look-up of parameters; mixed into nodes of either root."""

    SETTINGS: tuple[Parameter, ...] = ()
    STATUSES: tuple[Parameter, ...] = ()

    def define_parameters(self) -> None:
        """Make ``get`` and ``set`` know what the two tables name."""
        for group, parameters in ((SETTING, self.SETTINGS), (STATUS, self.STATUSES)):
            for known in parameters:
                self.define_config_group_param(
                    group, known.name, known.type, known.description, writable=known.writable
                )

    def subject(self) -> object:
        """The status value that the node stands for; None: it is gone."""
        return None

    def present(self) -> Any:
        """The same, for a command that cannot do without."""
        found = self.subject()
        if found is None:
            raise ExecutionError(f"{self.path} is no longer there; see ls /pratima/daemons")
        return found

    def ui_getgroup_status(self, parameter: str) -> object:
        """The value of one of STATUSES."""
        return _read(self.STATUSES, parameter, self.present())

    def ui_getgroup_setting(self, parameter: str) -> object:
        """The value of one of SETTINGS."""
        return _read(self.SETTINGS, parameter, self.present())

    def ui_setgroup_setting(self, parameter: str, value: object) -> None:
        """Overridden where there is something to set."""
        raise ExecutionError(f"{parameter} cannot be set here")

    def ui_type_size(
        self, value: Any = None, enum: bool = False, reverse: bool = False
    ) -> int | str | list[str] | None:
        """Bytes; ``1GiB``, ``512M`` and plain numbers are understood."""
        if reverse:
            return "n/a" if value is None else format_size(value)
        if value is None:
            return [] if enum else "SIZE"
        try:
            return parse_size(value)
        except OperatorError as error:
            raise ValueError(str(error)) from None

    def ui_type_seconds(
        self, value: Any = None, enum: bool = False, reverse: bool = False
    ) -> float | str | list[str] | None:
        """A duration in seconds."""
        if reverse:
            return format_seconds(value)
        if value is None:
            return [] if enum else "SECONDS"
        return float(value)

    def look(self) -> None:
        """Ask the daemons in the middle of a command, after something was changed."""
        if isinstance(self.shell, LiveShell) and self.shell.live is not None:
            self.shell.live.look_at_all()

    def flag(self, name: str, text: str | None) -> bool:
        """A flag of the command line, ``true`` or ``false``; false unless given."""
        try:
            return bool(self.ui_eval_param(text, "bool", False))
        except ExecutionError as error:
            raise ExecutionError(f"{name}: {error}") from None

    def carry_out(self, daemon: Daemon, request: Request, seconds: float = ANSWER_SECONDS) -> None:
        """Have a daemon do something and say what it did; its refusal is the command's error."""
        try:
            self.shell.log.info(printable(daemon.ask(request, seconds)))
        except OperatorError as error:
            raise ExecutionError(printable(str(error))) from None


class Node(Typed):
    """A node of ours."""

    def __init__(
        self, name: str, parent: ConfigNode | None = None, shell: ConfigShell | None = None
    ) -> None:
        super().__init__(name, parent, shell)
        self.define_parameters()

    def refresh(self) -> None:
        """Bring the children in line with what the daemons said last."""
        for child in self.children:
            if isinstance(child, Node):
                child.refresh()

    def keep(self, wanted: Mapping[str, Callable[[str], ConfigNode]]) -> None:
        """Have exactly the children of these names: the old ones, and new ones made by name."""
        for child in tuple(self.children):
            if child.name not in wanted:
                self.remove_child(child)
        present = {child.name for child in self.children}
        for name, make in wanted.items():
            if name not in present:
                make(name)
        Node.refresh(self)

    def tell(self) -> Iterable[str]:
        """The lines that ``status`` prints."""
        return [self.summary()[0]]

    def ui_command_status(self) -> None:
        """
        Tell how it stands.

        SEE ALSO
        ========
        ls get
        """
        for line in self.tell():
            self.shell.con.display(line)

    def ui_command_refresh(self) -> None:
        """
        Ask the daemons anew. Every command does so by itself; this one does nothing else.
        """


class StatusNode(Node):
    """A node that stands for one status value, whose summary is made from that value alone."""

    def summary(self) -> Summary:
        """Its line in the tree."""
        found = self.subject()
        return GONE if found is None else self.summarise(found)

    def summarise(self, found: Any) -> Summary:
        """The line of a value that is there."""
        raise AssertionError(f"{type(self).__name__} has no summary of {found!r}")


class LiveRoot(Protocol):
    """A root that can look at the daemons."""

    def look(self) -> None:
        """Ask the daemons, and bring what is ours in line."""

    def look_at_all(self) -> None:
        """The same with all that is in the tree: what a daemon did may show anywhere."""


class LiveShell(ConfigShell):
    """Looks at the daemons before each line; refuses a line that it would only half understand."""

    live: LiveRoot | None = None

    def run_cmdline(self, cmdline: str) -> None:
        """Run one line. Raises ExecutionError."""
        try:
            self._parser.parse_string(cmdline, parse_all=True)
        except ParseException as error:
            rest = cmdline[error.loc :][:REST_CHARACTERS_SHOWN]
            raise ExecutionError(
                f"not understood from {rest!r} on; values hold no spaces and no quotes"
            ) from None
        if self.live is not None:
            self.live.look()
            self._current_node = nearest(self._current_node, self._root_node)
        super().run_cmdline(cmdline)


def nearest(node: ConfigNode, root: ConfigNode) -> ConfigNode:
    """``node`` where it is still in the tree, else what is left of the way to it."""
    while node.parent is not None:
        try:
            found = root.get_node(node.path)
        except ValueError:
            node = node.parent
            continue
        return found
    return root


def complete(candidates: Iterable[str], text: str) -> list[str]:
    """What a completion offers, in configshell's way: a blank after the only one."""
    found = sorted({candidate for candidate in candidates if candidate.startswith(text)})
    return [found[0] + " "] if len(found) == 1 else found


def complete_path(text: str) -> list[str]:
    """Files and directories that a path may go on with, in their order."""
    found = sorted(itertools.islice(glob.iglob(glob.escape(text) + "*"), COMPLETIONS_MAX))
    found = [f"{path}/" if os.path.isdir(path) else path for path in found]
    return [found[0] + " "] if len(found) == 1 and not found[0].endswith("/") else found


def _read(parameters: tuple[Parameter, ...], name: str, found: object) -> object:
    return next(known for known in parameters if known.name == name).read(found)
