"""The recorder: which operations were issued and acknowledged when, kept as JSON lines.

One host records, by one monotonic clock: ``issued`` is read before a command is sent,
``acknowledged`` after its status was read. x is *before* y exactly when x was acknowledged before
y was issued; everything else is concurrent. One rule: what is not known is left open. An operation
that was never answered, or answered with an error that does not exclude that it ran, keeps
acknowledged = NEVER and may or may not be in an image; a command that is sent again is ONE
operation, acknowledged once.
"""

import enum
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TextIO

from tests.oracle.stamps import Image, read_image

NEVER: Final = sys.maxsize
"""The time of what did not happen."""


class OpKind(enum.StrEnum):
    """What an operation leaves behind."""

    WRITE = "write"
    """Stamps."""
    ZERO = "zero"
    """Zeros: UNMAP, WRITE SAME of zeros, or a write of zeros."""
    COMPARE_AND_WRITE = "compare-and-write"
    """Stamps, whole or not at all: one whose comparison failed is recorded as refused."""


@dataclass(frozen=True, slots=True)
class Op:
    """One operation on ``count`` sectors of a volume from ``lba`` on; times in clock ticks."""

    id: int
    kind: OpKind
    volume: int
    lba: int
    count: int
    issued: int
    acknowledged: int = NEVER
    required: bool = False
    """Acknowledged under a promise that every image taken from then on holds it (sync mode)."""

    @property
    def end(self) -> int:
        """The sector after its last one."""
        return self.lba + self.count

    @property
    def zeroes(self) -> bool:
        """Whether it leaves zeros."""
        return self.kind is OpKind.ZERO

    def before(self, other: "Op") -> bool:
        """Whether every order must put it before ``other``."""
        return self.acknowledged < other.issued

    def __str__(self) -> str:
        return f"op {self.id} ({self.kind} {self.volume}:{self.lba}+{self.count})"


@dataclass(frozen=True, slots=True)
class History:
    """The operations since the base image, of a group whose volumes have ``sectors`` sectors."""

    sectors: tuple[int, ...]
    ops: tuple[Op, ...]
    base: Image | None = None
    """The image before the first of them; None: all zeros."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """An image, taken at some instant between two readings of the clock.

    What is required and was acknowledged before ``since`` is in it; what was issued after ``by``
    is not.
    """

    name: str
    since: int
    by: int


class Recorder:
    """Writes a run down as it happens; every event is in the file before the call returns.

    The directory holds ``history.jsonl`` and, for each image or base named NAME, the files that
    ``image_paths`` names, put there by the caller.
    """

    def __init__(
        self,
        directory: Path,
        run: int,
        sectors: Sequence[int],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.directory = directory
        self.run = run
        self.sectors = tuple(sectors)
        self._clock = clock
        self._next = 1
        self._ops: dict[int, Op] = {}
        self._base: Image | None = None
        self._file: TextIO = (directory / "history.jsonl").open("x", encoding="utf-8")
        self._log(event="run", run=run, sectors=list(self.sectors))

    def now(self) -> int:
        """The clock's time."""
        return self._clock()

    def issue(self, kind: OpKind, volume: int, lba: int, count: int) -> Op:
        """Record an operation; call it BEFORE the command is sent, then stamp with its id."""
        if count <= 0 or lba < 0 or lba + count > self.sectors[volume]:
            raise ValueError(f"{volume}:{lba}+{count} is not on the volume")
        op = Op(self._next, kind, volume, lba, count, self._clock())
        self._next += 1
        self._ops[op.id] = op
        self._log(
            event="issue", id=op.id, kind=kind, volume=volume, lba=lba, count=count, at=op.issued
        )
        return op

    def acknowledge(self, operation: int, *, required: bool = False) -> None:
        """Record its good status; call it AFTER the status was read."""
        at = self._clock()
        if self._ops[operation].acknowledged != NEVER:
            raise ValueError(f"op {operation} was acknowledged before")
        self._ops[operation] = replace(self._ops[operation], acknowledged=at, required=required)
        self._log(event="acknowledge", id=operation, at=at, required=required)

    def refuse(self, operation: int) -> None:
        """Record that it certainly changed nothing (miscompare, busy, reservation conflict)."""
        if self._ops[operation].acknowledged != NEVER:
            raise ValueError(f"op {operation} was acknowledged before")
        del self._ops[operation]
        self._log(event="refuse", id=operation)

    def frozen(self, name: str, since: int, by: int) -> Frozen:
        """Record that image ``name`` was taken between two readings of the clock."""
        self._log(event="image", name=name, since=since, by=by)
        return Frozen(name, since, by)

    def rebase(self, name: str) -> None:
        """Start again from the base image ``name``, whose files are there already.

        For an unclean stop of the primary: its volume at END is the initial image of all that
        follows (PROTOCOL.md 13). No operation may still be under way.
        """
        self._base = read_image(self.image_paths(name), self.run, self.sectors)
        self._ops.clear()
        self._log(event="rebase", name=name)

    def history(self) -> History:
        """The operations since the last base, as known now."""
        return History(self.sectors, tuple(self._ops.values()), self._base)

    def image_paths(self, name: str) -> list[Path]:
        """Where the volumes of an image or a base of this run are kept."""
        return image_paths(self.directory, name, len(self.sectors))

    def close(self) -> None:
        """Close the file; the history stays readable."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _log(self, **event: object) -> None:
        self._file.write(json.dumps(event, separators=(",", ":")) + "\n")
        self._file.flush()


def image_paths(directory: Path, name: str, volumes: int) -> list[Path]:
    """The files of an image's volumes in a run's directory."""
    return [directory / f"{name}.volume{index}" for index in range(volumes)]


@dataclass(frozen=True, slots=True)
class Judgement:
    """An image of a recorded run and the history that it is judged by."""

    frozen: Frozen
    run: int
    history: History


def replay(directory: Path) -> Iterator[Judgement]:
    """Every image that a run recorded, each with the history of its epoch, to the epoch's end.

    (What was issued after an image was taken cannot be in it, and that is a part of the check.)
    A last line that was cut by a crash is left out.
    """
    run = 0
    sectors: tuple[int, ...] = ()
    base: Image | None = None
    ops: dict[int, Op] = {}
    images: list[Frozen] = []

    def epoch() -> Iterator[Judgement]:
        history = History(sectors, tuple(ops.values()), base)
        return (Judgement(frozen, run, history) for frozen in images)

    for event in _events(directory / "history.jsonl"):
        match event:
            case {"event": "run", "run": int(run), "sectors": list(counts)}:
                sectors = tuple(counts)
            case {
                "event": "issue",
                "id": int(number),
                "kind": str(kind),
                "volume": int(volume),
                "lba": int(lba),
                "count": int(count),
                "at": int(at),
            }:
                ops[number] = Op(number, OpKind(kind), volume, lba, count, at)
            case {
                "event": "acknowledge",
                "id": int(number),
                "at": int(at),
                "required": bool(required),
            }:
                ops[number] = replace(ops[number], acknowledged=at, required=required)
            case {"event": "refuse", "id": int(number)}:
                del ops[number]
            case {"event": "image", "name": str(name), "since": int(since), "by": int(by)}:
                images.append(Frozen(name, since, by))
            case {"event": "rebase", "name": str(name)}:
                yield from epoch()
                base = read_image(image_paths(directory, name, len(sectors)), run, sectors)
                ops, images = {}, []
            case _:
                raise ValueError(f"not an event of a run: {event}")
    yield from epoch()


def _events(path: Path) -> Iterator[dict[str, object]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)
