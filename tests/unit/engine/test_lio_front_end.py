"""The kernel's front end over a model of LIO: added, removed, refused, put back, not waited for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pratima_iscsi.control.options import ServeGroup, ServeOptions, VolumeOptions
from pratima_iscsi.edges import lio_steps as steps
from pratima_iscsi.edges.directory import DiskDirectory
from pratima_iscsi.edges.link_address import parse_address
from pratima_iscsi.edges.link_sockets import LinkContext
from pratima_iscsi.edges.lio_state import Kernel, KernelTarget
from pratima_iscsi.engine.front_end import FrontEnd
from pratima_iscsi.engine.kernel_notes import NAME, Notes, read_notes, write_notes
from pratima_iscsi.engine.kernel_setup import KernelSetup, device_prefix
from pratima_iscsi.engine.lio_front_end import LioFrontEnd
from pratima_iscsi.engine.process import Events
from pratima_iscsi.engine.served_group import ServedGroup
from pratima_iscsi.errors import StateError, UsageError
from pratima_iscsi.iscsi.chap import Account
from tests.support.lio_model import ModelLio
from tests.support.on_loop import on_loop

NODE = bytes.fromhex("0123abcd") + bytes(12)
PREFIX = "pratima-0123abcd-"
ONE = "iqn.2026-01.org.example:one"
CHECK_SECONDS = 0.01
WAIT_SECONDS = 20.0
SHORT_SECONDS = 0.05


class Handler:
    """Who carries out the devices' commands (the FrontEnd protocol): notes whom it serves."""

    name = "tcmu"

    def __init__(self, lio: ModelLio) -> None:
        self.lio = lio
        self.serves: list[str] = []
        self.opened = False

    async def open(self) -> None:
        self.opened = True

    async def add(self, group: ServedGroup) -> None:
        self.serves.append(group.options.name)

    async def remove(self, group: ServedGroup) -> None:
        assert group.options.target not in self.lio.kernel.targets, "LIO lets go first"
        self.serves.remove(group.options.name)

    async def close(self) -> None:
        self.opened = False

    def address(self, group: ServedGroup) -> str:
        return ""

    def locate(self, group: ServedGroup, lun: int) -> str:
        return ""

    def sessions(self, group: ServedGroup) -> int:
        return 0

    def trouble(self, group: ServedGroup) -> str:
        return ""

    async def count_sessions(self, group: ServedGroup) -> int:
        return 0


class Lab:
    """A front end over a model, in one state directory."""

    def __init__(self, place: Path, lio: ModelLio, account: Account | None = None) -> None:
        self.place = place
        self.lio = lio
        self.directory = DiskDirectory.open_at(place / "state", create=True)
        portal = parse_address("127.0.0.1:3260")
        self.options = ServeOptions(place / "state", portal, (), account=account)
        self.events = Events()
        self.context = LinkContext()
        self.handler = Handler(lio)
        self.setup = KernelSetup(lio, self.directory, NODE, self.options)
        handler: FrontEnd = self.handler
        self.front_end = LioFrontEnd(handler, self.setup, self.events, CHECK_SECONDS)
        self.groups: list[ServedGroup] = []

    async def group(self, name: str, target: str = "") -> ServedGroup:
        volume = VolumeOptions("lun0", self.place / f"{name}.img", 1 << 20)
        options = ServeGroup(name, target or f"iqn.2026-01.org.example:{name}", (volume,))
        opened = await ServedGroup.open(options, self.options, NODE, self.context, self.events)
        self.groups.append(opened)
        return opened

    async def until(self, condition: Callable[[], object], what: str) -> None:
        for _ in range(int(WAIT_SECONDS / CHECK_SECONDS)):
            if condition():
                return
            await asyncio.sleep(CHECK_SECONDS)
        raise AssertionError(what)

    @contextlib.asynccontextmanager
    async def asleep(self) -> AsyncIterator[None]:
        """The kernel sleeps, and whoever asks it waits for a short time only."""
        async with self.front_end._change:  # So the watch is not asking it, with a longer limit.
            self.setup.seconds_max = SHORT_SECONDS
            self.lio.sleeps.clear()
        yield
        self.setup.seconds_max = WAIT_SECONDS
        self.lio.sleeps.set()
        await self.until(lambda: not self.setup._now_doing, "it wakes")


