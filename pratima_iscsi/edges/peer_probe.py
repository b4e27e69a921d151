"""Asks a port that will not talk to us what it is: an operator reads a cause then, not a code.

One rule: it only ever explains; no decision rests on what it says. It opens a connection of its
own and takes at most a few bytes and a few seconds.
"""

import asyncio
import os
import struct
from dataclasses import dataclass
from typing import Final

from pratima_iscsi.edges.link_address import LinkAddress
from pratima_iscsi.limits import PROBE_SECONDS

GREETING: Final = struct.Struct(">10sBB20sB31x")
"""signature, major and minor version, mechanism, as-server (ZMTP 3.1, greeting)"""
SIGNATURE: Final = b"\xff\0\0\0\0\0\0\0\1\x7f"
"""A ZMTP peer says this as soon as it is connected; the eight bytes within may differ."""

_HELLO: Final = SIGNATURE + b"\x03"
"""As much of a greeting as makes a peer tell its mechanism, not enough for it to refuse ours."""
_SHOWN_BYTES_MAX: Final = 16
_REQUEST: Final = b"GET / HTTP/1.0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a port turned out to be."""

    problem: str = ""
    """Why it is no use, in words; empty when it speaks ZMTP."""
    mechanism: str = ""
    """How it wants to be spoken to (NULL, CURVE); empty when it did not say."""


async def probe(address: LinkAddress, seconds: float = PROBE_SECONDS) -> Finding:
    """What listens at ``address``; each step of finding out takes ``seconds`` at the most."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await _connect(address)
    except TimeoutError:
        return Finding(f"no answer from {address} within {seconds:g} s")
    except OSError as error:
        return Finding(f"{address}: {_cause(error)}")
    try:
        return await _ask(address, reader, writer, seconds)
    except OSError as error:
        return Finding(f"{address}: {_cause(error)}")
    finally:
        writer.transport.abort()


async def _connect(address: LinkAddress) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.path:
        return await asyncio.open_unix_connection(address.path)
    return await asyncio.open_connection(address.host, address.port)


async def _ask(
    address: LinkAddress,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    seconds: float,
) -> Finding:
    said = await _read(reader, seconds)
    if said is None:
        writer.write(_REQUEST)
        said = await _read(reader, seconds)
    if said is None:
        return Finding(f"{address} accepts connections but says nothing: it is not Pratima")
    if not said:
        return Finding(f"{address} closes connections at once: it is not Pratima, or overloaded")
    if said[0] != SIGNATURE[0] or said[9:10] not in (b"", SIGNATURE[-1:]):
        return Finding(f"{address} {_spoken(said)}, not ZeroMQ: it is not Pratima")
    writer.write(_HELLO)
    while len(said) < GREETING.size:
        more = await _read(reader, seconds)
        if not more:
            return Finding()
        said += more
    mechanism: bytes = GREETING.unpack_from(said)[3]
    return Finding(mechanism=mechanism.rstrip(b"\0").decode("ascii", errors="replace"))


async def _read(reader: asyncio.StreamReader, seconds: float) -> bytes | None:
    """Some bytes; none at the end of the stream; None when nothing comes in time."""
    try:
        async with asyncio.timeout(seconds):
            return await reader.read(GREETING.size)
    except TimeoutError:
        return None


def _spoken(said: bytes) -> str:
    if said.startswith(b"HTTP/"):
        return "speaks HTTP"
    if said.startswith(b"SSH-"):
        return "speaks SSH"
    if said.startswith(b"\x15\x03"):
        return "speaks TLS"
    shown = said[:_SHOWN_BYTES_MAX].rstrip(b"\r\n")
    if all(0x20 <= byte < 0x7F for byte in shown):
        return f"says {shown.decode()!r}"
    return "says what is no text"  # which may differ each time: a reason must not


def _cause(error: OSError) -> str:
    # Loops word these errors differently; the errno reads the same everywhere.
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__
