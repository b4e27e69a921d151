"""``source.identity``: a source's identity, history and clean-stop stamp beside its database.

It is the second copy of what must not be lost: with the group's id and its generations a damaged
database costs a comparison, without them the replica would have to refuse us. One rule: it is
replaced as a whole, by a rename, and read only if its checksum is right.
"""

import os
from pathlib import Path
from typing import Final

import msgspec
from xxhash import xxh3_128_digest

from pratima_iscsi.limits import IDENTITY_BYTES_MAX
from pratima_iscsi.positions import History

IDENTITY_NAME: Final = "source.identity"
_NEW_NAME: Final = IDENTITY_NAME + ".new"
_MAGIC: Final = b"PRSI1"
_DIGEST_BYTES: Final = 16
_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who the source is, and which generations it began."""

    group: bytes
    name: str
    node: bytes
    history: History
    boot_id: str
    ever_sync: tuple[str, ...]
    """Names of the links that ever were in semi-sync or sync mode."""
    stamp: bytes
    """Of the last clean stop; empty once a generation has begun after it."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Identity)


class IdentityFile:
    """The file of one state directory; ``value`` is what it holds, None where it holds nothing."""

    def __init__(self, directory: Path) -> None:
        """Reads what is there; a damaged file counts as none, and ``damaged`` says so."""
        self._directory = directory
        self.damaged = False
        self.value = self._read()

    def _read(self) -> Identity | None:
        try:
            fd = os.open(self._directory / IDENTITY_NAME, os.O_RDONLY | _FLAGS)
        except FileNotFoundError:
            return None
        except OSError:
            self.damaged = True
            return None
        try:
            with open(fd, "rb") as file:
                value = _decode(file.read(IDENTITY_BYTES_MAX + 1))
        except OSError:
            value = None
        self.damaged = value is None
        return value

    def save(self, value: Identity) -> None:
        """Replace the file; durable on return. Raises OSError, and the old one then stays."""
        body = _MAGIC + _encoder.encode(value)
        data = body + xxh3_128_digest(body)
        new = self._directory / _NEW_NAME
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.replace(new, self._directory / IDENTITY_NAME)
        parent = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
        self.value = value
        self.damaged = False


def _decode(data: bytes) -> Identity | None:
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if len(data) > IDENTITY_BYTES_MAX or not body.startswith(_MAGIC):
        return None
    if xxh3_128_digest(body) != digest:
        return None
    try:
        return _decoder.decode(body[len(_MAGIC) :])
    except (msgspec.DecodeError, ValueError):
        return None
