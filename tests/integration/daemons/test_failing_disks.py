"""A disk of the replica fails at work: no false acknowledgement, and it mends itself."""

from pathlib import Path
from random import Random

import pytest

from tests.integration.daemons.nodes import Pair
from tests.integration.daemons.test_outage import write_blocks
from tests.torture.faults import Shim, SyscallFault, build, compiler, happened


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    """The library that makes system calls fail."""
    cc = compiler()
    if cc is None:
        pytest.skip("needs a C compiler: apt-get install gcc libc6-dev")
    return build(tmp_path_factory.mktemp("shim"), cc)


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
            while not happened(environment):
                write_blocks(session, draw.sample(range(1000), 20), draw)
                pair.primary.check_alive("writing")
            write_blocks(session, draw.sample(range(1000), 20), draw)
        pair.wait_equal()
        assert pair.replica.runs
