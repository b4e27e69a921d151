"""Configuration: what is accepted, what is refused by name, and sizes as people write them."""

import re
from pathlib import Path

import pytest

from pratima_iscsi.control.config import read_file, replica_options, serve_options
from pratima_iscsi.control.options import ReplicaDaemonOptions, ServeOptions
from pratima_iscsi.control.sections import (
    ReplicaFile,
    ServeFile,
)
from pratima_iscsi.control.units import format_seconds, format_size, parse_size
from pratima_iscsi.edges.keys import write_keys
from pratima_iscsi.errors import OperatorError, StateError, UsageError
from pratima_iscsi.iscsi.chap import Account
from pratima_iscsi.limits import GIB, KIB, MIB
from pratima_iscsi.replication.states import Mode

SERVE = """
state = "state"
[portal]
listen = "127.0.0.1:0"
[[group]]
name = "db"
log_limit = "64MiB"
block_size = 4096
[[group.volume]]
path = "/dev/data"
[[group.volume]]
name = "log"
path = "log.img"
size = "1GiB"
[[group.replica]]
address = "127.0.0.1:7010"
mode = "sync"
sync_timeout = 2
on_timeout = "block"
resync = "direct"
overwrite = true
[[group.replica]]
address = "ipc:///run/b"
data_address = "ipc:///run/b2"
[[group]]
name = "mail"
iqn = "iqn.2020-02.ORG.example.disks:mail"
initiators = ["iqn.2020-02.org.example:Host", "an-odd-name"]
[[group.volume]]
path = "mail.img"
"""


def serve(directory: Path, text: str) -> ServeOptions:
    (directory / "c.toml").write_text(text)
    return serve_options(read_file(directory / "c.toml", ServeFile), directory)


def replica(directory: Path, text: str) -> ReplicaDaemonOptions:
    (directory / "c.toml").write_text(text)
    return replica_options(read_file(directory / "c.toml", ReplicaFile), directory)


def minimal(portal: str = "", group: str = "", top: str = "") -> str:
    return (
        f'state = "s"\n{top}\n[portal]\n{portal}\n[[group]]\n{group}\n'
        '[[group.volume]]\npath = "a"\n'
    )


def test_a_whole_file_of_serve(tmp_path: Path) -> None:
    options = serve(tmp_path, SERVE)
    assert options.state == tmp_path / "state"
    assert str(options.portal) == "127.0.0.1:*"
    assert options.account is None
    db, mail = options.groups
    assert (db.name, db.target) == ("db", "iqn.2026-01.io.github.pratima:db")
    assert (db.log_bytes, db.block_bytes) == (64 * MIB, 4096)
    assert [(v.name, v.path, v.size) for v in db.volumes] == [
        ("lun0", Path("/dev/data"), None),
        ("log", tmp_path / "log.img", GIB),
    ]
    first, second = db.replicas
    assert (first.name, first.mode, first.sync_timeout) == ("127.0.0.1:7010", Mode.SYNC, 2.0)
    assert (first.block, first.direct_resync, first.overwrite) == (True, True, True)
    assert str(first.data_address) == "127.0.0.1:7011"
    assert (second.mode, second.block, second.peer_key) == (Mode.ASYNC, False, None)
    assert str(second.data_address) == "ipc:///run/b2"
    assert (mail.target, mail.replicas) == ("iqn.2020-02.org.example.disks:mail", ())
    assert db.initiators is None
    assert mail.initiators == {"iqn.2020-02.org.example:host", "an-odd-name"}


