"""The README's commands by hand, run as they stand but for ports, directory and volume size."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from tests.torture.daemons import free_ports, wait_until

README = Path(__file__).parents[2] / "README.md"
SECONDS = 60.0
STRANGERS = ("iscsi-ls", "qemu-io")


def lines_by_hand() -> list[str]:
    """Every command between the two marks, in order."""
    text = README.read_text(encoding="utf-8")
    text = text.split("<!-- by hand:")[1].split("<!-- end of by hand -->")[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


class Shell:
    """Runs the lines in a directory, daemons in the background."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        commands = directory / "bin"
        commands.mkdir()
        script = commands / "pratima"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -m pratima_iscsi "$@"\n')
        script.chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"}
        self.ports = {"7010": str(free_ports(3)), "3260": str(free_ports())}
        self.daemons: list[subprocess.Popen[bytes]] = []

    def line(self, text: str) -> str:
        for told, ours in self.ports.items():
            text = text.replace(f":{told}", f":{ours}")
        return text.replace("--size 1GiB", "--size 64MiB")

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", self.line(text)],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    def start(self, text: str) -> None:
        log = (self.directory / f"{len(self.daemons)}.log").open("wb")
        self.daemons.append(
            subprocess.Popen(
                ["sh", "-c", f"exec {self.line(text)}"],
                cwd=self.directory,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        )
        log.close()
        state = re.search(r"--state (\S+)", text)
        assert state is not None, text
        self.wait_for(f"pratima status --state {state[1]}", {0, 1})

    def wait_for(self, text: str, codes: set[int]) -> None:
        wait_until(lambda: self.run(text).returncode in codes, SECONDS, text)

    def stop(self, number: int) -> None:
        """As Ctrl-C would."""
        daemon = self.daemons[number]
        if daemon.poll() is None:
            daemon.send_signal(signal.SIGINT)
        assert daemon.wait(SECONDS) == 0


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    with ExitStack() as kills:
        kills.callback(lambda: [daemon.kill() for daemon in shell.daemons])
        yield shell


def test_the_commands_by_hand_work_in_their_order(shell: Shell) -> None:
    lines = lines_by_hand()
    daemons = [line for line in lines if re.match(r"pratima (replica|serve) ", line)]
    others = [line for line in lines if line not in daemons]
    assert [line.split()[1] for line in daemons] == ["replica", "serve"]
    stopped = next(n for n, line in enumerate(others) if line.startswith("pratima recover"))
    for line in daemons:
        shell.start(line)
    shell.wait_for("pratima status --state p", {0})
    written = False
    for line in others[:stopped]:
        program = line.split()[0]
        if program in STRANGERS and shutil.which(program) is None:
            continue
        done = shell.run(line)
        if "Unknown protocol" in done.stderr:  # a qemu without its iscsi driver
            continue
        written |= program == "qemu-io"
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        if "--json" in line:
            status = msgspec.json.decode(done.stdout)
            assert status["links"][0]["state"] == "SYNCED"
            assert (status["position"]["sequence"] > 0) is written
    shell.stop(1)
    shell.stop(0)
    for line in others[stopped:]:
        done = shell.run(line)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert (shell.directory / "replica.img").stat().st_size == 64 << 20
