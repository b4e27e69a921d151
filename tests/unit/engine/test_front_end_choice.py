"""Which front end a daemon gets, and what it says of the choice."""

import contextlib
from pathlib import Path

import pytest

from pratima_iscsi.control.options import EventOptions, FrontEndKind, ServeOptions
from pratima_iscsi.edges import kernel_target
from pratima_iscsi.edges.descriptors import Descriptors
from pratima_iscsi.edges.directory import DiskDirectory
from pratima_iscsi.edges.link_address import parse_address
from pratima_iscsi.engine import front_end_choice
from pratima_iscsi.engine.front_end_choice import choose_front_end
from pratima_iscsi.engine.process import Events
from pratima_iscsi.errors import StateError, UsageError
from tests.support.on_loop import on_loop


def options(kind: FrontEndKind) -> ServeOptions:
    return ServeOptions(Path("p"), parse_address("127.0.0.1:0"), (), front_end=kind)


async def chosen(kind: FrontEndKind, place: Path) -> tuple[str, str]:
    directory = DiskDirectory.open_at(place)
    front_end, reason = choose_front_end(
        options(kind), Events(), directory, bytes(16), Descriptors(spare=False)
    )
    directory.close()
    return front_end.name, reason


@pytest.mark.parametrize(
    ("missing", "name", "reason"),
    [("", "tcmu", "the kernel has TCMU"), ("not root", "portal", "not root")],
)
@on_loop
async def test_auto_takes_the_kernel_where_it_can(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str, name: str, reason: str
) -> None:
    monkeypatch.setattr(front_end_choice, "why_not", lambda: missing)
    assert await chosen(FrontEndKind.AUTO, tmp_path) == (name, reason)


@on_loop
async def test_the_portal_asked_for_is_the_portal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(front_end_choice, "why_not", lambda: "")
    assert await chosen(FrontEndKind.PORTAL, tmp_path) == ("portal", "as asked for")


@pytest.mark.parametrize("kind", [FrontEndKind.PORTAL, FrontEndKind.AUTO])
@on_loop
async def test_the_portals_address_is_not_that_of_the_events(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: FrontEndKind
) -> None:
    monkeypatch.setattr(front_end_choice, "why_not", lambda: "not root")
    portal = parse_address("127.0.0.1:3260")
    for events, clashes in (("127.0.0.1:3260", True), ("127.0.0.1:3261", False)):
        chosen = EventOptions(parse_address(events), is_asked_for=True)
        made = ServeOptions(Path("p"), portal, (), front_end=kind, events=chosen)
        directory = DiskDirectory.open_at(tmp_path)
        with contextlib.ExitStack() as raised:
            if clashes:
                words = "--portal and --events want the same port: 127.0.0.1:3260"
                raised.enter_context(pytest.raises(UsageError, match=words))
            choose_front_end(made, Events(), directory, bytes(16), Descriptors(spare=False))
        directory.close()


@on_loop
async def test_the_kernel_asked_for_in_vain_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(front_end_choice, "make_ready", lambda: "the kernel has no module")
    with pytest.raises(StateError, match=r"cannot serve: the kernel has no module; .*portal"):
        await chosen(FrontEndKind.TCMU, tmp_path)


def test_what_the_kernel_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_target.os, "geteuid", lambda: 1000)
    assert kernel_target.why_not(tmp_path) == "not root"
    monkeypatch.setattr(kernel_target.os, "geteuid", lambda: 0)
    assert "no target_core_user" in kernel_target.why_not(tmp_path)
    (tmp_path / "sys/module/target_core_user").mkdir(parents=True)
    assert "configfs is not mounted" in kernel_target.why_not(tmp_path)
    (tmp_path / "sys/kernel/config/target").mkdir(parents=True)
    assert kernel_target.why_not(tmp_path) == ""
