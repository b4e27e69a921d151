"""Who sees and uses which target of a daemon with several: access lists, LUNs, mutual CHAP."""

import subprocess
from pathlib import Path

import pytest

from pratima_iscsi.edges.initiator import Initiator, LoginError, discover
from pratima_iscsi.iscsi.chap import Account
from pratima_iscsi.iscsi.pdu import LoginStatus
from tests.conformance.tools import run, tool
from tests.integration.daemons.nodes import BLOCK, Primary, ports
from tests.integration.daemons.test_groups import Configured

OPEN, CLOSED = "iqn.2026-01.io.github.pratima:open", "iqn.2026-01.io.github.pratima:closed"
FRIEND, STRANGER = "iqn.2020-02.org.example:friend", "iqn.2020-02.org.example:stranger"


def configured(place: Path) -> tuple[Configured, int]:
    """Two targets, one of them with two LUNs and for one initiator only."""
    port = ports(1)
    path = place / "serve.toml"
    path.write_text(f"""
state = "serve-state"
portal.listen = "127.0.0.1:{port}"
[[group]]
name = "open"
volume = [{{ path = "open.img", size = "8MiB" }}]
[[group]]
name = "closed"
initiators = ["{FRIEND.upper()}", "iqn.2020-02.org.example:other"]
volume = [{{ path = "one.img", size = "8MiB" }}, {{ path = "two.img", size = "4MiB" }}]
""")
    return Configured("serve", path, place), port


def test_a_target_is_seen_and_used_by_those_on_its_list_only(place: Path) -> None:
    serve, port = configured(place)
    with serve:
        serve.start()
        for name, targets in ((FRIEND, {OPEN, CLOSED}), (STRANGER, {OPEN})):
            assert set(dict(discover("127.0.0.1", port, initiator=name))) == targets
        with pytest.raises(LoginError) as refused:
            Initiator.connect("127.0.0.1", port, target=CLOSED, initiator=STRANGER)
        assert refused.value.status == LoginStatus.AUTHORIZATION_FAILURE
        with Initiator.connect("127.0.0.1", port, target=OPEN, initiator=STRANGER) as session:
            # In a session, too, a target that is not his is none.
            assert session.text([("SendTargets", CLOSED)]) == []
        with Initiator.connect("127.0.0.1", port, target=CLOSED, initiator=FRIEND) as session:
            assert session.report_luns() == [0, 1]
            session.write(0, b"f" * BLOCK)
        serve.finish()
    assert (place / "one.img").read_bytes()[:BLOCK] == b"f" * BLOCK


@pytest.mark.tools
def test_iscsi_ls_shows_what_its_initiator_may_use(place: Path) -> None:
    program = tool("iscsi-ls", "libiscsi-bin")
    serve, port = configured(place)
    with serve:
        serve.start()
        for name, shown in ((FRIEND, True), (STRANGER, False)):
            said = run(program, "-s", "-i", name, f"iscsi://127.0.0.1:{port}").stdout
            assert OPEN in said
            assert (CLOSED in said, "Lun:1" in said.replace(" ", "")) == (shown, shown), said


@pytest.mark.tools
def test_qemu_uses_every_lun_of_two_targets_on_one_portal(place: Path) -> None:
    program = tool("qemu-io", "qemu-utils qemu-block-extra")
    serve, port = configured(place)
    with serve:
        serve.start()
        for number, (target, lun) in enumerate(((OPEN, 0), (CLOSED, 0), (CLOSED, 1)), 1):
            where = f"driver=iscsi,transport=tcp,portal=127.0.0.1:{port},target={target},lun={lun}"
            commands = (f"write -P {number} 64k 1M", f"read -P {number} 64k 1M", "flush")
            words = [word for command in commands for word in ("-c", command)]
            said = run(program, "--image-opts", *words, f"{where},initiator-name={FRIEND}")
            assert "failed" not in said.stdout + said.stderr, said
        serve.finish()
    for number, name in enumerate(("open.img", "one.img", "two.img"), 1):
        data = (place / name).read_bytes()
        assert data[1 << 16 : (1 << 16) + (1 << 20)] == bytes([number]) * (1 << 20), name


def test_initiator_options_on_the_command_line(place: Path) -> None:
    with Primary(place, "--initiator", FRIEND, "--initiator", "Odd-Name") as primary:
        primary.start()
        status = primary.status()
        host, _, port = status.portal.rpartition(":")
        assert discover(host, int(port), initiator="odd-name")
        assert not discover(host, int(port), initiator=STRANGER)


def secret(place: Path, name: str, text: str) -> str:
    """A file with a secret."""
    path = place / name
    path.touch(0o600)
    path.write_text(text + "\n")
    return str(path)


def test_mutual_chap_and_a_target_that_cannot_prove_itself(place: Path) -> None:
    options = (
        *("--chap-user", "host", "--chap-password-file", secret(place, "a", "open sesame 123")),
        *("--mutual-user", "disk", "--mutual-password-file", secret(place, "b", "sesame open 321")),
    )
    with Primary(place, *options) as primary:
        primary.start()
        with primary.login(account=Account("host", "open sesame 123")) as session:
            session.write(0, b"1" * BLOCK)
        good = Account("host", "open sesame 123", "disk", "sesame open 321")
        with primary.login(account=good) as session:
            assert session.read(0, 8) == b"1" * BLOCK
        for wrong in (("disk", "sesame open 322"), ("other", "sesame open 321")):
            with pytest.raises(LoginError):
                primary.login(account=Account("host", "open sesame 123", *wrong))


@pytest.mark.tools
def test_mutual_chap_with_libiscsi(place: Path) -> None:
    program = tool("iscsi-inq", "libiscsi-bin")
    options = (
        *("--chap-user", "host", "--chap-password-file", secret(place, "a", "open-sesame-123")),
        *("--mutual-user", "disk", "--mutual-password-file", secret(place, "b", "sesame-open-321")),
    )

    def asked(url: str) -> "subprocess.CompletedProcess[str]":
        return run(program, url, exit_codes=(0, 1, 10, 255))

    with Primary(place, *options) as primary:
        primary.start()
        status = primary.status()
        base = f"iscsi://host%open-sesame-123@{status.portal}/{status.target}/0"
        good = asked(f"{base}?target_user=disk&target_password=sesame-open-321")
        assert "PRATIMA" in good.stdout, good
        bad = asked(f"{base}?target_user=disk&target_password=sesame-open-322")
        assert "PRATIMA" not in bad.stdout and bad.returncode, bad
