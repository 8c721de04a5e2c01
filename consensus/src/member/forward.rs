//! Writes on their way from a follower to the leader, each of them done at most once.
//!
//! A follower numbers its writes within a term and sends them to that term's leader, again and again
//! until it hears that they came in. The leader takes each number once, in order, and only in the term
//! that the follower meant. The write then comes back to the follower as an entry of the log, and that
//! is its answer. Entries are ordered by term: once a later term's entry has been applied, a write of an
//! earlier term that has not come back never will, and can be forwarded again without being done twice.

use std::collections::BTreeMap;
use std::time::Duration;

use coxswain_store::codec;

use crate::ProposeError;
use crate::inbox::{Answer, Proposal};
use crate::message::{Message, Refusal};

/// Most writes, and most bytes, that are under way at a time.
const MOST: usize = 4096;
const MOST_BYTES: usize = 32 << 20;
/// A message is closed at this many bytes.
const MESSAGE_BYTES: usize = 1 << 20;
/// How long to wait for a sign of the leader before writes are sent again.
const REPEAT_AFTER: Duration = Duration::from_millis(200);
/// Most sessions of one member that a leader remembers in a term.
const MOST_SESSIONS: usize = 64;

/// A follower's writes.
pub(crate) struct Forwards {
    session: u64,
    /// Term and number of the newest write.
    newest: (u64, u64),
    /// The leader has everything up to this number of the newest term.
    through: u64,
    /// What was sent last, and when.
    sent: (u64, Duration),
    under_way: BTreeMap<(u64, u64), Proposal>,
    bytes: usize,
}

impl Forwards {
    pub fn new(session: u64) -> Forwards {
        Forwards {
            session,
            newest: (0, 0),
            through: 0,
            sent: (0, Duration::ZERO),
            under_way: BTreeMap::new(),
            bytes: 0,
        }
    }

    pub fn session(&self) -> u64 {
        self.session
    }

