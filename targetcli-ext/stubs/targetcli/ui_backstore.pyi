from collections.abc import Iterator

from configshell import ConfigNode
from targetcli.ui_node import UINode, UIRTSLibNode

class UserBackedStorageObject:
    plugin: str
    name: str
    config: str | None
    size: int
    status: str

class RTSRoot:
    @property
    def storage_objects(self) -> Iterator[UserBackedStorageObject]: ...

class UIBackstores(UINode):
    def __init__(self, parent: ConfigNode) -> None: ...
    def _user_backstores(self) -> Iterator[tuple[str, object, dict[str, object]]]: ...

class UIBackstore(UINode):
    def __init__(self, plugin: str, parent: ConfigNode) -> None: ...

class UIUserBackedStorageObject(UIRTSLibNode):
    rtsnode: UserBackedStorageObject
    _name: str
    def __init__(self, storage_object: UserBackedStorageObject, parent: ConfigNode) -> None: ...
    def ui_command_info(self) -> None: ...
