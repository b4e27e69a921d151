"""``pratima target`` with the kernel's own target: made, used, changed, put back, ended."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from rtslib_fb import FabricModule, FileIOStorageObject, RTSRoot, Target
from rtslib_fb.target import LUN, TPG, NetworkPortal

from pratima_iscsi.errors import StateError
from tests.kernel.inside import lio, rig
from tests.kernel.inside.lio import LioServed
from tests.torture.daemons import wait_until

MENDED_SECONDS = 90.0
FOREIGN = "iqn.2001-01.com.example:theirs"
SECRET, MUTUAL = "a secret of ours", "their own secret"
LOGIN_AUTH_FAILED, NO_OBJECTS = 24, 21


@pytest.fixture
def served(tmp_path: Path) -> Iterator[LioServed]:
    """A daemon that runs; at the end the kernel has nothing of ours."""
    with LioServed(tmp_path) as daemon:
        daemon.start()
        yield daemon
        if not daemon.runs:
            daemon.start()
        for name in daemon.targets():
            daemon.delete(name, "--end-sessions")
        kernel = daemon.kernel()
        assert not kernel.backstores and not [t for t in kernel.targets if t != FOREIGN]


def secret(place: Path, text: str) -> str:
    """A file that holds a secret."""
    path = place / text.replace(" ", "-")
    path.touch(mode=0o600)
    path.write_text(text)
    return str(path)


def test_a_target_is_made_once_used_and_ended(served: LioServed, tmp_path: Path) -> None:
    iqn = served.make("one", "--size", "64MiB", "--volume", str(tmp_path / "one.img"))
    device = served.kernel().targets[iqn]
    assert device.enabled and device.attributes["default_cmdsn_depth"] == "128"
    (backstore,) = served.kernel().backstores.values()
    assert (backstore.replies, backstore.command_seconds, backstore.sectors_max) == (-1, 60, 16384)
    made = len(served.changes())
    assert made > 5
    again = served.create("one", "--size", "64MiB", "--volume", str(tmp_path / "one.img"))
    assert "nothing changed" in again.stdout
    assert served.stop() == 0
    served.start()
    assert len(served.changes()) == made, "a second start finds all as it should be"
    served.wait_said("as it should be: nothing to change")

    serial = served.serial("one")
    with lio.login(iqn, [serial]) as (disk,):
        sysfs = Path("/sys/block") / disk.name / "device"
        assert (sysfs / "wwid").read_text().strip() == f"naa.6001405{serial[:25]}"
        assert served.targets()["one"].sessions in (0, 1)
        rig.file_system_round(disk, tmp_path / "mount", os.urandom(8 * rig.MIB))
        refused = served.delete("one")
        assert refused.returncode == 2 and "1 sessions" in refused.stderr, refused
    assert served.delete("one").returncode == 0
    kernel = served.kernel()
    assert not kernel.backstores and iqn not in kernel.targets
    assert (tmp_path / "one.img").stat().st_size == 64 * rig.MIB


def test_chap_access_list_and_discovery(tmp_path: Path) -> None:
    user = ("--chap-user", "user", "--chap-password-file", secret(tmp_path, SECRET))
    mutual = ("--mutual-user", "we", "--mutual-password-file", secret(tmp_path, MUTUAL))
    with LioServed(tmp_path, *user, *mutual) as served:
        served.start()
        iqn = served.make("one", "--initiator", rig.INITIATOR)
        other = served.make("two", "--initiator", "iqn.2020-01.org.example:stranger")

        assert lio.discovered() == [], "discovery wants the account"
        config = Path("/etc/iscsi/iscsid.conf")
        before = config.read_text()
        sides = {"": ("user", SECRET), "_in": ("we", MUTUAL)}
        said = "".join(
            f"discovery.sendtargets.auth.username{end} = {name}\n"
            f"discovery.sendtargets.auth.password{end} = {word}\n"
            for end, (name, word) in sides.items()
        )
        config.write_text(before + "discovery.sendtargets.auth.authmethod = CHAP\n" + said)
        assert lio.discovered() == [iqn], "and shows what its initiator may use"
        assert lio.node_login(iqn) == LOGIN_AUTH_FAILED
        key = "node__session__auth__"
        lio.set_node(iqn, **{f"{key}authmethod": "CHAP", f"{key}username": "user"})
        lio.set_node(iqn, **{f"{key}password": "not the secret"})
        assert lio.node_login(iqn) == LOGIN_AUTH_FAILED
        lio.set_node(iqn, **{f"{key}password": SECRET})
        assert lio.node_login(iqn) == 0, "one way"
        rig.disk_with_serial(served.serial("one"))
        lio.iscsiadm("-m", "node", "-T", iqn, "--logout")
        lio.set_node(iqn, **{f"{key}username_in": "we", f"{key}password_in": "of somebody else"})
        assert lio.node_login(iqn) != 0, "the target must prove itself, too"
        lio.set_node(iqn, **{f"{key}password_in": MUTUAL})
        assert lio.node_login(iqn) == 0, "both ways"
        lio.logout(iqn)
        config.write_text(before)

        for name in ("one", "two"):
            assert served.delete(name).returncode == 0
        assert other not in served.kernel().targets
        assert served.stop() == 0
        del served.command[-8:]
        known = len(served.changes())
        served.start()
        assert served.changes()[known:] == ["set the CHAP account of discovery to none"]
        assert served.kernel().discovery.user == ""
    assert SECRET not in served.log.read_text()


def test_what_targetcli_restored_or_changed_is_put_back(served: LioServed, tmp_path: Path) -> None:
    volume = ("--size", "32MiB", "--volume")
    iqn = served.make("one", *volume, str(tmp_path / "one.img"), "--initiator", rig.INITIATOR)
    wanted = served.kernel()
    root = RTSRoot()
    saved = tmp_path / "saved.json"
    root.save_to_file(str(saved))
    _spoil(saved)

    with lio.login(iqn, [served.serial("one")]) as (disk,):
        # Over the live target and its session, as targetctl does it.
        errors = root.restore_from_file(str(saved))
        assert [e for e in errors if "alua" not in e.lower()] == []
        (device,) = served.kernel().backstores.values()
        assert (device.replies, device.tells_aborts) == (0, 0)
        wait_until(lambda: _same(served, wanted), MENDED_SECONDS, "all is put back", [served])
        served.wait_said("put back in the kernel")
        wait_until(lambda: _writes(disk), MENDED_SECONDS, "the session goes on", [served])

    root.clear_existing(confirm=True)
    wait_until(lambda: _same(served, wanted), MENDED_SECONDS, "all is made anew", [served])
    TPG(Target(FabricModule("iscsi"), iqn), 1).set_attribute("generate_node_acls", 1)
    NetworkPortal(TPG(Target(FabricModule("iscsi"), iqn), 1), "127.0.0.1", 3999)
    wait_until(lambda: _same(served, wanted), MENDED_SECONDS, "doors are shut again", [served])
    with lio.login(iqn, [served.serial("one")]) as (disk,):
        assert rig.disk_size(disk) == 32 * rig.MIB


def _spoil(saved: Path) -> None:
    """What another tool might have saved: other attributes, another portal, no ACL."""
    content = json.loads(saved.read_text())
    (device,) = content["storage_objects"]
    device["attributes"] |= {"nl_reply_supported": 0, "tmr_notification": 0}
    ((group,),) = (target["tpgs"] for target in content["targets"])
    group["attributes"] |= {"default_cmdsn_depth": 16, "generate_node_acls": 1}
    group["node_acls"] = []
    group["portals"].append({"ip_address": "127.0.0.1", "port": 3998})
    saved.write_text(json.dumps(content))


def _writes(disk: Path) -> bool:
    try:
        with disk.open("wb", buffering=0) as file:
            return file.write(bytes(4096)) == 4096
    except OSError:
        return False


def _same(served: LioServed, wanted: object) -> bool:
    try:
        found = served.kernel()
    except StateError:  # It changes while it is read.
        return False
    return _without_sessions(found) == _without_sessions(wanted)


def _without_sessions(kernel: object) -> str:
    return repr(kernel).replace(repr(frozenset({rig.INITIATOR})), repr(frozenset()))


def test_what_is_not_ours_is_never_touched(served: LioServed, tmp_path: Path) -> None:
    theirs = FileIOStorageObject("theirs", str(tmp_path / "theirs.img"), 16 * rig.MIB)
    target = Target(FabricModule("iscsi"), FOREIGN)
    group = TPG(target, 1)
    LUN(group, 0, theirs)
    NetworkPortal(group, "127.0.0.1", lio.PORT)
    group.enable = True
    try:
        served.make("one")
        refused = served.create("two", "--iqn", FOREIGN)
        assert refused.returncode == 2 and "not this daemon's" in refused.stderr, refused
        assert set(served.targets()) == {"one"}
        (served.place / "free").touch()
        busy = served.create("three", "--portal", "127.0.0.1:1", "--portal", "10.255.0.1:3260")
        assert busy.returncode in (0, 2)
        if busy.returncode == 0:
            served.delete("three")
        served.delete("one")
        assert [target.wwn for target in FabricModule("iscsi").targets] == [FOREIGN]
        assert [lun.storage_object.name for lun in group.luns] == ["theirs"] and group.enable
        assert [backstore.name for backstore in RTSRoot().storage_objects] == ["theirs"]
    finally:
        target.delete()
        theirs.delete()
