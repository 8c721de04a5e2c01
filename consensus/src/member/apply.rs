//! What becomes of committed entries: writes to the state machine, changes of membership, snapshots.

use std::sync::Arc;

use coxswain_store::codec::{decode_txn, put_number, take_number};
use coxswain_store::{Event, State, Txn};
use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeV2, Entry, EntryType, Snapshot as RaftSnapshot};

use super::{Batch, Member, Origin, Turn};
use crate::checkpoint::Meta;
use crate::inbox::Proposal;
use crate::message::Refusal;
use crate::wal::Install;
use crate::{OpenError, ProposeError};

/// Encoding of an entry's transactions that tells who they came from.
const BATCH_VERSION: u8 = 2;
/// The first encoding: each transaction came from the leader itself.
const BATCH_WITHOUT_ORIGIN: u8 = 1;

/// Where a transaction of an entry came from: member, session and number; 0 for the leader itself.
type Source = (u64, u64, u64);

/// Encodes proposals as the data of an entry.
pub(super) fn encode_batch(batch: &[Proposal]) -> Vec<u8> {
    let mut data = Vec::with_capacity(size_of(batch));
    data.push(BATCH_VERSION);
    put_number(&mut data, batch.len() as u64);
    for proposal in batch {
        match proposal.origin {
            Origin::Local(_) | Origin::Nobody => put_number(&mut data, 0),
            Origin::Member {
                id, session, number, ..
            } => {
                for part in [id, session, number] {
                    put_number(&mut data, part);
                }
            }
        }
        put_number(&mut data, proposal.encoded.len() as u64);
        data.extend_from_slice(&proposal.encoded);
    }
    data
}

/// Upper bound of the size of proposals as the data of an entry, in bytes.
pub(super) fn size_of(batch: &[Proposal]) -> usize {
    let each = |proposal: &Proposal| proposal.encoded.len() + 40;
    batch.iter().map(each).sum::<usize>() + 16
}

/// Hands the transactions in an entry's data to `each`.
pub(crate) fn decode_batch(entry: &Entry, mut each: impl FnMut(Source, Txn)) -> Result<(), OpenError> {
    let failed = |detail: String| OpenError::Raft(format!("entry {} cannot be applied: {detail}", entry.index));
    let Some((&version, mut rest)) = entry.data.split_first() else {
        // A new leader's first entry is empty.
        return Ok(());
    };
    if !(BATCH_WITHOUT_ORIGIN..=BATCH_VERSION).contains(&version) {
        return Err(failed(format!(
            "it was written by a newer version (batch {version}, known is {BATCH_VERSION})"
        )));
    }
    let malformed = || failed("it is not a valid batch".into());
    let count = take_number(&mut rest).ok_or_else(malformed)?;
    for _ in 0..count {
        let source = match version {
            BATCH_WITHOUT_ORIGIN => (0, 0, 0),
            _ => take_source(&mut rest).ok_or_else(malformed)?,
        };
        let length = take_number(&mut rest).and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length <= rest.len());
        let (encoded, after) = rest.split_at(length.ok_or_else(malformed)?);
        rest = after;
        each(source, decode_txn(encoded).map_err(|error| failed(error.to_string()))?);
    }
    Ok(())
}

fn take_source(rest: &mut &[u8]) -> Option<Source> {
    match take_number(rest)? {
        0 => Some((0, 0, 0)),
        id => Some((id, take_number(rest)?, take_number(rest)?)),
    }
}

/// Applies the transactions in an entry's data.
pub(crate) fn apply_data(state: &mut State, entry: &Entry, events: &mut Vec<Arc<Event>>) -> Result<(), OpenError> {
    decode_batch(entry, |_, txn| events.append(&mut state.apply(txn).1))
}

impl Member {
    pub(super) fn apply(&mut self, entries: Vec<Entry>, turn: &mut Turn) -> Result<(), OpenError> {
        for entry in entries {
            self.since_checkpoint += entry.data.len() as u64 + 64;
            if entry.term > self.applied.1 {
                self.settle_before(entry.term);
            }
            match entry.get_entry_type() {
                EntryType::EntryNormal => self.apply_normal(&entry, turn)?,
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => self.apply_membership(&entry)?,
            }
            self.applied = (entry.index, entry.term);
        }
        Ok(())
    }