def test_a_whole_file_of_replica(tmp_path: Path) -> None:
    options = replica(
        tmp_path,
        'state = "s"\nlisten = "127.0.0.1:9000"\njournal_limit = "128MiB"\n'
        '[[group]]\nname = "db"\noverwrite = true\n[[group.volume]]\npath = "a"\n',
    )
    assert (str(options.listen), str(options.data_listen)) == ("127.0.0.1:9000", "127.0.0.1:9001")
    assert options.journal_bytes == 128 * MIB
    assert options.allowed == {}
    (group,) = options.groups
    assert (group.name, group.overwrite, group.volumes[0].path) == ("db", True, tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "missing required field"),
        ("state = 1", "state"),
        ("state = 's'\ngruop = []", "unknown field `gruop`"),
        ("not toml", "c.toml"),
        (minimal(group="mode = 'sync'"), "unknown field `mode`"),
        (minimal(group="block_size = 1024"), "block_size"),
        (minimal(group="name = 'Has Space'"), "cannot name a group"),
        (minimal(group="name = '../up'"), "cannot name a group"),
        (minimal(group="iqn = 'no name'"), "is no iSCSI name"),
        (minimal(group="initiators = []"), "admits 0 initiators"),
        (minimal(group="initiators = ['']"), "initiators"),
        (minimal(group="initiators = ['has space']"), "group default: InitiatorName"),
        (minimal(group="initiators = ['iqn.a:b', 'IQN.A:B']"), "initiators of group default"),
        (minimal(group="log_limit = '1MiB'"), "ordered log of 1 MiB"),
        (minimal(group="log_limit = 'lots'"), "'lots' is not a size"),
        (minimal(portal="listen = 'here'"), "portal: 'here' is not an address"),
        (minimal(portal="listen = 'ipc:///x'"), "no TCP address"),
        (minimal(portal="chap_user = 'u'"), "belong together"),
        (minimal(portal="listen = '0.0.0.0:3260'"), "no CHAP"),
        (minimal() + "[[group.volume]]\npath = 'a'", "two volumes are the same"),
        (minimal(top="command_timeout = 5"), "a command timeout of 5 s"),
        (minimal() + "[[group.volume]]\npath = 'b'\nname = 'lun0'", "volume names"),
        (minimal() + "[[group.volume]]\npath = 'b'\nname = 'a/b'", "cannot name a volume"),
        (minimal() + "[[group]]\n[[group.volume]]\npath = 'b'", "two groups are the same"),
        ("state = 's'\n[[group]]\nvolume = []", "a group of 0 volumes"),
        (minimal() + "[[group.replica]]\naddress = '10.0.0.2:7010'", "not loopback"),
        (minimal() + "[[group.replica]]\naddress = '127.0.0.1:0'", "has no port"),
        (minimal() + "[[group.replica]]\naddress = '127.0.0.1:65535'", "no port above"),
        (
            minimal() + "[[group.replica]]\naddress = '127.0.0.1:1'\nsync_timeout = 60",
            r"0.5 to 10 seconds",
        ),
        (minimal() + 2 * "[[group.replica]]\naddress = '127.0.0.1:1'\n", "two replicas"),
        (minimal(top="key = 'k'"), "--key without --allow"),
        (minimal(top="allow = 'k'"), "--allow without --key"),
        (minimal(top="allow = 'k'\nkey = 'k'"), "does not exist"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(OperatorError, match=says) as caught:
        serve(tmp_path, text)
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("state = 's'\ngroup = []", "0 groups"),
        ("state = 's'\nlisten = '0.0.0.0:7010'\n[[group]]\nvolume = [{path = 'a'}]", "loopback"),
        (
            "state = 's'\ndata_listen = '0.0.0.0:7010'\n[[group]]\nvolume = [{path = 'a'}]",
            "not loopback",
        ),
        ("state = 's'\njournal_limit = 1\n[[group]]\nvolume = [{path = 'a'}]", "the journal"),
        ("state = 's'\nlisten = '127.0.0.1:0'\n[[group]]\nvolume = [{path = 'a'}]", "port 0"),
        ("state = 's'\n[[group]]\nvolume = []", "a group of 0 volumes"),
        ("state = 's'\n[portal]\n[[group]]\nvolume = []", "unknown field `portal`"),
    ],
)
def test_what_is_wrong_for_a_replica_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        replica(tmp_path, text)
    assert caught.value.next_step


