"""Every bound in one place: queues, waits, buffers, sizes. Units come last in each name.

One rule: nothing in the package grows or waits past a name that stands here.
"""

from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

# --- the ordered log and a link's window -------------------------------------------------------
LOG_BYTES_DEFAULT: Final = 256 * MIB
LOG_BYTES_MIN: Final = 4 * MIB
RECORD_OVERHEAD_BYTES: Final = 256
"""What a record costs beside its payload; a test measures it again."""
TRANSFER_BYTES_MAX: Final = 8 * MIB
"""Longest write; a smaller log cuts it to a quarter of its limit (VPD page B0 says so)."""
CREDIT_BYTES_MAX: Final = 16 * MIB
CREDITS_BYTES_MAX: Final = 256 * MIB
"""Sum of the windows that one replica daemon grants to all its sessions."""
BATCH_BYTES_MAX: Final = 256 * KIB
"""Payload after which a batch is closed; one larger record makes a batch of its own."""
BATCH_RECORDS_MAX: Final = 1024
FRAME_BYTES_MAX: Final = TRANSFER_BYTES_MAX + MIB
COALESCE_SECONDS: Final = 0.002
"""How long an asynchronous link may hold back a batch that is not full."""
ZERO_BYTES_MAX: Final = 64 * MIB
"""Longest UNMAP or WRITE SAME of one command."""
LINKS_MAX: Final = 16
VOLUMES_MAX: Final = 64
GROUPS_MAX: Final = 256

# --- waits -------------------------------------------------------------------------------------
SYNC_TIMEOUT_SECONDS: Final = 5.0
SYNC_TIMEOUT_SECONDS_MIN: Final = 0.5
SYNC_TIMEOUT_SECONDS_MAX: Final = 10.0
RETURN_STEADY_SECONDS: Final = 10.0
"""How long a link must be steady before a degraded one makes writes wait again."""
HEARTBEAT_SECONDS: Final = 1.0
PEER_DEAD_SECONDS: Final = 3.0
STALL_SECONDS: Final = 3.0
"""Data outstanding and no progress of RECEIVED for so long ends the session."""
HANDSHAKE_SECONDS: Final = 5.0
BACKOFF_SECONDS_MIN: Final = 0.2
BACKOFF_SECONDS_MAX: Final = 5.0
OVERFLOW_DWELL_SECONDS: Final = 1.0
"""Least time between an overflow and the BEGIN that answers it."""
CLEAN_STOP_SECONDS: Final = 5.0
LOOP_LAG_SECONDS_MAX: Final = 1.0

# --- resync ------------------------------------------------------------------------------------
RESYNC_READ_BYTES: Final = 256 * KIB
"""Payload of one resync record at the most."""
RESYNC_READS_MAX: Final = 4
"""Resync reads of one link under way at once."""
SWEEP_BYTES_MAX: Final = 4 * MIB
RESYNC_RATE_MIN_BYTES: Final = 5 * MIB
VERIFY_BYTES_MAX: Final = MIB
VERIFIES_MAX: Final = 8
"""Verify records of one link that wait for their answer."""
OVERFLOWS_ALARM: Final = 3
STAGING_RESERVE_BYTES: Final = 64 * MIB

# --- the replica -------------------------------------------------------------------------------
COMMIT_SECONDS: Final = 0.020
COMMIT_BYTES: Final = 8 * MIB
CHECKPOINT_BYTES: Final = 16 * MIB
CHECKPOINT_SECONDS: Final = 1.0
SEGMENT_BYTES: Final = 16 * MIB
JOURNAL_BYTES_DEFAULT: Final = 256 * MIB
SESSIONS_MAX: Final = 64

# --- identity and control ----------------------------------------------------------------------
ANCESTRY_MAX: Final = 64
NAME_BYTES_MAX: Final = 128
REASON_CHARACTERS_MAX: Final = 512
CONTROL_BYTES_MAX: Final = 4 * MIB

# --- the local volume --------------------------------------------------------------------------
INLINE_SLOW_SECONDS: Final = 0.005
INLINE_FAST_SECONDS: Final = 0.002
WRITER_DWELL_SECONDS: Final = 10.0
ADMISSIONS_MAX: Final = 4096
"""Operations that may wait for a barrier or for room; front ends bound theirs by queue depth."""
