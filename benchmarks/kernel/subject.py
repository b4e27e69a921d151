"""One disk of the guest that is measured, and the state of the copy behind it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.subjects import NO_LINK


def _no_link() -> str:
    return NO_LINK


@dataclass(frozen=True, slots=True)
class Subject:
    """What fio is pointed at."""

    name: str
    disk: Path
    settle: Callable[[], str] = _no_link
    """Waits until its copy has all that was written, then says as ``state`` does."""
    state: Callable[[], str] = _no_link
    """SETTLED when the copy is whole and current, else in words how it is."""
