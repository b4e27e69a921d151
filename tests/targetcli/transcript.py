"""The session of docs/targetcli.md, played anew: its commands run as they stand there, on loopback.

``python -m tests.targetcli.transcript`` writes what is said now into the document. One rule: only
what no two runs share is made alike before two sessions are compared: ports, histories, sizes of a
journal, times, how a link came to be in step, and the dots of a tree.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from pratima_iscsi.control.client import ControlClient
from pratima_iscsi.errors import OperatorError
from tests.torture.daemons import free_ports, wait_until

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "targetcli.md"
MARK: Final = "<!-- session: tests/targetcli/test_transcript.py plays it -->"
PLACE: Final = "/srv"
"""Where the document's session is at home."""
PORTS: Final = ("3260", "7010")
SECONDS: Final = 60.0
LATE: Final = (
    (r"\n *ALARM .*", ""),
    (r", \d+ alarms?\b", ""),
)
"""What daemons say of a machine that has too much to do; it is no part of the session."""
ALIKE: Final = (
    (r"\.{4,}", "...."),
    (r"\b[0-9a-f]{16}:\d+", "POSITION"),
    (r"\b\d[\d.]* (s|min|h|d)\b( \d+ (s|min|h))?", "TIME"),
    (r"\b[\d.]+ (B|KiB|MiB) of 256 MiB", "SIZE of 256 MiB"),
    (r"\b[0-9a-f]{32}\b", "SERIAL"),
    (r"(SYNCED, async, |reason=)[^\]\n[]+", r"\1WHY "),
)


def commands(session: str) -> list[str]:
    """What is typed in it."""
    return [line[2:] for line in session.splitlines() if line.startswith("$ ")]


def alike(session: str) -> list[str]:
    """The session without what is different each time."""
    for pattern, word in ALIKE:
        session = re.sub(pattern, word, session)
    return session.splitlines()


def written() -> str:
    """The session as the document has it."""
    return DOCUMENT.read_text(encoding="utf-8").split(MARK)[1].split("```")[1].partition("\n")[2]


class Player:
    """Runs commands one after another in a directory, and daemons beside them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "bin").mkdir()
        self._program("pratima", "-m pratima_iscsi")
        self._program("pratima-targetcli", "-m pratima_targetcli --standalone")
        self.environment = {
            **os.environ,
            "PATH": f"{place}/bin:{os.environ['PATH']}",
            "COLUMNS": "80",
        }
        ports = [str(free_ports()), str(free_ports(2))]
        self.ports = dict(zip(PORTS, ports, strict=True))
        self.daemons: list[subprocess.Popen[bytes]] = []

    def _program(self, name: str, words: str) -> None:
        script = self.place / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        script.chmod(0o755)

    def play(self, lines: list[str]) -> Iterator[str]:
        """Each command, and what it says."""
        for line in lines:
            yield f"$ {line}\n"
            if line.endswith("&"):
                self.start(line.removesuffix("&"))
            elif line.startswith("export "):
                name, _, value = line.removeprefix("export ").partition("=")
                self.environment[name] = value
            else:
                self.settle()
                yield self.told(self.run(line))

    def run(self, line: str) -> str:
        """What a command says, on either stream."""
        done = subprocess.run(
            ["sh", "-c", self.ours(line)],
            cwd=self.place,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        return done.stdout

    def start(self, line: str) -> None:
        """A daemon, once it answers."""
        with (self.place / f"{len(self.daemons)}.log").open("wb") as log:
            self.daemons.append(
                subprocess.Popen(
                    ["sh", "-c", f"exec {self.ours(line)}"],
                    cwd=self.place,
                    env=self.environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
        state = self.place / line.split("--state ")[1].split()[0]
        wait_until(lambda: self.steady(state), SECONDS, line)

    def steady(self, state: Path) -> bool:
        """Whether a daemon answers, and none of its links is on its way to somewhere."""
        try:
            with ControlClient(state) as client:
                groups = client.status().groups
        except OperatorError:
            return False
        links = [link for group in groups for link in group.links]
        return all(link.state.value in {"SYNCED", "DISABLED"} for link in links)

    def settle(self) -> None:
        """Wait until the daemons have done what the line before asked for."""
        for state in ("p", "r"):
            wait_until(lambda s=state: self.steady(self.place / s), SECONDS, "steady")  # type: ignore[misc]

    def ours(self, text: str) -> str:
        """With the ports that are free here."""
        for theirs, ours in self.ports.items():
            text = text.replace(f":{theirs}", f":{ours}")
        return text

    def told(self, text: str) -> str:
        """With the ports and paths that the document has."""
        for theirs, ours in self.ports.items():
            text = text.replace(f":{ours}", f":{theirs}")
        for pattern, word in LATE:
            text = re.sub(pattern, word, text)
        return text.replace(str(self.place), PLACE)

    def stop(self) -> None:
        """End the daemons."""
        for daemon in self.daemons:
            daemon.terminate()
        for daemon in self.daemons:
            daemon.wait(SECONDS)


def played(place: Path, lines: list[str]) -> str:
    """The whole session anew."""
    player = Player(place)
    with ExitStack() as ends:
        ends.callback(player.stop)
        return "".join(player.play(lines))


def main() -> None:
    """Write what is said now into the document."""
    with tempfile.TemporaryDirectory() as place:
        session = played(Path(place), commands(written()))
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(text.replace(written(), session), encoding="utf-8")


if __name__ == "__main__":
    main()
