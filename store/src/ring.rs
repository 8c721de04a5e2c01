//! The recent changes of one resource, bounded by count and by bytes.
//!
//! Watchers are cursors into the ring: they hold a revision and nothing else, so a slow one costs
//! nothing and is told that its place is gone. What the bound dropped is counted.
//!
//! The bytes of a ring are those that nothing else keeps alive: the version before each change, the last state that a
//! delete shows, and the bookkeeping. The version after a change is the stored object, or the next event's version before.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::{Event, EventKind};

/// The newest events, whose frames are kept for the next watcher.
const FRAMED: usize = 64;

/// Places for events that an emptied ring keeps.
const SPARE_MAX: usize = 256;

/// Bounds of a [`Ring`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLimit {
    /// Largest number of events of one resource.
    pub events: usize,
    /// Largest sum of the bytes that the events keep alive, of all resources that share the limit together.
    pub bytes: usize,
}

impl Default for RingLimit {
    fn default() -> RingLimit {
        RingLimit {
            events: 8192,
            bytes: 48 << 20,
        }
    }
}

/// The changes asked for are no longer kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the requested revision is too old; the oldest that can be continued from is {oldest}")]
pub struct Compacted {
    /// The oldest revision that can still be continued from.
    pub oldest: u64,
}

/// Bounded history of one resource.
#[derive(Debug)]
pub struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    base: u64,
    limit: RingLimit,
    dropped: u64,
}

impl Ring {
    /// An empty ring: it knows everything after `base`, and nothing of what was before.
    pub fn new(base: u64, limit: RingLimit) -> Ring {
        Ring {
            events: VecDeque::new(),
            bytes: 0,
            base,
            limit,
            dropped: 0,
        }
    }

    /// Adds the newest event and drops the oldest ones beyond the bounds.
    pub fn push(&mut self, event: Arc<Event>) {
        self.bytes += weight(&event);
        self.events.push_back(event);
        let old = self.events.len().checked_sub(FRAMED + 1);
        if let Some(event) = old.and_then(|old| self.events.get(old)) {
            event.frames.forget();
        }
        let is_beyond = |ring: &Ring| ring.events.len() > ring.limit.events || ring.bytes > ring.limit.bytes;
        while is_beyond(self) && self.drop_oldest() {}
    }

    /// Drops the oldest event and the room it leaves; false when there is none.
    pub fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.events.pop_front() else {
            return false;
        };
        self.bytes -= weight(&oldest);
        self.base = oldest.revision;
        self.dropped += 1;
        if self.events.capacity() > SPARE_MAX && self.events.len() < self.events.capacity() / 4 {
            self.events.shrink_to(self.events.len() * 2);
        }
        true
    }

    /// Revision of the oldest event held.
    pub fn first(&self) -> Option<u64> {
        self.events.front().map(|event| event.revision)
    }

    /// Up to `most` events after a revision, oldest first.
    pub fn after(&self, revision: u64, most: usize) -> Result<Vec<Arc<Event>>, Compacted> {
        if revision < self.base {
            return Err(Compacted { oldest: self.base });
        }
        let from = self.position_after(revision);
        Ok(self.events.range(from..).take(most).cloned().collect())
    }

    /// Events after a revision, newest first, for walking a snapshot back to it.
    pub fn back_to(&self, revision: u64) -> Result<impl Iterator<Item = &Arc<Event>>, Compacted> {
        if revision < self.base {
            return Err(Compacted { oldest: self.base });
        }
        let from = self.position_after(revision);
        Ok(self.events.range(from..).rev())
    }

    fn position_after(&self, revision: u64) -> usize {
        self.events.partition_point(|event| event.revision <= revision)
    }

    /// The oldest revision that can be continued from.
    pub fn oldest(&self) -> u64 {
        self.base
    }

    /// Revision of the newest event, or the base when there is none.
    pub fn newest(&self) -> u64 {
        self.events.back().map_or(self.base, |event| event.revision)
    }

    /// Number of events held.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether no event is held.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Events that there is room for without asking for more memory.
    pub fn places(&self) -> usize {
        self.events.capacity()
    }

    /// Bytes that the events keep alive.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of events that the bounds have dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// What nothing but the event keeps alive, or soon will: see the module text. Frames are counted where they are kept.
fn weight(event: &Event) -> usize {
    let before = event.previous.as_ref().map_or(0, |object| object.size());
    let last = match event.kind {
        EventKind::Deleted => event.object.size(),
        EventKind::Added | EventKind::Modified => 0,
    };
    size_of::<Event>() + size_of::<Arc<Event>>() + before + last
}