@contextlib.asynccontextmanager
async def lab(
    place: Path, lio: ModelLio | None = None, account: Account | None = None
) -> AsyncIterator[Lab]:
    made = Lab(place, lio or ModelLio(), account)
    try:
        yield made
    finally:
        made.lio.sleeps.set()
        await made.front_end.close()
        for group in made.groups:
            await group.stop()
        made.context.close()
        made.directory.close()


@on_loop
async def test_what_was_added_before_is_made_at_the_start_and_not_again(tmp_path: Path) -> None:
    lio = ModelLio()
    for _ in range(2):
        async with lab(tmp_path, lio, Account("user", "a secret of ours")) as made:
            group = await made.group("one")
            await made.front_end.add(group)
            assert not lio.kernel.targets or lio.kernel.targets[ONE].enabled
            before = lio.kernel
            await made.front_end.open()
            assert made.handler.opened and made.handler.serves == ["one"]
            assert lio.kernel.targets[ONE].enabled and lio.kernel.discovery.user == "user"
            assert list(lio.kernel.backstores) == [f"{PREFIX}one-0"]
            assert made.front_end.address(group) == "127.0.0.1:3260"
        assert lio.kernel.targets[ONE].enabled, "a stop leaves LIO as it is"
    assert lio.kernel == before, "the second start had nothing to do"


@on_loop
async def test_groups_come_and_go(tmp_path: Path) -> None:
    async with lab(tmp_path) as made:
        await made.front_end.open()
        one, two = await made.group("one"), await made.group("two")
        await made.front_end.add(one)
        await made.front_end.add(two)
        assert len(made.lio.kernel.targets) == 2
        await made.front_end.remove(one)
        assert list(made.lio.kernel.targets) == [two.options.target]
        assert made.handler.serves == ["two"]
        assert read_notes(made.directory).targets == (two.options.target,)


@on_loop
async def test_a_group_that_cannot_be_served_leaves_nothing(tmp_path: Path) -> None:
    async with lab(tmp_path) as made:
        await made.front_end.open()
        one = await made.group("one")
        for refused in (steps.AddPortal, steps.CreateBackstore, steps.EnableTarget):
            made.lio.refuses = refused
            with pytest.raises(StateError, match="the model does not like it"):
                await made.front_end.add(one)
            assert not made.lio.kernel.targets and not made.lio.kernel.backstores
            assert made.handler.serves == []
        made.lio.refuses = None
        await made.front_end.add(one)
        odd = await made.group("odd", "iqn.2026-01.org.example:an_underscore")
        with pytest.raises(UsageError, match="cannot name"):
            await made.front_end.add(odd)
        assert made.handler.serves == ["one"]


@on_loop
async def test_a_target_that_cannot_be_removed_is_served_on(tmp_path: Path) -> None:
    async with lab(tmp_path) as made:
        await made.front_end.open()
        one = await made.group("one")
        await made.front_end.add(one)
        made.lio.refuses = steps.DeleteTarget
        with pytest.raises(StateError, match="still has"):
            await made.front_end.remove(one)
        assert made.handler.serves == ["one"]
        made.lio.refuses = None
        before = made.lio.kernel
        async with made.asleep():
            with pytest.raises(StateError, match="still at it"):
                await made.front_end.remove(one)
        await made.until(lambda: made.lio.kernel == before, "it is served on")
        await made.front_end.remove(one)
        assert not made.lio.kernel.targets


@on_loop
async def test_what_somebody_changed_is_put_back_with_an_alarm(tmp_path: Path) -> None:
    async with lab(tmp_path) as made:
        await made.front_end.open()
        one = await made.group("one")
        await made.front_end.add(one)
        before = made.lio.kernel
        made.lio.kernel = Kernel()
        await made.until(lambda: made.lio.kernel == before, "all is made anew")
        await made.until(lambda: made.events.alarms("one"), "it is told")
        assert made.events.alarms("one")[0].event == "put back in the kernel"


