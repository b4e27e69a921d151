"""Where a group's volumes lie, remembered in its state directory, so that recovery finds them.

One rule: a hint and no more; the command line comes first, and the state says which sizes must fit.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from pratima_iscsi.errors import StateError
from pratima_iscsi.limits import CONFIG_BYTES_MAX

PATHS_NAME: Final = "volume-paths"


def remember_volume_paths(directory: Path, paths: Sequence[Path]) -> None:
    """Record the volumes' paths, in the group's order; durable on return. Raises OSError."""
    text = json.dumps([os.fspath(path.absolute()) for path in paths])
    with suppress(OSError):
        if (directory / PATHS_NAME).read_bytes() == text.encode():
            return
    new = directory / (PATHS_NAME + ".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
    os.replace(new, directory / PATHS_NAME)


def recall_volume_paths(directory: Path) -> tuple[Path, ...]:
    """The recorded paths. Raises StateError where there are none."""
    try:
        with open(directory / PATHS_NAME, encoding="utf-8") as file:
            found = json.loads(file.read(CONFIG_BYTES_MAX))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, list) or not all(isinstance(path, str) for path in found):
        raise StateError(
            f"{directory} does not say where the volumes are",
            "name them in the group's order: --volume FILE",
        )
    return tuple(map(Path, found))
