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
MARKS_BYTES: Final = 4 * KIB
"""Of the log's limit, what each link's own marks (GENERATION, BEGIN, END) have for themselves."""
TRANSFER_BYTES_MAX: Final = 8 * MIB
"""Longest write; a smaller log cuts it to a quarter of its limit (VPD page B0 says so)."""
CREDIT_BYTES_MAX: Final = 16 * MIB
CREDITS_BYTES_MAX: Final = 256 * MIB
"""Sum of the windows that one replica daemon grants to all its sessions."""
BATCH_BYTES_MAX: Final = 256 * KIB
"""Payload after which a batch is closed; one larger record makes a batch of its own."""
BATCH_RECORDS_MAX: Final = 1024
LAID_OUT_RECORDS_MAX: Final = 512
"""A frame of more records has its data copied once more."""
FRAME_HEAD_BYTES: Final = 16 * KIB + 128
"""Room for the header and the table entries of so many records, before data that is laid out."""
FRAME_MEMORIES_MAX: Final = 32
"""The memory of so many frames, each with room for a head and a batch, is used again."""
FRAME_BYTES_MAX: Final = TRANSFER_BYTES_MAX + MIB
COALESCE_SECONDS: Final = 0.002
"""How long a link may hold back a batch that is not full."""
TAIL_SECONDS: Final = 0.004
"""The same for writes of which none waits for a replica: time enough for a host that keeps one
4 KiB write going to fill a batch, and what fills needs no timer to be sent."""
FRAMES_EAGER_MAX: Final = 4
"""Frames that a link whose replica is waited for sends as they come; while so many are under way,
further writes are held back for company. A host that keeps no more writes going waits for none."""
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
SILENCE_SECONDS_MAX: Final = 15.0
"""Silence after which a session is given up and a handshake tried."""
STALL_SECONDS: Final = 3.0
"""Data outstanding and no progress of RECEIVED for so long ends the session."""
HANDSHAKE_SECONDS: Final = 5.0
BACKOFF_SECONDS_MIN: Final = 0.2
BACKOFF_SECONDS_MAX: Final = 5.0
OVERFLOW_DWELL_SECONDS: Final = 1.0
"""Least time between an overflow and the BEGIN that answers it."""
GROW_SECONDS: Final = 5.0
"""How long the replicas may take to make room for a volume that is to grow."""
GROW_ANSWER_SECONDS: Final = 8.0
"""How long an operator is kept waiting for a growth that goes on without him."""
CLEAN_STOP_SECONDS: Final = 5.0
STOP_POLL_SECONDS: Final = 0.02
IDLE_TICK_SECONDS: Final = 60.0
LOOP_LAG_SECONDS_MAX: Final = 1.0
STATE_RETRY_SECONDS: Final = 1.0
"""How long after a failed write of a source's state it is tried again."""

# --- resync ------------------------------------------------------------------------------------
RESYNC_READ_BYTES: Final = 256 * KIB
"""Payload of one resync record at the most."""
RESYNC_READS_MAX: Final = 4
"""Resync reads of one link under way at once."""
SWEEP_BYTES_MAX: Final = 4 * MIB
RESYNC_RATE_MIN_BYTES: Final = 5 * MIB
VERIFY_BYTES_MAX: Final = MIB
HOLE_BYTES_MAX: Final = GIB
"""Longest range of zeros that one resync record carries."""
UNREADABLE_RETRY_SECONDS: Final = 10.0
VERIFIES_MAX: Final = 8
"""Verify records of one link that wait for their answer."""
VERIFY_SECONDS: Final = 15.0
"""How long an answer is waited for; then the same blocks are asked again."""
OVERFLOWS_ALARM: Final = 3
STAGING_RESERVE_BYTES: Final = 64 * MIB

# --- the replica -------------------------------------------------------------------------------
COMMIT_SECONDS_MIN: Final = 0.004
COMMIT_SECONDS_MAX: Final = 0.020
COMMIT_REST: Final = 4
"""How many times as long as a journal's last sync the next one is put off."""
MARK_SECONDS: Final = 0.020
"""How long a mark waits for a frame that brings it before it goes in a unit of its own."""
COMMIT_BYTES: Final = 8 * MIB
CHECKPOINT_BYTES: Final = 16 * MIB
CHECKPOINT_SECONDS: Final = 1.0
SEGMENT_BYTES: Final = 16 * MIB
JOURNAL_BYTES_DEFAULT: Final = 256 * MIB
JOURNAL_BYTES_MIN: Final = 4 * SEGMENT_BYTES
REPLICA_STATE_BYTES: Final = 64 * KIB
"""One copy of a replica's state: 64 names, an ancestry of 64, twice, and the rest."""
STAGING_BYTES_DEFAULT: Final = 1 << 60
"""Staging is bounded by the file system less the reserve unless a quota is given."""
STAGING_RUN_BYTES: Final = MIB
"""Staged blocks that one step verifies and copies."""
JOURNAL_RESERVE_BYTES: Final = 64 * KIB
"""Kept free for the small units that only carry a mark."""
JOURNAL_UNIT_BYTES: Final = KIB
"""What a unit costs beside its frame, at the most."""
MEND_SECONDS_MIN: Final = 2.0
"""After a failure of its disk a replica's store is opened again, with back-off."""
MEND_SECONDS_MAX: Final = 60.0
APPLY_RETRY_SECONDS: Final = 1.0
SESSIONS_MAX: Final = 64

