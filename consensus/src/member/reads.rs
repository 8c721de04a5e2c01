//! Reads that wait for a majority to confirm that nothing newer is committed.
//!
//! Each request to raft has a number and confirms the reads that were there when it was made, not later
//! ones. A follower's request goes to the leader, which answers only when it has committed an entry of
//! its own term.

use std::collections::VecDeque;
use std::time::Duration;

use raft::{RawNode, ReadState};

use super::{BarrierAnswer, Turn};
use crate::ProposeError;
use crate::raft_log::RaftLog;

pub(crate) struct Reads {
    /// Tells this member's requests, since it started, from all others.
    mark: [u8; 16],
    /// Number of the newest request.
    asked: u64,
    waiting: VecDeque<Waiting>,
    /// Confirmed requests, and the index that must be applied before they are answered.
    confirmed: VecDeque<(u64, u64)>,
}

struct Waiting {
    number: u64,
    answer: BarrierAnswer,
    deadline: Duration,
}

impl Reads {
    pub fn new(id: u64, session: u64) -> Reads {
        let mut mark = [0; 16];
        mark[..8].copy_from_slice(&id.to_le_bytes());
        mark[8..].copy_from_slice(&session.to_le_bytes());
        Reads {
            mark,
            asked: 0,
            waiting: VecDeque::new(),
            confirmed: VecDeque::new(),
        }
    }

    /// Makes a request for new reads.
    pub fn ask(&mut self, raw: &mut RawNode<RaftLog>, answers: Vec<BarrierAnswer>, deadline: Duration) {
        if answers.is_empty() {
            return;
        }
        self.asked += 1;
        let number = self.asked;
        let numbered = answers.into_iter().map(|answer| Waiting {
            number,
            answer,
            deadline,
        });
        self.waiting.extend(numbered);
        self.request(raw);
    }

    /// Whether reads wait to be confirmed.
    pub fn are_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Repeats the newest request: it may have been lost, or have come too early in the leader's term.
    pub fn repeat(&mut self, raw: &mut RawNode<RaftLog>) {
        if !self.waiting.is_empty() {
            self.request(raw);
        }
    }

    fn request(&self, raw: &mut RawNode<RaftLog>) {
        let mut context = self.asked.to_le_bytes().to_vec();
        context.extend_from_slice(&self.mark);
        raw.read_index(context);
    }

    /// Takes in what raft has confirmed.
    pub fn confirm(&mut self, states: Vec<ReadState>) {
        for state in states {
            let Some((number, mark)) = state.request_ctx.split_first_chunk::<8>() else {
                continue;
            };
            if mark == self.mark {
                self.confirmed.push_back((u64::from_le_bytes(*number), state.index));
            }
        }
    }

    /// Answers the reads that are confirmed and whose state is applied, and those whose time is up.
    pub fn answer(&mut self, applied: u64, now: Duration, turn: &mut Turn) {
        while let Some((number, _)) = self.confirmed.pop_front_if(|(_, index)| *index <= applied) {
            while let Some(read) = self.waiting.pop_front_if(|read| read.number <= number) {
                turn.barriers.push((read.answer, Ok(())));
            }
        }
        while let Some(read) = self.waiting.pop_front_if(|read| read.deadline <= now) {
            turn.barriers.push((read.answer, Err(ProposeError::NoLeader)));
        }
    }

    /// Answers all reads that nobody has confirmed.
    pub fn give_up(&mut self, turn: &mut Turn) {
        let refused = self.waiting.drain(..);
        turn.barriers
            .extend(refused.map(|read| (read.answer, Err(ProposeError::NoLeader))));
    }
}
