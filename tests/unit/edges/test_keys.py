"""Key files and allow-lists: private, never overwritten, and refused where anything is odd."""

import stat
from pathlib import Path

import pytest

from pratima_iscsi.edges.curve import check_public_key, generate_keys
from pratima_iscsi.edges.keys import (
    AllowList,
    allow_line,
    read_allow_list,
    read_keys,
    read_secret,
    write_keys,
)
from pratima_iscsi.errors import StateError, UsageError


def test_a_pair_is_written_privately_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    keys = write_keys(path, "alpha")
    assert read_keys(path) == keys
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (tmp_path / "node.key.pub").read_text() == f"{keys.public} alpha\n"
    assert keys.secret not in (tmp_path / "node.key.pub").read_text()
    assert keys.secret not in repr(keys)


@pytest.mark.parametrize("there", ["node.key", "node.key.pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises(StateError, match="exists already"):
        write_keys(tmp_path / "node.key")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "precious"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "node.key"
    write_keys(path)
    path.chmod(mode)
    with pytest.raises(StateError, match=r"can be read by others; chmod 600"):
        read_keys(path)


def test_a_link_to_a_key_is_not_followed(tmp_path: Path) -> None:
    write_keys(tmp_path / "node.key")
    (tmp_path / "link").symlink_to(tmp_path / "node.key")
    with pytest.raises(StateError, match="not followed"):
        read_keys(tmp_path / "link")


def test_a_missing_or_odd_key_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="does not exist"):
        read_keys(tmp_path / "none")
    with pytest.raises(StateError, match=r"no regular file|not followed"):
        read_keys(tmp_path)
    odd = tmp_path / "odd"
    keys, other = generate_keys(), generate_keys()
    for text in (
        b"",
        b"hello\n",
        f"public {keys.public}\n".encode(),
        f"public {keys.public}\npublic {keys.public}\n".encode(),
        f"public {other.public}\nsecret {keys.secret}\n".encode(),
        f"public {keys.public}\nsecret short\n".encode(),
        b"\xff\xfe",
        b"x" * 70_000,
    ):
        odd.write_bytes(text)
        odd.chmod(0o600)
        with pytest.raises(UsageError) as caught:
            read_keys(odd)
        assert keys.secret not in str(caught.value)


def test_an_allow_list_has_a_key_a_line_names_and_comments(tmp_path: Path) -> None:
    one, two, three = (generate_keys().public for _ in range(3))
    path = tmp_path / "allow"
    path.write_text(
        f"# the pair\n\n{one} 10.0.0.2:7010 # left rack\n  {two} beta\n#{'-' * 50}\n{three}\n"
    )
    allowed = read_allow_list(path)
    assert allowed.keys == (one, two, three)
    assert allowed.peer("beta") == two
    assert allowed.peer("10.0.0.2:7010") == one
    with pytest.raises(UsageError, match="0 keys by the name gamma"):
        allowed.peer("gamma")


@pytest.mark.parametrize("rest", ["0000", "####", "zzzz"])
def test_no_key_begins_like_a_comment(rest: str) -> None:
    with pytest.raises(UsageError, match="is not a public key"):
        check_public_key("#" + rest + "0" * 35)


def test_the_only_key_of_a_list_is_every_peer() -> None:
    assert AllowList({"k": "alpha"}).peer("10.0.0.2:7010") == "k"
    with pytest.raises(UsageError, match="2 keys by the name a"):
        AllowList({"k": "a", "l": "a"}).peer("a")


def test_a_bad_allow_list_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "allow"
    path.write_text(f"{generate_keys().public}\nshort key\n")
    with pytest.raises(UsageError, match="line 2"):
        read_allow_list(path)
    path.write_text("# nobody\n")
    with pytest.raises(UsageError, match="allows nobody"):
        read_allow_list(path)


@pytest.mark.parametrize("name", ["two\nlines", "a # b", "x" * 200, "\x1b[31m"])
def test_a_name_that_would_break_the_list_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a key"):
        allow_line("k", name)


def test_a_secret_is_the_first_line_of_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "chap"
    path.write_text("correct horse\nsecond line\n")
    path.chmod(0o600)
    assert read_secret(path, "password file") == "correct horse"
    path.write_text("\n")
    with pytest.raises(UsageError, match="is empty"):
        read_secret(path, "password file")
    path.chmod(0o644)
    with pytest.raises(StateError, match="can be read by others"):
        read_secret(path, "password file")
