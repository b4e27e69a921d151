"""Which modules run compiled: all that setup.py names, or none of them."""

import importlib
import os
import runpy
from pathlib import Path

import pytest

from pratima_iscsi import hot_path

ROOT = Path(__file__).parents[2]
COMPILED = os.environ.get("PRATIMA_COMPILED") == "1"
"""Set by ``make test-compiled``."""


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules that setup.py names."""
    monkeypatch.chdir(ROOT)
    paths: list[str] = runpy.run_path("setup.py")["hot_path"]()
    return [path.removesuffix(".py").replace("/", ".") for path in paths]


def test_the_whole_hot_path_runs_as_this_run_says(named: list[str]) -> None:
    assert {"pratima_iscsi.backstore", "pratima_iscsi.iscsi.session"} <= set(named)
    plain = {name for name in named if str(importlib.import_module(name).__file__).endswith(".py")}
    assert plain == (set() if COMPILED else set(named))


def test_the_version_says_which_it_is() -> None:
    assert hot_path() == ("compiled" if COMPILED else "plain Python")
