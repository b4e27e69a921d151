"""Stock targetcli with our classes in it, as far as it goes without a kernel: rtslib is played.

tests/kernel has the rest, on a kernel with LIO.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from configshell import ExecutionError
from configshell.console import Console
from configshell.prefs import Prefs
from pratima_targetcli import main, stock
from pratima_targetcli.daemons import Daemons
from pratima_targetcli.dbus_handlers import service_runs
from pratima_targetcli.gi_stand_in import stand_in
from pratima_targetcli.places import Place
from targetcli import targetcli_shell, ui_backstore, ui_root

from pratima_iscsi.control.client import ControlClient
from tests.integration.daemons.nodes import MIB, Primary, directory


class PlayedKernel:
    """What stock targetcli asks of rtslib when nothing is configured."""

    def __init__(self) -> None:
        self.fabric_modules: list[object] = []
        self.storage_objects: list[object] = []

    def invalidate_caches(self) -> None:
        """Nothing is cached."""


class PlayedDevice:
    """A TCMU device as rtslib would tell of it."""

    plugin = "user"
    status = "activated"
    size = 4 * MIB
    alua_tpgs: tuple[object, ...] = ()

    def __init__(self, name: str, config: str) -> None:
        self.name = name
        self.config = config

    def list_parameters(self, writable: bool = True) -> list[str]:
        """None."""
        return []

    def list_attributes(self, writable: bool = True) -> list[str]:
        """One, writable."""
        return ["cmd_time_out"] if writable else []

    def get_attribute(self, name: str) -> str:
        """Of the one."""
        return "60"

    def dump(self) -> dict[str, object]:
        """As stock's info wants it."""
        return {"config": self.config, "name": self.name}


@pytest.fixture(scope="module")
def primary() -> Iterator[Primary]:
    with directory() as place, Primary(place, size=4 * MIB) as primary:
        primary.start()
        yield primary


@pytest.fixture
def preferences() -> Iterator[None]:
    """Preferences of this test alone: configshell keeps them for the whole process."""
    shared = vars(Prefs())
    before = dict(shared)
    shared.update(_prefs={}, filename=None, autosave=False)
    yield
    shared.clear()
    shared.update(before)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preferences: None) -> PlayedKernel:
    kernel = PlayedKernel()
    for module in (ui_root, ui_backstore):
        monkeypatch.setattr(module, "RTSRoot", lambda: kernel)
    for module, name in (
        (ui_root, "UIBackstores"),
        (targetcli_shell, "TargetCLI"),
        (targetcli_shell, "UIRoot"),
        (targetcli_shell, "switch_to_daemon"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))  # put back in the end
    monkeypatch.setattr(targetcli_shell, "lock_file", str(tmp_path / "lock"))
    make = Console.__init__  # its streams would be those of its import
    monkeypatch.setattr(
        Console, "__init__", lambda self: make(self, sys.stdin, sys.stdout, sys.stderr)
    )
    monkeypatch.setattr(main, "no_lio", lambda: "")
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setenv("TARGETCLI_HOME", str(tmp_path / "home"))
    return kernel


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str]:
    """The program's exit code and what it said."""
    with pytest.raises(SystemExit) as done:
        main.main(list(words))
    out, err = capsys.readouterr()
    return done.value.code, out + err


