"""What ``get`` tells of each kind of node, as tables: a name, a type, a sentence, where it stands.

One rule: a setting is what somebody decided, a status what became of it.
"""

from typing import Final

from pratima_targetcli.nodes import Parameter
from pratima_targetcli.summaries import position_text, printable

DAEMON_SETTINGS: Final = (
    Parameter("state", "string", "Its state directory.", lambda d: str(d.state)),
)
DAEMON_STATUSES: Final = (
    Parameter("answers", "bool", "Whether it answers.", lambda d: d.status is not None),
    Parameter("problem", "string", "Why it does not.", lambda d: printable(d.problem) or None),
    Parameter("version", "string", "Its version.", lambda d: d.status and d.status.version),
    Parameter("pid", "number", "Its process id.", lambda d: d.status and d.status.pid),
    Parameter(
        "uptime", "seconds", "Since its start.", lambda d: d.status and d.status.uptime_seconds
    ),
)

GROUP_SETTINGS: Final = (
    Parameter("target", "string", "The target's iSCSI name.", lambda g: g.target or None),
    Parameter("portal", "string", "Where it is served.", lambda g: g.portal or None),
    Parameter("log_limit", "size", "Of the ordered log.", lambda g: g.log and g.log.limit),
)
GROUP_STATUSES: Final = (
    Parameter("role", "string", "What the daemon is to it.", lambda g: g.role.value),
    Parameter("group_id", "string", "Its id, the same everywhere.", lambda g: g.group_id or None),
    Parameter("position", "string", "Its writes.", lambda g: position_text(g.position)),
    Parameter("digest", "string", "History digest there.", lambda g: g.digest or None),
    Parameter("sessions", "number", "iSCSI sessions.", lambda g: g.sessions),
    Parameter("log_bytes", "size", "In the ordered log.", lambda g: g.log and g.log.bytes),
    Parameter("alarms", "number", "What an operator should know.", lambda g: len(g.alarms)),
    Parameter("failed", "string", "Why it cannot go on.", lambda g: printable(g.failed) or None),
)

VOLUME_STATUSES: Final = (
    Parameter("path", "string", "File or block device.", lambda v: printable(v.path)),
    Parameter("size", "size", "Its size.", lambda v: v.size),
    Parameter("size_bytes", "number", "Its size in bytes.", lambda v: v.size),
    Parameter("failed", "string", "Why it takes no writes.", lambda v: printable(v.failed) or None),
)

UNIT_SETTINGS: Final = (
    Parameter("path", "string", "File or block device.", lambda u: printable(u.unit.path)),
    Parameter("target", "string", "Its target's iSCSI name.", lambda u: u.target.iqn or None),
    Parameter("lun", "number", "Its number there.", lambda u: u.unit.lun),
    Parameter("block_size", "number", "Bytes of a logical block.", lambda u: u.target.block_size),
    Parameter("origin", "string", "Where it was made.", lambda u: u.target.origin.value),
    Parameter(
        "size", "size", "Its size; set greater, it grows.", lambda u: u.unit.size, writable=True
    ),
)
UNIT_STATUSES: Final = (
    Parameter("size_bytes", "number", "Its size in bytes.", lambda u: u.unit.size),
    Parameter("serial", "string", "What by-id names are made of.", lambda u: u.unit.serial),
    Parameter("portals", "string", "Where it is.", lambda u: ", ".join(u.target.portals) or None),
    Parameter("sessions", "number", "iSCSI sessions.", lambda u: u.target.sessions),
    Parameter(
        "failed",
        "string",
        "Why it takes no writes.",
        lambda u: (u.volume and printable(u.volume.failed)) or None,
    ),
)

LINK_SETTINGS: Final = (
    Parameter("replica", "string", "The replica's address.", lambda k: printable(k.replica)),
    Parameter("mode", "string", "When a write completes.", lambda k: k.mode),
    Parameter(
        "enabled",
        "bool",
        "Whether it is put to work. Set true it is enabled; see `help disable` for the other way.",
        lambda k: k.state.value != "DISABLED",
        writable=True,
    ),
)
LINK_STATUSES: Final = (
    Parameter("state", "string", "How it stands.", lambda k: k.state.value),
    Parameter("degraded", "bool", "Writes complete without it.", lambda k: k.degraded),
    Parameter("must_act", "bool", "It waits for an operator.", lambda k: k.must_act),
    Parameter("reason", "string", "Why it stands so.", lambda k: printable(k.reason) or None),
    Parameter("lag_writes", "number", "Not yet confirmed.", lambda k: k.lag.writes),
    Parameter("lag_bytes", "size", "Not yet confirmed.", lambda k: k.lag.bytes),
    Parameter("lag", "seconds", "Age of the oldest of these.", lambda k: k.lag.seconds),
    Parameter("lacking_blocks", "number", "4 KiB blocks in the table.", lambda k: k.bwt_blocks),
    Parameter("held_writes", "number", "Writes that wait for it.", lambda k: k.held_writes),
    Parameter("durable", "string", "Durable there.", lambda k: position_text(k.durable)),
    Parameter("heard", "seconds", "Since its last message.", lambda k: k.heard_seconds),
    Parameter("resync_blocks", "number", "Of the last resync.", lambda k: k.resync.blocks_total),
    Parameter("resync_done", "number", "Of these, done.", lambda k: k.resync.blocks_done),
    Parameter("resync_rate", "size", "A second.", lambda k: k.resync.rate),
    Parameter("resync_left", "seconds", "Until its end.", lambda k: k.resync.seconds_left),
)

REPLICA_STATUSES: Final = (
    Parameter("bound", "bool", "Whether a primary has ever connected.", lambda g: g.bound),
    Parameter("consistent", "bool", "Whether it could be recovered.", lambda g: g.consistent),
    Parameter("position", "string", "Where recovery ends.", lambda g: position_text(g.position)),
    Parameter("digest", "string", "History digest there.", lambda g: g.digest or None),
    Parameter("heard", "seconds", "Since its primary's last message.", lambda g: g.heard_seconds),
    Parameter("reason", "string", "Why it stands so.", lambda g: printable(g.reason) or None),
    Parameter("failed", "string", "Why it cannot go on.", lambda g: printable(g.failed) or None),
)

JOURNAL_SETTINGS: Final = (Parameter("limit", "size", "What it may hold.", lambda j: j.limit),)
JOURNAL_STATUSES: Final = (
    Parameter("held", "size", "What no checkpoint covers.", lambda j: j.bytes),
    Parameter("unapplied", "number", "Batches not yet on the volumes.", lambda j: j.unapplied),
    Parameter("staged", "size", "Of a resync that has not ended.", lambda j: j.staged_bytes),
    Parameter("staging_free", "size", "Room beside it.", lambda j: j.staging_free_bytes),
)
