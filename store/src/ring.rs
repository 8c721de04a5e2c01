//! The recent changes of one resource, bounded by count and by bytes.
//!
//! Watchers are cursors into the ring: they hold a revision and nothing else, so a slow one costs
//! nothing and is told that its place is gone. What the bound dropped is counted.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::Event;

/// The newest events, whose frames are kept for the next watcher.
const FRAMED: usize = 64;

/// Bounds of a [`Ring`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLimit {
    /// Largest number of events.
    pub events: usize,
    /// Largest sum of the sizes of the object versions that the events keep alive, in bytes.
    pub bytes: usize,
}

impl Default for RingLimit {
    fn default() -> RingLimit {
        RingLimit {
            events: 8192,
            bytes: 16 << 20,
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
        while self.events.len() > self.limit.events || self.bytes > self.limit.bytes {
            let Some(oldest) = self.events.pop_front() else {
                break;
            };
            self.bytes -= weight(&oldest);
            self.base = oldest.revision;
            self.dropped += 1;
        }
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

    /// Bytes of object versions accounted for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of events that the bounds have dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// Each event keeps at most one version alive that nothing else does: the one before it.
fn weight(event: &Event) -> usize {
    const FIXED: usize = 64;
    let before = event.previous.as_ref().map_or(0, |object| object.size());
    FIXED + before.max(event.object.size())
}
