"""Compiles the hot path, where PRATIMA_COMPILE=1 asks for it; everything else is in setup.cfg.

What is compiled stays plain Python that runs uncompiled, and that is what an installation gets
otherwise. The tests run on both (`make test`, `make test-compiled`).
"""

import os
from configparser import ConfigParser
from pathlib import Path
from typing import Any

from setuptools import setup

ROOT = Path("pratima_iscsi")
HOT_PATH = (
    *("backstore.py", "block_write_table.py", "blocks.py"),
    *("frame_memory.py", "operations.py", "ordered_log.py", "records.py", "sent_batch.py"),
    *("replication/*.py", "scsi/*.py", "iscsi/*.py", "tcmu/*.py"),
    *("edges/portal.py", "edges/tcmu_devices.py", "edges/files.py", "edges/volume.py"),
    *("edges/journal.py", "edges/kept_units.py"),
    *("edges/replica_apply.py", "edges/replica_store.py"),
    *("edges/link_source.py", "edges/link_replica.py", "edges/link_sockets.py"),
    "edges/link_dial.py",
    *("engine/lane.py", "engine/local_volume.py", "engine/volume_storage.py"),
    *("engine/source_group.py", "engine/replica_group.py"),
)
PLAIN = (
    "*/__init__.py",
    *("iscsi/initiator.py", "iscsi/ticket.py"),  # for tests and the quick start
    # msgspec makes structures by a metaclass of its own
    *("replication/messages.py", "replication/standing.py"),
    *("replication/effects.py", "replication/sink_effects.py"),
)


def hot_path() -> list[str]:
    """The modules that are compiled, as paths from here."""
    found = {path for pattern in HOT_PATH for path in ROOT.glob(pattern)}
    plain = {path for pattern in PLAIN for path in ROOT.glob(pattern)}
    return sorted(map(str, found - plain))


def extensions() -> dict[str, Any]:
    """The extension modules; none while pip only asks what the build wants."""
    try:
        from mypyc.build import mypycify
    except ImportError:
        return {}
    return {"ext_modules": mypycify(hot_path(), opt_level="2", group_name="pratima_iscsi")}


def wanted() -> list[str]:
    """The compiler, and the packages whose types it reads."""
    config = ConfigParser()
    config.read("setup.cfg", encoding="utf-8")
    return ["mypy[mypyc]>=1.10", *config["options"]["install_requires"].split("\n")[1:]]


if __name__ == "__main__":
    if os.environ.get("PRATIMA_COMPILE") == "1":
        setup(setup_requires=wanted(), **extensions())
    else:
        setup()
