//! One raft member: the synchronous core that the driver thread turns.
//!
//! Owns raft's state, the log and the state machine, and nothing of threads, queues or clocks:
//! time is an argument, and everything it wants done in the background it says in what it returns.
//! So the tests can run it on a disk that loses power between any two steps.
//!
//! The disk is not waited for: what is to be written is handed out ([`Member::writes`]) and goes on when it
//! is reported as done ([`Member::written`]), while raft's clock and messages go on. A member that is alone
//! has nobody to hear meanwhile, and writes by itself.
//!
//! Guarantees: an answer leaves [`Member::turn`] only when its entry is durable and applied; a vote, or that
//! entries have come in, is told only when it is durable; after an error nothing is answered any more. Every
//! write has its space on disk before raft sees it.

mod apply;
mod durable;
mod forward;
mod peers;
mod reach;
mod reads;
mod transfer;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use coxswain_store::{Event, Op, Snapshot, State, Txn};
use raft::eraftpb::{Entry, EntryType, Message as RaftMessage};
use raft::{Config as RaftConfig, RawNode, StateRole};
use tokio::sync::oneshot;

use crate::checkpoint::{Meta, checkpoint_name};
use crate::inbox::{Answer, Proposal};
use crate::message::Refusal;
use crate::raft_log::RaftLog;
use crate::transport::Transport;
use crate::wal::{Log, Need, Room, Wal};
use crate::{OpenError, Outcome, ProposeError, raft_logger};

pub(crate) use apply::apply_data;
pub(crate) use forward::Origin;
use forward::{Forwards, Intake};
pub use peers::{Change, Cluster, Status};
use reach::Reach;
use reads::Reads;
use transfer::{Inbound, Outbound};

/// A batch is closed at this many bytes; one transaction may be larger.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes a record needs besides the transactions.
const RECORD_EXTRA: usize = 128;
/// How much larger than its predecessor an object on its way out may be on a full disk, in bytes.
const VITAL_GROWTH: usize = 4096;
/// A checkpoint is due after this many bytes of log when the disk is full.
const FULL_CHECKPOINT: u64 = 1 << 20;
/// How much more of the log is kept while a snapshot is on its way to a member that will need what
/// follows.
const TRANSFER_FACTOR: usize = 8;
/// Ticks of raft's clock without a leader after which an election may begin, at most twice as many.
const ELECTION_TICKS: usize = 25;
/// Ticks between two heartbeats of a leader.
const HEARTBEAT_TICKS: usize = 5;
/// Most bytes proposed and not yet committed.
const MOST_UNCOMMITTED: usize = 64 << 20;
/// How long a read waits for a leader.
const READ_WITHIN: Duration = Duration::from_secs(10);

type BarrierAnswer = oneshot::Sender<Result<(), ProposeError>>;

