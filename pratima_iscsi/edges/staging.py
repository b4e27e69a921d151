"""The staged blocks of one open resync transaction: the last image of each, beside the volume.

Each volume has sparse files for data (block b at b * 4096) and for checksums (8 bytes a block),
and bitmaps that say which blocks are staged, as data or as zeros. Each file exists in two
*versions*, and a block stands in one of them: a version that the last durable checkpoint names is
never overwritten, the block's next image goes to the other. So the checkpoint and the journal
after it always give exactly what was staged, with every checksum right, however the power cut
tears what was written since. A checkpoint syncs data and checksums, writes the bitmaps as a new
index, syncs that, and is in force when the caller has made its *number* durable in the replica's
state; then what only the older one named is punched.

One rule: nothing is read from here without its checksum, into which transaction, volume and block
number are mixed.
"""

import errno
import struct
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from pyroaring import BitMap
from xxhash import xxh3_64_digest, xxh3_128_digest

from pratima_iscsi.blocks import BLOCK_BYTES, BLOCKS_PER_VOLUME_MAX, block_count, block_span
from pratima_iscsi.edges.files import Directory, File
from pratima_iscsi.limits import STAGING_RUN_BYTES
from pratima_iscsi.operations import Buffer

PREFIX: Final = "staging-"
SUM_BYTES: Final = 8
SLOT_BYTES: Final = BLOCK_BYTES + SUM_BYTES
"""What one staged block takes."""

_RUN_BLOCKS: Final = STAGING_RUN_BYTES // BLOCK_BYTES
_INDEX: Final = struct.Struct(">4sIQQQ")
"""magic, version, transaction, number, bytes of the body; the body and an xxh3-128 follow"""
_MAGIC: Final = b"PRSI"
_VERSION: Final = 1
_SEED_MASK: Final = (1 << 64) - 1

_Body = list[tuple[bytes, bytes, bytes]]
"""For each volume the bitmaps: data in version 0, data in version 1, zeros."""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Body)


class StagingRot(Exception):
    """The staging does not give back what was written to it."""


def runs(bitmap: BitMap, first: int = 0, end: int = BLOCKS_PER_VOLUME_MAX) -> Iterator[range]:
    """The runs of successive members from ``first`` to ``end`` (exclusive), however long, without
    looking at each member."""
    while first < end:
        try:
            first = bitmap.next_set_bit(first)
        except ValueError:
            return
        if first >= end:
            return
        upto = _run_end(bitmap, first, end)
        yield range(first, upto)
        first = upto + 1


def _run_end(bitmap: BitMap, first: int, end: int) -> int:
    """The first number after member ``first`` that is no member, ``end`` at the most."""
    step = 1
    known = first + 1
    while known < end and bitmap.contains_range(known, min(end, known + step)):
        known = min(end, known + step)
        step *= 2
    while step > 1:
        step //= 2
        if known + step <= end and bitmap.contains_range(known, known + step):
            known += step
    return known


class _StagedVolume:
    """One volume's staged blocks. The three bitmaps share no block."""

    def __init__(self, volume: File) -> None:
        self.volume = volume
        self.data = (BitMap(), BitMap())
        self.zeros = BitMap()
        self.kept = (BitMap(), BitMap())
        """Data of the last checkpoint in force: not to be overwritten."""

    def used(self) -> int:
        """Slots that hold something."""
        return sum(
            data.union_cardinality(kept) for data, kept in zip(self.data, self.kept, strict=True)
        )


