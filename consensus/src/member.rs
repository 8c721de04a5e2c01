//! One raft member: the synchronous core that the driver thread turns.
//!
//! Owns raft's state, the log and the state machine, and nothing of threads, queues or clocks:
//! time is an argument, and everything it wants done in the background it says in what it returns.
//! So the tests can run it on a disk that loses power between any two steps.
//!
//! Guarantees: an answer leaves [`Member::turn`] only when its entry is durable and applied; after
//! an error nothing is answered any more. Every write has its space on disk before raft sees it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use coxswain_store::codec::{decode_txn, put_number, take_number};
use coxswain_store::{Event, Op, Snapshot, State, Txn};
use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeV2, Entry, EntryType, Message};
use raft::{RawNode, ReadState, StateRole};
use tokio::sync::oneshot;

use crate::checkpoint::Meta;
use crate::inbox::{Answer, Proposal};
use crate::raft_log::RaftLog;
use crate::transport::Transport;
use crate::wal::{ClaimError, Need, Wal};
use crate::{OpenError, Outcome, ProposeError};

/// A batch is closed at this many bytes; one transaction may be larger.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes a record needs besides the transactions.
const RECORD_EXTRA: usize = 128;
/// How much larger than its predecessor an object on its way out may be on a full disk, in bytes.
const VITAL_GROWTH: usize = 4096;
/// How long a full disk is believed to be full before it is tried again.
const FULL_FOR: Duration = Duration::from_secs(1);
/// A checkpoint is due after this many bytes of log when the disk is full.
const FULL_CHECKPOINT: u64 = 1 << 20;
/// Bytes of applied entries that are kept in memory for members that lag.
pub(super) const KEPT_FOR_OTHERS: usize = 32 << 20;
/// Encoding of an entry's transactions.
const BATCH_VERSION: u8 = 1;

type BarrierAnswer = oneshot::Sender<Result<(), ProposeError>>;

pub(crate) struct Member {
    pub(super) id: u64,
    pub(super) raw: RawNode<RaftLog>,
    pub(super) wal: Wal,
    pub(super) state: State,
    /// Index and term of the last entry applied.
    pub(super) applied: (u64, u64),
    pub(super) transport: Box<dyn Transport>,
    /// Batches given to raft, oldest first.
    pub(super) in_flight: VecDeque<Batch>,
    pub(super) reads: Reads,
    pub(super) full_until: Option<Duration>,
    /// Bytes of entries applied since the newest checkpoint.
    pub(super) since_checkpoint: u64,
    /// Indexes of the checkpoints on disk, oldest first.
    pub(super) checkpoints: Vec<u64>,
    pub(super) checkpoint_running: bool,
}

/// Reads that wait for a majority to confirm that this member leads. Each request to raft has a
/// number and confirms the reads that were there when it was made, not later ones.
#[derive(Default)]
pub(crate) struct Reads {
    /// Number of the newest request.
    asked: u64,
    waiting: VecDeque<(u64, BarrierAnswer)>,
    /// Confirmed requests, and the index that must be applied before they are answered.
    confirmed: VecDeque<(u64, u64)>,
}

/// Proposals that share an entry.
pub(crate) struct Batch {
    index: u64,
    term: u64,
    items: Vec<(Txn, Answer)>,
}

/// What a turn has brought about. Events are to be published before answers are sent.
#[derive(Default)]
pub(crate) struct Turn {
    pub events: Vec<Arc<Event>>,
    pub answers: Vec<(Answer, Result<Outcome, ProposeError>)>,
    pub barriers: Vec<(BarrierAnswer, Result<(), ProposeError>)>,
    /// Writes refused because the disk is full.
    pub refused_no_space: u64,
}

impl Member {
    /// Takes in what is waiting, makes it durable and applies it. Leaves in `pending` what exceeds
    /// one batch. An error is final.
    pub fn turn(
        &mut self,
        pending: &mut VecDeque<Proposal>,
        barriers: Vec<BarrierAnswer>,
        now: Duration,
    ) -> Result<Turn, OpenError> {
        let mut turn = Turn::default();
        self.accept(pending, now, &mut turn)?;
        self.ask_to_read(barriers, &mut turn);
        self.drain(&mut turn)?;
        Ok(turn)
    }