pub(crate) struct Member {
    pub(super) id: u64,
    raw: RawNode<RaftLog>,
    /// The data directory, for people.
    place: Arc<str>,
    log: Log,
    /// What waits until writes are durable, oldest first.
    unsynced: VecDeque<durable::Unsynced>,
    /// Snapshots that are becoming checkpoints.
    installing: usize,
    /// Since when the oldest write has been under way, if that is long; and when leadership was last
    /// offered to another member because of it.
    stalled: Option<Duration>,
    offered: Duration,
    /// Messages of the leader that wait for room.
    held: Vec<(u64, RaftMessage)>,
    pub(super) state: State,
    /// Index and term of the last entry applied.
    applied: (u64, u64),
    transport: Box<dyn Transport>,
    /// Batches given to raft, oldest first.
    in_flight: VecDeque<Batch>,
    /// Writes to be proposed with the next turn: received from others, or to be tried once more.
    again: Vec<Proposal>,
    forwards: Forwards,
    intake: Intake,
    /// Refusals to be told to those who forwarded: member, session, number.
    refused: Vec<(u64, u64, u64, Refusal)>,
    reads: Reads,
    reach: Reach,
    outbound: BTreeMap<u64, Outbound>,
    inbound: Option<Inbound>,
    /// A snapshot that has come in whole and is offered to raft, and its index.
    arrived: Option<(u64, State)>,
    /// Number of transfers begun.
    transfers: u64,
    ticks: u64,
    /// Ticks at which writes were last looked through for those that take too long.
    expired_at: u64,
    random: u64,
    election_timeout: usize,
    /// Term, role and leader for which the election timeout was drawn.
    drawn_for: (u64, StateRole, u64),
    /// Until which tick an election is tried again soon.
    hurries_until: u64,
    /// Bytes of entries applied since the newest checkpoint.
    since_checkpoint: u64,
    /// Indexes of the checkpoints on disk, oldest first.
    checkpoints: Vec<u64>,
    checkpoint_running: bool,
    /// Whether a change of membership was applied that the log does not show to be committed yet.
    has_changed: bool,
    /// Whether this member is known to have lost entries that it had promised to hold.
    has_lost: bool,
    lag_bytes: usize,
    chunk_bytes: usize,
}

/// What has been recovered, or made, for a member to begin with.
pub(crate) struct Beginning {
    pub id: u64,
    /// Different each time a member starts.
    pub session: u64,
    pub log: RaftLog,
    pub applied: (u64, u64),
    pub state: State,
    pub wal: Wal,
    /// The data directory, for people.
    pub place: Arc<str>,
    pub transport: Box<dyn Transport>,
    /// Bytes of entries applied since the newest checkpoint.
    pub since_checkpoint: u64,
    /// Indexes of the checkpoints on disk, oldest first.
    pub checkpoints: Vec<u64>,
    /// Bytes of the log kept in memory for members that lag.
    pub lag_bytes: usize,
    /// Size of the parts of a snapshot.
    pub chunk_bytes: usize,
}

/// Proposals that share an entry.
pub(crate) struct Batch {
    index: u64,
    term: u64,
    bytes: usize,
    items: Vec<(Txn, Origin, Duration)>,
}

/// What a turn has brought about. Events are to be published before answers are sent.
#[derive(Default)]
pub(crate) struct Turn {
    pub events: Vec<Arc<Event>>,
    pub answers: Vec<(Answer, Result<Outcome, ProposeError>)>,
    pub barriers: Vec<(BarrierAnswer, Result<(), ProposeError>)>,
    /// Writes refused because the disk is full.
    pub refused_no_space: u64,
    /// The state from which everything goes on, when a snapshot took the place of what was there: what
    /// was seen before it does not connect.
    pub reset: Option<Snapshot>,
    /// Files that are not needed any more.
    pub discard: Vec<String>,
}

impl Member {
    /// A member with what there is on its disk.
    pub fn new(begin: Beginning) -> Result<Member, OpenError> {
        let config = RaftConfig {
            id: begin.id,
            applied: begin.applied.0,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            ..RaftConfig::default()
        };
        let raw = RawNode::new(&config, begin.log, &raft_logger::logger()).map_err(refused_by_raft)?;
        Ok(Member {
            id: begin.id,
            raw,
            place: begin.place,
            log: Log::new(begin.wal),
            unsynced: VecDeque::new(),
            installing: 0,
            stalled: None,
            offered: Duration::ZERO,
            held: Vec::new(),
            state: begin.state,
            applied: begin.applied,
            transport: begin.transport,
            in_flight: VecDeque::new(),
            again: Vec::new(),
            forwards: Forwards::new(begin.session),
            intake: Intake::default(),
            refused: Vec::new(),
            reads: Reads::new(begin.id, begin.session),
            reach: Reach::default(),
            outbound: BTreeMap::new(),
            inbound: None,
            arrived: None,
            transfers: 0,
            ticks: 0,
            expired_at: 0,
            random: begin.session ^ begin.id.rotate_left(32),
            election_timeout: ELECTION_TICKS,
            drawn_for: (u64::MAX, StateRole::Follower, 0),
            hurries_until: 0,
            since_checkpoint: begin.since_checkpoint,
            checkpoints: begin.checkpoints,
            checkpoint_running: false,
            has_changed: false,
            has_lost: false,
            lag_bytes: begin.lag_bytes,
            chunk_bytes: begin.chunk_bytes,
        })
    }

