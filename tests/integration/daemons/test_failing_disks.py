"""A disk of the replica fails at work: no false acknowledgement, and it mends itself."""

from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest

from pratima_iscsi.edges.initiator import Initiator
from tests.integration.daemons.nodes import Pair
from tests.integration.daemons.test_groups import ConfiguredPair
from tests.integration.daemons.test_outage import write_blocks
from tests.torture.faults import Shim, SyscallFault, build, compiler, happened


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    """The library that makes system calls fail."""
    cc = compiler()
    if cc is None:
        pytest.skip("needs a C compiler: apt-get install gcc libc6-dev")
    return build(tmp_path_factory.mktemp("shim"), cc)


def write_until_it_happens(
    pair: Pair, session: Initiator, environment: Mapping[str, str], draw: Random
) -> None:
    """Write here and there until a fault of this environment has happened."""
    while not happened(environment):
        write_blocks(session, draw.sample(range(1000), 20), draw)
        pair.primary.check_alive("writing")


@pytest.mark.parametrize(
    "fault",
    [
        SyscallFault("sync", 12, "EIO", "journal"),
        SyscallFault("write", 9, "EIO", "journal"),
        SyscallFault("sync", 4, "EIO", ".img"),
        SyscallFault("write", 6, "EIO", ".img"),
        SyscallFault("write", 6, "ENOSPC", ".img"),
    ],
    ids=str,
)
def test_a_failed_call_costs_no_write_and_the_replica_comes_back(
    place: Path, shim: Shim, fault: SyscallFault
) -> None:
    pair = Pair(place)
    environment = shim.environment([fault], place / "faults.log")
    draw = Random(3)
    with pair.replica, pair.primary:
        pair.replica.launch(environment)
        pair.primary.start()
        pair.replica.wait_answers()
        pair.primary.wait_synced(pair.replica)
        with pair.primary.login() as session:
            write_until_it_happens(pair, session, environment, draw)
            write_blocks(session, draw.sample(range(1000), 20), draw)
        pair.wait_equal()
        assert pair.replica.runs


def test_a_group_that_mends_itself_tries_again_when_its_state_cannot_be_read(
    place: Path, shim: Shim
) -> None:
    pair = Pair(place)
    faults = [SyscallFault("sync", 12, "EIO", "journal"), SyscallFault("open", 3, "EIO", "t/state")]
    environment = shim.environment(faults, place / "faults.log")
    draw = Random(3)
    with pair.in_step():
        pair.replica.finish()
        pair.replica.launch(environment)
        pair.replica.wait_answers()
        pair.primary.wait_synced(pair.replica)
        with pair.primary.login() as session:
            write_until_it_happens(pair, session, environment, draw)
        pair.replica.wait_said("failed: the replica cannot be recovered: Input/output error")
        pair.wait_equal()
        assert len(happened(environment)) == 2


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (SyscallFault("sync", 1, "ENOSPC", "db/journal"), "No space left on device"),
        (SyscallFault("open", 2, "EIO", "db/state"), "Input/output error"),
    ],
    ids=str,
)
def test_a_group_that_cannot_be_recovered_for_now_stops_no_other_and_mends_itself(
    place: Path, shim: Shim, fault: SyscallFault, error: str
) -> None:
    pair = ConfiguredPair(place)
    faults = shim.environment([fault], place / "faults.log")
    with pair.in_step() as (_, replica):
        replica.finish()
        replica.launch(faults)
        replica.wait_said(f"db: failed: the replica cannot be recovered: {error}")
        replica.wait_said("db: recovered: recovered at")
        assert len(happened(faults)) == 1
        pair.wait_in_step()