    /// Steps 1 and 2 of a turn: choose the batch, claim its space, hand it to raft.
    fn accept(&mut self, pending: &mut VecDeque<Proposal>, now: Duration, turn: &mut Turn) -> Result<(), OpenError> {
        if pending.is_empty() {
            return Ok(());
        }
        if !self.leads() {
            let leader = Some(self.raw.raft.leader_id).filter(|id| *id != 0);
            let refuse = |proposal: Proposal| {
                let refusal = Err(ProposeError::NotLeader { leader });
                (proposal.answer, refusal)
            };
            turn.answers.extend(pending.drain(..).map(refuse));
            return Ok(());
        }
        let mut batch = take_batch(pending);
        if !self.claim(size_of(&batch), Need::Ordinary, now)? {
            let (vital, refused): (Vec<_>, Vec<_>) = batch
                .into_iter()
                .partition(|proposal| is_vital(&proposal.txn, self.state.view()));
            turn.refused_no_space += refused.len() as u64;
            batch = vital;
            let mut refused = refused;
            if !batch.is_empty() && !self.claim(size_of(&batch), Need::Vital, now)? {
                turn.refused_no_space += batch.len() as u64;
                refused.append(&mut batch);
            }
            let refuse = |proposal: Proposal| (proposal.answer, Err(ProposeError::NoSpace));
            turn.answers.extend(refused.into_iter().map(refuse));
        }
        if !batch.is_empty() {
            self.propose(batch, turn);
        }
        Ok(())
    }

    /// Claims space for a batch; false when the disk is full.
    fn claim(&mut self, bytes: usize, need: Need, now: Duration) -> Result<bool, OpenError> {
        let believed_full = self.full_until.is_some_and(|until| now < until);
        if need == Need::Ordinary && believed_full {
            return Ok(false);
        }
        match self.wal.claim(bytes + RECORD_EXTRA, need) {
            Ok(()) => {
                if need == Need::Ordinary {
                    self.full_until = None;
                }
                Ok(true)
            }
            Err(ClaimError::Full) => {
                if self.full_until.is_none() {
                    tracing::warn!("the disk is full: only deletes are accepted");
                }
                self.full_until = Some(now + FULL_FOR);
                Ok(false)
            }
            Err(ClaimError::Failed(error)) => Err(error),
        }
    }

    fn propose(&mut self, batch: Vec<Proposal>, turn: &mut Turn) {
        let mut data = Vec::with_capacity(size_of(&batch));
        data.push(BATCH_VERSION);
        put_number(&mut data, batch.len() as u64);
        let mut items = Vec::with_capacity(batch.len());
        for proposal in batch {
            put_number(&mut data, proposal.encoded.len() as u64);
            data.extend_from_slice(&proposal.encoded);
            items.push((proposal.txn, proposal.answer));
        }
        if self.raw.propose(Vec::new(), data).is_err() {
            let refuse = |(_, answer)| (answer, Err(ProposeError::Overloaded));
            turn.answers.extend(items.into_iter().map(refuse));
            return;
        }
        self.in_flight.push_back(Batch {
            index: self.raw.raft.raft_log.last_index(),
            term: self.raw.raft.term,
            items,
        });
    }

    fn ask_to_read(&mut self, barriers: Vec<BarrierAnswer>, turn: &mut Turn) {
        if !self.leads() {
            let leader = Some(self.raw.raft.leader_id).filter(|id| *id != 0);
            let waiting = self.reads.waiting.drain(..).map(|(_, answer)| answer);
            for answer in waiting.chain(barriers) {
                let refusal = Err(ProposeError::NotLeader { leader });
                turn.barriers.push((answer, refusal));
            }
        } else if !barriers.is_empty() {
            self.reads.asked += 1;
            let number = self.reads.asked;
            let numbered = barriers.into_iter().map(|answer| (number, answer));
            self.reads.waiting.extend(numbered);
            self.raw.read_index(number.to_le_bytes().to_vec());
        }
    }

    /// Answers the reads that are confirmed and whose state is applied.
    fn answer_reads(&mut self, confirmed: Vec<ReadState>, turn: &mut Turn) {
        for read in confirmed {
            if let Ok(number) = read.request_ctx.as_slice().try_into() {
                let number = u64::from_le_bytes(number);
                self.reads.confirmed.push_back((number, read.index));
            }
        }
        while let Some((number, index)) = self.reads.confirmed.front().copied() {
            if index > self.applied.0 {
                break;
            }
            self.reads.confirmed.pop_front();
            while let Some((_, answer)) = self.reads.waiting.pop_front_if(|(at, _)| *at <= number) {
                turn.barriers.push((answer, Ok(())));
            }
        }
    }

