"""Text requests and responses: ``key=value`` pairs, each ended by a zero byte (RFC 7143 6.1).

One rule: whatever is not exactly a list of such pairs within the named limits raises
``RemoteProtocolError``.
"""

import base64
import binascii
from collections.abc import Iterable
from typing import Final

from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.limits import (
    CHAP_BINARY_BYTES_MAX,
    TEXT_BYTES_MAX,
    TEXT_KEY_BYTES_MAX,
    TEXT_KEYS_MAX,
    TEXT_VALUE_BYTES_MAX,
)
from pratima_iscsi.operations import Buffer

NOT_UNDERSTOOD: Final = "NotUnderstood"
REJECT: Final = "Reject"
IRRELEVANT: Final = "Irrelevant"
NONE: Final = "None"

KEY_CHARACTERS: Final = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-+@_/#"
)
"""What a key may consist of: the standard label of RFC 7143 6.1, and what vendors' keys use."""

Pairs = list[tuple[str, str]]


def decode(data: Buffer, keys_max: int = TEXT_KEYS_MAX) -> Pairs:
    """The pairs of a whole text, in order."""
    if len(data) > TEXT_BYTES_MAX:
        raise RemoteProtocolError(f"text of {len(data)} bytes is over {TEXT_BYTES_MAX}")
    try:
        text = bytes(data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("text is not UTF-8") from error
    pairs: Pairs = []
    for item in text.split("\0"):
        if not item:
            continue  # Some initiators pad with more zero bytes than they count as padding.
        key, equals, value = item.partition("=")
        if not equals:
            raise RemoteProtocolError(f"text has no '=' in {item[:TEXT_KEY_BYTES_MAX]!r}")
        if not 0 < len(key) <= TEXT_KEY_BYTES_MAX or not KEY_CHARACTERS.issuperset(key):
            raise RemoteProtocolError(f"text has the key {key[:TEXT_KEY_BYTES_MAX]!r}")
        if len(value) > TEXT_VALUE_BYTES_MAX:
            raise RemoteProtocolError(f"the value of {key} has {len(value)} characters")
        pairs.append((key, value))
        if len(pairs) > keys_max:
            raise RemoteProtocolError(f"text has more than {keys_max} keys")
    return pairs


def encode(pairs: Iterable[tuple[str, str]]) -> bytes:
    """The pairs as they go into data segments."""
    return "".join(f"{key}={value}\0" for key, value in pairs).encode("utf-8")


def decode_number(value: str) -> int:
    """A decimal or hexadecimal constant (RFC 7143 6.1); ValueError if it is neither."""
    if value[:2] in ("0x", "0X"):
        digits, base = value[2:], 16
    else:
        digits, base = value, 10
    if not digits or not digits.isascii() or not digits.isalnum():
        raise ValueError(f"{value!r} is no number")
    return int(digits, base)


def decode_binary(value: str) -> bytes:
    """A large binary value: hexadecimal after 0x or base64 after 0b; ValueError if neither."""
    prefix, digits = value[:2].lower(), value[2:]
    if len(digits) > 2 * CHAP_BINARY_BYTES_MAX:
        raise ValueError("binary value is too long")
    if prefix == "0x" and digits:
        return binascii.unhexlify(digits if len(digits) % 2 == 0 else "0" + digits)
    if prefix == "0b" and digits:
        return base64.b64decode(digits, validate=True)
    raise ValueError("binary value is neither hexadecimal nor base64")


def encode_binary(value: bytes) -> str:
    """A large binary value as hexadecimal."""
    return "0x" + value.hex()
