"""What is to be done to LIO: only what differs, only to what is ours, never to what is in use."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pratima_iscsi.edges import lio_steps as steps
from pratima_iscsi.edges.lio_plan import Owned, Plan, plan
from pratima_iscsi.edges.lio_state import (
    NO_CHAP,
    Acl,
    Backstore,
    Chap,
    Kernel,
    KernelTarget,
    backstore,
    kernel_target,
)
from pratima_iscsi.iscsi.chap import Account
from tests.support.lio_model import applied, users

PREFIX = "pratima-0123abcd-"
OWNED = Owned(PREFIX, frozenset({"iqn.2026-01.org.example:one", "iqn.2026-01.org.example:two"}))
ONE, TWO = "iqn.2026-01.org.example:one", "iqn.2026-01.org.example:two"
FRIEND, OTHER = "iqn.2020-01.org.example:friend", "iqn.2020-01.org.example:other"
PORTAL = frozenset({"127.0.0.1:3260"})
ACCOUNT = Account("user", "a secret of ours")
FOREIGN = KernelTarget("iqn.2001-01.com.example:theirs", {0: "block/sda"}, PORTAL, sessions=PORTAL)


def device(name: str, number: int = 0, size: int = 1 << 20) -> Backstore:
    return backstore(f"{PREFIX}{name}-{number}", f"{ord(name[0]):030x}{number:02x}", size, 512)


def wants(
    iqn: str = ONE,
    *devices: Backstore,
    account: Account | None = None,
    initiators: frozenset[str] | None = None,
    portals: frozenset[str] = PORTAL,
) -> Kernel:
    """A daemon that wants one target."""
    devices = devices or (device("one"),)
    luns = {lun: one.name for lun, one in enumerate(devices)}
    target = kernel_target(iqn, luns, portals, account, initiators)
    return Kernel({one.name: one for one in devices}, {iqn: target})


def both(*kernels: Kernel) -> Kernel:
    return Kernel(
        {name: one for kernel in kernels for name, one in kernel.backstores.items()},
        {iqn: target for kernel in kernels for iqn, target in kernel.targets.items()},
    )


def steps_of(found: Kernel, wanted: Kernel, owned: Owned = OWNED) -> list[steps.Step]:
    """The steps of a plan without problems; they lead where they should, and no further."""
    made = plan(found, wanted, owned)
    assert made.problems == []
    after = applied(found, made.steps)
    again = plan(after, wanted, owned)
    assert (again.steps, again.problems) == ([], []), "a second run changes nothing"
    return made.steps


def changed(kernel: Kernel, iqn: str = ONE, **values: object) -> Kernel:
    target = replace(kernel.targets[iqn], **values)  # type: ignore[arg-type]
    return replace(kernel, targets={**kernel.targets, iqn: target})


def with_device(kernel: Kernel, **values: object) -> Kernel:
    (name,) = kernel.backstores
    made = replace(kernel.backstores[name], **values)  # type: ignore[arg-type]
    return replace(kernel, backstores={name: made})


def test_from_nothing_everything_is_made_and_enabled_last() -> None:
    wanted = wants(ONE, device("one"), device("one", 1), account=ACCOUNT)
    made = steps_of(Kernel(targets={FOREIGN.iqn: FOREIGN}), wanted)
    assert isinstance(made[0], steps.CreateBackstore)
    assert made[-1] == steps.EnableTarget(ONE)
    kinds = [type(step) for step in made]
    assert kinds.index(steps.SetChap) < kinds.index(steps.AddPortal)
    assert kinds.count(steps.AddLun) == 2


def test_an_access_list_has_its_luns_and_its_account() -> None:
    wanted = wants(initiators=frozenset({FRIEND, OTHER}), account=ACCOUNT)
    made = steps_of(Kernel(), wanted)
    chap = Chap("user", "a secret of ours")
    assert {s.initiator for s in made if isinstance(s, steps.SetChap) and s.chap == chap} == {
        FRIEND,
        OTHER,
    }
    assert steps.SetAttribute(ONE, "generate_node_acls", "0") in made
    assert steps.SetAttribute(ONE, "demo_mode_discovery", "0") in made


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (wants(), wants(account=ACCOUNT), {steps.SetChap, steps.SetAttribute}),
        (
            wants(initiators=frozenset({FRIEND})),
            wants(initiators=frozenset({OTHER})),
            {steps.RemoveAcl, steps.AddAcl, steps.MapLun},
        ),
        (
            wants(),
            wants(portals=frozenset({"10.0.0.1:3260"})),
            {steps.RemovePortal, steps.AddPortal},
        ),
        (
            wants(),
            wants(ONE, device("one"), device("one", 1)),
            {steps.CreateBackstore, steps.AddLun},
        ),
        (
            wants(ONE, device("one"), device("one", 1), initiators=frozenset({FRIEND})),
            wants(initiators=frozenset({FRIEND})),
            {steps.RemoveLun, steps.DeleteBackstore},
        ),
        (
            wants(ONE, device("one"), initiators=frozenset({FRIEND})),
            wants(ONE, device("two"), initiators=frozenset({FRIEND})),
            {
                steps.RemoveLun,
                steps.DeleteBackstore,
                steps.CreateBackstore,
                steps.AddLun,
                steps.MapLun,
            },
        ),
        (wants(), wants(ONE, device("one", size=2 << 20)), {steps.SetBackstore}),
        (with_device(wants(), replies=0), wants(), {steps.SetBackstore}),
        (with_device(wants(), tells_aborts=0), wants(), {steps.SetBackstore}),
        (changed(wants(), enabled=False), wants(), {steps.EnableTarget}),
        (wants(), Kernel(), {steps.DeleteTarget, steps.DeleteBackstore}),
        (wants(), wants(), set()),
    ],
)
def test_only_what_differs_is_changed(
    old: Kernel, new: Kernel, expected: set[type[steps.Step]]
) -> None:
    found = replace(old, targets={**old.targets, FOREIGN.iqn: FOREIGN})
    made = steps_of(found, new)
    assert {type(step) for step in made} == expected
    assert applied(found, made).targets[FOREIGN.iqn] == FOREIGN


def test_what_an_initiator_did_not_ask_for_is_not_kept_from_it() -> None:
    """Of two targets only the one that differs is touched."""
    found = both(wants(ONE), wants(TWO, device("two")))
    wanted = both(wants(ONE), wants(TWO, device("two"), account=ACCOUNT))
    assert {step.iqn for step in steps_of(found, wanted)} == {TWO}


def test_a_target_of_somebody_else_keeps_its_name() -> None:
    theirs = replace(FOREIGN, iqn=ONE)
    made = plan(Kernel(targets={ONE: theirs}), wants(), OWNED)
    assert made.steps == []
    (problem,) = made.problems
    assert problem.iqn == ONE and "not this daemon's" in problem.problem and problem.next_step
    # Our notes do not make it ours: somebody put another one in its place.
    noted = Owned(PREFIX, frozenset({ONE}))
    assert plan(Kernel(targets={ONE: theirs}), wants(), noted).steps == []


def test_an_empty_target_of_the_wanted_name_is_taken_over() -> None:
    empty = KernelTarget(ONE, {}, frozenset(), attributes={}, parameters={}, enabled=False)
    made = steps_of(Kernel(targets={ONE: empty}), wants())
    assert steps.CreateTarget(ONE) not in made and steps.EnableTarget(ONE) in made


def test_what_another_daemon_made_is_left_alone() -> None:
    other = backstore("pratima-99999999-two-0", "b" * 32, 1 << 20, 512)
    theirs = KernelTarget(TWO, {0: f"user/{other.name}"}, PORTAL)
    found = replace(wants(), targets={**wants().targets, TWO: theirs})
    made = steps_of(found, Kernel())
    assert applied(found, made).targets == {TWO: theirs}


def test_a_target_that_an_administrator_made_over_our_device_is_left_alone() -> None:
    theirs = KernelTarget(TWO, {0: f"user/{device('one').name}"}, PORTAL, sessions=PORTAL)
    found = replace(wants(), targets={**wants().targets, TWO: theirs})
    noted = Owned(PREFIX, frozenset({ONE}))
    assert steps_of(found, wants(), noted) == []
    made = plan(found, Kernel(), noted)
    assert applied(found, made.steps).targets == {TWO: theirs}
    assert f"{TWO} uses it" in made.problems[0].problem


def test_an_unwanted_target_with_a_strangers_lun_loses_only_ours() -> None:
    mixed = changed(wants(), luns={**wants().targets[ONE].luns, 7: "block/sda"})
    made = plan(mixed, Kernel(), Owned(PREFIX, frozenset({ONE})))
    assert made.steps == [
        steps.RemoveLun("", ONE, 0),
        steps.DeleteBackstore("", device("one").name),
    ]
    assert "LUN 7" in made.problems[0].problem
    assert applied(mixed, made.steps).targets[ONE].luns == {7: "block/sda"}


def test_a_strangers_lun_at_our_place_is_told() -> None:
    found = changed(wants(ONE, device("one"), device("one", 1)), luns={0: "block/sda"})
    found = changed(found, luns={0: "block/sda", 1: f"user/{device('one', 1).name}"})
    made = plan(found, wants(ONE, device("one"), device("one", 1)), Owned(PREFIX, frozenset({ONE})))
    assert made.steps == []
    assert "which is not ours" in made.problems[0].problem


@pytest.mark.parametrize(
    "values",
    [
        {"block_bytes": 4096},
        {"sectors_max": 128},
        {"config": "pratima/" + "c" * 32},
        {"serial": "somebody's"},
        {"command_seconds": 30},
    ],
)
def test_a_device_that_must_be_made_anew_is_not_while_somebody_is_logged_in(
    values: dict[str, object],
) -> None:
    found = with_device(wants(initiators=frozenset({FRIEND})), **values)
    wanted = wants(initiators=frozenset({FRIEND}))
    made = steps_of(found, wanted)
    assert [type(s) for s in made] == [
        steps.RemoveLun,
        steps.DeleteBackstore,
        steps.CreateBackstore,
        steps.AddLun,
        steps.MapLun,
    ]
    in_use = plan(changed(found, sessions=frozenset({FRIEND})), wanted, OWNED)
    assert in_use.steps == []
    (problem,) = in_use.problems
    assert FRIEND in problem.problem and next(iter(values)) in problem.problem
    assert "log out" in problem.next_step


def test_a_device_that_another_fabric_shows_stays() -> None:
    found = with_device(wants(), others=("loopback/naa.5001405",), block_bytes=4096)
    for wanted in (wants(), Kernel()):
        made = plan(found, wanted, OWNED)
        assert not [s for s in made.steps if isinstance(s, steps.DeleteBackstore)]
        assert "loopback/naa.5001405" in made.problems[0].problem


def test_a_device_that_was_not_finished_is_made_anew() -> None:
    unfinished = Kernel({device("one").name: replace(device("one"), enabled=False, serial="")})
    kinds = [type(step) for step in steps_of(unfinished, wants())][:2]
    assert kinds == [steps.DeleteBackstore, steps.CreateBackstore]


def test_discovery_is_set_where_it_is_ours_and_cleared_only_then() -> None:
    ours, theirs = Chap("ours", "x" * 12), Chap("theirs", "y" * 12)
    wanted = Kernel(discovery=ours)
    assert steps_of(Kernel(), wanted) == [steps.SetDiscovery("", ours)]
    assert steps_of(Kernel(discovery=ours), wanted) == []
    assert steps_of(Kernel(discovery=replace(ours, secret="old" * 4)), wanted) != []
    renamed = Owned(PREFIX, discovery_user="theirs")
    assert steps_of(Kernel(discovery=theirs), wanted, renamed) != []
    assert plan(Kernel(discovery=theirs), wanted, OWNED).problems
    assert steps_of(Kernel(discovery=theirs), Kernel()) == []
    cleared = steps_of(Kernel(discovery=ours), Kernel(), Owned(PREFIX, discovery_user="ours"))
    assert cleared == [steps.SetDiscovery("", NO_CHAP)]


def test_no_step_says_a_secret() -> None:
    wanted = replace(wants(account=ACCOUNT), discovery=Chap("d", "another secret"))
    for step in steps_of(Kernel(), wanted):
        assert "secret" not in str(step) and "secret" not in repr(step)


# --- any state ------------------------------------------------------------------------------------

NAMES = ("one-0", "two-0", "two-1")
chaps = st.sampled_from([NO_CHAP, Chap("u", "s" * 12), Chap("u", "s" * 12, "m", "t" * 12)])
mine = st.sampled_from([f"user/{PREFIX}{name}" for name in NAMES])
anyones = mine | st.sampled_from(["block/sda", "user/pratima-99999999-x-0", "fileio/f"])
portals = st.frozensets(st.sampled_from(["127.0.0.1:3260", "10.0.0.1:3260", "[::1]:3260"]))


@st.composite
def found_targets(draw: st.DrawFn, iqn: str) -> KernelTarget:
    luns = draw(st.dictionaries(st.integers(0, 2), anyones, max_size=3))
    acls = {
        name: Acl(
            {m: draw(st.sampled_from(sorted(luns))) for m in draw(st.sets(st.integers(0, 2)))}
            if luns
            else {},
            draw(chaps),
        )
        for name in draw(st.sets(st.sampled_from([FRIEND, OTHER])))
    }
    return KernelTarget(
        iqn,
        luns,
        draw(portals),
        acls,
        draw(chaps),
        attributes=draw(st.dictionaries(st.just("authentication"), st.sampled_from("01"))),
        parameters={},
        enabled=draw(st.booleans()),
        sessions=draw(st.frozensets(st.sampled_from([FRIEND, OTHER]))),
    )


@st.composite
def founds(draw: st.DrawFn) -> Kernel:
    devices = {}
    for name in draw(st.sets(st.sampled_from(NAMES))):
        devices[PREFIX + name] = replace(
            device(name[:3], int(name[-1])),
            block_bytes=draw(st.sampled_from([512, 4096])),
            replies=draw(st.sampled_from([-1, 0])),
            command_seconds=draw(st.sampled_from([30, 60])),
            enabled=draw(st.booleans()),
            others=draw(st.sampled_from([(), (), ("loopback/naa.5",)])),
        )
    targets = {iqn: draw(found_targets(iqn)) for iqn in draw(st.sets(st.sampled_from([ONE, TWO])))}
    known = {f"user/{name}" for name in devices}
    for iqn, target in targets.items():
        luns = {
            lun: shown
            for lun, shown in target.luns.items()
            if not shown.startswith(f"user/{PREFIX}") or shown in known
        }
        acls = {
            name: replace(acl, luns={m: n for m, n in acl.luns.items() if n in luns})
            for name, acl in target.acls.items()
        }
        targets[iqn] = replace(target, luns=luns, acls=acls)
    return Kernel(devices, targets, draw(chaps))


wanteds = st.sampled_from(
    [
        Kernel(),
        wants(),
        wants(account=ACCOUNT, initiators=frozenset({FRIEND})),
        both(wants(), wants(TWO, device("two"), device("two", 1), portals=frozenset())),
        replace(wants(TWO, device("two", 1), device("two")), discovery=Chap("u", "s" * 12)),
    ]
)
owneds = st.builds(
    Owned,
    st.just(PREFIX),
    st.frozensets(st.sampled_from([ONE, TWO])),
    st.sampled_from(["", "u"]),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(founds(), wanteds, owneds)
def test_any_plan_can_be_carried_out_leads_there_and_leaves_strangers_alone(
    found: Kernel, wanted: Kernel, owned: Owned
) -> None:
    made = plan(found, wanted, owned)
    after = applied(found, made.steps)
    again = plan(after, wanted, owned)
    assert again.steps == [], "what is not done at once is a problem, not a step for ever"
    suffering = {problem.iqn for problem in made.problems}
    for iqn, target in wanted.targets.items():
        if iqn not in suffering:
            _is_as_wanted(after, wanted, target)
    _strangers_are_untouched(found, after, owned, made)


def _is_as_wanted(after: Kernel, wanted: Kernel, target: KernelTarget) -> None:
    got = after.targets[target.iqn]
    assert got.enabled and got.portals == target.portals and got.chap == target.chap
    assert target.luns.items() <= got.luns.items()
    assert got.acls.keys() == target.acls.keys()
    for name, acl in target.acls.items():
        assert got.acls[name].chap == acl.chap
        assert acl.luns.items() <= got.acls[name].luns.items()
    for shown in target.luns.values():
        name = shown.partition("/")[2]
        assert replace(after.backstores[name], others=()) == wanted.backstores[name]


def _strangers_are_untouched(found: Kernel, after: Kernel, owned: Owned, made: Plan) -> None:
    for iqn, target in found.targets.items():
        strangers = {n: d for n, d in target.luns.items() if not d.startswith(f"user/{PREFIX}")}
        if strangers:
            assert strangers.items() <= after.targets[iqn].luns.items(), made
        if target.luns and strangers == target.luns:
            assert after.targets[iqn] == target, made
    for name, one in found.backstores.items():
        if one.others or any(
            t.sessions
            and f"user/{name}" in t.luns.values()
            and t.iqn not in owned.targets
            and not all(d.startswith(f"user/{PREFIX}") for d in t.luns.values())
            for t in found.targets.values()
        ):
            assert name in after.backstores or not users(found, name)