    /// Handles everything raft has ready.
    pub(super) fn drain(&mut self, turn: &mut Turn) -> Result<(), OpenError> {
        while self.raw.has_ready() {
            // 1. A leader's messages need not wait for its own disk.
            let mut ready = self.raw.ready();
            self.send(ready.take_messages());
            // 2. What a majority holds already is applied.
            self.apply(ready.take_committed_entries(), turn)?;
            // 3. Hard state and entries become durable, in one record.
            if let Some(hard) = ready.hs() {
                self.raw.mut_store().set_hard(hard.clone());
            }
            let entries = ready.take_entries();
            if ready.must_sync() {
                self.wal.append(self.raw.store().hard(), &entries)?;
                let appended = self.raw.mut_store().append(&entries);
                appended.map_err(OpenError::Raft)?;
            }
            // 4. Messages that promise what is on disk leave now.
            self.send(ready.take_persisted_messages());
            // 5. Reads confirmed by a majority: nothing they could miss is unapplied.
            let reads = ready.take_read_states();
            // 6. Raft learns that all this is done, and commits what a single member holds.
            let mut light = self.raw.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.raw.mut_store().set_commit(commit);
            }
            self.send(light.take_messages());
            self.apply(light.take_committed_entries(), turn)?;
            self.raw.advance_apply();
            self.answer_reads(reads, turn);
            self.let_go();
        }
        Ok(())
    }

    /// Drops the entries in memory that nobody needs any more: applied here and, for a leader, held
    /// by all other members, within reason. A follower may have to lead, and keeps what there is
    /// room for.
    fn let_go(&mut self) {
        let applied = self.applied.0;
        let progress = self.raw.raft.prs().iter();
        let held = progress.map(|(_, progress)| progress.matched).min();
        let held = if self.leads() {
            held.unwrap_or(0).min(applied)
        } else {
            0
        };
        let alone = self.is_alone();
        let store = self.raw.mut_store();
        store.drop_through(if alone { applied } else { held });
        store.drop_beyond(KEPT_FOR_OTHERS, applied);
    }

    /// Takes in a message of another member. Errors are raft's way to ignore one.
    pub fn receive(&mut self, message: &[u8]) {
        let mut decoded = Message::default();
        let understood = decoded.merge_from_bytes(message);
        let taken = understood
            .map_err(|error| error.to_string())
            .and_then(|()| self.raw.step(decoded).map_err(|error| error.to_string()));
        if let Err(error) = taken {
            tracing::debug!(%error, "a message of another member is ignored");
        }
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let to = message.to;
            match message.write_to_bytes() {
                Ok(bytes) => self.transport.send(to, bytes),
                Err(error) => tracing::error!(%error, "a raft message cannot be encoded"),
            }
        }
    }

    fn apply(&mut self, entries: Vec<Entry>, turn: &mut Turn) -> Result<(), OpenError> {
        for entry in entries {
            self.since_checkpoint += entry.data.len() as u64 + 64;
            let place = (entry.index, entry.term);
            match entry.get_entry_type() {
                EntryType::EntryNormal => self.apply_normal(&entry, turn)?,
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    self.apply_membership(&entry)?;
                }
            }
            self.applied = place;
        }
        Ok(())
    }

    /// Applies an entry's transactions: those kept with their answers when they were proposed
    /// here, those decoded from the entry otherwise.
    fn apply_normal(&mut self, entry: &Entry, turn: &mut Turn) -> Result<(), OpenError> {
        while let Some(batch) = self.in_flight.front() {
            if batch.index > entry.index {
                break;
            }
            let is_this = (batch.index, batch.term) == (entry.index, entry.term);
            let Some(batch) = self.in_flight.pop_front() else {
                break;
            };
            if is_this {
                for (txn, answer) in batch.items {
                    let (outcome, mut events) = self.state.apply(txn);
                    turn.events.append(&mut events);
                    turn.answers.push((answer, Ok(outcome)));
                }
                return Ok(());
            }
            // Another leader's entry took its place: these were not written.
            let leader = Some(self.raw.raft.leader_id).filter(|id| *id != 0);
            let refuse = |(_, answer)| (answer, Err(ProposeError::NotLeader { leader }));
            turn.answers.extend(batch.items.into_iter().map(refuse));
        }
        apply_data(&mut self.state, entry, &mut turn.events)
    }

    fn apply_membership(&mut self, entry: &Entry) -> Result<(), OpenError> {
        let unreadable = |_| OpenError::Raft(format!("entry {} is unreadable", entry.index));
        let change = if entry.get_entry_type() == EntryType::EntryConfChange {
            let mut change = ConfChange::default();
            change.merge_from_bytes(&entry.data).map_err(unreadable)?;
            self.raw.apply_conf_change(&change)
        } else {
            let mut change = ConfChangeV2::default();
            change.merge_from_bytes(&entry.data).map_err(unreadable)?;
            self.raw.apply_conf_change(&change)
        };
        let members = change.map_err(|error| OpenError::Raft(error.to_string()))?;
        self.raw.mut_store().set_members(members);
        Ok(())
    }

    /// Whether this member leads.
    pub fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Whether this member is the only one.
    pub fn is_alone(&self) -> bool {
        let members = self.raw.store().members();
        members.voters == [self.id] && members.voters_outgoing.is_empty() && members.learners.is_empty()
    }

    /// The state as of the last entry applied.
    pub fn snapshot(&self) -> Snapshot {
        self.state.snapshot()
    }

    /// The log, for its numbers.
    pub fn wal(&self) -> &Wal {
        &self.wal
    }

    /// What a checkpoint should hold, when it is time for one. The caller writes it and reports
    /// back with [`Member::checkpointed`].
    pub fn checkpoint_due(&mut self, checkpoint_bytes: u64) -> Option<(Meta, Snapshot)> {
        let usual = checkpoint_bytes.max(self.state.view().stored_bytes() / 3);
        // On a full disk a checkpoint that lets the log be trimmed may be the way out.
        let due = match self.full_until {
            Some(_) => usual.min(FULL_CHECKPOINT),
            None => usual,
        };
        if self.checkpoint_running || self.since_checkpoint < due {
            return None;
        }
        self.checkpoint_running = true;
        self.since_checkpoint = 0;
        let store = self.raw.store();
        let meta = Meta {
            index: self.applied.0,
            term: self.applied.1,
            members: store.members().clone(),
            hard: store.hard().clone(),
            revision: self.state.revision(),
        };
        Some((meta, self.state.snapshot()))
    }

    /// Takes note of a checkpoint on disk, and returns the files that are not needed any more:
    /// checkpoints but the newest two, and the log before the older of those. On a full disk the
    /// newest has to do.
    pub fn checkpointed(&mut self, index: u64) -> Vec<String> {
        self.checkpoint_running = false;
        self.checkpoints.push(index);
        let mut unneeded = Vec::new();
        let keep = match self.full_until {
            Some(_) => 1,
            None => 2,
        };
        while self.checkpoints.len() > keep {
            unneeded.push(crate::checkpoint::checkpoint_name(self.checkpoints.remove(0)));
        }
        if let Some(oldest) = self.checkpoints.first() {
            unneeded.extend(self.wal.trim(*oldest));
        }
        unneeded
    }

    /// Takes note of a failed checkpoint; the next one is due after the usual amount of log.
    pub fn checkpoint_failed(&mut self) {
        self.checkpoint_running = false;
    }

    /// Raft's clock goes on by one.
    pub fn tick(&mut self) {
        self.raw.tick();
        // A request may have been lost, or have come too early in the leader's term.
        if self.leads() && !self.reads.waiting.is_empty() {
            let number = self.reads.asked;
            self.raw.read_index(number.to_le_bytes().to_vec());
        }
    }

    /// Closes the log in good order.
    pub fn seal(&mut self) -> Result<(), OpenError> {
        self.wal.seal()
    }
}