    pub fn is_full(&self) -> bool {
        self.under_way.len() >= MOST || self.bytes >= MOST_BYTES
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Gives a write its number in a term.
    pub fn add(&mut self, term: u64, proposal: Proposal) {
        if self.newest.0 != term {
            self.newest = (term, 0);
            self.through = 0;
            self.sent.0 = 0;
        }
        self.newest.1 += 1;
        self.bytes += proposal.encoded.len();
        self.under_way.insert(self.newest, proposal);
    }

    /// What to send to the leader of a term now, if anything.
    pub fn message(&mut self, term: u64, now: Duration) -> Option<Message> {
        if self.newest.0 != term || self.newest.1 == self.through {
            return None;
        }
        let overdue = now >= self.sent.1 + REPEAT_AFTER;
        let after = if overdue { self.through } else { self.sent.0 };
        if after >= self.newest.1 {
            return None;
        }
        let mut txns: Vec<Vec<u8>> = Vec::new();
        let mut first = 0;
        let mut bytes = 0;
        for (&(_, number), proposal) in self.under_way.range((term, after + 1)..=self.newest) {
            // Numbers go on without a gap: what was refused has been received.
            bytes += proposal.encoded.len();
            if !txns.is_empty() && (bytes > MESSAGE_BYTES || number != first + txns.len() as u64) {
                break;
            }
            if txns.is_empty() {
                first = number;
            }
            txns.push(proposal.encoded.clone());
        }
        if txns.is_empty() {
            return None;
        }
        self.sent = (first + txns.len() as u64 - 1, now);
        let oldest = self.under_way.range((term, 0)..).next();
        Some(Message::Forward {
            term,
            session: self.session,
            oldest: oldest.map_or(first, |(&(_, number), _)| number),
            first,
            txns,
        })
    }

    /// Takes in the leader's answer, and returns the writes that will not be done.
    pub fn forwarded(
        &mut self,
        leader: u64,
        term: u64,
        session: u64,
        through: u64,
        refused: Vec<(u64, Refusal)>,
    ) -> Vec<(Proposal, ProposeError)> {
        if (term, session) != (self.newest.0, self.session) {
            return Vec::new();
        }
        self.through = self.through.max(through.min(self.newest.1));
        self.sent.0 = self.sent.0.max(self.through);
        let taken = refused.into_iter().filter_map(|(number, refusal)| {
            let error = match refusal {
                Refusal::NoSpace => ProposeError::NoSpace {
                    place: format!("member {leader}, which leads").into(),
                },
                Refusal::Overloaded | Refusal::Malformed => ProposeError::Overloaded,
            };
            Some((self.take(term, number)?, error))
        });
        taken.collect()
    }

    /// Takes out the write that an entry of a term turns out to be.
    pub fn take(&mut self, term: u64, number: u64) -> Option<Proposal> {
        let proposal = self.under_way.remove(&(term, number))?;
        self.bytes -= proposal.encoded.len();
        Some(proposal)
    }

    /// Takes out the writes of terms before this one: they were not done.
    pub fn before(&mut self, term: u64) -> Vec<Proposal> {
        let later = self.under_way.split_off(&(term, 0));
        let earlier = std::mem::replace(&mut self.under_way, later);
        self.bytes -= earlier.values().map(|proposal| proposal.encoded.len()).sum::<usize>();
        earlier.into_values().collect()
    }

    /// Takes out the writes whose time is up, or all: what became of them is not known.
    pub fn expired(&mut self, now: Duration) -> Vec<Proposal> {
        let is_late = |proposal: &Proposal| proposal.deadline <= now;
        if !self.under_way.values().any(is_late) {
            return Vec::new();
        }
        let late: Vec<(u64, u64)> = self
            .under_way
            .iter()
            .filter(|(_, proposal)| is_late(proposal))
            .map(|(place, _)| *place)
            .collect();
        let taken = late.into_iter().filter_map(|(term, number)| self.take(term, number));
        taken.collect()
    }
}

/// What a leader has received from followers in its term.
#[derive(Default)]
pub(crate) struct Intake {
    term: u64,
    /// For each member its sessions, newest last, and the last number received in each.
    sessions: BTreeMap<u64, Vec<(u64, u64)>>,
}

/// What a [`Message::Forward`] says besides its term.
pub(crate) struct Writes {
    pub session: u64,
    pub oldest: u64,
    pub first: u64,
    pub txns: Vec<Vec<u8>>,
}

/// A write taken in from a member, or why it was not.
pub(crate) type Taken = (u64, Result<Proposal, Refusal>);

impl Intake {
    /// Takes in writes of a member that are new, in the term in which this member leads. Returns them
    /// by number, and the last number received.
    pub fn take(&mut self, term: u64, from: u64, writes: Writes) -> (Vec<Taken>, u64) {
        let Writes {
            session,
            oldest,
            first,
            txns,
        } = writes;
        if self.term != term {
            self.term = term;
            self.sessions.clear();
        }
        let sessions = self.sessions.entry(from).or_default();
        let at = sessions.iter().position(|(known, _)| *known == session);
        let at = at.unwrap_or_else(|| {
            if sessions.len() >= MOST_SESSIONS {
                sessions.remove(0);
            }
            sessions.push((session, 0));
            sessions.len() - 1
        });
        let last = &mut sessions[at].1;
        // What the sender has given up will not come any more.
        *last = (*last).max(oldest.saturating_sub(1));
        let mut taken = Vec::new();
        for (number, encoded) in (first..).zip(txns) {
            if number != *last + 1 {
                continue;
            }
            *last = number;
            let origin = Origin::Member {
                id: from,
                session,
                number,
                term,
            };
            let proposal = codec::decode_txn(&encoded).map(|txn| Proposal {
                txn,
                encoded,
                origin,
                deadline: Duration::MAX,
            });
            taken.push((number, proposal.map_err(|_| Refusal::Malformed)));
        }
        (taken, *last)
    }
}

/// Who wants to know what became of a write.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A caller in this process.
    Local(Answer),
    /// Another member, which knows its write again when it comes as an entry.
    Member {
        /// That member.
        id: u64,
        /// Its session.
        session: u64,
        /// Number of the write in that session and term.
        number: u64,
        /// Term for which it was meant.
        term: u64,
    },
    /// A caller who has been told already that it takes too long.
    Nobody,
}
