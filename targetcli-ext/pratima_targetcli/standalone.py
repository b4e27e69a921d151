"""A root of our own, for machines whose kernel has no LIO, and for tests.

One rule: what is ours has the same path here as in stock targetcli.
"""

from pathlib import Path

from configshell import ConfigShell, ExecutionError

from pratima_targetcli import __version__
from pratima_targetcli.daemons import Daemons
from pratima_targetcli.nodes import LiveShell, Node
from pratima_targetcli.summaries import Summary
from pratima_targetcli.tree import Pratima
from pratima_targetcli.volumes import Backstore


class Backstores(Node):
    """``/backstores``, with the only one that there is without LIO."""

    def __init__(self, parent: Node, daemons: Daemons) -> None:
        super().__init__("backstores", parent)
        Backstore(self, daemons)


class Root(Node):
    """``/``"""

    def __init__(self, shell: ConfigShell, daemons: Daemons) -> None:
        super().__init__("/", shell=shell)
        self.daemons = daemons
        Backstores(self, daemons)
        Pratima(self, daemons)

    def look(self) -> None:
        """Ask the daemons, and bring the whole tree in line."""
        self.daemons.look()
        self.refresh()

    look_at_all = look

    def summary(self) -> Summary:
        """That this is not LIO's tree."""
        return "standalone, without LIO", None

    def ui_command_version(self) -> None:
        """
        Tell the version.
        """
        self.shell.con.display(f"pratima-targetcli {__version__}, standalone")


def run(daemons: Daemons, line: str, preferences: Path, why: str) -> None:
    """Run one line, or with an empty one a session, which is told why it is standalone.

    Raises ExecutionError for the one line.
    """
    # One line leaves nothing behind, so that many may run at once: no preferences are kept.
    shell = LiveShell(None if line else str(preferences))
    root = Root(shell, daemons)
    shell.live = root
    if line:
        shell.run_cmdline(line)  # which looks: a silent daemon is waited for once
        return
    root.look()
    shell.con.display(
        f"pratima-targetcli {__version__}, standalone: {why}\nFor help on commands, type 'help'.\n"
    )
    while not shell._exit:
        try:
            shell.run_interactive()
        except ExecutionError as error:
            shell.log.error(str(error))
