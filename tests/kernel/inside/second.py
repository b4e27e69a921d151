"""`python -m tests.kernel.inside.second ADDRESS`: a second guest, whose replica the first one uses.

The first guest sees the second's share below its own, and asks by files there: the name of a step,
and the answer once that is done. One rule: what is between the two guests' daemons goes through
the cable, and nothing else does; so that may be cut while they talk.
"""

import hashlib
import itertools
import sys
import tempfile
from collections.abc import Callable, Mapping
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Final

from tests.integration.daemons.nodes import Replica, pratima
from tests.torture.daemons import recover, wait_until

SHARE: Final = Path("/lab")
NAME: Final = "second"
"""The second guest's share, in the first one's; and its job, whose exit code says that it ended."""
FIRST_KEY, SECOND_KEY = "first.pub", "second.pub"
END: Final = "end"
DEVICE: Final = "eth0"
STEP_SECONDS: Final = 150.0
IDLE_SECONDS: Final = 600.0


def ask(step: str) -> str:
    """Let the second guest take a step; what it answers. AssertionError when it has ended."""
    place = SHARE / NAME
    number = sum(1 for _ in place.glob("*.step"))
    answer, ended = place / f"{number}.answer", place / f"{NAME}.rc"
    _leave(place / f"{number}.step", step)
    wait_until(lambda: answer.exists() or ended.exists(), STEP_SECONDS, f"it can {step}")
    assert answer.exists(), (place / f"{NAME}.log").read_text()
    return answer.read_text()


def _leave(path: Path, content: str) -> None:
    """A file that is there is whole."""
    new = path.with_suffix(".new")
    new.write_text(content)
    new.rename(path)


def keyed(place: Path, own: Path, other: Path) -> tuple[str, ...]:
    """Options of a daemon with a new key pair, whose public half is left as ``own``, and which
    talks to that whose public half comes as ``other``."""
    key = place / "node.key"
    made = pratima("keygen", str(key), "--name", own.stem)
    assert made.returncode == 0, made
    _leave(own, key.with_suffix(".key.pub").read_text())
    wait_until(other.exists, STEP_SECONDS, f"the other guest's {other.name} is there")
    return "--key", str(key), "--allow", str(other)


class Second:
    """What the second guest can be asked for."""

    def __init__(self, place: Path, host: str) -> None:
        keys = keyed(place, SHARE / SECOND_KEY, SHARE / FIRST_KEY)
        self.replica = Replica(place, *keys, host=host)
        # Where it can be read when a test has failed; its state stays on a file system of Linux.
        self.replica.log = SHARE / "replica.log"
        self.steps: Mapping[str, Callable[[], str]] = {
            "start": self.start,
            "kill": self.kill,
            "recover": self.recover,
            END: lambda: "",
        }

    def start(self) -> str:
        """Start the replica; its address."""
        self.replica.start()
        return self.replica.address

    def kill(self) -> str:
        """End it as a crash would."""
        self.replica.kill()
        return ""

    def recover(self) -> str:
        """Kill the replica, and recover what it left; the digest of that."""
        self.replica.kill()
        recovered = recover(self.replica.state, self.replica.volume)
        assert recovered.consistent, recovered.said
        return digest(self.replica.volume)


def digest(volume: Path) -> str:
    """Of what a volume holds."""
    with volume.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(address: IPv4Interface) -> None:
    """Take the steps that are asked for, until the last."""
    with tempfile.TemporaryDirectory() as place:
        second = Second(Path(place), str(address.ip))
        with second.replica:
            for number in itertools.count():
                asked = SHARE / f"{number}.step"
                wait_until(asked.exists, IDLE_SECONDS, f"step {number} is asked for")
                step = asked.read_text()
                _leave(SHARE / f"{number}.answer", second.steps[step]())
                if step == END:
                    return


if __name__ == "__main__":
    main(IPv4Interface(sys.argv[1]))
