"""What the C library does with memory that was freed.

By its defaults glibc gives the top of the heap back to the system once 128 KiB are free there, and
takes long buffers from the system one by one. Each long transfer then begins with page faults, one
for each 4 KiB, and each page is zeroed first: in a queue of 128 KiB writes that costs more than the
rest of what is done for them. One rule: what is kept is bounded; nothing but speed depends on it.
"""

import ctypes
from typing import Final

from pratima_iscsi.limits import HEAP_KEPT_BYTES, LONG_BUFFER_BYTES

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
"""malloc.h of glibc; mallopt(3)"""


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, up to a bound; False where the C library has no such
    setting (it is then as it was)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    kept = mallopt(M_TRIM_THRESHOLD, HEAP_KEPT_BYTES)
    return bool(kept and mallopt(M_MMAP_THRESHOLD, LONG_BUFFER_BYTES))
