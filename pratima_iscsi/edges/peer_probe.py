"""Asks a port that will not talk to us what it is: an operator reads a cause then, not a code.

One rule: it only ever explains; no decision rests on what it says. It opens a connection of its
own and takes at most a few bytes and a few seconds.
"""

import asyncio
import os
from typing import Final

from pratima_iscsi.edges.link_address import LinkAddress
from pratima_iscsi.limits import PROBE_SECONDS

SIGNATURE_BYTES: Final = 10
"""A ZMTP peer says ``FF``, eight bytes, ``7F`` as soon as it is connected (ZMTP 3.1, greeting)."""

_REQUEST: Final = b"GET / HTTP/1.0\r\n\r\n"
_READ_BYTES: Final = 64


async def probe(address: LinkAddress, seconds: float = PROBE_SECONDS) -> str | None:
    """Why ``address`` is no use, in words; None when it does speak ZMTP."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await _connect(address)
    except TimeoutError:
        return f"no answer from {address} within {seconds:g} s"
    except OSError as error:
        return f"{address}: {_cause(error)}"
    try:
        return await _ask(address, reader, writer, seconds)
    except OSError as error:
        return f"{address}: {_cause(error)}"
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
) -> str | None:
    said = await _read(reader, seconds)
    if said is None:
        writer.write(_REQUEST)
        said = await _read(reader, seconds)
    if said is None:
        return f"{address} accepts connections but says nothing: it is not Pratima"
    if not said:
        return f"{address} closes connections at once: it is not Pratima, or it is overloaded"
    if said[0] == 0xFF and (len(said) < SIGNATURE_BYTES or said[SIGNATURE_BYTES - 1] == 0x7F):
        return None
    return f"{address} {_spoken(said)}, not ZeroMQ: it is not Pratima"


async def _read(reader: asyncio.StreamReader, seconds: float) -> bytes | None:
    """Some bytes; none at the end of the stream; None when nothing comes in time."""
    try:
        async with asyncio.timeout(seconds):
            return await reader.read(_READ_BYTES)
    except TimeoutError:
        return None


def _spoken(said: bytes) -> str:
    if said.startswith(b"HTTP/"):
        return "speaks HTTP"
    if said.startswith(b"SSH-"):
        return "speaks SSH"
    if said.startswith(b"\x15\x03"):
        return "speaks TLS"
    return f"says {said[:16]!r}"


def _cause(error: OSError) -> str:
    # Loops word these errors differently; the errno reads the same everywhere.
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__
