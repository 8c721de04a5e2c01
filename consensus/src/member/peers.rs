//! A member among others: messages, snapshots, membership, its place in the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Message as RaftMessage, MessageType};
use raft::{SnapshotStatus, StateRole};

use super::forward::Writes;
use super::transfer::{Inbound, Outbound, Progress};
use super::{ELECTION_TICKS, HEARTBEAT_TICKS, Member, Origin, Turn};
use crate::ProposeError;
use crate::message::Message;
use crate::wal::{Need, Room, append_size};

/// Ticks between two repetitions of what may have been lost.
const REPEAT_TICKS: u64 = 5;
/// Most messages of the leader that wait until there is room for them, and most bytes that are on their
/// way to the disk.
const MOST_HELD: usize = 256;
const MOST_UNSYNCED: u64 = 64 << 20;
/// Ticks by which a member that is next in line lets the one before it stand for election first.
const RANK_TICKS: usize = 4;

/// Most ticks of an election timeout: raft wants less than twice the shortest.
const TIMEOUT_MAX: usize = 2 * ELECTION_TICKS - 1;

/// For how many ticks after a leader was first missed, or its process ended, an election is tried again soon, and after
/// how many ticks.
const HURRY_TICKS: u64 = 25;
const AGAIN_TICKS: usize = 3;

/// A change of who belongs to the cluster, and of who leads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A member that receives everything and has no vote yet.
    Learn(u64),
    /// A learner gets its vote.
    Promote(u64),
    /// A member is one no longer.
    Remove(u64),
    /// One member takes another's place, in one step of joint consensus.
    Replace {
        /// The member that leaves.
        old: u64,
        /// The learner that gets its vote.
        new: u64,
    },
    /// The leader hands over.
    Lead(u64),
}

/// Who belongs to the cluster, as this member knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Raft id of this member.
    pub me: u64,
    /// Raft id of the leader, when there is one.
    pub leader: Option<u64>,
    /// Members with a vote, ascending.
    pub voters: Vec<u64>,
    /// Members without one, ascending.
    pub learners: Vec<u64>,
}

/// How a member stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Who belongs to the cluster.
    pub cluster: Cluster,
    /// Raft's term.
    pub term: u64,
    /// Index of the last entry known to be committed.
    pub commit: u64,
    /// Index of the last entry applied.
    pub applied: u64,
    /// On the leader: for each member the last entry that it is known to hold, and whether it was heard
    /// of lately.
    pub progress: BTreeMap<u64, (u64, bool)>,
}

impl Member {
    /// Takes in a message of another member.
    pub fn receive(&mut self, from: u64, message: Message, now: Duration, turn: &mut Turn) {
        self.reach.hear(from, self.ticks);
        match message {
            Message::Raft(bytes) => self.receive_raft(from, &bytes, now),
            Message::Forward {
                term,
                session,
                oldest,
                first,
                txns,
            } => {
                let writes = Writes {
                    session,
                    oldest,
                    first,
                    txns,
                };
                self.receive_writes(from, term, writes);
            }
            Message::Forwarded {
                term,
                session,
                through,
                refused,
            } => {
                for (proposal, error) in self.forwards.forwarded(from, term, session, through, refused) {
                    self.refuse(proposal, error, turn);
                }
            }
            Message::Chunk {
                transfer,
                number,
                data,
                last,
            } => self.receive_chunk(from, transfer, number, data, last),
            Message::Received { transfer, next } => {
                if let Some(outbound) = self.outbound.get_mut(&from).filter(|known| known.transfer == transfer) {
                    outbound.received(next, now);
                }
            }
        }
    }