# --- the link's sockets ------------------------------------------------------------------------
ZMQ_SOCKETS_MAX: Final = 16384
"""ZeroMQ sockets of one process; a link has six, monitors included."""
CONNECTIONS_MAX: Final = 4 * SESSIONS_MAX
"""Connections to one port of a replica; one beyond is shut at once."""
HANDSHAKES_MAX: Final = 16
"""Connections to a replica's data port that nobody has let in yet: each may make it hold as much as
one frame. One beyond is shut at once; whoever dialled dials again."""
TO_REPLICA_BYTES_MAX: Final = 64 * KIB
"""Longest control message of a source: a HELLO with every volume and the longest names."""
CONTROL_MESSAGES_MAX: Final = 256
"""Control messages of one connection that wait on either side of a socket."""
FRAMES_UNSENT_MAX: Final = CREDIT_BYTES_MAX // RECORD_OVERHEAD_BYTES + 1024
"""Frames that a source's data socket holds: above what any credit lets it be given."""
FRAMES_UNREAD_MAX: Final = 64
"""Frames of one connection that wait in a replica's data socket; then TCP holds the source."""
READS_PER_TURN_MAX: Final = 64
READ_BYTES_PER_TURN: Final = 4 * MIB
"""What one socket may take of a turn of the loop before the others have theirs."""
MONITOR_EVENTS_MAX: Final = 100_000
FAREWELL_SECONDS: Final = 0.2
"""How long a closing control socket goes on sending what it was given last."""
PROBE_SECONDS: Final = 1.0
"""How long each step of asking a silent peer what it is may take."""

BLANK_BYTES_MAX: Final = 64 * MIB
"""How much of a replica's volume is read to see whether it is blank."""

# --- a daemon's memory -------------------------------------------------------------------------
HEAP_KEPT_BYTES: Final = 16 * MIB
"""Memory that was freed and is not given back to the system: 128 transfers of 128 KiB."""
LONG_BUFFER_BYTES: Final = MIB
"""Buffers so long are taken from the system, and given back to it, one by one."""

# --- a daemon's descriptors --------------------------------------------------------------------
DESCRIPTORS_KEPT: Final = 64
"""The last of a process's descriptors, which no connection from outside gets; an eighth of them
where there are few."""
GROUP_DESCRIPTORS: Final = 12
"""What a group of one volume and one link has open."""
ACCEPT_PAUSE_SECONDS: Final = 1.0
"""How long nobody is let in, for want of descriptors or memory, before it is tried again."""

# --- identity and control ----------------------------------------------------------------------
ANCESTRY_MAX: Final = 64
LAG_SAMPLE_SECONDS: Final = 0.1
LAG_SAMPLES_MAX: Final = 4096
ALARMS_KEPT: Final = 32
NAME_BYTES_MAX: Final = 128
REASON_CHARACTERS_MAX: Final = 512
CONTROL_BYTES_MAX: Final = 4 * MIB
CONTROL_REQUEST_BYTES_MAX: Final = 512 * KIB
"""One request on a daemon's control socket; the longest make a target for 1024 initiators."""
CONTROL_CLIENTS_MAX: Final = 16
"""Connections to a daemon's control socket; one beyond is shut at once."""
CONTROL_IDLE_SECONDS: Final = 10.0
"""How long a client of the control socket may take for a request, or to take its answer."""
CONTROL_ANSWER_SECONDS: Final = 10.0
"""How long a client waits for a daemon's answer."""
TARGET_ANSWER_SECONDS: Final = 60.0
"""The same where a target is made or ended: disks, initiators and the kernel take their time."""
REPEAT_SECONDS: Final = 600.0
"""How long what every attempt at a replica says is kept back once it was told."""
REPEAT_LASTS_SECONDS: Final = 30.0
"""What is kept back and stands for so long is told: above the time that any attempt takes."""
REPEATS_KEPT: Final = 16
"""What the attempts at one place say is remembered so far."""
OUTPUT_LINES_MAX: Final = 1024
"""Lines for standard output, or for the log, that nobody has read yet; what comes then is lost."""
OUTPUT_FAREWELL_SECONDS: Final = 1.0
"""How long a daemon that ends waits for somebody to read its last lines."""
KEY_FILE_BYTES_MAX: Final = 64 * KIB
ALLOWED_KEYS_MAX: Final = 512
CONFIG_BYTES_MAX: Final = MIB
IDENTITY_BYTES_MAX: Final = 64 * KIB
"""The file that holds a source's identity and history beside its database."""
DATABASE_BUSY_SECONDS: Final = 2.0
"""How long a reader of the state database (a backup, say) may make us wait."""

