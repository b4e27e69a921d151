"""The bank: each mutant is one small change of one module, and breaks one named rule."""

from dataclasses import dataclass
from typing import Final

_LINK = "pratima_iscsi.replication.link"
_COVER = "pratima_iscsi.replication.link_cover"
_RESYNC = "pratima_iscsi.replication.resync"
_STORE = "pratima_iscsi.edges.replica_store"
_SINK = "pratima_iscsi.replication.sink"
_WALK = "pratima_iscsi.replication.walk"
_HANDSHAKE = "pratima_iscsi.replication.handshake"
_CLEAN = "pratima_iscsi.replication.clean"
_BACKSTORE = "pratima_iscsi.backstore"
_CONFIRMATIONS = "pratima_iscsi.replication.confirmations"
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
        "the last write of a unit in memory is not applied",
        "what is applied is what the journal holds",
        _APPLY,
        "for entry in unit.writes:",
        "for entry in unit.writes[:-1]:",
        "power",
    ),
    Mutant(
        "an idle stream writes no mark",
        "PROTOCOL 14: the last group is applied too",
        _SINK,
        "elif self._behind_mark() and (self.waiting or now >= self._mark_at()):",
        "elif self._behind_mark() and self.waiting:",
        "scenario test_marks.test_the_last_group_of_an_idle_stream_is_applied",
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
        "scenario test_restarts.test_a_clean_stop_carries_what_only_the_log_holds",
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
        _CONFIRMATIONS,
        "                if link.options.mode is Mode.SYNC\n",
        "                if False\n",
        "waiting",
    ),
    Mutant(
        "a restart of the primary forgets that a link must be steady before writes wait again",
        "PROTOCOL 10: return needs 10 s of steady link",
        "pratima_iscsi.replication.degradation",
        "self.has_returned = synced_once",
        "pass",
        "scenario test_waiting."
        "test_a_degraded_link_must_have_been_steady_after_a_restart_of_the_primary_too",
    ),
    Mutant(
        "a semi-synchronous FLUSH completes when it is received",
        "PROTOCOL 21: FLUSH and FUA wait for a durable acknowledgement",
        _CONFIRMATIONS,
        "if operation.kind == FLUSH or operation.fua:",
        "if False:",
        "waiting",
    ),
    Mutant(
        "the history digest is not adopted at END",
        "PROTOCOL 17: END carries (position, H), which the replica adopts",
        _WALK,
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
        "a kill enables a link that was disabled before its clean",
        "a link that was DISABLED is so again when its clean is given up",
        _LINK,
        "if self.clean is not None and self.clean.was_disabled:",
        "if False:",
        "scenario test_clean.test_a_kill_in_its_proof_leaves_a_link_disabled_that_was_so",
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
        "an acknowledgement that was overtaken takes back what a later one said",
        "race 14: below its last remembered acknowledgement: compare",
        "pratima_iscsi.replication.watermarks",
        "n and (incarnation != known.incarnation or n > known.n)",
        "n",
        "scenario test_resync."
        "test_an_acknowledgement_that_comes_late_does_not_hide_that_the_replica_went_back",
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
        "the tail of a link that is down stays due",
        "an outage must not be felt: no timer that is due is left as it is",
        _BACKSTORE,
        "            log.seal()  # It cannot be sent now",
        "            pass  # It cannot be sent now",
        "scenario test_tail.test_writes_that_cannot_be_sent_leave_no_timer_due",
    ),
    Mutant(
        "a backlog is due though the replica is silent",
        "an outage must not be felt: no timer that is due is left as it is",
        _LINK,
        "            elif self.queue.has_backlog and",
        "            if self.queue.has_backlog and",
        "scenario test_tail.test_a_backlog_behind_a_silent_replica_leaves_no_timer_due",
    ),
    Mutant(
        "writes of the tail that find no room in a frame are forgotten",
        "I5: log, table, T and what is in flight cover every block that may differ",
        "pratima_iscsi.ordered_log",
        "writes, self.tail = self.tail[:count], self.tail[count:]",
        "writes, self.tail = self.tail[:count], []",
        "overflow",
    ),
    Mutant(
        "memory of frames is used again while a frame that may be sent once more is in it",
        "a record that is made again from its frame is, byte for byte, the one that was sent",
        "pratima_iscsi.frame_memory",
        "        return False\n    area.append",
        "        return True\n    area.append",
        "overflow",
    ),
    Mutant(
        "a frame is made in memory that has a write of the next one, too",
        "PROTOCOL: a frame has the payloads of its records and nothing else",
        "pratima_iscsi.ordered_log",
        "memory is None or memory.end != FRAME_HEAD_BYTES + size",
        "memory is None",
        "scenario test_tail."
        "test_a_frame_has_nothing_of_a_write_that_waits_behind_its_own_in_the_same_memory",
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
        "zeros=self.growth.reads_zeros(link)",
        "zeros=True",
        "growth",
    ),
    Mutant(
        "a replica's garbage behind the old end is not asked for",
        "race 22: known to be zeros on both sides",
        _GROWTH,
        "        if not answer.zeros:\n            del self._zeros[link]",
        "",
        "scenario test_growth.test_garbage_behind_a_replicas_volume_is_overwritten",
    ),
    Mutant(
        "a growth begins while the RESIZE of another stands in line",
        "a volume never shrinks",
        _GROWTH,
        "if self._done is not None or self._in_line:",
        "if self._done is not None:",
        "scenario test_growth."
        "test_no_growth_begins_before_a_resize_that_was_given_up_in_line_is_through",
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
    Mutant(
        "an END behind what finds no room is passed over",
        "what was acknowledged as durable is never undone",
        _STORE,
        "        if isinstance(turn, End):\n            return False\n",
        "        if isinstance(turn, End):\n            applier.superseded = True\n            return True\n",
        "scenario test_full_staging."
        "test_an_end_that_is_durable_is_kept_though_its_blocks_find_no_room",
    ),
    Mutant(
        "a BEGIN frees nothing while what is before it finds no room",
        "PROTOCOL 1: on receipt of a new BEGIN the replica frees the old staging",
        _STORE,
        "        elif turn is not None or applier.recovering:",
        "        elif applier.recovering:",
        "scenario test_full_staging."
        "test_a_resync_that_begins_anew_is_not_stuck_behind_one_that_found_no_room",
    ),
    Mutant(
        "a recovery without room leaves the transaction open",
        "what is said to be durable is there: here, what was staged",
        _STORE,
        "        if self._applier.superseded:",
        "        if False:",
        "scenario test_full_staging."
        "test_a_replica_restarted_without_room_is_at_its_old_point_and_says_what_it_lacks",
    ),
    Mutant(
        "a replica without room journals what it cannot apply",
        "PROTOCOL 4: if room ends midway the replica withholds credit",
        _SINK,
        "        if self.retry_apply_at and not self._begins_anew():\n            return frames\n",
        "",
        "scenario test_full_staging."
        "test_sessions_that_come_and_go_do_not_fill_the_journal_of_a_replica_without_room",
    ),
    Mutant(
        "a replica without room takes no BEGIN",
        "a primary that begins anew is not stuck behind a transaction that cannot go on",
        _SINK,
        "        if self.retry_apply_at and not self._begins_anew():",
        "        if self.retry_apply_at:",
        "scenario test_full_staging."
        "test_a_resync_that_begins_anew_is_not_stuck_behind_one_that_found_no_room",
    ),
)
