//! Reads that wait for a majority to confirm that nothing newer is committed.
//!
//! Each request to raft has a number and confirms the reads that were there when it was made, not later
//! ones. A follower's request goes to the leader, which answers only when it has committed an entry of
//! its own term.
//!
//! Raft takes the others' answers to a request for answers to all that the leader took in before it. So a leader takes in no
//! request twice: one that is repeated, or comes twice, is another. Else a late answer to the first would confirm what was asked
//! in between, perhaps after somebody else had begun to lead.

use std::collections::VecDeque;
use std::time::Duration;

use raft::eraftpb::Message as RaftMessage;
use raft::{RawNode, ReadState};

use super::{BarrierAnswer, Turn};
use crate::ProposeError;
use crate::raft_log::RaftLog;

pub(crate) struct Reads {
    /// Tells this member's requests, since it started, from all others.
    mark: [u8; 16],
    /// Number of the newest request.
    asked: u64,
    /// How many requests have been given to raft, those of others and repetitions among them.
    given: u64,
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
            given: 0,
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

    fn request(&mut self, raw: &mut RawNode<RaftLog>) {
        let mut context = self.asked.to_le_bytes().to_vec();
        context.extend_from_slice(&self.mark);
        context.extend_from_slice(&self.next());
        raw.read_index(context);
    }

    /// Makes a request of another member, which this leader takes in, differ from all others.
    pub fn tell_apart(&mut self, request: &mut RaftMessage) {
        for entry in request.mut_entries().iter_mut() {
            let context = [&*entry.data, &self.next()].concat();
            entry.set_data(context.into());
        }
    }

    fn next(&mut self) -> [u8; 8] {
        self.given += 1;
        self.given.to_le_bytes()
    }

    /// Takes in what raft has confirmed.
    pub fn confirm(&mut self, states: Vec<ReadState>) {
        for state in states {
            let Some((number, rest)) = state.request_ctx.split_first_chunk::<8>() else {
                continue;
            };
            if rest.starts_with(&self.mark) {
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