    fn receive_raft(&mut self, from: u64, bytes: &[u8], now: Duration) {
        let mut message = RaftMessage::default();
        let understood = message.merge_from_bytes(bytes).is_ok();
        // A snapshot comes in parts, or not at all; nobody speaks for another, or listens for one.
        let is_ours = message.from == from && message.to == self.id;
        if !understood || !is_ours || message.get_msg_type() == MessageType::MsgSnapshot {
            tracing::debug!(from, "a message of another member is ignored");
            return;
        }
        if self.has_lost || self.shows_loss(&message) {
            return;
        }
        match message.get_msg_type() {
            MessageType::MsgAppend => self.receive_append(from, message, now),
            MessageType::MsgTimeoutNow if self.holds_back() => {}
            MessageType::MsgReadIndex if self.leads() => {
                self.reads.tell_apart(&mut message);
                self.step(from, message);
            }
            _ => self.step(from, message),
        }
    }

    /// Whether a message proves that this member has lost entries that it had promised to hold, as after a disk
    /// that had lost writes, or after its files were put back as they had been earlier. A leader's heartbeat names as
    /// committed only what this member has said to be durable here. A member that has lost something no longer
    /// takes part: it takes in nothing more, and stops once that is on disk.
    fn shows_loss(&mut self, message: &RaftMessage) -> bool {
        let raft = &self.raw.raft;
        let is_of_leader = message.get_msg_type() == MessageType::MsgHeartbeat && message.term >= raft.term;
        if !is_of_leader || message.commit <= raft.raft_log.last_index() {
            return false;
        }
        self.has_lost = true;
        self.log.owe(message.commit);
        true
    }

