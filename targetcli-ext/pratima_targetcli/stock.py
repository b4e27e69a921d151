"""Stock targetcli 3.x with Pratima in its tree: its own program, in which three classes are ours.

One rule: what stock targetcli does it does unchanged. Two things are left out, because both would
take the tree away from us: its daemon, and the D-Bus look-up that starts tcmu-runner.
"""

import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from pratima_targetcli.gi_stand_in import stand_in

WITHOUT_PYGOBJECT = stand_in()
"""Whether targetcli was loaded beside a stand-in; it must be there before the imports below."""

import targetcli  # noqa: E402
from configshell import ConfigShell  # noqa: E402
from targetcli import targetcli_shell, ui_root  # noqa: E402

from pratima_targetcli.daemons import Daemons  # noqa: E402
from pratima_targetcli.dbus_handlers import service_runs  # noqa: E402
from pratima_targetcli.nodes import LiveShell  # noqa: E402
from pratima_targetcli.places import NotUnderstood  # noqa: E402
from pratima_targetcli.tree import Pratima  # noqa: E402

HANDLER = "pratima"


class Shell(LiveShell, targetcli_shell.TargetCLI):
    """Stock's shell, which looks at our daemons before each line."""


class Backstores(ui_root.UIBackstores):
    """``/backstores``: stock's, ours, and what others offer over D-Bus if they run already."""

    def _user_backstores(self) -> Iterator[tuple[str, object, dict[str, object]]]:
        if WITHOUT_PYGOBJECT:
            return
        gio: Any = importlib.import_module("gi.repository.Gio")
        glib: Any = importlib.import_module("gi.repository.GLib")
        if service_runs(gio, glib):
            yield from (known for known in super()._user_backstores() if known[0] != HANDLER)


class Root(ui_root.UIRoot):
    """``/``"""

    daemons: Daemons

    def __init__(self, shell: ConfigShell, as_root: bool = False) -> None:
        super().__init__(shell, as_root)
        assert isinstance(shell, Shell)
        shell.live = self

    def refresh(self) -> None:
        """Stock's refresh throws all children away; ours is made again."""
        super().refresh()
        Pratima(self, self.daemons).refresh()

    def look(self) -> None:
        """Ask the daemons, and bring what is ours in line."""
        self.daemons.look()
        self.pratima.refresh()

    @property
    def pratima(self) -> Pratima:
        """The node of that name."""
        found = self.get_child("pratima")
        assert isinstance(found, Pratima)
        return found


def _stay(shell: ConfigShell, interactive: bool) -> None:
    shell.log.warning("auto_use_daemon is ignored: targetclid does not know Pratima")


def install(daemons: Daemons) -> None:
    """Put our classes in the places of stock's. Raises NotUnderstood for another targetcli."""
    if not targetcli.__version__.startswith("3."):
        raise NotUnderstood(
            f"targetcli {targetcli.__version__} is not one that this knows",
            "pip install --no-deps 'targetcli>=3,<4'",
        )
    ui_root.UIBackstores = Backstores  # type: ignore[misc]
    targetcli_shell.TargetCLI = Shell  # type: ignore[misc]
    targetcli_shell.UIRoot = Root  # type: ignore[misc]
    Root.daemons = daemons
    targetcli_shell.switch_to_daemon = _stay


def run(daemons: Daemons, words: Sequence[str]) -> None:
    """Stock targetcli's own ``main`` on ``words``; it leaves by SystemExit."""
    install(daemons)
    sys.argv[:] = ["pratima-targetcli", *words]
    targetcli_shell.main()