/// Takes proposals from the front up to the size of a batch, at least one.
fn take_batch(pending: &mut VecDeque<Proposal>) -> Vec<Proposal> {
    let mut bytes = 0;
    let mut count = 0;
    for proposal in pending.iter() {
        bytes += proposal.encoded.len();
        if count > 0 && bytes > BATCH_BYTES {
            break;
        }
        count += 1;
    }
    pending.drain(..count).collect()
}

fn size_of(batch: &[Proposal]) -> usize {
    let each = |proposal: &Proposal| proposal.encoded.len() + 10;
    batch.iter().map(each).sum::<usize>() + 16
}

/// Whether a transaction may use the reserve: it deletes, or moves objects towards their deletion.
fn is_vital(txn: &Txn, view: &Snapshot) -> bool {
    txn.ops.iter().all(|op| match op {
        Op::Delete { .. } => true,
        Op::Put { draft, .. } => {
            let before = view.get(&draft.key).map(|object| object.bytes.len());
            draft.head.deleting && before.is_some_and(|before| draft.body.len() <= before + VITAL_GROWTH)
        }
    })
}

/// Applies the transactions in an entry's data.
pub(super) fn apply_data(state: &mut State, entry: &Entry, events: &mut Vec<Arc<Event>>) -> Result<(), OpenError> {
    let failed = |detail: String| OpenError::Raft(format!("entry {} cannot be applied: {detail}", entry.index));
    let Some((&version, mut rest)) = entry.data.split_first() else {
        // A new leader's first entry is empty.
        return Ok(());
    };
    if version != BATCH_VERSION {
        return Err(failed(format!(
            "it was written by a newer version (batch {version}, known is {BATCH_VERSION})"
        )));
    }
    let malformed = || failed("it is not a valid batch".into());
    let count = take_number(&mut rest).ok_or_else(malformed)?;
    for _ in 0..count {
        let length = take_number(&mut rest).and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length <= rest.len());
        let (encoded, after) = rest.split_at(length.ok_or_else(malformed)?);
        rest = after;
        let txn = decode_txn(encoded).map_err(|error| failed(error.to_string()))?;
        let (_, mut new) = state.apply(txn);
        events.append(&mut new);
    }
    Ok(())
}
