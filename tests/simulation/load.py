"""The load of a run: writes, zeroes, updates and flushes, small and large, hot and scattered."""

from random import Random

from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.operations import FLUSH, UPDATE, Operation, RecordKind
from tests.simulation.setup import SECTOR


class Load:
    """Draws operations; every write carries a stamp of its own."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.stamp = 0

    def draw(self, rng: Random) -> Operation:
        """One operation."""
        volume = rng.randrange(len(self.sizes))
        size = self.sizes[volume]
        length = min(rng.choice([1, 1, 2, 7, 8, 8, 16, 33]) * SECTOR, size)
        hot = size // 4 if rng.random() < 0.5 else size
        offset = min(rng.randrange(max(1, hot // SECTOR)) * SECTOR, size - length)
        if rng.random() < 0.3:
            offset -= offset % BLOCK_BYTES
        roll = rng.random()
        if roll < 0.06:
            return Operation(FLUSH, volume, 0, 0)
        if roll < 0.12:
            length = min(rng.choice([1, 8, 64]) * SECTOR, size - offset)
            return Operation(RecordKind.ZERO, volume, offset, length)
        if roll < 0.16:
            return self._update(volume, offset, length, wanted=rng.random() < 0.5)
        fua = rng.random() < 0.05
        return self.write(volume, offset, length, fua=fua)

    def write(self, volume: int, offset: int, length: int, *, fua: bool = False) -> Operation:
        """A write of ``length`` bytes with the next stamp."""
        return Operation(RecordKind.WRITE, volume, offset, length, self._data(length), fua=fua)

    def _update(self, volume: int, offset: int, length: int, *, wanted: bool) -> Operation:
        new = self._data(length)
        return Operation(
            UPDATE, volume, offset, length, transform=lambda old: new if wanted else None
        )

    def _data(self, length: int) -> bytes:
        self.stamp += 1
        return self.stamp.to_bytes(8, "big") * (length // 8)
