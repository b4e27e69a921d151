"""Key files and allow-lists: a node's CURVE pair, and whom it talks to.

A key file is readable by its owner only, holds the pair, and never leaves the node; the file of
the same name with ``.pub`` holds a line for the other side's allow-list. One rule: a secret is read
only from a regular file that nobody else can read, and is never named in an error or a log.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pratima_iscsi.edges.curve import CurveKeys, check_public_key, generate_keys
from pratima_iscsi.errors import StateError, UsageError
from pratima_iscsi.limits import ALLOWED_KEYS_MAX, KEY_FILE_BYTES_MAX, NAME_BYTES_MAX

_HEAD: Final = "# Pratima key pair: keep it on this node and to yourself. Its public half: .pub"
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAKE_KEYS: Final = "make a pair: pratima keygen FILE"


@dataclass(frozen=True, slots=True)
class AllowList:
    """The public keys of the nodes that are talked to, each with its name (may be empty)."""

    names: Mapping[str, str]
    """Name by key."""

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys, in the order of the file."""
        return tuple(self.names)

    def peer(self, name: str) -> str:
        """The key of the node called ``name``; the only one, if the list has but one.

        Raises UsageError where that is not clear.
        """
        if len(self.names) == 1:
            return next(iter(self.names))
        found = [key for key, known in self.names.items() if known == name]
        if len(found) == 1:
            return found[0]
        raise UsageError(
            f"the allow-list has {len(found)} keys by the name {name}",
            f"give one line of it that name: KEY {name}",
        )


def write_keys(path: Path, name: str = "") -> CurveKeys:
    """Make a pair; the file (0600) and ``path``.pub must not exist. Raises StateError."""
    keys = generate_keys()
    public = path.with_name(path.name + ".pub")
    _create(public, allow_line(keys.public, name), 0o644)
    try:
        _create(path, f"{_HEAD}\npublic {keys.public}\nsecret {keys.secret}\n", 0o600)
    except StateError:
        public.unlink()
        raise
    return keys


def allow_line(key: str, name: str) -> str:
    """A line of an allow-list."""
    if len(name.encode()) > NAME_BYTES_MAX or not (name.isprintable() and "#" not in name):
        raise UsageError(f"{name!r} cannot name a key", "use a short plain word, as a host name")
    return f"{key} {name}".rstrip() + "\n"


def read_keys(path: Path) -> CurveKeys:
    """The pair in ``path``. Raises StateError or UsageError, which say what to do next."""
    halves: dict[str, str] = {}
    for line in _lines(_read(path, "key file", private=True)):
        word, _, value = line.partition(" ")
        if word not in {"public", "secret"} or word in halves:
            raise UsageError(f"key file {path} is not one of ours", _MAKE_KEYS)
        halves[word] = value.strip()
    if len(halves) != 2:
        raise UsageError(f"key file {path} holds no key pair", _MAKE_KEYS)
    return CurveKeys(halves["public"], halves["secret"])


def read_allow_list(path: Path) -> AllowList:
    """The list in ``path``: one public key a line and after it a name; ``#`` begins a comment."""
    names: dict[str, str] = {}
    for number, line in enumerate(_read(path, "allow-list", private=False).splitlines(), 1):
        key, _, name = line.strip().partition(" ")
        # '#' is a character of Z85 too, but its greatest digit: no 32 bits begin with it.
        if not key or key.startswith("#"):
            continue
        try:
            check_public_key(key)
        except UsageError as error:
            raise UsageError(
                f"allow-list {path}, line {number}: {error.problem}", error.next_step
            ) from None
        names[key] = name.partition("#")[0].strip()
    if not names:
        raise UsageError(
            f"allow-list {path} allows nobody", "put the line of the other node's .pub file into it"
        )
    if len(names) > ALLOWED_KEYS_MAX:
        raise UsageError(f"allow-list {path} has more than {ALLOWED_KEYS_MAX} keys", "shorten it")
    return AllowList(names)


def read_secret(path: Path, what: str) -> str:
    """The first line of a private file: a CHAP password. Raises StateError or UsageError."""
    lines = _read(path, what, private=True).splitlines()
    if not lines or not lines[0]:
        raise UsageError(f"{what} {path} is empty", "put the secret on its first line")
    return lines[0]


def _lines(text: str) -> list[str]:
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def _read(path: Path, what: str, *, private: bool) -> str:
    try:
        fd = os.open(path, _READ)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise StateError(f"{what} {path} is no regular file", "name one that is")
            if private and status.st_mode & 0o077:
                raise StateError(
                    f"{what} {path} can be read by others",
                    f"chmod 600 {path} (and replace it, if others did read it)",
                )
            if private and status.st_uid not in {0, os.geteuid()}:
                raise StateError(f"{what} {path} belongs to another user", "use one of your own")
            data = file.read(KEY_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise StateError(f"{what} {path} does not exist", "see whether the path is right") from None
    except OSError as error:
        raise StateError(
            f"{what} {path} cannot be read: {error.strerror}",
            "name a file of your own (a link to one is not followed)",
        ) from None
    if len(data) > KEY_FILE_BYTES_MAX:
        raise UsageError(f"{what} {path} is too long", "see whether the path is right")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{what} {path} is no text", "see whether the path is right") from None


def _create(path: Path, text: str, mode: int) -> None:
    try:
        fd = os.open(path, _CREATE, mode)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
    except FileExistsError:
        raise StateError(
            f"{path} exists already", "a key is never overwritten: choose another name, or move it"
        ) from None
    except OSError as error:
        raise StateError(
            f"{path} cannot be written: {error.strerror}", "choose a directory of your own"
        ) from None