    /// Errors are raft's way to ignore a message.
    fn step(&mut self, from: u64, message: RaftMessage) {
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(%error, from, "a message of another member is ignored");
        }
    }

    /// Takes entries in when the disk has room for them. If it has none, this member falls behind until it
    /// does.
    pub(super) fn receive_append(&mut self, from: u64, message: RaftMessage, now: Duration) {
        let room = match self.held.is_empty() {
            true => self.room_for(&message, now),
            false => Room::Later,
        };
        match room {
            Room::Granted => self.step(from, message),
            Room::Later if self.held.len() < MOST_HELD => self.held.push((from, message)),
            Room::Later | Room::Full => {}
        }
    }

    fn room_for(&mut self, message: &RaftMessage, now: Duration) -> Room {
        if message.entries.is_empty() {
            return Room::Granted;
        }
        if self.log.bytes_under_way() > MOST_UNSYNCED {
            return Room::Full;
        }
        let bytes = append_size(&message.entries);
        // When the log has failed, the next write says why.
        let room = self.log.claim(bytes, Need::Ordinary, now).unwrap_or(Room::Granted);
        let view = self.state.view();
        if room == Room::Full && message.entries.iter().all(|entry| super::is_vital_entry(entry, view)) {
            return self.log.claim(bytes, Need::Vital, now).unwrap_or(Room::Granted);
        }
        room
    }

    fn receive_writes(&mut self, from: u64, term: u64, writes: Writes) {
        if !self.leads() || self.raw.raft.term != term {
            return;
        }
        let session = writes.session;
        let (taken, through) = self.intake.take(term, from, writes);
        let mut refused = Vec::new();
        for (number, proposal) in taken {
            match proposal {
                Ok(proposal) => self.again.push(proposal),
                Err(refusal) => refused.push((number, refusal)),
            }
        }
        let answer = Message::Forwarded {
            term,
            session,
            through,
            refused,
        };
        self.transport.send(from, answer);
    }

    fn receive_chunk(&mut self, from: u64, transfer: u64, number: u64, data: Vec<u8>, last: bool) {
        let mut inbound = match self.inbound.take() {
            Some(inbound) if inbound.is(from, transfer) => inbound,
            other if number > 0 => {
                self.inbound = other;
                // The earlier parts are gone, with the process that had them.
                self.transport.send(from, Message::Received { transfer, next: 0 });
                return;
            }
            _ => Inbound::new(from, transfer),
        };
        match inbound.take(number, data, last) {
            Err(()) => tracing::warn!(from, "a part of a snapshot cannot be understood"),
            Ok(whole) => {
                let next = inbound.next();
                self.transport.send(from, Message::Received { transfer, next });
                self.inbound = Some(inbound);
                if let Some((state, message)) = whole {
                    self.arrive(from, state, &message);
                }
            }
        }
    }

    /// All parts of a snapshot are here: raft decides whether it is news.
    fn arrive(&mut self, from: u64, state: coxswain_store::State, bytes: &[u8]) {
        let mut message = RaftMessage::default();
        let understood = message.merge_from_bytes(bytes).is_ok();
        let is_ours = message.from == from && message.to == self.id;
        if !understood || !is_ours || message.get_msg_type() != MessageType::MsgSnapshot {
            tracing::warn!(from, "a snapshot cannot be understood");
            return;
        }
        self.arrived = Some((message.get_snapshot().get_metadata().index, state));
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(%error, from, "a snapshot of another member is ignored");
        }
    }

    /// Sends raft's messages. In the place of a snapshot goes one of what is applied here, in parts.
    pub(super) fn send(&mut self, messages: Vec<RaftMessage>, now: Duration) {
        for mut message in messages {
            let to = message.to;
            let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
            if is_snapshot {
                message.set_snapshot(self.describe());
            }
            match message.write_to_bytes() {
                Ok(bytes) if is_snapshot => self.begin_transfer(to, bytes, now),
                Ok(bytes) => self.transport.send(to, Message::Raft(bytes)),
                Err(error) => tracing::error!(%error, "a raft message cannot be encoded"),
            }
        }
    }

    fn begin_transfer(&mut self, to: u64, message: Vec<u8>, now: Duration) {
        self.transfers += 1;
        // Sessions differ, so that a transfer is not taken for one before a restart.
        let transfer = self.forwards.session().wrapping_add(self.transfers);
        let outbound = Outbound::new(transfer, self.applied.0, self.state.snapshot(), message, now);
        self.outbound.insert(to, outbound);
    }

    /// Sends what is due to others: parts of snapshots, writes on their way to the leader, refusals.
    pub(super) fn send_due(&mut self, now: Duration) {
        let leads = self.leads();
        let mut ended = Vec::new();
        for (to, outbound) in &mut self.outbound {
            for message in outbound.messages(self.chunk_bytes, now) {
                self.transport.send(*to, message);
            }
            match outbound.progress(now) {
                _ if !leads => ended.push((*to, SnapshotStatus::Failure)),
                Progress::UnderWay => {}
                Progress::Finished => ended.push((*to, SnapshotStatus::Finish)),
                Progress::GivenUp => ended.push((*to, SnapshotStatus::Failure)),
            }
        }
        for (to, status) in ended {
            self.outbound.remove(&to);
            self.raw.report_snapshot(to, status);
        }
        let term = self.raw.raft.term;
        for (to, session, number, refusal) in std::mem::take(&mut self.refused) {
            let message = Message::Forwarded {
                term,
                session,
                through: number,
                refused: vec![(number, refusal)],
            };
            self.transport.send(to, message);
        }
        if let Some(leader) = self.leader().filter(|_| !leads) {
            while let Some(message) = self.forwards.message(term, now) {
                self.transport.send(leader, message);
            }
        }
    }

    /// Raft's clock goes on by one.
    pub fn tick(&mut self) {
        if self.drawn_for != self.situation() {
            self.drawn_for = self.situation();
            // Those next in line come after each other, so that the first wins and nobody waits for long.
            let turn = RANK_TICKS * self.rank() + self.draw(RANK_TICKS);
            self.election_timeout = timeout_of(turn);
        }
        let holds_back = self.holds_back();
        let timeout = match holds_back {
            true => TIMEOUT_MAX,
            false => self.election_timeout,
        };
        self.raw.raft.set_randomized_election_timeout(timeout);
        if self.ticks < self.hurries_until {
            let again = match self.raw.raft.state {
                // Others may miss the leader a little later, and refuse until then.
                StateRole::PreCandidate => timeout.saturating_sub(AGAIN_TICKS),
                // The first in line need not wait for the timeout again.
                StateRole::Candidate if self.is_beaten() => ELECTION_TICKS,
                _ => 0,
            };
            let elapsed = &mut self.raw.raft.election_elapsed;
            *elapsed = (*elapsed).max(again);
        }
        let had_leader = self.leader().is_some();
        if !holds_back || self.raw.raft.election_elapsed + 1 < timeout {
            self.raw.tick();
        }
        if had_leader && self.raw.raft.state == StateRole::PreCandidate {
            self.hurries_until = self.ticks + HURRY_TICKS;
        }
        self.ticks += 1;
        if self.ticks.is_multiple_of(REPEAT_TICKS) {
            self.reads.repeat(&mut self.raw);
        }
        self.leave_joint();
    }

    /// Whether all but the leader that was lost have answered this candidate, and not elected it: somebody else stands as well.
    fn is_beaten(&self) -> bool {
        let (granted, refused, _) = self.raw.raft.prs().tally_votes();
        refused > 0 && granted + refused + 1 >= self.raw.store().members().voters.len()
    }

    /// Whether this member had better not stand for election: its disk would keep it from voting for itself,
    /// raft has not been told yet that a snapshot is applied, or it is the only one with a vote and would win
    /// before what it holds is durable.
    fn holds_back(&self) -> bool {
        let is_only_voter = || self.raw.store().members().voters == [self.id];
        let is_held_up = self.stalled.is_some() || self.installing > 0 || self.has_lost;
        !self.leads() && (is_held_up || (!self.is_written() && is_only_voter()))
    }

    /// Ticks that may pass, the next turn coming after them, without anything to be done meanwhile: no
    /// heartbeat, no election, nothing to repeat.
    pub fn quiet_ticks(&self) -> u32 {
        let raft = &self.raw.raft;
        let is_busy = self.reads.are_waiting()
            || !self.forwards.is_empty()
            || !self.in_flight.is_empty()
            || !self.again.is_empty()
            || !self.outbound.is_empty()
            || !self.is_written()
            || self.log.is_making_room()
            || self.log.idle_for(Duration::MAX).is_some()
            || self.stalled.is_some()
            || self.holds_back()
            || self.is_losing_touch()
            || self.ticks < self.hurries_until
            || self.drawn_for != self.situation()
            || !self.raw.store().members().voters_outgoing.is_empty();
        if is_busy {
            return 0;
        }
        let until = match (raft.state, raft.promotable()) {
            (StateRole::Leader, _) => {
                let heartbeat = HEARTBEAT_TICKS.saturating_sub(raft.heartbeat_elapsed());
                heartbeat.min(ELECTION_TICKS.saturating_sub(raft.election_elapsed))
            }
            (_, true) => self.election_timeout.saturating_sub(raft.election_elapsed),
            (_, false) => ELECTION_TICKS,
        };
        u32::try_from(until.saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// Raft leaves joint consensus by itself, unless its leader changes in the middle.
    fn leave_joint(&mut self) {
        let is_joint = !self.raw.store().members().voters_outgoing.is_empty();
        if is_joint && self.leads() && self.raw.raft.pending_conf_index <= self.applied.0 {
            let left = self.raw.propose_conf_change(Vec::new(), ConfChangeV2::default());
            if let Err(error) = left {
                tracing::debug!(%error, "joint consensus is left later");
            }
        }
    }

    /// The next number of this member's own seeded sequence, below a limit.
    fn draw(&mut self, limit: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)) % limit as u64) as usize
    }

    /// The process of a member is known to have ended: if it led, those left don't wait for long.
    pub fn gone(&mut self, id: u64) {
        if self.leads() || self.leader() != Some(id) {
            return;
        }
        self.drawn_for = self.situation();
        self.election_timeout = timeout_of(RANK_TICKS * self.rank());
        self.raw.raft.election_elapsed = ELECTION_TICKS;
        self.hurries_until = self.ticks + HURRY_TICKS;
    }

    /// What an election timeout is drawn for: term, role and leader.
    fn situation(&self) -> (u64, StateRole, u64) {
        let raft = &self.raw.raft;
        (raft.term, raft.state, raft.leader_id)
    }

    /// How many voters are before this one in the line of those who may follow the leader.
    fn rank(&self) -> usize {
        let leader = self.raw.raft.leader_id;
        let voters = self.raw.store().members().voters.iter();
        voters.filter(|voter| **voter != leader && **voter < self.id).count()
    }

    /// Proposes a change of membership. Whether it came about is seen in [`Member::cluster`].
    pub fn change(&mut self, change: Change) {
        let single = |kind: ConfChangeType, id: u64| {
            let mut single = ConfChangeSingle::default();
            single.set_change_type(kind);
            single.node_id = id;
            single
        };
        let changes = match change {
            Change::Lead(id) => return self.raw.transfer_leader(id),
            Change::Learn(id) => vec![single(ConfChangeType::AddLearnerNode, id)],
            Change::Promote(id) => vec![single(ConfChangeType::AddNode, id)],
            Change::Remove(id) => vec![single(ConfChangeType::RemoveNode, id)],
            Change::Replace { old, new } => vec![
                single(ConfChangeType::RemoveNode, old),
                single(ConfChangeType::AddNode, new),
            ],
        };
        let mut proposal = ConfChangeV2::default();
        proposal.set_changes(changes.into());
        if let Err(error) = self.raw.propose_conf_change(Vec::new(), proposal) {
            tracing::debug!(%error, "a change of membership is not proposed");
        }
    }

    /// Whether this member leads.
    pub fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Raft's term.
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// The leader's raft id, when one is known.
    pub fn leader(&self) -> Option<u64> {
        Some(self.raw.raft.leader_id).filter(|id| *id != 0)
    }

    /// Whether this member is the only one.
    pub fn is_alone(&self) -> bool {
        let members = self.raw.store().members();
        members.voters == [self.id] && members.voters_outgoing.is_empty() && members.learners.is_empty()
    }

    /// Who belongs to the cluster.
    pub fn cluster(&self) -> Cluster {
        let members = self.raw.store().members();
        let sorted = |ids: &[u64], more: &[u64]| {
            let mut ids = [ids, more].concat();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        Cluster {
            me: self.id,
            leader: self.leader(),
            voters: sorted(&members.voters, &members.voters_outgoing),
            learners: sorted(&members.learners, &members.learners_next),
        }
    }

    /// A number that differs when [`Member::cluster`] does: how often the members changed, and who leads.
    pub fn place(&self) -> (u64, u64) {
        (self.raw.store().membership(), self.raw.raft.leader_id)
    }

    /// Whether this member was one and is one no longer.
    pub fn is_removed(&self) -> bool {
        let members = self.raw.store().members();
        let lists = [
            &members.voters,
            &members.voters_outgoing,
            &members.learners,
            &members.learners_next,
        ];
        let voters = members.voters.len() + members.voters_outgoing.len();
        voters > 0 && lists.iter().all(|ids| !ids.contains(&self.id))
    }

    /// How this member stands.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let progress = match self.leads() {
            false => BTreeMap::new(),
            true => raft
                .prs()
                .iter()
                .map(|(id, progress)| (*id, (progress.matched, progress.recent_active || *id == self.id)))
                .collect(),
        };
        Status {
            cluster: self.cluster(),
            term: raft.term,
            commit: raft.raft_log.committed,
            applied: self.applied.0,
            progress,
        }
    }

    /// Tells proposers whose time is up what is known of their writes.
    pub(super) fn expire(&mut self, now: Duration, turn: &mut Turn) {
        for proposal in self.forwards.expired(now) {
            self.refuse(proposal, ProposeError::Unknown, turn);
        }
        for batch in &mut self.in_flight {
            let is_late =
                |(_, origin, deadline): &(_, Origin, Duration)| *deadline <= now && matches!(origin, Origin::Local(_));
            for item in batch.items.iter_mut().filter(|item| is_late(item)) {
                // The write itself goes on.
                if let Origin::Local(answer) = std::mem::replace(&mut item.1, Origin::Nobody) {
                    turn.answers.push((answer, Err(ProposeError::Unknown)));
                }
            }
        }
    }
}

/// The election timeout of a member that lets others go first for so many ticks.
fn timeout_of(turn: usize) -> usize {
    (ELECTION_TICKS + 1 + turn).min(TIMEOUT_MAX)
}
