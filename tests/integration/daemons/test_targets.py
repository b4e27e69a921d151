"""Targets that are made and ended while their daemon runs, through the embedded portal."""

import json
import threading
from pathlib import Path

import pytest

from pratima_iscsi.control.client import ControlClient
from pratima_iscsi.control.config import TARGET_PREFIX
from pratima_iscsi.control.target_list import Origin
from pratima_iscsi.edges.initiator import Initiator, LoginError, discover
from pratima_iscsi.iscsi.chap import Account
from tests.integration.daemons.nodes import (
    BLOCK,
    MIB,
    Primary,
    Ran,
    Replica,
    Served,
    pratima,
    same,
)
from tests.torture.daemons import wait_until

IQN = TARGET_PREFIX


def test_a_target_is_made_used_and_served_again_after_a_restart(place: Path) -> None:
    with Served(place) as served:
        served.start()
        assert served.targets() == {}
        made = served.create("one")
        assert made.returncode == 0 and IQN + "one" in made.stdout
        again = served.create("one")
        assert again.returncode == 0 and "nothing changed" in again.stdout
        serial = served.targets()["one"].luns[0].serial
        with served.session("one") as session:
            session.write(0, b"1" * BLOCK)
            assert served.targets()["one"].sessions == 1
        served.kill()  # What was made is in the file before the command is answered.
        served.start()
        with served.session("one") as session:
            assert session.read(0, BLOCK // 512) == b"1" * BLOCK
            assert session.inquiry(0x80)[4:].decode() == serial
        assert served.targets()["one"].luns[0].serial == serial
        served.finish()


def test_a_target_that_is_made_again_says_again_what_is_wrong(place: Path) -> None:
    says = "group db replica 127.0.0.1:1: waiting: control port: "
    with Served(place) as served:
        served.start()
        for times in (1, 2):
            assert served.create("db", "--replica", "127.0.0.1:1").returncode == 0
            wait_until(
                lambda: served.log.read_text().count(says) == times,  # noqa: B023
                60.0,
                "why the replica is not there",
                [served],
            )
            assert served.delete("db").returncode == 0
        served.finish()


def test_what_a_command_line_asks_for_is_what_is_served(place: Path) -> None:
    secret, mutual = place / "chap", place / "mutual"
    for path, text in ((secret, "correct horse 1"), (mutual, "battery staple 1")):
        path.touch(mode=0o600)
        path.write_text(text)
    friend = "iqn.2020-02.org.example:friend"
    with Replica(place) as replica, Served(place) as served:
        replica.launch()
        served.start()
        made = served.create(
            "db",
            *("--volume", str(place / "a.img"), "--volume", str(place / "b.img"), "--size", "4MiB"),
            *("--iqn", "iqn.2026-02.org.example:db", "--initiator", friend),
            *("--chap-user", "user", "--chap-password-file", str(secret)),
            *("--mutual-user", "we", "--mutual-password-file", str(mutual)),
            *("--block-size", "4096", "--log-limit", "8MiB"),
        )
        assert made.returncode == 0, made.stderr
        target = served.targets()["db"]
        assert (target.iqn, target.initiators) == ("iqn.2026-02.org.example:db", (friend,))
        assert (target.chap_user, target.mutual_user) == ("user", "we")
        assert (target.block_size, [lun.size for lun in target.luns]) == (4096, [4 * MIB] * 2)
        account = Account("user", "correct horse 1", "we", "battery staple 1")
        with Initiator.connect(
            "127.0.0.1", served.portal_port, target=target.iqn, account=account, initiator=friend
        ) as session:
            assert session.report_luns() == [0, 1]
            assert session.read_capacity() == (1024, 4096)
        with pytest.raises(LoginError):
            Initiator.connect("127.0.0.1", served.portal_port, target=target.iqn, initiator=friend)
        said = pratima("target", "list", "--state", str(served.state))
        for word in (target.iqn, friend, "CHAP as user", "we as we", target.luns[1].serial):
            assert word in said.stdout
        listed = pratima("target", "list", "--state", str(served.state), "--json")
        assert json.loads(listed.stdout)["targets"][0]["group"] == "db"
        for kept in (said.stdout, listed.stdout, (served.state / "targets.toml").read_text()):
            assert "correct horse" not in kept and "battery" not in kept


def test_a_target_that_is_made_is_mirrored(place: Path) -> None:
    with Replica(place, "--group", "one") as replica, Served(place) as served:
        replica.launch()
        served.start()
        assert served.create("one", "--replica", replica.address).returncode == 0
        with served.session("one") as session:
            session.write(8, b"m" * BLOCK)
        served.wait_status(
            lambda status: (
                status.links[0].state.value == "SYNCED" and not status.links[0].lag.writes
            ),
            "in step",
            replica,
        )
        wait_until(
            lambda: same(place / "one.img", replica.volume), 60.0, "the copy is equal", [served]
        )
        # Deleted and made again it is the same group, and has nothing to bring over.
        group_id = served.status().group_id
        assert served.delete("one").returncode == 0
        assert served.create("one", "--replica", replica.address).returncode == 0
        status = served.wait_status(
            lambda status: status.links[0].state.value == "SYNCED", "in step again", replica
        )
        assert (status.group_id, status.links[0].resync.bytes_sent) == (group_id, 0)


def test_deleting_asks_initiators_to_log_out_and_keeps_data_and_other_targets(place: Path) -> None:
    with Served(place) as served:
        served.start()
        for name in ("one", "two"):
            assert served.create(name).returncode == 0
        leaving, staying = served.session("one"), served.session("two")
        leaving.write(0, b"x" * BLOCK)
        refused = served.delete("one")
        assert refused.returncode == 2 and "1 sessions are logged in" in refused.stderr
        assert "--end-sessions" in refused.stderr
        assert leaving.ping(b"still?") == b"still?"

        ended: list[Ran] = []
        deleting = threading.Thread(
            target=lambda: ended.append(served.delete("one", "--end-sessions"))
        )
        deleting.start()
        while not leaving.session.events:
            leaving.poll()
        leaving.logout()
        deleting.join(60.0)
        assert ended[0].returncode == 0 and "are kept" in ended[0].stdout, ended
        assert set(served.targets()) == {"two"}
        assert dict(discover("127.0.0.1", served.portal_port)).keys() == {IQN + "two"}
        with pytest.raises(LoginError):
            served.session("one")
        staying.write(0, b"y" * BLOCK)
        staying.close()
        served.finish()
        assert (place / "one.img").read_bytes()[:BLOCK] == b"x" * BLOCK
        served.start()
        assert set(served.targets()) == {"two"}, "and a restart does not serve it again"


def test_a_target_that_cannot_be_made_leaves_nothing_behind(place: Path) -> None:
    (place / "here.img").write_bytes(bytes(MIB))
    with Served(place) as served:
        served.start()
        assert served.create("one", "--volume", str(place / "here.img")).returncode == 0
        before = (served.state / "targets.toml").read_bytes()
        files = sorted(place.rglob("*"))
        for name, options, says in (
            ("two", ["--volume", str(place / "none.img")], "does not exist"),
            ("two", ["--volume", str(place / "here.img")], "two volumes are the same"),
            ("two", ["--iqn", IQN + "one"], "two iSCSI names are the same"),
            ("two", ["--portal", "127.0.0.1:3261"], "embedded portal has none"),
            ("two", ["--chap-user", "u", "--chap-password-file", "nowhere"], "nowhere"),
            ("two", ["--replica", "10.0.0.1:7010"], "not loopback"),
            ("two", ["--iqn", "not a name"], "not a name"),
            ("Two!", [], "cannot name a group"),
            (
                "two",
                ["--volume", str(place / "two.img"), "--volume", str(place), "--size", "8MiB"],
                "neither a file",
            ),
            (
                "one",
                ["--volume", str(place / "here.img"), "--block-size", "4096"],
                "other settings",
            ),
        ):
            refused = served.create(name, *options)
            assert refused.returncode == 2 and says in refused.stderr, (options, refused)
            assert "next:" in refused.stderr
            assert (served.state / "targets.toml").read_bytes() == before
            assert set(served.targets()) == {"one"}
            assert sorted(place.rglob("*")) == files
        assert served.create("two").returncode == 0, "the names are free again"


def test_what_the_file_says_and_cannot_be_served_keeps_nothing_else_down(place: Path) -> None:
    with Served(place) as served:
        served.start()
        for name in ("one", "two"):
            assert served.create(name).returncode == 0
        served.finish()
        (place / "one.img").rename(place / "away.img")
        served.start()
        targets = served.targets()
        assert "is missing" in targets["one"].failed and not targets["two"].failed
        assert "--size" not in targets["one"].failed
        again = served.create("one")
        assert again.returncode == 2 and "its group knows it" in again.stderr
        assert not (place / "one.img").exists(), "an empty volume is no stand-in"
        assert served.exit_code == 2 and "is missing" in served.status("one").failed
        assert pratima("target", "list", "--state", str(served.state)).returncode == 2
        with served.session("two") as session:
            session.write(0, b"2" * BLOCK)
        (place / "away.img").rename(place / "one.img")
        assert served.create("one").returncode == 0, "the same command again tries again"
        assert served.exit_code == 0
        served.session("one").close()


def test_groups_of_the_configuration_are_not_changed_by_commands(place: Path) -> None:
    primary = Primary(place)
    with primary:
        primary.start()
        state = str(primary.state)
        other = str(place / "other.img")
        for words in (("delete", "default"), ("create", "default", "--volume", other)):
            refused = pratima("target", *words, "--state", state)
            assert refused.returncode == 2 and "own configuration" in refused.stderr
        made = pratima("target", "create", "more", "--state", state, "--volume", other, "--size=1M")
        assert made.returncode == 0, made.stderr
        with ControlClient(primary.state) as client:
            found = {target.group: target.origin for target in client.targets().targets}
        assert found == {"default": Origin.CONFIGURATION, "more": Origin.CREATED}


def test_a_replica_has_no_targets(place: Path) -> None:
    with Replica(place) as replica:
        replica.start()
        refused = pratima("target", "list", "--state", str(replica.state))
        assert refused.returncode == 2 and "on the primary" in refused.stderr


def test_options_of_a_group_want_its_volumes(place: Path) -> None:
    refused = pratima("serve", "--state", str(place / "s"), "--replica", "127.0.0.1:7010")
    assert refused.returncode == 2 and "--replica without --volume" in refused.stderr
