"""What is measured in the guest, mostly a disk, and the state of the copy behind it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from benchmarks.client import Figures, Workload
from benchmarks.kernel import fio
from benchmarks.subjects import NO_LINK


class Measure(Protocol):
    """Keeps a workload up for a time."""

    def __call__(
        self, workload: Workload, *, seconds: float, warm_seconds: float, seed: int
    ) -> Figures:
        """``warm_seconds`` come first and are not counted; raises MeasurementFailed."""


def _no_link() -> str:
    return NO_LINK


@dataclass(frozen=True, slots=True)
class Subject:
    """What takes part in a comparison."""

    name: str
    measure: Measure
    settle: Callable[[], str] = _no_link
    """Waits until its copy has all that was written, then says as ``state`` does."""
    state: Callable[[], str] = _no_link
    """SETTLED when the copy is whole and current, else in words how it is."""


def fio_disk(
    name: str,
    path: Path,
    settle: Callable[[], str] = _no_link,
    state: Callable[[], str] = _no_link,
) -> Subject:
    """A disk that fio is pointed at."""
    return Subject(name, partial(fio.run, path), settle, state)