    /// Stands for election at once.
    pub fn campaign(&mut self) -> Result<(), OpenError> {
        self.raw.campaign().map_err(refused_by_raft)
    }

    /// Takes in what is waiting, makes it durable and applies it, adding to what the messages received
    /// before have brought about. Leaves in `pending` what exceeds one batch or waits for a leader. An
    /// error is final.
    pub fn turn(
        &mut self,
        pending: &mut VecDeque<Proposal>,
        barriers: Vec<BarrierAnswer>,
        now: Duration,
        turn: &mut Turn,
    ) -> Result<(), OpenError> {
        put_back(pending, self.again.drain(..));
        self.mind_the_disk(now);
        self.log.mark_when_idle(now);
        self.reads.ask(&mut self.raw, barriers, now + READ_WITHIN);
        self.mind_the_others(pending, turn);
        self.accept(pending, now, turn)?;
        self.drain(now, turn)?;
        self.reads.answer(self.applied.0, now, turn);
        if self.ticks != self.expired_at {
            self.expired_at = self.ticks;
            self.expire(now, turn);
        }
        self.send_due(now);
        self.arrived = None;
        put_back(pending, self.again.drain(..));
        Ok(())
    }

    /// Steps 1 and 2 of a turn: choose the batch, claim its space, hand it to raft. A follower passes
    /// its writes on to the leader.
    fn accept(&mut self, pending: &mut VecDeque<Proposal>, now: Duration, turn: &mut Turn) -> Result<(), OpenError> {
        while let Some(late) = pending.pop_front_if(|proposal| proposal.deadline <= now) {
            self.refuse(late, ProposeError::NoLeader, turn);
        }
        if pending.is_empty() {
            return Ok(());
        }
        if !self.leads() {
            self.pass_on(pending);
            return Ok(());
        }
        if !self.accepts() {
            return Ok(());
        }
        let term = self.raw.raft.term;
        let mut batch = take_batch(pending);
        // What was forwarded to the leader of an earlier term is forwarded again by its sender.
        batch.retain(|proposal| !matches!(proposal.origin, Origin::Member { term: meant, .. } if meant != term));
        match self
            .log
            .claim(apply::size_of(&batch) + RECORD_EXTRA, Need::Ordinary, now)?
        {
            Room::Granted => {}
            Room::Later => {
                put_back(pending, batch);
                return Ok(());
            }
            Room::Full => batch = self.accept_vital(batch, pending, now, turn)?,
        }
        if !batch.is_empty() {
            self.propose(batch, turn);
        }
        Ok(())
    }

