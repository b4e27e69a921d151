"""Every value that a sector of the primary may show after a power cut: nothing behind a flush."""

SECTOR = 512


class Versions:
    """One primary's volumes. A write that fails may have reached any part of its range."""

    def __init__(self, images: list[bytearray]) -> None:
        self.floor = [bytearray(image) for image in images]
        self.newer: list[list[tuple[int, bytes]]] = [[] for _ in images]
        self.folded = [0 for _ in images]
        """How many of each volume's writes, from the first on, the floor holds."""

    def write(self, volume: int, offset: int, data: bytes) -> None:
        """A write reached the page cache."""
        self.newer[volume].append((offset, data))

    def grow(self, volume: int, tail: bytes) -> None:
        """The volume has grown by what its file has held, durably, behind it."""
        self.floor[volume] += tail

    def cover(self, images: list[bytearray]) -> None:
        """After a crash: a size that was remembered counts, though no RESIZE had come to it."""
        for volume, image in enumerate(images):
            self.grow(volume, bytes(image[len(self.floor[volume]) :]))

    def mark(self, volume: int) -> int:
        """Where a flush of ``volume`` begins."""
        return len(self.newer[volume])

    def flushed(self, volume: int, mark: int) -> None:
        """A flush that began at ``mark`` has completed."""
        floor = self.floor[volume]
        for at in range(self.folded[volume], mark):
            offset, data = self.newer[volume][at]
            floor[offset : offset + len(data)] = data
            self.newer[volume][at] = (0, b"")
        self.folded[volume] = max(self.folded[volume], mark)

    def check(self, volume: int, image: bytes) -> None:
        """I2: every sector of ``image`` is the flushed one or a later one."""
        floor = self.floor[volume]
        later = self.newer[volume][self.folded[volume] :]
        for at in range(0, len(image), SECTOR):
            sector = image[at : at + SECTOR]
            if sector == floor[at : at + SECTOR]:
                continue
            assert any(
                offset <= at
                and at + SECTOR <= offset + len(data)
                and data[at - offset : at - offset + SECTOR] == sector
                for offset, data in later
            ), f"I2: volume {volume} sector {at // SECTOR} went behind a completed flush"
