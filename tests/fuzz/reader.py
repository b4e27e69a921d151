"""Fuzz input as a sequence of choices: what a target reads is there, zeros after the end.

One rule: a change of one byte changes one choice, so that a fuzzer's mutations stay meaningful.
"""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Reader:
    """Reads ``data`` from front to back."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return max(len(self._data) - self._at, 0)

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken.ljust(count, b"\0")

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.left)

    def number(self, width: int = 1) -> int:
        """The next ``width`` bytes as a number."""
        return int.from_bytes(self.take(width), "big")

    def choice(self, among: Sequence[T]) -> T:
        """One of ``among``, by one byte."""
        return among[self.number() % len(among)]
