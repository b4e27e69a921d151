"""Keys, allow-lists and CHAP on the real daemons: on loopback, and over a wire of a namespace."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pratima_iscsi.edges.initiator import Initiator, LoginError, discover
from pratima_iscsi.iscsi.chap import Account
from pratima_iscsi.replication.states import LinkState
from tests.integration.daemons.nodes import (
    BLOCK,
    MIB,
    WAIT_SECONDS,
    Load,
    Primary,
    Replica,
    ports,
    pratima,
    wait_equal,
)

ANY_HOST = "10.213.77.1"
NAMESPACE = "pratima-test"


def keygen(place: Path, *names: str) -> None:
    """A key pair for each."""
    for name in names:
        ran = pratima("keygen", str(place / f"{name}.key"), "--name", name)
        assert ran.returncode == 0, ran
        assert (place / f"{name}.key").stat().st_mode & 0o777 == 0o600
        secret = (place / f"{name}.key").read_text().split("secret ")[1].strip()
        assert secret not in ran.stdout + ran.stderr


def keyed(place: Path, own: str, *others: str) -> tuple[str, ...]:
    """The options of a daemon that has the key ``own`` and talks to ``others``."""
    allow = place / f"{own}.allow"
    allow.write_text("".join((place / f"{name}.key.pub").read_text() for name in others))
    return "--key", str(place / f"{own}.key"), "--allow", str(allow)


def test_keys_on_both_sides_let_them_talk(place: Path) -> None:
    keygen(place, "a", "b")
    replica = Replica(place, *keyed(place, "b", "a"))
    primary = Primary(place, *keyed(place, "a", "b"), replicas=[replica])
    with replica, primary:
        replica.launch()
        primary.start()
        primary.wait_synced(replica)
        assert replica.said("session: open with a\n"), "by its name on the list, not by its key"
        with Load(primary) as load:
            load.wait(100)
            replica.kill()
            replica.start()
            load.wait(100)
        load.check()
        wait_equal(primary, replica)


def test_who_is_not_on_the_list_is_refused_with_a_reason(place: Path) -> None:
    keygen(place, "a", "b", "stranger")
    replica = Replica(place, *keyed(place, "b", "a"))
    refused = {
        "not on its list": Primary(
            place, *keyed(place, "stranger", "b"), name="stranger", replicas=[replica]
        ),
        "no keys": Primary(place, name="plain", replicas=[replica]),
        "expects another": Primary(
            place, *keyed(place, "a", "stranger"), name="a", replicas=[replica]
        ),
    }
    with replica:
        replica.start()
        for what, primary in refused.items():
            with primary:
                primary.start()
                link = primary.wait_link(
                    lambda link: "key" in link.reason.lower() or "curve" in link.reason.lower(),
                    f"{what}: a reason that names the keys",
                    replica,
                )
                assert link.state in (LinkState.CONNECTING, LinkState.REFUSED), what
                assert primary.exit_code != 0
                with primary.login() as session:
                    session.write(0, b"x" * BLOCK)
                assert replica.runs
        assert not replica.status().bound, "nothing of theirs was taken"


def test_plain_off_loopback_is_refused_on_both_sides(place: Path) -> None:
    volume = ("--volume", str(place / "v.img"), "--size", "8MiB")
    ran = pratima("replica", "--state", str(place / "r"), "--listen", "0.0.0.0:7010", *volume[:2])
    assert ran.returncode == 2
    assert "loopback" in ran.stderr and "keygen" in ran.stderr
    ran = pratima("serve", "--state", str(place / "s"), *volume, "--replica", f"{ANY_HOST}:7010")
    assert ran.returncode == 2
    assert "loopback" in ran.stderr and "keygen" in ran.stderr
    assert not (place / "s").exists() and not (place / "v.img").exists(), "nothing was touched"


def test_a_portal_off_loopback_wants_chap_or_the_flag(place: Path) -> None:
    options = ("--state", str(place / "s"), "--volume", str(place / "v.img"), "--size", "8MiB")
    ran = pratima("serve", *options, "--portal", "0.0.0.0:0")
    assert ran.returncode == 2
    assert "CHAP" in ran.stderr and "--insecure-no-chap" in ran.stderr
    with Primary(place, "--insecure-no-chap", portal="0.0.0.0:0") as primary:
        primary.start()
        primary.finish()


def chap(place: Path, word: str, user: str, secret: str) -> tuple[str, ...]:
    """CHAP options."""
    path = place / word
    path.write_text(secret + "\n")
    path.chmod(0o600)
    return f"--{word}-user", user, f"--{word}-password-file", str(path)


def test_chap_lets_in_who_knows_the_secret_and_nobody_else(place: Path) -> None:
    one = chap(place, "chap", "backup", "open sesame 123")
    other = chap(place, "mutual", "target", "sesame open 321")
    with Primary(place, *one, *other) as primary:
        primary.start()
        good = Account("backup", "open sesame 123", "target", "sesame open 321")
        with primary.login(account=good) as session:
            session.write(0, b"x" * BLOCK)
        host, _, port = primary.status().portal.rpartition(":")
        assert discover(host, int(port), account=good)
        with pytest.raises(LoginError):
            primary.login(account=Account("backup", "open sesame 124"))
        with pytest.raises(LoginError):
            primary.login(account=Account("other", "open sesame 123"))
        with pytest.raises(LoginError):
            primary.login()
        with pytest.raises(LoginError):
            discover(host, int(port))
        with primary.login(account=good) as session:
            assert session.read(0, 8) == b"x" * BLOCK


@pytest.mark.tools
def test_chap_with_iscsi_ls(place: Path) -> None:
    if subprocess.run(["which", "iscsi-ls"], capture_output=True).returncode:
        pytest.skip("iscsi-ls is not here: apt-get install libiscsi-bin")
    with Primary(place, *chap(place, "chap", "backup", "open sesame 123")) as primary:
        primary.start()
        portal = primary.status().portal

        def listed(url: str) -> "subprocess.CompletedProcess[str]":
            return subprocess.run(
                ["iscsi-ls", "-s", url], capture_output=True, text=True, timeout=WAIT_SECONDS
            )

        ran = listed(f"iscsi://backup%open sesame 123@{portal}")
        assert ran.returncode == 0 and "Lun:0" in ran.stdout.replace(" ", ""), ran
        ran = listed(f"iscsi://backup%not the secret@{portal}")
        assert "Lun" not in ran.stdout


def test_a_chap_secret_that_others_can_read_is_refused(place: Path) -> None:
    options = chap(place, "chap", "backup", "open sesame 123")
    (place / "chap").chmod(0o644)
    with Primary(place, *options) as primary:
        primary.launch()
        assert primary.wait() == 2
        assert "chmod 600" in primary.output() or "0600" in primary.output()


def test_a_key_that_others_can_read_is_refused(place: Path) -> None:
    keygen(place, "a", "b")
    options = keyed(place, "a", "b")
    (place / "a.key").chmod(0o644)
    with Replica(place, *options) as replica:
        replica.launch()
        assert replica.wait() == 2
        assert "a.key" in replica.output() and "next:" in replica.output()
        secret = (place / "a.key").read_text().split("secret ")[1].strip()
        assert secret not in replica.output()


# --- off loopback ---------------------------------------------------------------------------------


@contextmanager
def wire() -> Iterator[tuple[str, str, list[str]]]:
    """A veth pair, one end in a namespace: our address, theirs, the prefix of a command there."""
    name = f"{NAMESPACE}-{os.getpid()}"
    third = os.getpid() % 250
    ours, theirs = f"10.213.{third}.1", f"10.213.{third}.2"
    left, right = f"pl{os.getpid()}", f"pr{os.getpid()}"
    steps = [
        f"ip netns add {name}",
        f"ip link add {left} type veth peer name {right}",
        f"ip link set {right} netns {name}",
        f"ip addr add {ours}/30 dev {left}",
        f"ip link set {left} up",
        f"ip -n {name} addr add {theirs}/30 dev {right}",
        f"ip -n {name} link set {right} up",
        f"ip -n {name} link set lo up",
    ]
    try:
        for step in steps:
            try:
                ran = subprocess.run(step.split(), capture_output=True, text=True, timeout=30)
            except OSError as error:
                pytest.skip(f"{step}: {error}")
            if ran.returncode:
                pytest.skip(f"no network namespaces here: {step}: {ran.stderr.strip()}")
        yield ours, theirs, ["ip", "netns", "exec", name]
    finally:
        subprocess.run(["ip", "link", "del", left], capture_output=True, timeout=30)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=30)


@pytest.mark.root
def test_a_pair_off_loopback_with_keys_and_chap(place: Path) -> None:
    if os.geteuid():
        pytest.skip("network namespaces need root")
    with wire() as (ours, theirs, there):
        keygen(place, "a", "b")
        replica = Replica(place, *keyed(place, "b", "a"))
        replica.command = [
            *there,
            *(word.replace("127.0.0.1", theirs) for word in replica.command),
        ]
        replica.address = f"{theirs}:{replica.port}"
        account = Account("backup", "open sesame 123")
        primary = Primary(
            place,
            *keyed(place, "a", "b"),
            *chap(place, "chap", account.name, account.secret),
            "--mode",
            "sync",
            portal=f"{ours}:{ports(1, ours)}",
            replicas=[replica],
        )
        with replica, primary:
            replica.launch()
            primary.start()
            primary.wait_synced(replica)
            with primary.login(account=account) as session:
                assert isinstance(session, Initiator)
                session.write(0, b"o" * MIB)
            wait_equal(primary, replica)
            # The wire is cut, and comes back.
            subprocess.run(
                [*there, "ip", "link", "set", f"pr{os.getpid()}", "down"], check=True, timeout=30
            )
            with primary.login(account=account) as session:
                session.write(16, b"c" * MIB)
            assert primary.link().degraded
            subprocess.run(
                [*there, "ip", "link", "set", f"pr{os.getpid()}", "up"], check=True, timeout=30
            )
            primary.wait_link(lambda link: link.state is LinkState.SYNCED, "SYNCED", replica)
            primary.finish()
            assert replica.stop() == 0
