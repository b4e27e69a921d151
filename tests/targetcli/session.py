"""A standalone session in this process: lines in, what the console shows out."""

import io
from pathlib import Path

from configshell import ExecutionError
from pratima_targetcli.daemons import Daemons
from pratima_targetcli.nodes import LiveShell
from pratima_targetcli.places import Place
from pratima_targetcli.standalone import Root


class Session:
    """A shell on the standalone root, with the state directories named."""

    def __init__(self, **states: Path) -> None:
        self.shell = LiveShell(None)
        self.root = Root(self.shell, Daemons([Place(n, path) for n, path in states.items()]))
        self.shell.live = self.root
        self.root.look()

    def line(self, text: str) -> str:
        """Run a line; what it shows. Raises ExecutionError as the shell does."""
        console = self.shell.con
        before = console._stdout, console._stderr
        with io.StringIO() as shown:
            console._stdout = console._stderr = shown
            try:
                self.shell.run_cmdline(text)
            finally:
                console._stdout, console._stderr = before
            return shown.getvalue()

    def error(self, text: str) -> str:
        """Run a line that must fail; the error's text."""
        try:
            shown = self.line(text)
        except ExecutionError as error:
            return str(error)
        raise AssertionError(f"{text} did not fail but said: {shown}")

    def tree(self, path: str) -> dict[str, str]:
        """``ls`` as names with their summaries."""
        rows = {}
        for row in self.line(f"{path} ls").splitlines():
            name, _, summary = row.lstrip(" |").removeprefix("o- ").partition(" ")
            rows[name] = summary.lstrip(".").strip().removeprefix("[").removesuffix("]")
        return rows

    def complete(self, path: str, command: str, text: str, **given: str) -> list[str]:
        """What TAB offers for a positional parameter after ``given`` ones."""
        words = [*given.values(), *([text] if text else [])]
        return self.shell._dispatch_completion(path, command, words, {}, text, "pparam")

    def value(self, path: str, group: str, name: str) -> str:
        """One parameter's value, as ``get`` prints it."""
        shown = self.line(f"{path} get {group} {name}").strip().removesuffix("[ro]").strip()
        return shown.removeprefix(f"{name}=")