ONE_VOLUME = "[[group]]\nvolume = [{path = 'a'}]"
KEYS = "key = 'k'\nallow = 'a'\n"


@pytest.mark.parametrize(
    ("ports", "says"),
    [
        ("data_listen = '127.0.0.1:7010'", "--listen and --data-listen"),
        ("events = 'localhost:7010'", "--listen and --events want the same port: 127.0.0.1:7010"),
        ("events = '127.0.0.1:7011'", "--data-listen and --events"),
        ("data_listen = '127.0.0.1:9'\nevents = '127.0.0.1:9'", "--data-listen and --events"),
        ("listen = 'ipc:///run/r'\ndata_listen = 'ipc:///run/r'", "--listen and --data-listen"),
        ("data_listen = '0.0.0.0:7010'\n" + KEYS, "port: 127.0.0.1:7010 and 0.0.0.0:7010"),
        ("listen = '[::]:9'\ndata_listen = '[::1]:9'\n" + KEYS, "--listen and --data-listen"),
    ],
)
def test_two_options_that_want_one_port_are_both_named(
    tmp_path: Path, ports: str, says: str
) -> None:
    write_keys(tmp_path / "k")
    (tmp_path / "a").write_bytes((tmp_path / "k.pub").read_bytes())
    with pytest.raises(UsageError, match=re.escape(says)):
        replica(tmp_path, f"state = 's'\n{ports}\n{ONE_VOLUME}")


@pytest.mark.parametrize(
    "ports",
    [
        "data_listen = '127.0.0.1:7012'",  # the usual events port: given up with an alarm
        "data_listen = '127.0.0.2:7010'",
        "data_listen = '[::1]:7010'",
        "listen = 'ipc:///run/r'\ndata_listen = '127.0.0.1:7010'",
        "events = 'none'",
    ],
)
def test_ports_that_can_be_had_together_are_taken(tmp_path: Path, ports: str) -> None:
    assert replica(tmp_path, f"state = 's'\n{ports}\n{ONE_VOLUME}").groups


def test_a_missing_or_endless_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot be read"):
        read_file(tmp_path / "none", ServeFile)
    with pytest.raises(UsageError, match="too long"):
        read_file(Path("/dev/zero"), ServeFile)


def test_off_loopback_both_keys_make_a_link(tmp_path: Path) -> None:
    ours = write_keys(tmp_path / "node.key", "a")
    peer = write_keys(tmp_path / "peer.key", "10.0.0.2:7010")
    top = "key = 'node.key'\nallow = 'peer.key.pub'"
    options = serve(tmp_path, minimal(top=top) + "[[group.replica]]\naddress = '10.0.0.2:7010'\n")
    assert options.keys == ours
    assert options.groups[0].replicas[0].peer_key == peer.public
    listening = replica(
        tmp_path,
        f"state = 's'\nlisten = '0.0.0.0:7010'\n{top}\n[[group]]\nvolume = [{{path = 'a'}}]",
    )
    assert listening.allowed == {peer.public: "10.0.0.2:7010"}


def test_with_several_keys_the_list_must_name_the_replica(tmp_path: Path) -> None:
    write_keys(tmp_path / "node.key")
    one = write_keys(tmp_path / "one", "left")
    two = write_keys(tmp_path / "two", "right")
    (tmp_path / "allow").write_text(
        (tmp_path / "one.pub").read_text() + (tmp_path / "two.pub").read_text()
    )
    text = minimal(top="key = 'node.key'\nallow = 'allow'")
    text += "[[group.replica]]\naddress = '10.0.0.2:7010'\n"
    with pytest.raises(UsageError, match="0 keys by the name 10"):
        serve(tmp_path, text)
    for name, keys in (("left", one), ("right", two)):
        options = serve(tmp_path, text + f"key_name = '{name}'")
        assert options.groups[0].replicas[0].peer_key == keys.public


