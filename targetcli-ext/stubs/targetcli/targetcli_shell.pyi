from collections.abc import Callable

from configshell import ConfigShell
from targetcli.ui_root import UIRoot as UIRoot

class TargetCLI(ConfigShell): ...

switch_to_daemon: Callable[[ConfigShell, bool], None]

def main() -> None: ...