@on_loop
async def test_a_bug_does_not_end_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with lab(tmp_path) as made:
        await made.front_end.open()
        one = await made.group("one")
        await made.front_end.add(one)
        before = made.lio.kernel
        failed: list[bool] = []

        def fails() -> Kernel:
            failed.append(True)
            raise RuntimeError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(made.lio, "read", fails)
            await made.until(lambda: failed, "the watch looks")
        made.lio.kernel = Kernel()
        await made.until(lambda: made.lio.kernel == before, "all is made anew")
        assert "a bug" in caplog.text


@on_loop
async def test_what_cannot_be_mended_is_told_and_seen_to_end(tmp_path: Path) -> None:
    theirs = KernelTarget(ONE, {0: "block/sda"}, frozenset())
    async with lab(tmp_path, ModelLio(Kernel(targets={ONE: theirs}))) as made:
        one = await made.group("one")
        await made.front_end.add(one)
        await made.front_end.open()
        assert "not this daemon's" in made.front_end.trouble(one)
        assert made.events.alarms("one")[0].event == "not as it should be"
        made.lio.kernel = Kernel()
        await made.until(lambda: ONE in made.lio.kernel.targets, "it mends")
        await made.until(lambda: made.lio.kernel.targets[ONE].enabled, "it serves")
        assert not made.front_end.trouble(one)


@on_loop
async def test_what_cannot_be_carried_out_is_said_until_it_can(tmp_path: Path) -> None:
    lio = ModelLio()
    lio.refuses = steps.AddPortal
    async with lab(tmp_path, lio) as made:
        one = await made.group("one")
        await made.front_end.add(one)
        await made.front_end.open()
        tried = lio.tried
        while lio.tried < tried + 3:
            assert "does not like it" in made.front_end.trouble(one)
            await asyncio.sleep(CHECK_SECONDS / 4)
        assert len(made.events.alarms("one")) == 1
        lio.refuses = None
        await made.until(lambda: not made.front_end.trouble(one), "it mends")
        assert lio.kernel.targets[ONE].enabled


@on_loop
async def test_sessions_are_counted_where_they_are(tmp_path: Path) -> None:
    async with lab(tmp_path) as made:
        await made.front_end.open()
        one = await made.group("one")
        await made.front_end.add(one)
        assert await made.front_end.count_sessions(one) == 0
        found = made.lio.kernel.targets[ONE]
        busy = replace(found, sessions=frozenset({"iqn.2020-01.org.example:friend"}))
        made.lio.kernel = replace(made.lio.kernel, targets={ONE: busy})
        assert await made.front_end.count_sessions(one) == 1
        assert made.front_end.sessions(one) == 1


@on_loop
async def test_a_kernel_that_sleeps_is_not_waited_for(tmp_path: Path) -> None:
    async with lab(tmp_path) as made:
        await made.front_end.open()
        one = await made.group("one")
        async with made.asleep():
            with pytest.raises(StateError, match="still at it: comparing"):
                await made.front_end.add(one)
            with pytest.raises(StateError, match="still at it"):
                await made.setup.look()
        await made.front_end.add(one)
        assert made.lio.kernel.targets[ONE].enabled


@on_loop
async def test_notes_that_are_lost_cost_no_target(tmp_path: Path) -> None:
    lio = ModelLio()
    async with lab(tmp_path, lio) as made:
        await made.front_end.add(await made.group("one"))
        await made.front_end.add(await made.group("two"))
        await made.front_end.open()
        assert len(read_notes(made.directory).targets) == 2
    (tmp_path / "state" / NAME).write_bytes(b"\xff no toml")
    async with lab(tmp_path, lio) as made:
        await made.front_end.add(await made.group("one"))
        await made.front_end.open()
        assert read_notes(made.directory).targets == (ONE,), "what is wanted is taken over"
        assert len(lio.kernel.targets) == 2, (
            "whose the other was nobody knows: it stays, and is told"
        )
        (alarm,) = made.events.node_alarms()
        assert (alarm.place, alarm.event) == ("kernel", "not as it should be")


def test_notes_are_read_again(tmp_path: Path) -> None:
    directory = DiskDirectory.open_at(tmp_path / "state", create=True)
    assert read_notes(directory) == Notes()
    notes = Notes(("iqn.2026-01.org.example:a", "iqn.2026-01.org.example:b"), "user")
    write_notes(directory, notes)
    assert read_notes(directory) == notes
    assert device_prefix(NODE) == PREFIX
    directory.close()