    /// The first entry of a term is there: writes of earlier terms that have not come back never will,
    /// and are tried again.
    fn settle_before(&mut self, term: u64) {
        while let Some(batch) = self.in_flight.pop_front_if(|batch| batch.term < term) {
            for (txn, origin, deadline) in batch.items {
                // Another member tries again by itself.
                if matches!(origin, Origin::Local(_)) {
                    self.again.push(Proposal::new(txn, origin, deadline));
                }
            }
        }
        self.again.extend(self.forwards.before(term));
    }

    /// Applies an entry's transactions: those kept with their answers when they were proposed here,
    /// those decoded from the entry otherwise.
    fn apply_normal(&mut self, entry: &Entry, turn: &mut Turn) -> Result<(), OpenError> {
        let place = (entry.index, entry.term);
        let is_this = |batch: &mut Batch| (batch.index, batch.term) == place;
        if let Some(batch) = self.in_flight.pop_front_if(is_this) {
            for (txn, origin, _) in batch.items {
                let (outcome, mut events) = self.state.apply(txn);
                turn.events.append(&mut events);
                if let Origin::Local(answer) = origin {
                    turn.answers.push((answer, Ok(outcome)));
                }
            }
            return Ok(());
        }
        let (state, forwards, me) = (&mut self.state, &mut self.forwards, self.id);
        decode_batch(entry, |(id, session, number), txn| {
            let (outcome, mut events) = state.apply(txn);
            turn.events.append(&mut events);
            if (id, session) == (me, forwards.session())
                && let Some(proposal) = forwards.take(entry.term, number)
                && let Origin::Local(answer) = proposal.origin
            {
                turn.answers.push((answer, Ok(outcome)));
            }
        })
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
        self.has_changed = true;
        if self.leads() && self.is_removed() {
            // Raft does not expect a leader that is no member.
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
        }
        Ok(())
    }

    /// Puts a snapshot that raft has accepted in the place of log and state, and has that made durable. The
    /// others hold it already, so that it may be seen before.
    pub(super) fn install(&mut self, snapshot: &RaftSnapshot, turn: &mut Turn) -> Result<(), OpenError> {
        let about = snapshot.get_metadata();
        let arrived = self.arrived.take().filter(|(index, _)| *index == about.index);
        let (_, state) = arrived.ok_or_else(|| OpenError::Raft("a snapshot came without its objects".into()))?;
        let mut hard = self.raw.store().hard().clone();
        hard.commit = about.index;
        let meta = Meta {
            index: about.index,
            term: about.term,
            members: about.get_conf_state().clone(),
            hard: hard.clone(),
            revision: state.revision(),
            installed: true,
        };
        let store = self.raw.mut_store();
        store.begin_at(meta.index, meta.term);
        store.set_hard(hard);
        store.set_members(meta.members.clone());
        self.state = state;
        self.applied = (meta.index, meta.term);
        self.since_checkpoint = 0;
        self.installing += 1;
        let snapshot = self.state.snapshot();
        turn.events.clear();
        turn.reset = Some(snapshot.clone());
        self.log.install(Install { meta, snapshot });
        self.lose_track(turn);
        Ok(())
    }

    /// What was under way may or may not be part of a snapshot.
    fn lose_track(&mut self, turn: &mut Turn) {
        for batch in self.in_flight.drain(..) {
            for (_, origin, _) in batch.items {
                if let Origin::Local(answer) = origin {
                    turn.answers.push((answer, Err(ProposeError::Unknown)));
                }
            }
        }
        for proposal in self.forwards.before(u64::MAX) {
            if let Origin::Local(answer) = proposal.origin {
                turn.answers.push((answer, Err(ProposeError::Unknown)));
            }
        }
    }

    /// Raft's snapshot of what is applied here: its message is sent with the state.
    pub(super) fn describe(&self) -> RaftSnapshot {
        let mut snapshot = RaftSnapshot::default();
        let about = snapshot.mut_metadata();
        about.index = self.applied.0;
        about.term = self.applied.1;
        about.set_conf_state(self.raw.store().members().clone());
        snapshot
    }

    /// Where an outcome goes: to the caller, or if it is a refusal to the member that forwarded the write.
    pub(super) fn refuse(&mut self, proposal: Proposal, error: ProposeError, turn: &mut Turn) {
        match proposal.origin {
            Origin::Local(answer) => turn.answers.push((answer, Err(error))),
            Origin::Member {
                id, session, number, ..
            } => {
                let refusal = match error {
                    ProposeError::NoSpace { .. } => Refusal::NoSpace,
                    _ => Refusal::Overloaded,
                };
                self.refused.push((id, session, number, refusal));
            }
            Origin::Nobody => {}
        }
    }
}
