//! The side of the log that never waits: what is under way to the disk, and what there is room for.
//!
//! Room is known from the writer's last report, less what was submitted since: records of which several
//! become one only get smaller, so what is claimed has its place.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use raft::eraftpb::{Entry, HardState};

use super::sectors::record_size;
use super::segments::Segments;
use super::writer::{Act, Install, Report, Write, Writer, Written};
use super::{Need, SLACK, Wal, append_size};
use crate::OpenError;

/// How long a full disk is believed to be full before it is tried again.
const FULL_FOR: Duration = Duration::from_secs(1);

/// How long the log is idle before it is made durable how far it is durable. Long enough not to be in the way of
/// clients that write one thing after another.
const MARK_AFTER: Duration = Duration::from_millis(50);

/// The answer to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// There is room, and it is kept for the next append.
    Granted,
    /// Room is being made: ask again after the next report.
    Later,
    /// The disk is full.
    Full,
}

pub(crate) struct Log {
    segments: Arc<Segments>,
    /// Of a member that waits for its disk itself.
    writer: Option<Writer>,
    /// What is to be handed to the writer next.
    queue: Vec<Write>,
    /// Number of the last write.
    last: u64,
    /// Writes not reported yet, and the bytes they need at most.
    under_way: VecDeque<(u64, u64)>,
    /// Bytes that the current segment has beyond what is under way.
    free: u64,
    /// Bytes claimed and not appended yet.
    claimed: u64,
    on_reserve: bool,
    making_room: bool,
    /// When the last records were written, if the mark does not cover them.
    unmarked_since: Option<Duration>,
    /// Until when the disk is believed to be too full for ordinary and for vital writes.
    full_until: [Option<Duration>; 2],
}

impl Log {
    pub fn new(wal: Wal) -> Log {
        let writer = Writer::new(wal);
        let report = writer.report();
        Log {
            segments: writer.segments(),
            writer: Some(writer),
            queue: Vec::new(),
            last: 0,
            under_way: VecDeque::new(),
            free: report.free,
            claimed: 0,
            on_reserve: report.on_reserve,
            making_room: false,
            unmarked_since: (!report.is_marked).then_some(Duration::ZERO),
            full_until: [None; 2],
        }
    }

    /// From now on somebody else writes what [`Log::writes`] returns.
    pub fn detach(&mut self) -> Option<Writer> {
        self.writer.take()
    }

    /// What is to be written, in order, when somebody else does.
    pub fn writes(&mut self) -> Vec<Write> {
        match self.writer {
            None => std::mem::take(&mut self.queue),
            Some(_) => Vec::new(),
        }
    }

    /// Writes what is waiting, if this member does so itself.
    pub fn perform(&mut self) -> Option<Written> {
        let writer = self.writer.as_mut().filter(|_| !self.queue.is_empty())?;
        Some(writer.perform(std::mem::take(&mut self.queue)))
    }

    /// Takes in a report of the writer; `now` is the member's clock.
    pub fn reported(&mut self, report: &Report, now: Duration) {
        while self
            .under_way
            .pop_front_if(|(number, _)| *number <= report.through)
            .is_some()
        {}
        self.free = report.free.saturating_sub(self.bytes_under_way());
        self.on_reserve = report.on_reserve;
        self.unmarked_since = (!report.is_marked).then_some(now);
        if !report.made_room {
            return;
        }
        self.making_room = false;
        match report.full {
            Some(need) => {
                if self.full_until[0].is_none() {
                    tracing::warn!("the disk is full: only deletes are accepted");
                }
                self.full_until[0] = Some(now + FULL_FOR);
                if need == Need::Vital {
                    self.full_until[1] = Some(now + FULL_FOR);
                }
            }
            None => {
                self.full_until[1] = None;
                if !report.on_reserve {
                    self.full_until[0] = None;
                }
            }
        }
    }

    /// Makes sure that a record with `payload` bytes has its place, besides those claimed since the last
    /// append.
    pub fn claim(&mut self, payload: usize, need: Need, now: Duration) -> Result<Room, OpenError> {
        if let Some(room) = self.try_claim(payload, need, now) {
            return Ok(room);
        }
        if !self.making_room {
            self.making_room = true;
            self.submit(Act::Room(payload, need), 0);
        }
        let Some(written) = self.perform() else {
            return Ok(Room::Later);
        };
        self.making_room = false;
        self.reported(&written.0?, now);
        Ok(self.try_claim(payload, need, now).unwrap_or(Room::Later))
    }

    /// The answer as far as it is known.
    fn try_claim(&mut self, payload: usize, need: Need, now: Duration) -> Option<Room> {
        let believed_full = self.full_until[need as usize].is_some_and(|until| now < until);
        if need == Need::Ordinary && believed_full {
            return Some(Room::Full);
        }
        let size = record_size(payload);
        let allowed = need == Need::Vital || !self.on_reserve;
        if allowed && self.claimed + size + SLACK <= self.free {
            self.claimed += size;
            return Some(Room::Granted);
        }
        believed_full.then_some(Room::Full)
    }

    /// Has a record appended.
    pub fn append(&mut self, hard: HardState, entries: Vec<Entry>) {
        let size = record_size(append_size(&entries));
        self.claimed = self.claimed.saturating_sub(size);
        self.submit(Act::Append(hard, entries), size);
    }

    /// Has another member's snapshot put in the place of everything before.
    pub fn install(&mut self, install: Install) {
        self.submit(Act::Install(Box::new(install)), record_size(append_size(&[])));
    }

    /// Has the mark written when the log has been idle for a moment.
    pub fn mark_when_idle(&mut self, now: Duration) {
        if self.idle_for(now) == Some(Duration::ZERO) {
            self.submit(Act::Mark, 0);
        }
    }

    /// How long the log has to stay idle until the mark is written; `None` while it does not
    /// have to be, or something is under way.
    pub fn idle_for(&self, now: Duration) -> Option<Duration> {
        let since = self.unmarked_since.filter(|_| self.under_way.is_empty())?;
        Some((since + MARK_AFTER).saturating_sub(now))
    }

    /// Has it made durable that entries up to an index had been promised and are lost. The report is that damage.
    pub fn owe(&mut self, index: u64) {
        self.submit(Act::Owe(index), 0);
    }

    fn submit(&mut self, act: Act, bytes: u64) {
        self.last += 1;
        self.free = self.free.saturating_sub(bytes);
        self.under_way.push_back((self.last, bytes));
        self.queue.push(Write { number: self.last, act });
    }

    /// What was claimed and has not been appended will not be.
    pub fn release(&mut self) {
        self.claimed = 0;
    }

    /// Number of the last write that is durable, with all before.
    pub fn through(&self) -> u64 {
        self.under_way.front().map_or(self.last, |(number, _)| number - 1)
    }

    /// Number of the last write submitted.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Whether room is being made, so that claims have to wait.
    pub fn is_making_room(&self) -> bool {
        self.making_room
    }

    /// Bytes on their way to the disk.
    pub fn bytes_under_way(&self) -> u64 {
        self.under_way.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Whether the disk was full when it was last asked for room.
    pub fn is_full(&self) -> bool {
        self.full_until[0].is_some()
    }

    /// The list of segments.
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// Makes it durable that revisions have moved ahead, before anybody else writes the log.
    pub fn moved_ahead(&mut self) -> Result<(), OpenError> {
        self.writer.as_mut().map_or(Ok(()), Writer::moved_ahead)
    }

    /// Closes the log, if nobody else writes it.
    pub fn close(&mut self) -> Result<(), OpenError> {
        self.writer.as_mut().map_or(Ok(()), Writer::close)
    }
}
