//! Whether a majority is within reach.
//!
//! A leader that nobody answers any more, and a member that hears of no leader, can't do what their clients wait for,
//! while the others may go on without them. They say so at once, so that a client with several addresses is elsewhere in
//! about the time that the others need to elect a leader. A member that hears enough others to have a leader soon
//! waits for it, and so does one that has not known a leader since it started.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::{HEARTBEAT_TICKS, Member, Origin, Turn};
use crate::ProposeError;
use crate::inbox::Proposal;

/// Ticks without a word of a majority after which a leader is one no longer. The others miss it no sooner.
const LEADS_FOR: u64 = 30;
/// Ticks without a word of a leader or of a majority after which another member takes itself for cut off.
const WAITS_FOR: u64 = 50;

/// Who was heard of.
#[derive(Default)]
pub(super) struct Reach {
    /// Tick of the last message of each member.
    heard: BTreeMap<u64, u64>,
    /// Whether there has been a leader since this member started.
    had_leader: bool,
    /// Whether clients are sent away.
    is_cut_off: bool,
}

impl Reach {
    /// A message of a member has come in.
    pub fn hear(&mut self, from: u64, tick: u64) {
        self.heard.insert(from, tick);
    }

    fn heard_within(&self, id: u64, ticks: u64, now: u64) -> bool {
        self.heard.get(&id).is_some_and(|at| now - at < ticks)
    }
}

impl Member {
    /// Steps down, and sends clients away, when it is time for that.
    pub(super) fn mind_the_others(&mut self, pending: &mut VecDeque<Proposal>, turn: &mut Turn) {
        if self.leads() && !self.hears_majority(LEADS_FOR) {
            tracing::warn!("no majority of the members answers: this member leads no longer");
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
            self.reach.is_cut_off = true;
        }
        let now = self.ticks;
        let leader = self.leader();
        self.reach.had_leader |= leader.is_some();
        let is_led = self.leads() || leader.is_some_and(|id| self.reach.heard_within(id, WAITS_FOR, now));
        if is_led {
            self.reach.is_cut_off = false;
        } else if self.reach.had_leader && !self.hears_majority(WAITS_FOR) {
            self.reach.is_cut_off = true;
        }
        if self.reach.is_cut_off {
            self.send_away(pending, turn);
        }
    }

    /// Whether that may change with the next ticks.
    pub(super) fn is_losing_touch(&self) -> bool {
        match self.leads() {
            true => !self.hears_majority(2 * HEARTBEAT_TICKS as u64),
            false => self.leader().is_none() && self.reach.had_leader && !self.reach.is_cut_off,
        }
    }

    fn hears_majority(&self, ticks: u64) -> bool {
        let heard = |id: &u64| self.reach.heard_within(*id, ticks, self.ticks);
        let heard = self.reach.heard.keys().copied().filter(heard);
        let heard = heard.chain([self.id]).collect();
        self.raw.raft.prs().has_quorum(&heard)
    }

    /// Answers all who wait: what has left this member may still be done, the rest will not be.
    fn send_away(&mut self, pending: &mut VecDeque<Proposal>, turn: &mut Turn) {
        for proposal in pending.drain(..) {
            self.refuse(proposal, ProposeError::NoLeader, turn);
        }
        for proposal in self.forwards.expired(Duration::MAX) {
            self.refuse(proposal, ProposeError::Unknown, turn);
        }
        for (_, origin, _) in self.in_flight.iter_mut().flat_map(|batch| &mut batch.items) {
            if matches!(origin, Origin::Local(_))
                && let Origin::Local(answer) = std::mem::replace(origin, Origin::Nobody)
            {
                turn.answers.push((answer, Err(ProposeError::Unknown)));
            }
        }
        self.reads.give_up(turn);
    }
}
