"""The commands of docs/kernel.md, as they stand there."""

import os
import subprocess
from pathlib import Path
from typing import Final

from pratima_iscsi.control.client import ControlClient
from pratima_iscsi.errors import StateError
from tests.kernel.inside import rig
from tests.torture.daemons import PRATIMA, wait_until

PAGE: Final = Path(__file__).parents[3] / "docs" / "kernel.md"
STATE: Final = Path("/var/lib/pratima")
THEIRS: Final = "iqn.1993-08.org.debian:01:5e2"
SIZE: Final = 32 * rig.MIB
CONFIG: Final = Path("/etc/iscsi/iscsid.conf")


def fences(language: str) -> list[str]:
    """The page's code blocks of one language, in their order."""
    blocks = PAGE.read_text().split("```")[1::2]
    return [
        text for block in blocks for head, _, text in [block.partition("\n")] if head == language
    ]


def shell(text: str) -> str:
    """Run commands of the page, for this machine's initiator; what they printed."""
    path = f"{Path(PRATIMA[0]).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text.replace(THEIRS, rig.INITIATOR)],
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=rig.COMMAND_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, f"{text}\n{ended.stdout}"
    return ended.stdout


def prepare(place: Path) -> None:
    """The machine that the page speaks of: an address, a volume, a secret."""
    rig.run("ip", "address", "add", "10.0.0.1/24", "dev", "lo")
    volume = place / "volume.img"
    volume.touch()
    os.truncate(volume, SIZE)
    loop = rig.run("losetup", "--find", "--show", str(volume)).strip()
    Path("/dev/vg0").mkdir()
    Path("/dev/vg0/data").symlink_to(loop)
    secret = Path("/etc/pratima/chap")
    secret.parent.mkdir()
    secret.touch(mode=0o600)
    secret.write_text("the secret of backup\n")
    (asks,) = fences("")
    CONFIG.write_text(CONFIG.read_text() + asks)
    Path("/run/udev").mkdir(exist_ok=True)
    rig.run("/lib/systemd/systemd-udevd", "--daemon")


def answers() -> bool:
    try:
        with ControlClient(STATE) as client:
            client.status()
    except StateError:
        return False
    return True


def test_what_the_page_says_can_be_done(tmp_path: Path) -> None:
    prepare(tmp_path)
    install, serve, create, login, end = fences("sh")
    shell(install)
    shell(f"exec >{tmp_path}/log 2>&1\n{serve.rstrip()}\necho $! >{tmp_path}/pid")
    pid = int((tmp_path / "pid").read_text())
    wait_until(answers, rig.START_SECONDS, "the daemon answers")
    listed = shell(create)
    with ControlClient(STATE) as client:
        (target,) = client.targets().targets
    serial = target.luns[0].serial
    assert serial in listed and "10.0.0.1:3260" in listed
    *commands, looks = login.rstrip().splitlines()
    shell("\n".join(commands))
    disk = rig.disk_with_serial(serial)
    wait_until(lambda: list(Path("/dev/disk/by-id").glob("wwn-*")), 60.0, "udev has named it")
    named = shell(looks)
    assert f"wwn-0x6001405{serial[:25]}" in named and disk.name in named
    shell(end)
    os.kill(pid, 15)
    rig.until(lambda: not answers(), 60.0, "the daemon ends")
