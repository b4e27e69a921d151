"""What a group has on disks: opened as a whole, made once, and never made again."""

import errno
import os
from pathlib import Path

import pytest

from pratima_iscsi.control.options import (
    ServeGroup,
    ServeOptions,
    VolumeOptions,
    group_directory,
)
from pratima_iscsi.edges.link_address import parse_address
from pratima_iscsi.edges.source_store import DATABASE_NAME, SourceStore
from pratima_iscsi.engine.group_disks import GroupDisks
from pratima_iscsi.errors import StateError, UsageError

NODE = b"n" * 16
MIB = 1 << 20


class Place:
    """A state directory and volumes beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = group_directory(path / "state", "db")

    def open(self, *names: str, size: int | None = MIB) -> GroupDisks:
        """Open the group with volumes of these names, each in a file of its name."""
        volumes = tuple(VolumeOptions(name, self.path / name, size) for name in names)
        serve = ServeOptions(self.path / "state", parse_address("127.0.0.1:0"), ())
        return GroupDisks.open(ServeGroup("db", "iqn", volumes), serve, NODE)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_known_volume_that_is_missing_is_an_error_and_no_reason_to_make_one(place: Place) -> None:
    place.open("data", "log").close()
    (place.path / "log").unlink()
    with pytest.raises(StateError, match="log is missing, but its group knows it") as missing:
        place.open("data", "log")
    assert "--size" not in str(missing.value)
    assert not (place.path / "log").exists()


@pytest.mark.parametrize("left", [0, MIB // 2])
def test_a_known_volume_that_lost_its_content_is_an_error_and_stays_as_it_is(
    place: Place, left: int
) -> None:
    place.open("data").close()
    os.truncate(place.path / "data", left)
    for size in (MIB, None):
        with pytest.raises(StateError, match=f"has {left} bytes, but its group knows it with"):
            place.open("data", size=size)
    assert (place.path / "data").stat().st_size == left


@pytest.mark.parametrize("damage", [b"", b"rot" * 4096])
def test_no_volume_is_made_for_a_group_that_forgot_which_it_has(
    place: Place, damage: bytes
) -> None:
    place.open("data").close()
    (place.path / "data").rename(place.path / "away")
    (place.state / DATABASE_NAME).write_bytes(damage)
    for _ in range(2):
        with pytest.raises(StateError, match="data is missing, but its group knows it"):
            place.open("data")
    (place.path / "away").rename(place.path / "data")
    place.open("data").close()
    (place.path / "data").unlink()
    with pytest.raises(StateError, match=f"its group knows it with {MIB} bytes"):
        place.open("data")


def test_a_volume_that_is_new_to_its_group_is_made_once(place: Place) -> None:
    place.open("data").close()
    place.open("data", "log").close()
    assert (place.path / "log").stat().st_size == MIB
    (place.path / "log").unlink()
    with pytest.raises(StateError, match="log is missing"):
        place.open("data", "log")


def test_a_volume_in_the_place_of_a_known_one_is_not_made_but_taken_where_it_is(
    place: Place,
) -> None:
    """It may be the known one by another name."""
    place.open("data").close()
    with pytest.raises(StateError, match="renamed is missing, but its group knows it"):
        place.open("renamed")
    (place.path / "data").rename(place.path / "renamed")
    place.open("renamed").close()


def test_a_group_that_does_not_open_leaves_nothing_behind(place: Place) -> None:
    (place.path / "here").write_bytes(bytes(MIB))
    (place.path / "odd").mkdir()
    with pytest.raises(UsageError, match="neither a file nor a block device"):
        place.open("data", "here", "odd")
    assert not place.state.exists()
    assert sorted(each.name for each in place.path.iterdir()) == ["here", "odd", "state"]


def test_what_stood_in_the_directory_of_a_group_that_does_not_open_stays(place: Place) -> None:
    """A replica's state, say, whose volume is to be served now."""
    place.state.mkdir(parents=True, mode=0o700)
    (place.state / "journal.0000").write_bytes(b"a replica's")
    (place.path / "odd").mkdir()
    with pytest.raises(UsageError, match="neither a file nor a block device"):
        place.open("data", "odd")
    assert [each.name for each in place.state.iterdir()] == ["journal.0000"]
    assert not (place.path / "data").exists()


def test_what_was_made_for_a_group_that_is_not_served_is_removed(place: Place) -> None:
    (place.path / "here").write_bytes(bytes(MIB))
    (place.path / "empty").touch()
    place.open("data", "here", "empty").unmake()
    assert not place.state.exists() and not (place.path / "data").exists()
    assert (place.path / "here").exists() and (place.path / "empty").exists()
    place.open("data", "here", "empty").close()


def test_a_group_that_was_there_loses_only_what_was_made_for_it(place: Place) -> None:
    place.open("data").close()
    disks = place.open("data", "log")
    disks.unmake()
    assert (place.path / "data").exists() and not (place.path / "log").exists()
    again = place.open("data", "log")
    assert again.state.group == disks.state.group
    again.close()
    assert (place.path / "log").exists(), "it is new once more"


def test_a_volume_that_the_store_cannot_forget_stays(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(store: SourceStore, names: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    place.open("data").close()
    monkeypatch.setattr(SourceStore, "forget_volumes", full)
    place.open("data", "log").unmake()
    assert (place.path / "log").exists()
    place.open("data", "log").close()
