//! Which segments there are, known to the writer and to the member at once.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::segment_name;

/// A segment on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    number: u64,
    /// Highest index of an entry in this or an earlier segment.
    last_index: u64,
}

/// The list of segments, and how much was written to them.
pub(crate) struct Segments(Mutex<List>);

struct List {
    /// Oldest first; the last one is written to. Never empty.
    all: VecDeque<Segment>,
    /// The segment of the newest record; it and later ones are never removed.
    newest_record_in: u64,
    written: u64,
    records: u64,
}

impl Segments {
    /// Segments by number with the highest index in or before each, and the one with the newest record.
    pub fn new(all: impl IntoIterator<Item = (u64, u64)>, newest_record_in: u64) -> Segments {
        let segment = |(number, last_index)| Segment { number, last_index };
        Segments(Mutex::new(List {
            all: all.into_iter().map(segment).collect(),
            newest_record_in,
            written: 0,
            records: 0,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of the segment that is written to.
    pub fn current(&self) -> u64 {
        self.lock().all.back().map_or(0, |segment| segment.number)
    }

    /// Highest index of an entry.
    pub fn last_index(&self) -> u64 {
        self.lock().all.back().map_or(0, |segment| segment.last_index)
    }

    /// The current segment is needed for as long as entries from this index on are.
    pub fn holds(&self, index: u64) {
        if let Some(segment) = self.lock().all.back_mut() {
            segment.last_index = segment.last_index.max(index);
        }
    }

    /// A record of so many bytes is in the current segment.
    pub fn wrote(&self, bytes: u64) {
        let mut list = self.lock();
        list.newest_record_in = list.all.back().map_or(0, |segment| segment.number);
        list.written += bytes;
        list.records += 1;
    }

    /// A new segment is the current one.
    pub fn begin(&self, number: u64) {
        let mut list = self.lock();
        let last_index = list.all.back().map_or(0, |segment| segment.last_index);
        list.all.push_back(Segment { number, last_index });
    }

    /// Forgets the segments that hold nothing after `index`, and returns their names for removal,
    /// oldest first.
    pub fn trim(&self, index: u64) -> Vec<String> {
        let mut list = self.lock();
        let mut names = Vec::new();
        while let Some(oldest) = list.all.front() {
            let needed = oldest.last_index > index || oldest.number >= list.newest_record_in;
            if needed || list.all.len() == 1 {
                break;
            }
            names.push(segment_name(oldest.number));
            list.all.pop_front();
        }
        names
    }

    /// Number of segments.
    pub fn count(&self) -> usize {
        self.lock().all.len()
    }

    /// Bytes and records written since the log was opened.
    pub fn written(&self) -> (u64, u64) {
        let list = self.lock();
        (list.written, list.records)
    }
}
