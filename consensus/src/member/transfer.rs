//! Snapshots on their way to a member that lags further than the log reaches.
//!
//! The sender holds a structure-sharing snapshot and a place in it; parts are encoded when they are
//! sent, a few ahead of what the receiver has. The receiver puts the state together in memory and hands
//! it to raft with the last part. A broken connection costs the parts under way, not the transfer. When
//! either side's process ends, the next transfer starts over, at once: a receiver says so when it has none of the parts
//! before, and a snapshot is that of one sender at one index.

use std::collections::VecDeque;
use std::time::Duration;

use coxswain_store::codec::{decode_objects, encode_object, put_number, take_number};
use coxswain_store::{Key, Snapshot, State};

use crate::message::Message;

/// Parts that may be under way.
const WINDOW: usize = 4;
/// How long to wait before the parts under way are sent again.
const REPEAT_AFTER: Duration = Duration::from_millis(500);
/// How long nothing may come back before the transfer is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// A snapshot being sent.
pub(crate) struct Outbound {
    pub transfer: u64,
    /// Index of the last entry it contains.
    pub index: u64,
    snapshot: Snapshot,
    /// Raft's message, which is the last part.
    message: Vec<u8>,
    /// The last object sent.
    place: Option<Key>,
    is_done: bool,
    /// Parts under way; the first has the number `acknowledged`.
    under_way: VecDeque<(Vec<u8>, bool)>,
    acknowledged: u64,
    sent: Duration,
    heard: Duration,
    /// The receiver has lost what it had acknowledged.
    is_lost: bool,
}

/// How a transfer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    UnderWay,
    Finished,
    GivenUp,
}

impl Outbound {
    pub fn new(transfer: u64, index: u64, snapshot: Snapshot, message: Vec<u8>, now: Duration) -> Outbound {
        Outbound {
            transfer,
            index,
            snapshot,
            message,
            place: None,
            is_done: false,
            under_way: VecDeque::new(),
            acknowledged: 0,
            sent: now,
            heard: now,
            is_lost: false,
        }
    }

    /// Takes in how far the receiver is.
    pub fn received(&mut self, next: u64, now: Duration) {
        self.is_lost |= next == 0 && self.acknowledged > 0;
        let known = next.saturating_sub(self.acknowledged).min(self.under_way.len() as u64);
        if known > 0 {
            self.under_way.drain(..known as usize);
            self.acknowledged += known;
            self.heard = now;
        }
    }

    pub fn progress(&self, now: Duration) -> Progress {
        match (
            self.is_done && self.under_way.is_empty(),
            self.is_lost || now >= self.heard + GIVE_UP_AFTER,
        ) {
            (true, _) => Progress::Finished,
            (_, true) => Progress::GivenUp,
            _ => Progress::UnderWay,
        }
    }

    /// The parts to send now.
    pub fn messages(&mut self, chunk_bytes: usize, now: Duration) -> Vec<Message> {
        let mut first_new = self.under_way.len();
        while !self.is_done && self.under_way.len() < WINDOW {
            let part = self.next_part(chunk_bytes);
            self.under_way.push_back(part);
        }
        if now >= self.sent + REPEAT_AFTER {
            first_new = 0;
        }
        if first_new < self.under_way.len() {
            self.sent = now;
        }
        let parts = self.under_way.iter().enumerate().skip(first_new);
        parts
            .map(|(at, (data, last))| Message::Chunk {
                transfer: self.transfer,
                number: self.acknowledged + at as u64,
                data: data.clone(),
                last: *last,
            })
            .collect()
    }

    fn next_part(&mut self, chunk_bytes: usize) -> (Vec<u8>, bool) {
        let mut data = Vec::new();
        if self.acknowledged == 0 && self.under_way.is_empty() {
            put_number(&mut data, self.snapshot.revision());
            return (data, false);
        }
        let mut last = None;
        for object in self.snapshot.all_after(self.place.as_ref()) {
            encode_object(object, &mut data);
            last = Some(&object.key);
            if data.len() >= chunk_bytes {
                break;
            }
        }
        match last.cloned() {
            Some(key) => {
                self.place = Some(key);
                (data, false)
            }
            None => {
                self.is_done = true;
                (std::mem::take(&mut self.message), true)
            }
        }
    }
}

/// A snapshot being received.
pub(crate) struct Inbound {
    from: u64,
    transfer: u64,
    next: u64,
    state: Option<State>,
}

impl Inbound {
    pub fn new(from: u64, transfer: u64) -> Inbound {
        Inbound {
            from,
            transfer,
            next: 0,
            state: None,
        }
    }

    pub fn is(&self, from: u64, transfer: u64) -> bool {
        (self.from, self.transfer) == (from, transfer)
    }

    /// Number of the part wanted next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes in a part if it is the one wanted. With the last one comes the whole: the state, and
    /// raft's message. A part that cannot be understood is an error, and the transfer is useless.
    pub fn take(&mut self, number: u64, data: Vec<u8>, last: bool) -> Result<Option<(State, Vec<u8>)>, ()> {
        if number != self.next {
            return Ok(None);
        }
        self.next += 1;
        match &mut self.state {
            None => {
                let revision = take_number(&mut data.as_slice()).ok_or(())?;
                self.state = Some(State::restore(revision, []));
                Ok(None)
            }
            Some(_) if last => Ok(self.state.take().map(|state| (state, data))),
            Some(state) => {
                let restored = decode_objects(&data, |object| state.restore_object(object));
                restored.map(|()| None).map_err(drop)
            }
        }
    }
}
