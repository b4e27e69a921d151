"""The fuzz targets by name, each a function of one input that fails by raising; and their seeds.

One rule: a target keeps nothing from one input to the next, so that an input that fails, fails
again alone.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.fuzz import codecs, machines, rings

CORPUS: Final = Path(__file__).parent / "corpus"
"""One file for each target: a line of hexadecimal for each seed, and after # what it is."""

TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "header": codecs.header,
    "text": codecs.login_text,
    "frame": codecs.frame,
    "message": codecs.message,
    "journal": codecs.journal,
    "cdb": machines.cdb,
    "login": machines.login,
    "session": machines.session,
    "initiator": machines.initiator,
    "portal": machines.portal,
    "ring": rings.ring,
}
ANY: Final = "any"
"""All of them in one process: an input's first byte chooses the target."""


def run(name: str, data: bytes) -> None:
    """Run one input."""
    if name == ANY:
        if data:
            list(TARGETS.values())[data[0] % len(TARGETS)](data[1:])
        return
    TARGETS[name](data)


def seeds(name: str) -> list[bytes]:
    """The seeds of a target, in their order; of ``ANY`` all."""
    if name == ANY:
        numbered = enumerate(TARGETS)
        return [bytes([number]) + seed for number, one in numbered for seed in seeds(one)]
    lines = (CORPUS / f"{name}.txt").read_text("ascii").splitlines()
    return [bytes.fromhex(line.partition("#")[0].strip()) for line in lines if line.strip()]
