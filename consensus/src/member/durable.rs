//! What raft wants to be durable, and what waits for that.
//!
//! Raft hands out its wishes in numbered portions ("ready"). Each that the disk has to keep becomes a write
//! of the log; what promises it stays back until the write is reported, and so does everything after it.
//! Raft itself applies only what is durable here.

use std::time::Duration;

use raft::eraftpb::{Message as RaftMessage, MessageType};

use super::{Change, Member, Turn};
use crate::OpenError;
use crate::wal::{Write, Writer, Written};

/// A write that takes longer than this is a stalled disk: its member does not stand for election.
const STALLED_AFTER: Duration = Duration::from_millis(250);
/// A leader whose disk is stalled for so long hands over, and tries again after as long.
const HAND_OVER_AFTER: Duration = Duration::from_secs(1);

/// A portion of raft's wishes that is on its way to the disk.
pub(super) struct Unsynced {
    /// It is done when this write of the log is.
    after: u64,
    /// Raft's number for it.
    number: u64,
    /// What may be said then.
    messages: Vec<RaftMessage>,
    /// When it was handed out.
    since: Duration,
}

impl Member {
    /// Handles everything raft has ready.
    pub(crate) fn drain(&mut self, now: Duration, turn: &mut Turn) -> Result<(), OpenError> {
        loop {
            while self.raw.has_ready() {
                self.take_ready(now, turn)?;
            }
            let Some(written) = self.log.perform() else {
                break;
            };
            self.written(written, now, turn)?;
        }
        self.log.release();
        self.let_go();
        Ok(())
    }

    fn take_ready(&mut self, now: Duration, turn: &mut Turn) -> Result<(), OpenError> {
        // 1. A leader's messages need not wait for its own disk.
        let mut ready = self.raw.ready();
        self.send(ready.take_messages(), now);
        // 2. What a majority and this member hold already is applied.
        self.apply(ready.take_committed_entries(), turn)?;
        // 3. Snapshot, hard state and entries are on their way to the disk, these two in one record.
        if let Some(hard) = ready.hs() {
            self.raw.mut_store().set_hard(hard.clone());
        }
        if !ready.snapshot().is_empty() {
            let snapshot = ready.snapshot().clone();
            self.install(&snapshot, turn)?;
        }
        let entries = ready.take_entries();
        let appended = self.raw.mut_store().append(&entries);
        appended.map_err(OpenError::Raft)?;
        if ready.must_sync() {
            let hard = self.raw.store().hard().clone();
            self.log.append(hard, entries);
        }
        // 4. Messages that promise what is on disk wait for it; the others leave now.
        let (later, at_once) = ready.take_persisted_messages().into_iter().partition(is_promise);
        self.send(at_once, now);
        self.unsynced.push_back(Unsynced {
            after: self.log.last(),
            number: ready.number(),
            messages: later,
            since: now,
        });
        // 5. Reads confirmed by a majority: they are answered when nothing they could miss is unapplied.
        let reads = ready.take_read_states();
        self.reads.confirm(reads);
        // 6. Raft goes on, and learns later what is durable.
        self.raw.advance_append_async(ready);
        if self.installing == 0 {
            self.raw.advance_apply();
        }
        // 7. Who was asked for votes before a change need not be there after it: it must not be forgotten, as
        //    the commit index else may be.
        if std::mem::take(&mut self.has_changed) {
            let hard = self.raw.store().hard().clone();
            self.log.append(hard, Vec::new());
        }
        self.settle(now);
        Ok(())
    }

    /// Tells raft and the others what is durable by now.
    fn settle(&mut self, now: Duration) {
        let through = self.log.through();
        while let Some(done) = self.unsynced.pop_front_if(|unsynced| unsynced.after <= through) {
            self.raw.on_persist_ready(done.number);
            self.send(done.messages, now);
        }
    }

    /// Takes in what has become of writes, and handles what raft has ready then. An error is final.
    pub fn written(&mut self, written: Written, now: Duration, turn: &mut Turn) -> Result<(), OpenError> {
        let report = written.0?;
        self.log.reported(&report, now);
        for index in report.installed {
            self.installing -= 1;
            let unneeded = self.replace_checkpoints(index);
            turn.discard.extend(unneeded);
        }
        self.settle(now);
        if self.installing == 0 {
            self.raw.advance_apply();
        }
        for (from, message) in std::mem::take(&mut self.held) {
            self.receive_append(from, message, now);
        }
        Ok(())
    }

    /// From now on somebody else has what [`Member::writes`] returns written.
    pub fn detach(&mut self) -> Option<Writer> {
        self.log.detach()
    }

    /// What is to be written, in order; each is reported to [`Member::written`].
    pub fn writes(&mut self) -> Vec<Write> {
        self.log.writes()
    }

    /// Whether nothing is on its way to the disk.
    pub fn is_written(&self) -> bool {
        self.unsynced.is_empty()
    }

    /// Looks how long the disk has taken for the oldest write. A leader whose disk is stalled hands over.
    pub(super) fn mind_the_disk(&mut self, now: Duration) {
        let since = self.unsynced.front().map(|unsynced| unsynced.since);
        let stalled = since.filter(|since| now >= *since + STALLED_AFTER);
        if let (Some(since), None) = (self.stalled, stalled) {
            let milliseconds = now.saturating_sub(since).as_millis();
            tracing::warn!(milliseconds, "the disk of the store was stalled");
        }
        self.stalled = stalled;
        let is_long = |from: Duration| now >= from + HAND_OVER_AFTER;
        if stalled.is_some_and(is_long) && self.leads() && is_long(self.offered) {
            self.offered = now;
            if let Some(id) = self.successor() {
                tracing::warn!(id, "the disk is stalled: leadership goes to another member");
                self.change(Change::Lead(id));
            }
        }
    }

    /// The voter, heard of lately, that holds most of the log.
    fn successor(&self) -> Option<u64> {
        let status = self.status();
        let others = status
            .progress
            .iter()
            .filter(|(id, (_, alive))| **id != self.id && *alive);
        let voters = others.filter(|(id, _)| status.cluster.voters.contains(id));
        voters.max_by_key(|(_, (matched, _))| *matched).map(|(id, _)| *id)
    }
}

/// Whether a message promises that something is durable: that entries have come in, or a vote. One's own
/// candidacy is a vote.
fn is_promise(message: &RaftMessage) -> bool {
    !matches!(
        message.get_msg_type(),
        MessageType::MsgHeartbeat
            | MessageType::MsgHeartbeatResponse
            | MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgReadIndex
            | MessageType::MsgReadIndexResp
    )
}