class Staging:
    """The staging of transaction ``transaction``; ``number`` names its last index."""

    def __init__(
        self,
        directory: Directory,
        transaction: int,
        volumes: Sequence[File],
        *,
        quota_bytes: int,
        reserve_bytes: int,
    ) -> None:
        """An empty staging; ``load`` takes up one that is there."""
        self.transaction = transaction
        self.number = 0
        self._directory = directory
        self.prefix = f"{PREFIX}{transaction:016x}-"
        """What its files' names begin with."""
        self._volumes = [_StagedVolume(volume) for volume in volumes]
        self._quota = quota_bytes // SLOT_BYTES
        self._reserve = reserve_bytes
        self._files: dict[str, File] = {}
        self._unsynced: dict[File, None] = {}
        """In the order of the first write: a simulated run can be repeated exactly."""
        self._new_names = False
        self._changed = False
        self._used = 0

    # --- durability ----------------------------------------------------------------------------

    def load(self, number: int) -> None:
        """Take up the index ``number``; raises StagingRot unless it is there and whole."""
        name = self._index_name(number)
        if not self._directory.exists(name):
            raise StagingRot(f"staging: index {name} is missing")
        file = self._open(name)
        content = file.pread(file.size, 0).ljust(_INDEX.size, b"\0")
        magic, version, transaction, found, length = _INDEX.unpack_from(content)
        end = _INDEX.size + length
        wanted = (_MAGIC, _VERSION, self.transaction, number)
        if (magic, version, transaction, found) != wanted or xxh3_128_digest(
            content[:end]
        ) != content[end : end + 16]:
            raise StagingRot(f"staging: index {name} is damaged")
        body = _decoder.decode(content[_INDEX.size : end])
        for staged, bitmaps in zip(self._volumes, body, strict=True):
            first, second, staged.zeros = map(BitMap.deserialize, bitmaps)
            staged.data = (first, second)
        self.number = number
        self._keep()

    def checkpoint(self) -> int:
        """Make all that is staged durable under a new number, which is returned; it is in force
        once the caller has persisted it and called ``settle``."""
        if not self._changed:
            return self.number
        for file in self._unsynced:
            file.fdatasync()
        self._unsynced.clear()
        number = self.number + 1
        file = self._open(self._index_name(number))
        body: _Body = [
            (s.data[0].serialize(), s.data[1].serialize(), s.zeros.serialize())
            for s in self._volumes
        ]
        packed = _encoder.encode(body)
        index = _INDEX.pack(_MAGIC, _VERSION, self.transaction, number, len(packed)) + packed
        file.pwrite(index + xxh3_128_digest(index), 0)
        file.fdatasync()
        if self._new_names:
            self._directory.sync()
            self._new_names = False
        self.number = number
        self._changed = False
        return number

    def settle(self) -> None:
        """The last checkpoint is in force: give back what only the one before it named."""
        stale = [
            (self._file("data", index, version), run)
            for index, staged in enumerate(self._volumes)
            for version in (0, 1)
            for run in runs(staged.kept[version] - staged.data[version])
        ]
        self._keep()
        for file, run in stale:
            file.punch(run.start * BLOCK_BYTES, len(run) * BLOCK_BYTES)

    def _keep(self) -> None:
        for staged in self._volumes:
            staged.kept = (staged.data[0].copy(), staged.data[1].copy())
        self._used = sum(staged.used() for staged in self._volumes)

    def close(self) -> None:
        """Release the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    # --- room ----------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """Bytes that the staged blocks take."""
        return self._used * SLOT_BYTES

    def _take_room(self, fresh: int) -> None:
        """``fresh`` more slots will be used; ENOSPC if there is no room for them."""
        free = self._directory.free_bytes() - self._reserve
        if not fresh:
            return
        if self._used + fresh > self._quota or fresh * SLOT_BYTES > free:
            raise OSError(errno.ENOSPC, f"no room to stage {fresh * BLOCK_BYTES} bytes")
        self._used += fresh

    # --- what is staged ------------------------------------------------------------------------

    def write(self, volume: int, offset: int, data: Buffer) -> None:
        """Stage ``data``; the rest of a block that it covers in part is taken from the view."""
        first, end = block_span(offset, len(data))
        head = offset - first * BLOCK_BYTES
        tail = end * BLOCK_BYTES - offset - len(data)
        if not head and not tail:
            self._put(volume, first, end, data)
            return
        blocks = bytearray((end - first) * BLOCK_BYTES)
        if head or end - first == 1:
            blocks[:BLOCK_BYTES] = self.read(volume, first * BLOCK_BYTES, BLOCK_BYTES)
        if tail and end - first > 1:
            blocks[-BLOCK_BYTES:] = self.read(volume, (end - 1) * BLOCK_BYTES, BLOCK_BYTES)
        blocks[head : head + len(data)] = data
        self._put(volume, first, end, blocks)

    def zero(self, volume: int, offset: int, length: int) -> None:
        """Stage zeros, however many; blocks covered in part are staged as data."""
        staged = self._volumes[volume]
        upto = offset + length
        if upto >= staged.volume.size:
            upto = block_count(staged.volume.size) * BLOCK_BYTES
        first, end = -(-offset // BLOCK_BYTES), upto // BLOCK_BYTES
        if first > end:  # inside one block
            self.write(volume, offset, bytes(length))
            return
        if first * BLOCK_BYTES > offset:
            self.write(volume, offset, bytes(first * BLOCK_BYTES - offset))
        if end * BLOCK_BYTES < upto:
            self.write(volume, end * BLOCK_BYTES, bytes(upto - end * BLOCK_BYTES))
        for data in staged.data:
            data.remove_range(first, end)
        staged.zeros.add_range(first, end)
        self._changed = True

    def read(self, volume: int, offset: int, length: int) -> bytes:
        """The transaction's view: what is staged, over the volume. Zeros beyond its end."""
        first, end = block_span(offset, length)
        staged = self._volumes[volume]
        view = bytearray(staged.volume.pread((end - first) * BLOCK_BYTES, first * BLOCK_BYTES))
        for run in runs(staged.zeros, first, end):
            at = (run.start - first) * BLOCK_BYTES
            view[at : at + len(run) * BLOCK_BYTES] = bytes(len(run) * BLOCK_BYTES)
        for version, data in enumerate(staged.data):
            for run in runs(data, first, end):
                at = (run.start - first) * BLOCK_BYTES
                view[at : at + len(run) * BLOCK_BYTES] = self._get(volume, version, run)
        skip = offset - first * BLOCK_BYTES
        return bytes(memoryview(view)[skip : skip + length])

    def copy_out(self, volume: int) -> None:
        """Bring all that is staged of a volume onto it (not synced); it may be done again."""
        staged = self._volumes[volume]
        size = staged.volume.size
        for run in runs(staged.zeros):
            offset = run.start * BLOCK_BYTES
            staged.volume.punch(offset, min(run.stop * BLOCK_BYTES, size) - offset)
        for version, data in enumerate(staged.data):
            for run in runs(data):
                for start in run[::_RUN_BLOCKS]:
                    part = range(start, min(run.stop, start + _RUN_BLOCKS))
                    offset = start * BLOCK_BYTES
                    with memoryview(self._get(volume, version, part)) as blocks:
                        staged.volume.pwrite(blocks[: size - offset], offset)

    def _put(self, volume: int, first: int, end: int, blocks: Buffer) -> None:
        """Stage whole blocks, each in the version that the checkpoint in force does not name."""
        staged = self._volumes[volume]
        parts = [(1, run) for run in runs(staged.kept[0], first, end)]
        here = first
        for _, run in list(parts):
            if here < run.start:
                parts.append((0, range(here, run.start)))
            here = run.stop
        if here < end:
            parts.append((0, range(here, end)))
        with memoryview(blocks) as view:
            for version, run in parts:
                at = (run.start - first) * BLOCK_BYTES
                self._put_run(volume, version, run, view[at : at + len(run) * BLOCK_BYTES])

    def _put_run(self, volume: int, version: int, run: range, blocks: memoryview) -> None:
        staged = self._volumes[volume]
        here, other = staged.data[version], staged.data[1 - version]
        self._take_room(len(run) - here.range_cardinality(run.start, run.stop))
        data = self._file("data", volume, version)
        sums = self._file("sums", volume, version)
        self._unsynced[data] = self._unsynced[sums] = None
        data.pwrite(blocks, run.start * BLOCK_BYTES)
        sums.pwrite(self._sums(volume, run, blocks), run.start * SUM_BYTES)
        other.remove_range(run.start, run.stop)
        staged.zeros.remove_range(run.start, run.stop)
        here.add_range(run.start, run.stop)
        self._changed = True

    def _get(self, volume: int, version: int, run: range) -> bytes:
        data = self._file("data", volume, version)
        blocks = data.pread(len(run) * BLOCK_BYTES, run.start * BLOCK_BYTES)
        checksums = self._file("sums", volume, version)
        sums = checksums.pread(len(run) * SUM_BYTES, run.start * SUM_BYTES)
        with memoryview(blocks) as view:
            right = self._sums(volume, run, view)
        if sums != right:
            differing = (byte for byte in range(len(sums)) if sums[byte] != right[byte])
            block = run.start + next(differing) // SUM_BYTES
            raise StagingRot(f"staging: block {block} of volume {volume} is damaged")
        return blocks

    def _sums(self, volume: int, run: range, blocks: memoryview) -> bytes:
        seed = self.transaction ^ (volume << 40)
        return b"".join(
            xxh3_64_digest(blocks[at : at + BLOCK_BYTES], (seed + block) & _SEED_MASK)
            for block, at in zip(run, range(0, len(blocks), BLOCK_BYTES), strict=True)
        )

    # --- files ---------------------------------------------------------------------------------

    def _index_name(self, number: int) -> str:
        return f"{self.prefix}index.{number % 2}"

    def _file(self, kind: str, volume: int, version: int) -> File:
        return self._open(f"{self.prefix}{kind}.{volume}.{version}")

    def _open(self, name: str) -> File:
        file = self._files.get(name)
        if file is None:
            # A name that is there may be one that a killed process made and never synced.
            self._new_names = True
            file = self._files[name] = self._directory.open(name, create=True)
        return file
