from configshell import ConfigShell
from targetcli.ui_backstore import UIBackstores as UIBackstores
from targetcli.ui_node import UINode

class UIRoot(UINode):
    def __init__(self, shell: ConfigShell, as_root: bool = False) -> None: ...
