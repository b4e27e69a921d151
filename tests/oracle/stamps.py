"""Stamps: what each 512-byte sector of a recorded write carries, and how an image is read back.

A sector is header, filler, checksum: the header names run, volume, operation, LBA and the sector's
place in its write; the filler repeats the operation id; the checksum covers all before it, so a
torn or flipped sector is seen. One rule: a sector reads back as exactly one *value*: ZERO, the id
of the operation that it was stamped by (positive), or a token of its content (negative) when it is
neither; equal foreign content has equal tokens, so content of a base image can be told apart.
"""

import os
import struct
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Final

SECTOR_BYTES: Final = 512
ZERO: Final = 0
"""The value of a sector that reads as zeros."""

MAGIC: Final = b"PRTMstmp"
HEADER: Final = struct.Struct("<8sQQQHHII")
"""magic, run, operation, LBA, volume, reserved, index in the write, sectors of the write"""
CHECKSUM: Final = struct.Struct("<I")
COVERED_BYTES: Final = SECTOR_BYTES - CHECKSUM.size
FILLER_BYTES: Final = COVERED_BYTES - HEADER.size
OPERATION: Final = struct.Struct("<Q")
"""the filler repeats it"""

_ZERO_SECTOR: Final = bytes(SECTOR_BYTES)
_CHUNK_BYTES: Final = 1 << 20
_STEP_BYTES: Final = 8 * SECTOR_BYTES
_ZERO_CHUNK: Final = bytes(_CHUNK_BYTES)
_ZERO_STEP: Final = bytes(_STEP_BYTES)


@dataclass(frozen=True, slots=True)
class Image:
    """The values of all sectors, per volume; ``notes`` describes those that are foreign."""

    volumes: Sequence[Sequence[int]]
    notes: Mapping[tuple[int, int], str] = field(default_factory=dict)
    """(volume, LBA) to what is there instead of a stamp"""


def stamp(run: int, volume: int, operation: int, lba: int, count: int) -> bytes:
    """The data of a write of ``count`` sectors from ``lba`` on."""
    return b"".join(
        stamp_sector(run, volume, operation, lba + index, index, count) for index in range(count)
    )


def stamp_sector(run: int, volume: int, operation: int, lba: int, index: int, count: int) -> bytes:
    """Sector ``index`` of a write of ``count`` sectors; it stands at ``lba``."""
    if operation <= 0:
        raise ValueError(f"operation ids are positive, not {operation}")
    header = HEADER.pack(MAGIC, run, operation, lba, volume, 0, index, count)
    covered = header + OPERATION.pack(operation) * (FILLER_BYTES // OPERATION.size)
    return covered + CHECKSUM.pack(zlib.crc32(covered))


def sector_value(sector: bytes, run: int, volume: int, lba: int) -> int:
    """The value of one sector that was read at ``lba`` of ``volume``."""
    magic, of_run, operation, at, of_volume, _, _, _ = HEADER.unpack_from(sector)
    if (
        magic == MAGIC
        and of_run == run
        and at == lba
        and of_volume == volume
        and CHECKSUM.unpack_from(sector, COVERED_BYTES)[0] == zlib.crc32(sector[:COVERED_BYTES])
    ):
        return int(operation)
    if sector == _ZERO_SECTOR:
        return ZERO
    return foreign_token(sector)


def foreign_token(sector: bytes) -> int:
    """A negative number for content that is no stamp of this place: equal content, equal token."""
    return -1 - (int.from_bytes(blake2b(sector, digest_size=8).digest(), "little") >> 2)


def describe_foreign(sector: bytes, run: int, volume: int, lba: int) -> str:
    """What stands in a sector whose value is negative, for a reader."""
    magic, of_run, operation, at, of_volume, _, index, total = HEADER.unpack_from(sector)
    if magic != MAGIC:
        return f"no stamp: {sector[:12].hex()}…"
    whole = CHECKSUM.unpack_from(sector, COVERED_BYTES)[0] == zlib.crc32(sector[:COVERED_BYTES])
    what = f"sector {index} of {total} of op {operation}"
    if not whole:
        return f"a torn or flipped {what} (checksum wrong)"
    if of_run != run:
        return f"{what} of another run ({of_run:016x})"
    if (of_volume, at) != (volume, lba):
        return f"misplaced: {what}, which belongs to {of_volume}:{at}"
    return f"{what}, which is whole"


def read_volume(
    source: BinaryIO, run: int, volume: int, sectors: int
) -> tuple["array[int]", dict[tuple[int, int], str]]:
    """Values of the first ``sectors`` sectors of a volume's bytes, and notes on the foreign ones.

    Raises ValueError when the source is shorter.
    """
    values = array("q", bytes(8 * sectors))
    notes: dict[tuple[int, int], str] = {}
    base = 0
    while base < sectors:
        wanted = min(_CHUNK_BYTES, (sectors - base) * SECTOR_BYTES)
        chunk = source.read(wanted)
        if len(chunk) != wanted:
            raise ValueError(f"volume {volume} ends before sector {sectors}")
        if chunk != (_ZERO_CHUNK if wanted == _CHUNK_BYTES else bytes(wanted)):
            _read_chunk(chunk, run, volume, base, values, notes)
        base += wanted // SECTOR_BYTES
    return values, notes


def _read_chunk(
    chunk: bytes,
    run: int,
    volume: int,
    base: int,
    values: "array[int]",
    notes: dict[tuple[int, int], str],
) -> None:
    for step in range(0, len(chunk), _STEP_BYTES):
        if chunk[step : step + _STEP_BYTES] == _ZERO_STEP:
            continue
        for offset in range(step, min(step + _STEP_BYTES, len(chunk)), SECTOR_BYTES):
            sector = chunk[offset : offset + SECTOR_BYTES]
            lba = base + offset // SECTOR_BYTES
            value = sector_value(sector, run, volume, lba)
            values[lba] = value
            if value < 0:
                notes[volume, lba] = describe_foreign(sector, run, volume, lba)


def read_image(paths: Sequence[str | os.PathLike[str]], run: int, sectors: Sequence[int]) -> Image:
    """The image of a group whose volumes are the files ``paths``, of ``sectors`` sectors each."""
    volumes: list[array[int]] = []
    notes: dict[tuple[int, int], str] = {}
    for volume, (path, count) in enumerate(zip(paths, sectors, strict=True)):
        with Path(path).open("rb") as source:
            values, found = read_volume(source, run, volume, count)
        volumes.append(values)
        notes.update(found)
    return Image(volumes, notes)