@pytest.mark.usefixtures("kernel")
def test_stock_targetcli_has_our_branch(
    primary: Primary, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run(capsys, "--state", str(primary.state), "/", "ls")
    assert code == 0
    for name in ("backstores", "fileio", "block", "pratima", "links"):
        assert f"o- {name} ." in said
    assert "[primary, 1 volume of 4 MiB, 0 sessions]" in said


@pytest.mark.usefixtures("kernel")
def test_our_branch_outlives_stocks_refresh(
    primary: Primary, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = installed(primary)
    shell.run_cmdline("cd /pratima/groups/default")
    shell.run_cmdline("set global color_mode=true")  # stock makes the whole tree anew then
    shell.run_cmdline("pwd")
    said = capsys.readouterr().out.splitlines()
    assert said == ["Parameter color_mode is now 'true'.", "/pratima/groups/default"]


@pytest.mark.usefixtures("kernel")
def test_an_error_is_a_line_and_exit_code_1(
    primary: Primary, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run(capsys, "--state", str(primary.state), "/pratima", "enable")
    assert code == 1
    assert said.strip() == "there is no replica; see `pratima status` for their names"


@pytest.mark.usefixtures("kernel")
def test_targetclid_is_not_asked(
    primary: Primary, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(targetcli_shell.TargetCLI.default_prefs, "auto_use_daemon", True)
    code, said = run(capsys, "--state", str(primary.state), "/pratima", "ls")
    assert code == 0
    assert "auto_use_daemon is ignored" in said and "o- pratima" in said


@pytest.mark.usefixtures("kernel")
def test_a_session_ends_where_it_began(
    primary: Primary, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(targetcli_shell.TargetCLI.default_prefs, "auto_save_on_exit", False)
    lines = iter(["/pratima/groups ls", "exit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert main.main(["--state", str(primary.state)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("targetcli shell version 3.") and "o- default" in said
    assert "standalone" not in said


@pytest.mark.usefixtures("kernel")
def test_another_targetcli_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock.targetcli, "__version__", "2.1.54")
    assert main.main(["--state", "x", "ls"]) == 1
    assert "targetcli 2.1.54 is not one" in capsys.readouterr().err


def installed(primary: Primary) -> stock.Shell:
    """The stock root in this process."""
    stock.install(Daemons([Place("p", primary.state)]))
    shell = stock.Shell()
    stock.Root(shell).refresh()
    return shell


def test_a_volume_that_the_kernel_serves_is_a_storage_object(
    primary: Primary, kernel: PlayedKernel, capsys: pytest.CaptureFixture[str]
) -> None:
    with ControlClient(primary.state) as client:
        (target,) = client.targets().targets
    device = PlayedDevice("any-name", f"pratima/{target.luns[0].serial}")
    kernel.storage_objects = [device, PlayedDevice("foreign", "qcow/x")]
    shell = installed(primary)
    shell.run_cmdline("/backstores/user:pratima ls")
    path = "/backstores/user:pratima/default.lun0"
    shell.run_cmdline(f"{path} info")
    shell.run_cmdline(f"{path} get attribute cmd_time_out")
    shell.run_cmdline(f"{path} get setting size")
    shown = capsys.readouterr().out
    assert f"[{primary.volume} (4 MiB) activated]" in shown and "o- alua " in shown
    assert f"serial: {target.luns[0].serial}" in shown and "name: any-name" in shown
    assert "cmd_time_out=60" in shown and "size=4 MiB" in shown
    assert "foreign" not in shown
    assert shell._root_node.get_node(path).rtsnode is device


def test_a_volume_of_the_portal_is_no_storage_object(
    primary: Primary, kernel: PlayedKernel
) -> None:
    shell = installed(primary)
    shell.run_cmdline("pwd")
    node = shell._root_node.get_node("/backstores/user:pratima/default.lun0")
    with pytest.raises(ExecutionError, match="embedded portal serves it"):
        node.rtsnode  # noqa: B018 - what stock does to make a LUN of it


def test_a_device_without_its_daemon_is_shown(
    primary: Primary, kernel: PlayedKernel, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel.storage_objects = [PlayedDevice("orphan", "pratima/" + "0" * 32)]
    shell = installed(primary)
    shell.run_cmdline("/backstores/user:pratima ls")
    assert "no daemon here answers for it; start it" in capsys.readouterr().out
    with pytest.raises(ExecutionError, match="start its daemon"):
        shell.run_cmdline("/backstores/user:pratima delete orphan")


# --- PyGObject, there or not ---------------------------------------------------------------------


def test_a_stand_in_is_made_only_where_it_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gi", "gi.repository", "gi.repository.Gio"):
        monkeypatch.setitem(sys.modules, name, None)
    assert stand_in()
    assert hasattr(sys.modules["gi.repository"], "Gio")
    for name in ("gi", "gi.repository", "gi.repository.Gio"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    assert not stand_in()


class BusError(Exception):
    """GLib.Error"""


@pytest.mark.parametrize("owned", [True, False, None])
def test_a_service_is_asked_after_without_starting_it(owned: bool | None) -> None:
    asked = []

    def call_sync(*words: object) -> SimpleNamespace:
        if owned is None:
            raise BusError
        asked.append(words[3])
        return SimpleNamespace(unpack=lambda: (owned,))

    gio = SimpleNamespace(
        BusType=SimpleNamespace(SYSTEM=1),
        DBusCallFlags=SimpleNamespace(NONE=0),
        bus_get_sync=lambda *_: SimpleNamespace(call_sync=call_sync),
    )
    glib = SimpleNamespace(Error=BusError, Variant=lambda kind, value: value)
    assert service_runs(gio, glib) is bool(owned)
    assert asked == ([] if owned is None else ["NameHasOwner"])
