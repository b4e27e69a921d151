"""Makes targetcli importable where PyGObject is missing; to import this module does it.

targetcli imports ``gi.repository.Gio`` when it is loaded and uses it only to seek handlers over
D-Bus, which stock.py does in its own way. One rule: a PyGObject that works is never replaced.
"""

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Final


def stand_in() -> bool:
    """Put modules in PyGObject's place unless it is there; whether that was needed."""
    try:
        importlib.import_module("gi.repository.Gio")
    except (ImportError, ValueError):
        package, repository = ModuleType("gi"), ModuleType("gi.repository")
        vars(repository)["Gio"] = SimpleNamespace()
        vars(package)["repository"] = repository
        sys.modules |= {"gi": package, "gi.repository": repository}
        return True
    return False


PYGOBJECT_IS_MISSING: Final = stand_in()
"""Whether there is only a stand-in."""
