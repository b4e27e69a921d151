"""The bank: each mutant is one small change of one module, and breaks one named rule."""

from dataclasses import dataclass
from typing import Final

_LINK = "pratima_iscsi.replication.link"
_COVER = "pratima_iscsi.replication.link_cover"
_RESYNC = "pratima_iscsi.replication.resync"
_SINK = "pratima_iscsi.replication.sink"
_STANDING = "pratima_iscsi.replication.standing"
_HANDSHAKE = "pratima_iscsi.replication.handshake"
_CLEAN = "pratima_iscsi.replication.clean"
_BACKSTORE = "pratima_iscsi.backstore"
_APPLY = "pratima_iscsi.edges.replica_apply"
_GROWTH = "pratima_iscsi.replication.growth"
_SPILL = "pratima_iscsi.replication.link_spill"


@dataclass(frozen=True, slots=True)
class Mutant:
    """``old``, which stands once in ``module``, becomes ``new``."""

    name: str
    rule: str
    module: str
    old: str
    new: str
    hunt: str
    """A hunt's name, or ``scenario MODULE.TEST``."""
    seeds: int = 40
    """Within so many seeds of the hunt it must be found."""


MUTANTS: Final = (
    Mutant(
        "T is not kept",
        "PROTOCOL 1: T holds every block sent since BEGIN",
        _LINK,
        "            if not transaction.direct:\n                transaction.sent.add_entries(batch.entries)",
        "",
        "overflow",
    ),
    Mutant(
        "live writes are not put into T",
        "PROTOCOL 1: resync records and live writes alike",
        _LINK,
        "transaction.sent.add_entries(batch.entries)",
        "transaction.sent.add_records(r for r in batch.records if r.kind >= RecordKind.RESYNC)",
        "long",
    ),
    Mutant(
        "BEGIN is sent to a replica that takes nothing",
        "an outage costs one overflow",
        _RESYNC,
        "if not link.window.has_room(link.queue):",
        "if False:",
        "scenario test_resync.test_a_replica_that_takes_nothing_makes_the_log_overflow_once",
    ),
    Mutant(
        "a write that waits for a replica is held back though nothing is under way",
        "a host that keeps few writes going waits for no company",
        _LINK,
        "eager = 0 if self.options.mode is Mode.ASYNC else limits.FRAMES_EAGER_MAX",
        "eager = 0",
        "scenario test_waiting."
        "test_writes_go_at_once_until_several_frames_are_under_way_and_then_share_one",
    ),
    Mutant(
        "writes of one wake-up, taken together, are not marked",
        "I5: log, table, T and what is in flight cover every block that may differ",
        _COVER,
        "        self.table.add_entries(entries)\n",
        "        return\n",
        "overflow",
    ),
    Mutant(
        "a write is skipped when any of its blocks is in the table",
        "PROTOCOL 6: only when all of them are",
        _COVER,
        "or not self.table.holds(volume, first, end)",
        "or not self.table.meets(volume, first, end)",
        "overflow",
    ),
    Mutant(
        "an overflow drops records that were sent",
        "PROTOCOL 6: sent ones stay until acknowledged",
        _COVER,
        "dropped = self.queue.drop(sent_too=dropped_all)",
        "dropped = self.queue.drop(sent_too=True)",
        "overflow",
    ),
    Mutant(
        "a dropped END does not open its transaction again",
        "PROTOCOL 6: a dropped END re-opens its transaction",
        _COVER,
        "        elif RecordKind.END in kinds:",
        "        elif RecordKind.END in kinds and False:",
        "scenario test_resync.test_an_end_dropped_before_it_arrived_opens_its_transaction_again",
    ),
    Mutant(
        "an overflow marks only the new write",
        "race 3: table ∪= all of the log that is dropped",
        _COVER,
        "        self.table.add_entries(self.queue.unsent_entries)\n        dropped =",
        "        dropped =",
        "overflow",
    ),
    Mutant(
        "a lost session's sent records are dropped unmarked",
        "race 4: link loss folds back what was not confirmed",
        _COVER,
        "        if dropped_all:\n            self.table.add_entries(self.queue.sent_entries)",
        "",
        "overflow",
        seeds=120,
    ),
    Mutant(
        "blocks are cleared on send",
        "race 4: only a durable acknowledgement takes a record out",
        _LINK,
        "        self.group.emit(SendFrame",
        "        self.queue.confirm(self.queue.next_n - 1)\n        self.group.emit(SendFrame",
        "overflow",
    ),
    Mutant(
        "acknowledgements of another session are honoured",
        "race 5: acknowledgements carry the session",
        _LINK,
        'elif self.session and getattr(message, "session", None) == self.session:',
        "elif self.session:",
        "scenario test_restarts.test_an_acknowledgement_of_an_older_run_says_nothing",
    ),
    Mutant(
        "an optimistic read is not repeated",
        "PROTOCOL 7: blocks written since the read began are read again",
        _RESYNC,
        "in unwritten_runs(piece, answer.blocks, watch.written):",
        "in [(0, answer.blocks)]:",
        "overflow",
    ),
    Mutant(
        "equality is believed of blocks written since",
        "PROTOCOL 18: the answer speaks of the record's link sequence",
        _RESYNC,
        "if index not in differing and (span.volume, block) not in watch.written:",
        "if index not in differing:",
        "restarts",
    ),
    Mutant(
        "a write is admitted before its generation is on disk",
        "PROTOCOL 3: in the same fsync that erases the clean mark",
        _BACKSTORE,
        "        self.emit(PersistGeneration(*self._next))",
        "        self.emit(PersistGeneration(*self._next))\n        self.generation_persisted(0.0)",
        "any",
    ),
    Mutant(
        "a crash continues the old generation",
        "PROTOCOL 3: a generation is one incarnation; no position is used twice",
        _BACKSTORE,
        "clean = state.stop in (StopKind.CLEAN, StopKind.NONE)",
        "clean = True",
        "restarts",
    ),
    Mutant(
        "the replica acknowledges before it syncs",
        "race 12: append, fdatasync, then the acknowledgement",
        _SINK,
        "durable, position = self.durable, self.durable.history.position",
        "durable, position = self.written, self.written.history.position",
        "power",
    ),
    Mutant(
        "a checkpoint does not sync the volumes",
        "PROTOCOL 14: apply, fdatasync every volume, persist the position",
        _APPLY,
        "            for volume in self._volumes:\n                volume.fdatasync()",
        "",
        "power",
    ),
    Mutant(
        "units are applied past the mark",
        "PROTOCOL 14: apply never passes the last durable mark",
        _SINK,
        "self.applicable_index = max(unit.mark for unit in self.units)",
        "self.applicable_index = self.durable_index",
        "power",
    ),
    Mutant(
        "a gap is accepted",
        "PROTOCOL 20: a gap ends the session",
        _SINK,
        "if header.first_n != (1 if fresh else before.n + 1):",
        "if False:",
        "hostile",
    ),
    Mutant(
        "a frame's digest is not checked",
        "I10: a flipped bit never changes the image",
        "pratima_iscsi.replication.wire",
        "if _DIGEST.unpack_from(frame, len(body))[0] != xxh3_64_intdigest(body):",
        "if False:",
        "hostile",
    ),
    Mutant(
        "the spill leaves T and the log out",
        "PROTOCOL 22: spill BWT ∪ T ∪ log blocks",
        _SPILL,
        "table=link.cover().serialize()",
        "table=link.table.serialize()",
        "restarts",
    ),
    Mutant(
        "writes go on before the degraded mark is on disk",
        "PROTOCOL 10: fsynced before the first unreplicated acknowledgement",
        "pratima_iscsi.replication.degradation",
        "return not self.degraded or self.returning or self.marking",
        "return not self._wanted or self.returning",
        "waiting",
    ),
    Mutant(
        "writes go on while the degraded mark is being erased",
        "PROTOCOL 10: erased only with nothing owed",
        "pratima_iscsi.replication.degradation",
        "return not self.degraded or self.returning or self.marking",
        "return not self.degraded or self.returning",
        "scenario test_waiting.test_a_session_lost_while_the_mark_is_being_erased_keeps_writes_waiting",
    ),
    Mutant(
        "a synchronous write completes when it is received",
        "I3: acknowledged in sync mode is durable at the replica",
        _BACKSTORE,
        "                    if link.options.mode is Mode.SYNC\n",
        "                    if False\n",
        "waiting",
    ),
    Mutant(
        "a semi-synchronous FLUSH completes when it is received",
        "PROTOCOL 21: FLUSH and FUA wait for a durable acknowledgement",
        _BACKSTORE,
        "elif operation.kind == FLUSH or operation.fua:",
        "elif False:",
        "waiting",
    ),
    Mutant(
        "the history digest is not adopted at END",
        "PROTOCOL 17: END carries (position, H), which the replica adopts",
        _STANDING,
        "self.history, self.digest = end.history, end.digest",
        "self.history = end.history",
        "overflow",
    ),
    Mutant(
        "a direct resync is not INCONSISTENT",
        "PROTOCOL 5: INCONSISTENT is fsynced before the first apply",
        _APPLY,
        '        consistent=False,\n        reason=f"transaction',
        '        reason=f"transaction',
        "scenario test_resync.test_a_direct_resync_over_a_good_copy_claims_nothing_before_its_end",
    ),
    Mutant(
        "a failed local write is not marked",
        "race 10: its extent stays dirty",
        _BACKSTORE,
        "link.mark_failed(operation)",
        "pass",
        "disks",
    ),
    Mutant(
        "COMPARE AND WRITE is no barrier",
        "PROTOCOL 7: later writes get no position until its outcome is known",
        _BACKSTORE,
        "                self._barrier = operation\n",
        "",
        "any",
    ),
    Mutant(
        "a replica that went back is believed",
        "race 14: below its last remembered acknowledgement: compare",
        _HANDSHAKE,
        "        _below_base,\n",
        "        lambda s, r: False,\n",
        "disks",
    ),
    Mutant(
        "a replay is tried with blocks in the table",
        "PROTOCOL 8 (9): BWT and T empty",
        _HANDSHAKE,
        "        and source.table_empty\n",
        "",
        "overflow",
    ),
    Mutant(
        "a handshake clears the table",
        "race 18: only acknowledgements clear",
        _LINK,
        "        self.fold(now)\n        self.watermarks.in_transaction = False",
        "        self.fold(now)\n        self.table.clear()\n        self.watermarks.in_transaction = False",
        "overflow",
    ),
    Mutant(
        "a primary that lost power writes over its replica",
        "race 9: send nothing until the operator decides",
        _BACKSTORE,
        "link.lost_power |= state.stop is StopKind.POWER_LOST and link.ever_sync",
        "pass",
        "restarts",
    ),
    Mutant(
        "a word outlasts the write that came after it",
        "clean: it is about the content that the block still has",
        _COVER,
        "                self.clean.note_write(volume, first, end)",
        "                pass",
        "scenario test_clean.test_a_word_is_taken_and_what_was_written_since_is_brought_over",
    ),
    Mutant(
        "a write between question and answer of a proof is not queued",
        "clean: live writes are all queued, so what was proved equal stays so",
        _COVER,
        "return self.transaction.proof or not",
        "return not",
        "scenario test_clean.test_a_write_between_question_and_answer_goes_to_the_replica",
    ),
    Mutant(
        "a proof passes a difference over",
        "clean: the first difference fails it, and nothing is copied",
        _CLEAN,
        "    if found:\n",
        "    if False:\n",
        "scenario test_clean.test_a_difference_fails_the_proof_by_name_and_nothing_is_copied",
    ),
    Mutant(
        "a replica that went back inside a direct resync is believed",
        "race 14: below its last remembered acknowledgement: compare",
        _HANDSHAKE,
        "return replica.incarnation == known.incarnation and replica.durable < known.n",
        "return False",
        "scenario test_resync.test_a_replica_that_went_back_to_before_a_direct_resync_is_compared",
    ),
    Mutant(
        "the spill forgets what a first sync had confirmed",
        "race 14, over a clean stop: the last durable acknowledgement is spilled",
        _SPILL,
        "acknowledged=link.watermarks.acknowledged,",
        "",
        "scenario test_resync."
        "test_a_replica_that_went_back_inside_a_first_sync_begins_anew_after_a_restart",
    ),
    Mutant(
        "the spill forgets which run spoke to the replica last",
        "no false alarm: what the last run sent may be durable there without an acknowledgement",
        _SPILL,
        "sender=link.sender,",
        "",
        "scenario test_resync."
        "test_a_replica_that_has_more_than_it_could_acknowledge_before_a_restart_is_believed",
    ),
    Mutant(
        "a replica that heard neither this run nor the last is believed",
        "race 14, over a clean stop: an older run's record is below the last acknowledgement",
        _HANDSHAKE,
        "        _unknown_run,\n",
        "        lambda s, r: False,\n",
        "scenario test_resync."
        "test_a_replica_that_went_back_to_before_a_direct_resync_is_compared_after_a_restart",
    ),
    Mutant(
        "each run counts its handshakes from 0",
        "identity: nothing that a peer may remember is used again after a restart",
        _COVER,
        "group.incarnation >> 2",
        "0",
        "scenario test_restarts.test_a_welcome_that_was_meant_for_an_older_run_answers_nothing",
    ),
    Mutant(
        "writes of the tail that find no room in a frame are forgotten",
        "I5: log, table, T and what is in flight cover every block that may differ",
        "pratima_iscsi.ordered_log",
        "writes, self.tail = writes[:count], writes[count:]",
        "writes, self.tail = writes[:count], []",
        "overflow",
    ),
    Mutant(
        "a lost session's frames of writes are dropped unmarked",
        "race 4: link loss folds back what was not confirmed",
        "pratima_iscsi.ordered_log",
        'return b"".join([batch.entries for batch in self.sent])',
        'return b"".join([batch.entries for batch in self.sent if not batch.plain])',
        "overflow",
        seeds=120,
    ),
    Mutant(
        "an overflow forgets the log's tail",
        "race 3: what is admitted and not yet a record is in the log like any other",
        "pratima_iscsi.ordered_log",
        "        self.tail, self.tail_bytes = [], 0\n        self.bytes -= cost",
        "        self.tail, self.tail_bytes = [], 0\n        self.bytes -= cost\n"
        "        if self.bytes + cost > self.limit // 2:\n            return",
        "overflow",
    ),
    Mutant(
        "the log has no limit",
        "I4: log bytes ≤ limit always",
        _BACKSTORE,
        "room = self.log.room - self.log.bytes if self.links else sys.maxsize",
        "room = sys.maxsize",
        "overflow",
    ),
    Mutant(
        "a primary grows before its replicas have room",
        "race 22: grow replica, acknowledgement, grow primary",
        _GROWTH,
        "        if not links:\n            self._group.emit(GrowLocal",
        "        if True:\n            self._group.emit(GrowLocal",
        "growth",
    ),
    Mutant(
        "what a device has grown by counts as zeros",
        "race 22: the new area is dirty or known to be zeros",
        _BACKSTORE,
        "zeros=link.index in self.growth.zeros",
        "zeros=True",
        "growth",
    ),
    Mutant(
        "a replica's garbage behind the old end is not asked for",
        "race 22: known to be zeros on both sides",
        _GROWTH,
        "        if not answer.zeros:\n            self.zeros -= {link}",
        "",
        "scenario test_growth.test_garbage_behind_a_replicas_volume_is_overwritten",
    ),
    Mutant(
        "a RESIZE that completes late settles the next growth",
        "initiators are told a size that every side has",
        _GROWTH,
        "        if asked is not self._done:",
        "        if False:",
        "scenario test_growth.test_a_resize_that_completes_late_settles_no_other_growth",
    ),
    Mutant(
        "BEGIN does not say the sizes",
        "a RESIZE may be dropped with the log",
        _RESYNC,
        "Begin(transaction.id, direct, link.group.sizes)",
        "Begin(transaction.id, direct)",
        "growth",
    ),
    Mutant(
        "a RESIZE dropped inside a transaction is not told again",
        "a RESIZE may be dropped with the log",
        _COVER,
        "        self._tell_sizes(dropped if RecordKind.RESIZE in kinds else (), now)",
        "",
        "scenario test_growth.test_a_resize_dropped_inside_a_transaction_is_queued_again",
    ),
    Mutant(
        "a short last block that is being read counts as whole after the volume has grown",
        "PROTOCOL 7: what was written, or grew, since its read began is read again",
        _COVER,
        "self.transaction.note_write(record.volume, first, end)",
        "pass",
        "scenario test_growth.test_a_short_last_block_that_was_being_copied_is_read_again",
    ),
    Mutant(
        "a replica is not asked to make room when it returns",
        "race 22: the replica grows first, also after it was away",
        _SINK,
        "if self.standing.bound and self._wants_room(hello):",
        "if False:",
        "growth",
    ),
)
