"""What a replica's effective image must be: made from the frames whose durability was told, and
from nothing else. It knows the wire's layout and none of the product's replica code. An image is as
long as the replica's file, which may have more than its volume.
"""

from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.operations import RecordKind
from pratima_iscsi.positions import ORIGIN, Position
from pratima_iscsi.replication.wire import decode_batch


class Shadow:
    """The effective durable image of one replica."""

    def __init__(self, sizes: list[int]) -> None:
        self.images = [bytearray(size) for size in sizes]
        self.staged: dict[tuple[int, int], bytes] = {}
        self.touched: set[tuple[int, int]] = set()
        """Blocks that changed since somebody looked."""
        self.position: Position = ORIGIN
        self.consistent = False
        self.transaction = 0
        self.direct = False
        self.ends = 0
        self.resync_bytes = 0
        """Data of resync records."""

    def follow(self, volume: int, file: bytes) -> None:
        """The replica's file was made longer."""
        image = self.images[volume]
        image += file[len(image) :]

    def take(self, frame: memoryview) -> None:
        """The records of ``frame`` became durable."""
        for entry in decode_batch(frame).entries:
            match entry.kind:
                case RecordKind.WRITE | RecordKind.RESYNC:
                    if entry.kind == RecordKind.RESYNC:
                        self.resync_bytes += entry.length
                    self._put(entry.volume, entry.offset, bytes(entry.payload))
                case RecordKind.ZERO | RecordKind.RESYNC_ZERO:
                    self._put(entry.volume, entry.offset, bytes(entry.length))
                case RecordKind.BEGIN:
                    payload = bytes(entry.payload)
                    self.transaction = int.from_bytes(payload[:8], "big")
                    self.direct = bool(payload[8])
                    self.staged.clear()
                    if self.direct:
                        self.consistent = False
                case RecordKind.END:
                    self._commit(bytes(entry.payload))
                case RecordKind.GENERATION if not self.transaction:
                    self.position = Position(int.from_bytes(entry.payload[:8], "big"), 0)
            if entry.sequence and not self.transaction:
                self.position = Position(self.position.generation, entry.sequence)

    def _put(self, volume: int, offset: int, data: bytes) -> None:
        image = self.images[volume]
        first, end = offset // BLOCK_BYTES, -(-(offset + len(data)) // BLOCK_BYTES)
        if not self.transaction or self.direct:
            image[offset : offset + len(data)] = data
            self.touched.update((volume, block) for block in range(first, end))
            return
        for block_number in range(first, end):
            key = (volume, block_number)
            start = block_number * BLOCK_BYTES
            old = self.staged.get(key)
            block = image[start : start + BLOCK_BYTES]
            block[: len(old or b"")] = old or b""
            low, high = max(start, offset), min(start + len(block), offset + len(data))
            block[low - start : high - start] = data[low - offset : high - offset]
            self.staged[key] = bytes(block)

    def _commit(self, payload: bytes) -> None:
        for (volume, block), data in self.staged.items():
            start = block * BLOCK_BYTES
            self.images[volume][start : start + len(data)] = data
            self.touched.add((volume, block))
        self.staged.clear()
        self.transaction, self.direct, self.consistent = 0, False, True
        self.ends += 1
        generation, sequence = (int.from_bytes(payload[at : at + 8], "big") for at in (8, 16))
        self.position = Position(generation, sequence)
