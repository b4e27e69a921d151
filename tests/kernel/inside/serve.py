"""`python -m tests.kernel.inside.serve`: a guest whose kernel serves one of our volumes over iSCSI.

For clients outside of the guest. It says that it is ready by a file in the share, serves until
there is one that says stop, and fails when handler and replica are not equal then.
"""

import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.kernel.inside import rig
from tests.torture.daemons import Replica, wait_until

SHARE: Final = Path("/lab")
READY: Final = "ready"
STOP: Final = "stop"
SECONDS_MAX: Final = 1200.0


def main(size: int) -> None:
    """Serve, with a replica, to everybody who reaches the port."""
    with tempfile.TemporaryDirectory() as place, Replica(Path(place)) as replica:
        directory = Path(place)
        replica.start()
        link = ("--replica", f"127.0.0.1:{replica.port}")
        with rig.Handler(directory, [size], link) as handler:
            handler.start()
            with rig.devices(handler.state, [size]) as made:
                with rig.iscsi_target(made, address="0.0.0.0"):
                    (SHARE / READY).touch()
                    wait_until((SHARE / STOP).exists, SECONDS_MAX, "stop", [handler, replica])
                handler.wait_caught_up()
            assert handler.stop() == 0, handler.output()
        replica.stop()
        rig.run("cmp", str(handler.volumes[0]), str(replica.volume))
        print(handler.output())


if __name__ == "__main__":
    main(int(sys.argv[1]))
