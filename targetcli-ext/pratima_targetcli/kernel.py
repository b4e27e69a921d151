"""Whether stock targetcli can run here: whether the kernel has LIO, loaded or to be loaded.

One rule: nothing is loaded or mounted to find out.
"""

import os
from pathlib import Path
from typing import Final

MODULE: Final = "target_core_mod"
_LISTS: Final = ("modules.dep", "modules.builtin")


def no_lio(root: Path = Path("/")) -> str:
    """Why the kernel has no LIO; empty where it has."""
    if (root / "sys/module" / MODULE).is_dir() or (root / "sys/kernel/config/target").is_dir():
        return ""
    modules = root / "lib/modules" / os.uname().release
    for name in _LISTS:
        try:
            if f"/{MODULE}.ko" in (modules / name).read_text(errors="replace"):
                return ""
        except OSError:
            continue
    return f"this kernel has no LIO (module {MODULE})"
