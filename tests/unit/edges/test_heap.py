"""What is freed stays with the process, up to a bound."""

import subprocess
import sys

import pytest

from pratima_iscsi.limits import HEAP_KEPT_BYTES, KIB, MIB

TRANSFER_BYTES = 128 * KIB
QUEUE = """
import ctypes, resource, sys
from pratima_iscsi.edges.heap import M_MMAP_THRESHOLD, keep_freed_memory
try:
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 65536)  # the worst case, whatever lies on the heap
except AttributeError:
    sys.exit("no mallopt")
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def transfers():
    queue = [bytes(bytearray(b"x") * 131072) for _ in range(8)]
for _ in range(20):
    transfers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    transfers()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
TRANSFERS = 800


def faults(how: str) -> int:
    ended = subprocess.run(
        [sys.executable, "-c", QUEUE, how], capture_output=True, text=True, check=False
    )
    if "no mallopt" in ended.stderr:
        pytest.skip("this C library has no mallopt")
    assert not ended.returncode, ended.stderr
    return int(ended.stdout)


def test_a_queue_of_long_transfers_costs_no_page_faults_once_it_was_there() -> None:
    assert faults("keep") < TRANSFERS < 10 * TRANSFERS < faults("leave")


def test_what_is_kept_is_less_than_what_the_memory_bar_allows() -> None:
    assert HEAP_KEPT_BYTES == 128 * TRANSFER_BYTES
    assert HEAP_KEPT_BYTES < 64 * MIB, "beside the log's limit and what an idle target has"
