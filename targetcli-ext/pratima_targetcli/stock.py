"""Stock targetcli 3.x with Pratima in its tree: its own program, in which three classes are ours.

One rule: what stock targetcli does it does unchanged. Two things are left out, because both would
take the tree away from us: its daemon, and the D-Bus look-up that starts tcmu-runner.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pratima_targetcli.gi_stand_in import PYGOBJECT_IS_MISSING

# isort: split
# Only now: what follows imports PyGObject, or finds what stands in for it.

import targetcli
from configshell import ConfigNode, ConfigShell
from targetcli import targetcli_shell, ui_backstore, ui_root

from pratima_targetcli.daemons import Daemons
from pratima_targetcli.dbus_handlers import service_runs
from pratima_targetcli.nodes import LiveShell, Node
from pratima_targetcli.places import NotUnderstood
from pratima_targetcli.summaries import Summary
from pratima_targetcli.tree import Pratima
from pratima_targetcli.volumes import HANDLER, NAME, Backstore, Unit, VolumeCommands


class Shell(LiveShell, targetcli_shell.TargetCLI):
    """Stock's shell, which looks at our daemons before each line."""


class Backstores(ui_root.UIBackstores):
    """``/backstores``: stock's, ours, and what others offer over D-Bus if they run already."""

    def _user_backstores(self) -> Iterator[tuple[str, object, dict[str, object]]]:
        if PYGOBJECT_IS_MISSING:
            return
        gio: Any = importlib.import_module("gi.repository.Gio")
        glib: Any = importlib.import_module("gi.repository.GLib")
        if service_runs(gio, glib):
            yield from (known for known in super()._user_backstores() if known[0] != HANDLER)

    def refresh(self) -> None:
        """Stock's backstores, and ours."""
        super().refresh()
        root = self.get_root()
        assert isinstance(root, Root)
        KernelBackstore(self, root.daemons).refresh()


class KernelBackstore(Backstore):
    """``/backstores/user:pratima``, whose volumes are storage objects where the kernel has them."""

    devices: dict[str, ui_backstore.UserBackedStorageObject]
    """The kernel's devices of ours, by the serial of their unit."""

    def refresh(self) -> None:
        """Everything is made anew, for a storage object stands for what was there when it was."""
        self._children.clear()
        self.devices = {}
        for device in ui_backstore.RTSRoot().storage_objects:
            if device.plugin == "user":
                handler, _, serial = (device.config or "").partition("/")
                if handler == HANDLER:
                    self.devices[serial] = device
        super().refresh()

    def wanted(self) -> dict[str, Callable[[str], ConfigNode]]:
        """Also the devices of ours for which no daemon answers."""
        wanted = super().wanted()
        known = {unit.serial for _, key in self.targets() for unit in key.units}
        for serial, device in self.devices.items():
            if serial not in known:
                wanted[device.name] = lambda _, device=device: OrphanedDevice(device, self)  # type: ignore[misc]
        return wanted

    def volume(self, name: str, key: Unit) -> ConfigNode:
        """A storage object where the kernel has the volume."""
        device = self.devices.get(key.unit.serial) if key.unit else None
        if device is None:
            return super().volume(name, key)
        return KernelVolume(name, self, key, device)


class KernelVolume(VolumeCommands, ui_backstore.UIUserBackedStorageObject):
    """A volume that the kernel serves: what stock tells of it, and what its daemon tells."""

    def __init__(
        self, name: str, parent: ConfigNode, key: Unit, device: ui_backstore.UserBackedStorageObject
    ) -> None:
        self.key = key
        super().__init__(device, parent)
        self._name = name
        self.define_parameters()

    def summary(self) -> Summary:
        """With the kernel's word for whether a LUN uses it."""
        said, colour = super().summary()
        return f"{said} {self.rtsnode.status}", colour

    def ui_command_info(self) -> None:
        """
        Tell everything that is known of the volume, by its daemon and by the kernel.
        """
        super().ui_command_info()
        ui_backstore.UIUserBackedStorageObject.ui_command_info(self)


class OrphanedDevice(ui_backstore.UIUserBackedStorageObject):
    """A device of ours in the kernel, while the daemon that would serve it does not answer."""

    def summary(self) -> Summary:
        """What to do about it."""
        return f"{self.rtsnode.config}: no daemon here answers for it; start it", False


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
        for path in ("/pratima", f"/backstores/{NAME}"):
            found = self.get_node(path)
            assert isinstance(found, Node)
            found.refresh()

    def look_at_all(self) -> None:
        """Also LIO's fabrics, in which a daemon may have made a target, or ended one."""
        self.daemons.look()
        self.refresh()


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
    """Stock targetcli's own ``main`` on ``words``."""
    install(daemons)
    sys.argv[:] = ["pratima-targetcli", *words]
    targetcli_shell.main()