    /// On a full disk, refuses the writes that have to be refused. Returns the others.
    fn accept_vital(
        &mut self,
        batch: Vec<Proposal>,
        pending: &mut VecDeque<Proposal>,
        now: Duration,
        turn: &mut Turn,
    ) -> Result<Vec<Proposal>, OpenError> {
        let (vital, mut refused): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|proposal| is_vital(&proposal.txn, self.state.view()));
        let mut accepted = Vec::new();
        if !vital.is_empty() {
            match self
                .log
                .claim(apply::size_of(&vital) + RECORD_EXTRA, Need::Vital, now)?
            {
                Room::Granted => accepted = vital,
                Room::Later => put_back(pending, vital),
                Room::Full => refused.extend(vital),
            }
        }
        turn.refused_no_space += refused.len() as u64;
        for proposal in refused {
            let place = self.place.clone();
            self.refuse(proposal, ProposeError::NoSpace { place }, turn);
        }
        Ok(accepted)
    }

    /// Whether this member leads, is to go on leading, and has room for more writes under way.
    pub fn accepts(&self) -> bool {
        let under_way = self.in_flight.iter().map(|batch| batch.bytes);
        self.leads()
            && self.raw.raft.lead_transferee.is_none()
            && !self.log.is_making_room()
            && under_way.sum::<usize>() < MOST_UNCOMMITTED
    }

    /// Hands writes to the leader, as far as one is known and there is room.
    fn pass_on(&mut self, pending: &mut VecDeque<Proposal>) {
        if self.leader().is_none() {
            return;
        }
        while !self.forwards.is_full() {
            let Some(proposal) = pending.pop_front() else {
                return;
            };
            if matches!(proposal.origin, Origin::Local(_)) {
                self.forwards.add(self.raw.raft.term, proposal);
            }
        }
    }

    fn propose(&mut self, batch: Vec<Proposal>, turn: &mut Turn) {
        let data = apply::encode_batch(&batch);
        let bytes = data.len();
        if self.raw.propose(Vec::new(), data).is_err() {
            for proposal in batch {
                self.refuse(proposal, ProposeError::Overloaded, turn);
            }
            return;
        }
        let items = batch.into_iter();
        self.in_flight.push_back(Batch {
            index: self.raw.raft.raft_log.last_index(),
            term: self.raw.raft.term,
            bytes,
            items: items
                .map(|proposal| (proposal.txn, proposal.origin, proposal.deadline))
                .collect(),
        });
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
        let sent = self.outbound.values().map(|outbound| outbound.index).min();
        let store = self.raw.mut_store();
        store.drop_through(if alone { applied } else { held });
        store.drop_beyond(self.lag_bytes, applied.min(sent.unwrap_or(applied)));
        store.drop_beyond(self.lag_bytes * TRANSFER_FACTOR, applied);
    }

    /// The state as of the last entry applied.
    pub fn snapshot(&self) -> Snapshot {
        self.state.snapshot()
    }

    /// Index of the last entry applied.
    pub fn applied(&self) -> u64 {
        self.applied.0
    }

    /// As a leader, adds an entry without a write, so that there is something new for a checkpoint. None is added before
    /// the last is applied.
    pub fn propose_nothing(&mut self, now: Duration) -> Result<(), OpenError> {
        let is_applied = self.raw.raft.raft_log.last_index() == self.applied.0;
        if self.leads()
            && is_applied
            && self.log.claim(RECORD_EXTRA, Need::Ordinary, now)? == Room::Granted
            && let Err(error) = self.raw.propose(Vec::new(), Vec::new())
        {
            tracing::debug!(%error, "no empty entry was proposed");
        }
        Ok(())
    }

    /// Bytes of all objects, without bookkeeping.
    pub fn stored_bytes(&self) -> u64 {
        self.state.view().stored_bytes()
    }

    /// Indexes of the checkpoints on disk, oldest first.
    pub fn checkpoints(&self) -> &[u64] {
        &self.checkpoints
    }

    /// The log, for its numbers.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// What a checkpoint should hold, when it is time for one: sooner when the files are too large for what is stored. The
    /// caller writes it and reports back with [`Member::checkpointed`].
    pub fn checkpoint_due(&mut self, checkpoint_bytes: u64, too_large: bool) -> Option<(Meta, Snapshot)> {
        let usual = checkpoint_bytes.max(self.state.view().stored_bytes() / 3);
        // On a full disk a checkpoint that lets the log be trimmed may be the way out.
        let due = match self.log.is_full() {
            true => usual.min(FULL_CHECKPOINT),
            false if too_large => usual / 4,
            false => usual,
        };
        if self.since_checkpoint < due {
            return None;
        }
        self.checkpoint_now()
    }

    /// What a checkpoint should hold, unless one is being written or there is nothing new since the last.
    pub fn checkpoint_now(&mut self) -> Option<(Meta, Snapshot)> {
        // One without this member in it would be refused.
        let is_news = self.checkpoints.last() != Some(&self.applied.0) && !self.is_removed();
        if self.is_writing_checkpoint() || !is_news {
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
            installed: false,
        };
        Some((meta, self.state.snapshot()))
    }

    /// Takes note of a checkpoint on disk, and returns the files that are not needed any more:
    /// checkpoints but the newest two, and the log before the older of those. On a full disk the
    /// newest has to do.
    pub fn checkpointed(&mut self, index: u64) -> Vec<String> {
        self.checkpoint_running = false;
        if self.checkpoints.last().is_some_and(|newest| *newest >= index) {
            // A snapshot came in between.
            return vec![checkpoint_name(index)];
        }
        self.checkpoints.push(index);
        let mut unneeded = Vec::new();
        let keep = if self.log.is_full() { 1 } else { 2 };
        while self.checkpoints.len() > keep {
            unneeded.push(checkpoint_name(self.checkpoints.remove(0)));
        }
        if let Some(oldest) = self.checkpoints.first() {
            unneeded.extend(self.log.segments().trim(*oldest));
        }
        unneeded
    }

    /// Whether a checkpoint is being written.
    pub fn is_writing_checkpoint(&self) -> bool {
        self.checkpoint_running || self.installing > 0
    }

    /// Takes note of a failed checkpoint; the next one is due after the usual amount of log.
    pub fn checkpoint_failed(&mut self) {
        self.checkpoint_running = false;
    }

    /// Takes note of a checkpoint that makes all earlier ones and the log before it useless, and
    /// returns those files.
    fn replace_checkpoints(&mut self, index: u64) -> Vec<String> {
        let mut unneeded: Vec<String> = self.checkpoints.drain(..).map(checkpoint_name).collect();
        self.checkpoints.push(index);
        unneeded.extend(self.log.segments().trim(index));
        unneeded
    }

    /// A checkpoint that was written while nothing else went on takes the place of all earlier ones. Returns what is
    /// not needed any more.
    pub fn replaced_checkpoints(&mut self, index: u64) -> Vec<String> {
        self.checkpoint_running = false;
        self.replace_checkpoints(index)
    }

    /// Lets the store go on at a revision that is so much higher. Objects keep theirs.
    pub fn move_ahead(&mut self, by: u64) {
        let mut ahead = State::restore(self.state.revision().saturating_add(by), []);
        for object in self.state.view().all() {
            ahead.restore_object(object.at_revision(object.revision));
        }
        self.state = ahead;
    }

    /// Makes it durable that revisions have moved ahead after records were given up.
    pub fn moved_ahead(&mut self) -> Result<(), OpenError> {
        self.log.moved_ahead()
    }

    /// Closes the log, if it is not detached.
    pub fn close(&mut self) -> Result<(), OpenError> {
        self.log.close()
    }
}

/// Puts proposals in front of those that wait, in their order.
fn put_back<P>(pending: &mut VecDeque<Proposal>, proposals: P)
where
    P: IntoIterator<Item = Proposal, IntoIter: DoubleEndedIterator>,
{
    for proposal in proposals.into_iter().rev() {
        pending.push_front(proposal);
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

/// Whether an entry may use the reserve of a follower's disk.
fn is_vital_entry(entry: &Entry, view: &Snapshot) -> bool {
    let mut vital = true;
    let decoded = apply::decode_batch(entry, |_, txn| vital &= is_vital(&txn, view));
    entry.get_entry_type() != EntryType::EntryNormal || (decoded.is_ok() && vital)
}

fn refused_by_raft(error: raft::Error) -> OpenError {
    OpenError::Raft(error.to_string())
}