# --- events --------------------------------------------------------------------------------------
EVENT_STATUS_SECONDS: Final = 1.0
"""How often a daemon publishes how its groups stand."""
EVENT_SNAPSHOT_SECONDS: Final = 0.05
"""How soon after a new subscriber at the earliest."""
EVENT_BYTES_MAX: Final = MIB
"""One event; a status that is longer is left out."""
EVENTS_UNSENT_MAX: Final = 1024
"""Events that wait for one subscriber; what comes then it does not get."""
EVENTS_UNREAD_MAX: Final = 1024
EVENT_RECONNECT_SECONDS_MAX: Final = 1.0
"""How often a subscriber looks for a daemon that is away, at the least."""
EVENTS_PER_STATUS_MAX: Final = 256
"""Changes, commands and socket events between two statuses; more are counted and left out."""
EVENT_SUBSCRIBERS_MAX: Final = 32
"""Connections to one event socket; one beyond is shut at once."""
EVENT_REQUEST_BYTES_MAX: Final = KIB
"""What a subscriber may say in one message."""

# --- the monitor ---------------------------------------------------------------------------------
MONITOR_SAMPLES_MAX: Final = 240
"""Samples of lag and of throughput that a sparkline may show."""
MONITOR_CHANGES_KEPT: Final = 100
"""Changes of one daemon that are remembered."""
MONITOR_SOURCES_MAX: Final = 64
"""Daemons that one monitor watches."""
MONITOR_GROUPS_MAX: Final = GROUPS_MAX
MONITOR_ALARM_SECONDS: Final = 300.0
"""How long an alarm that is over stands on top."""
MONITOR_SILENT_SECONDS: Final = 3.5
"""Without a word for so long a daemon counts as silent: three statuses are missing then."""
MONITOR_REFRESH_SECONDS: Final = 0.5

# --- the local volume --------------------------------------------------------------------------
INLINE_SLOW_SECONDS: Final = 0.005
INLINE_BYTES_MAX: Final = 256 * KIB
WRITER_DWELL_SECONDS: Final = 10.0
READERS_PER_VOLUME: Final = 4
ADMISSIONS_MAX: Final = 4096
"""Operations that may wait for a barrier or for room; front ends bound theirs by queue depth."""

