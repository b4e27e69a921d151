"""The workloads, by the names that ``--workloads`` takes."""

from typing import Final

from benchmarks.client import Workload

KIB: Final = 1 << 10

WORKLOADS: Final = {
    workload.name: workload
    for workload in (
        Workload("write-1", "4 KiB random write, depth 1", "write", "random", 4 * KIB, 1),
        Workload("write-32", "4 KiB random write, depth 32", "write", "random", 4 * KIB, 32),
        Workload("read-1", "4 KiB random read, depth 1", "read", "random", 4 * KIB, 1),
        Workload("read-32", "4 KiB random read, depth 32", "read", "random", 4 * KIB, 32),
        Workload(
            "write-128k", "128 KiB sequential write, depth 8", "write", "sequential", 128 * KIB, 8
        ),
        Workload(
            "read-128k", "128 KiB sequential read, depth 8", "read", "sequential", 128 * KIB, 8
        ),
        Workload(
            "write-four",
            "4 KiB random write, four initiators of depth 8",
            "write",
            "random",
            4 * KIB,
            8,
            sessions=4,
        ),
    )
}

FILL: Final = Workload("fill", "the whole volume once", "write", "sequential", 128 * KIB, 8)
"""Before anything is measured: so that no run pays for pages that the file did not have."""
FLOOD: Final = Workload(
    "flood", "4 KiB random write, to fill a log", "write", "random", 4 * KIB, 32
)
"""Small records: the most overhead that a log of bytes can be made to carry."""