def chap(tmp_path: Path, secret: str, mutual: str = "") -> str:
    for name, value in (("chap", secret), ("mutual", mutual)):
        (tmp_path / name).write_text(value + "\n")
        (tmp_path / name).chmod(0o600)
    text = "listen = '0.0.0.0:3260'\nchap_user = 'backup'\nchap_password_file = 'chap'\n"
    if mutual:
        text += "mutual_user = 'target'\nmutual_password_file = 'mutual'\n"
    return minimal(portal=text)


def test_chap_opens_a_portal_to_others(tmp_path: Path) -> None:
    account = serve(tmp_path, chap(tmp_path, "correct horse", "battery staple")).account
    assert account is not None
    assert (account.name, account.secret) == ("backup", "correct horse")
    assert (account.mutual_name, account.mutual_secret) == ("target", "battery staple")


def test_a_group_may_have_an_account_and_portals_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("its own secret")
    (tmp_path / "own").chmod(0o600)
    own = "chap_user = 'own'\nchap_password_file = 'own'\nportals = ['10.0.0.1:3260']\n"
    (group,) = serve(tmp_path, minimal(group=own)).groups
    assert group.account == Account("own", "its own secret")
    assert [str(portal) for portal in group.portals] == ["10.0.0.1:3260"]
    (tmp_path / "chap").write_text("correct horse")
    (tmp_path / "chap").chmod(0o600)
    shared = "chap_user = 'backup'\nchap_password_file = 'chap'"
    (group,) = serve(tmp_path, minimal(portal=shared)).groups
    assert group.account == Account("backup", "correct horse"), "the portal's, unless given"


@pytest.mark.parametrize(
    ("portals", "says"),
    [
        ("['10.0.0.1:3260']", "not loopback"),
        ("['127.0.0.1:0']", "no TCP address with a port"),
        ("['127.0.0.1:3260', 'localhost:3260']", "the same"),
    ],
)
def test_a_groups_portals_are_checked(tmp_path: Path, portals: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        serve(tmp_path, minimal(group=f"portals = {portals}"))


def test_without_chap_only_the_explicit_flag_does(tmp_path: Path) -> None:
    text = minimal(portal="listen = '0.0.0.0:3260'\ninsecure_no_chap = true")
    assert serve(tmp_path, text).account is None


@pytest.mark.parametrize(
    ("secret", "mutual", "says"),
    [
        ("tiny", "", "shorter than 12"),
        ("", "", "is empty"),
        ("correct horse", "correct horse", "secret of its own"),
        ("correct horse", "short", "shorter than 12"),
    ],
)
def test_weak_chap_secrets_are_refused(tmp_path: Path, secret: str, mutual: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        serve(tmp_path, chap(tmp_path, secret, mutual))
    assert not secret or secret not in str(caught.value)


def test_mutual_chap_needs_chap(tmp_path: Path) -> None:
    (tmp_path / "mutual").write_text("battery staple\n")
    (tmp_path / "mutual").chmod(0o600)
    text = minimal(portal="mutual_user = 'target'\nmutual_password_file = 'mutual'")
    with pytest.raises(UsageError, match="mutual CHAP without CHAP"):
        serve(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("1k", KIB),
        ("1 KiB", KIB),
        ("64MB", 64 * MIB),
        ("1GiB", GIB),
        ("1.5g", 3 * GIB // 2),
        ("2T", 2048 * GIB),
        (4096, 4096),
    ],
)
def test_sizes_as_people_write_them(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "1X", "-1", "1e9", "0x10", "1.0001k", "1 2", -5])
def test_sizes_that_are_none(text: str | int) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


def test_numbers_as_people_read_them() -> None:
    sizes = [0, 512, 1536, 64 * MIB, 5 * GIB]
    assert [format_size(size) for size in sizes] == ["0 B", "512 B", "1.5 KiB", "64 MiB", "5 GiB"]
    seconds = [None, 0.25, 42, 61, 3700, 90_000]
    assert [format_seconds(value) for value in seconds] == [
        "-",
        "0.2 s",
        "42 s",
        "1 min 1 s",
        "1 h 1 min",
        "1 d 1 h",
    ]