# --- the embedded portal -----------------------------------------------------------------------
PORTAL_CONNECTIONS_MAX: Final = 128
"""Connections of one portal, those that still log in among them."""
PORTAL_LOGINS_MAX: Final = 32
"""Connections of one portal that have not logged in yet."""
PORTAL_SESSIONS_MAX: Final = 64
INITIATORS_MAX: Final = 1024
"""Names that one target's access list may hold."""
LISTEN_BACKLOG: Final = 64
LOGIN_SECONDS_MAX: Final = 15.0
LOGIN_EXCHANGES_MAX: Final = 16
LOGIN_PDU_BYTES_MAX: Final = 8 * KIB
"""Data segment of a PDU before the operational negotiation has ended (RFC 7143 13.12)."""
TEXT_BYTES_MAX: Final = 64 * KIB
"""Text of one request, all its PDUs together."""
TEXT_KEYS_MAX: Final = 64
TEXT_ANSWER_KEYS_MAX: Final = 2048
"""Keys of an answer that our own initiator takes: two for each target."""
TEXT_KEY_BYTES_MAX: Final = 63
TEXT_VALUE_BYTES_MAX: Final = 8 * KIB
ISCSI_NAME_BYTES_MAX: Final = 223
CHAP_BINARY_BYTES_MAX: Final = 1024
CHAP_CHALLENGE_BYTES: Final = 32
QUEUE_DEPTH_MAX: Final = 128
"""Commands of one session at once: its CmdSN window."""
IMMEDIATE_COMMANDS_MAX: Final = 16
"""Commands for immediate delivery of one session at once, beside the window."""
RECEIVE_SEGMENT_BYTES_MAX: Final = 256 * KIB
"""MaxRecvDataSegmentLength that the portal declares."""
BURST_BYTES_MAX: Final = MIB
FIRST_BURST_BYTES_MAX: Final = 256 * KIB
"""Unsolicited data of one write; a session's window times this may wait for the rest."""
DATA_OUT_BYTES_MAX: Final = 16 * MIB
"""Data asked for by R2T and not yet executed, per session; one larger write goes alone."""
DATA_IN_BYTES_MAX: Final = 16 * MIB
"""Data-in of reads under way or queued for the socket, per session; one larger read goes alone."""
OUTPUT_BYTES_MAX: Final = 8 * MIB
"""Answers queued for a socket; above it nothing more is read from that socket."""
SEND_BUFFERS_MAX: Final = 512
"""Buffers handed to one system call (IOV_MAX is 1024)."""
RECEIVE_BUFFER_BYTES: Final = MIB
LOGIN_BUFFER_BYTES: Final = 16 * KIB
ADDITIONAL_HEADER_BYTES_MAX: Final = 1020
PING_SECONDS: Final = 15.0
"""Silence after which the portal pings an initiator."""
PING_TIMEOUT_SECONDS: Final = 30.0
"""Silence, the ping in its middle, after which it drops the connection."""
LOGOUT_GRACE_SECONDS: Final = 3.0
"""How long a planned shutdown waits for the logouts that it asked for."""
INITIATOR_TASKS_MAX: Final = 1024
"""Commands that our own initiator queues at once."""

# --- the kernel's target (TCMU) ----------------------------------------------------------------
TCMU_COMMANDS_MAX: Final = ADMISSIONS_MAX // VOLUMES_MAX
"""Commands of one device under way at once; the others wait in the kernel's ring."""
TCMU_POLL_SECONDS_MAX: Final = 0.003
"""How long a ring that was just emptied is looked at before its owner sleeps."""
TCMU_LOOK_SECONDS: Final = 0.0005
"""After how much of that the loop does what else there is."""
TCMU_PAUSE_SECONDS_MAX: Final = 0.004
"""What a longer pause counts as, so that one long one is soon forgotten."""
TCMU_ROUNDS_MAX: Final = 16
"""How often in a row one device's ring is emptied before the others have their turn."""
TCMU_SCAN_SECONDS: Final = 1.0
"""How often devices are looked for where the kernel said nothing."""
TCMU_RETRY_SECONDS_MIN: Final = 0.05
"""After a device could not be attached; doubled up to the above."""
TCMU_DRAIN_SECONDS: Final = 3.0
"""How long a stop waits for what a device has under way."""

# --- the kernel's target -----------------------------------------------------------------------
LIO_QUEUE_DEPTH: Final = 128
"""Commands of one session at once: its CmdSN window."""
LIO_COMMAND_SECONDS: Final = 60
"""After so long without our answer LIO gives an error: above the worst restart and a sync wait."""
LIO_COMMAND_SECONDS_MIN: Final = 10
LIO_COMMAND_SECONDS_MAX: Final = 86_400
LIO_DATA_AREA_MIB: Final = 64
"""Memory for the data of one device's commands; what finds no room waits in the kernel."""
LIO_SECONDS_MAX: Final = 40.0
"""How long a change of LIO is waited for; the kernel may sleep in it for as long as it likes."""
LIO_CHECK_SECONDS: Final = 5.0
"""How often LIO is compared with what it should be; a difference is mended when seen twice."""
PORTALS_MAX: Final = 16
"""Portals of one of the kernel's targets."""

# --- the SCSI layer ----------------------------------------------------------------------------
COMPARE_BLOCKS_MAX: Final = 255
"""Blocks of one COMPARE AND WRITE: what its one-byte length can say."""
UNMAP_DESCRIPTORS_MAX: Final = 256
LBA_STATUS_DESCRIPTORS_MAX: Final = 256
"""Extents that one GET LBA STATUS looks for."""
REGISTRATIONS_MAX: Final = 128
"""Persistent reservation keys of one logical unit."""
SWEEP_CHUNK_BYTES: Final = MIB
"""What VERIFY reads, and a patterned WRITE SAME writes, in one step."""
WRITE_SAME_BYTES_MAX: Final = 16 * MIB
"""Longest WRITE SAME; where 32 MiB are allowed iscsi-test-cu writes them in one command."""
PREFETCH_BYTES_MAX: Final = MIB
LUNS_MAX: Final = 256
