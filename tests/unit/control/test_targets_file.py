"""The daemon's own file of targets: what is written is read again; a bad one is named."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pratima_iscsi.control.sections import (
    ReplicaSection,
    ServeGroupSection,
    TargetsFile,
    VolumeSection,
)
from pratima_iscsi.control.targets_file import NAME, read_targets, write_targets
from pratima_iscsi.edges.directory import DiskDirectory
from pratima_iscsi.errors import OperatorError, StateError, UsageError
from pratima_iscsi.limits import CONFIG_BYTES_MAX
from pratima_iscsi.replication.states import Mode

FILE = TargetsFile(
    group=(
        ServeGroupSection(
            name="db",
            iqn='iqn.2026-01.org.example:"quoted"',
            volume=(
                VolumeSection(path='/srv/odd "name"\nand é.img', size="1GiB"),
                VolumeSection(path="/dev/vg0/wal", name="wal"),
            ),
            replica=(ReplicaSection(address="127.0.0.1:7010", mode=Mode.SEMI_SYNC),),
            initiators=("iqn.2026-01.org.example:host",),
            portals=("10.0.0.1:3260",),
            chap_user="user",
            chap_password_file="/etc/pratima/chap",
            block_size=4096,
        ),
        ServeGroupSection(name="plain", volume=(VolumeSection(path="/v"),)),
    )
)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DiskDirectory]:
    opened = DiskDirectory.open_at(tmp_path / "state", create=True)
    yield opened
    opened.close()


def test_what_is_written_is_read_again(directory: DiskDirectory) -> None:
    assert read_targets(directory) == TargetsFile(), "there is none yet"
    write_targets(directory, FILE)
    assert read_targets(directory) == FILE
    write_targets(directory, TargetsFile())
    assert read_targets(directory) == TargetsFile()
    assert directory.names() == [NAME], "nothing is left beside it"


def test_only_its_owner_can_read_it(directory: DiskDirectory) -> None:
    write_targets(directory, FILE)
    assert stat.S_IMODE((directory.path / NAME).stat().st_mode) == 0o600


def test_what_an_interrupted_write_left_is_no_hindrance(directory: DiskDirectory) -> None:
    write_targets(directory, TargetsFile())
    (directory.path / (NAME + ".new")).write_text("half of someth" * 10_000)
    assert read_targets(directory) == TargetsFile()
    write_targets(directory, FILE)
    assert read_targets(directory) == FILE


def test_a_disk_that_fails_leaves_the_old_one(
    directory: DiskDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_targets(directory, FILE)

    def fails(old: str, new: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory, "rename", fails)
    with pytest.raises(StateError, match="No space left"):
        write_targets(directory, TargetsFile())
    assert read_targets(directory) == FILE


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("group = 7", "Expected `array`"),
        ("[[group]]\nname = 'a'\n", "volume"),
        ("[[group]]\nvolume = []\nsurprise = 1", "surprise"),
        ("portal = {}", "portal"),
        ("[[group", "targets.toml"),
    ],
)
def test_a_file_that_is_none_is_named(directory: DiskDirectory, text: str, says: str) -> None:
    (directory.path / NAME).write_text(text)
    with pytest.raises(OperatorError, match=says):
        read_targets(directory)


def test_a_file_is_not_written_longer_than_it_may_be_read(directory: DiskDirectory) -> None:
    volume = VolumeSection(path="/" + "x" * CONFIG_BYTES_MAX)
    with pytest.raises(UsageError, match="longer than"):
        write_targets(directory, TargetsFile(group=(ServeGroupSection(volume=(volume,)),)))
    assert not directory.exists(NAME)
