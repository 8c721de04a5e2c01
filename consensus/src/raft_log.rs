//! What raft may ask for: the entries not yet applied, the terms, the members.
//!
//! In memory only; the log on disk is [`crate::wal`]. A single member needs no entry after it has
//! been applied; with several members a window of them is kept for those that lag.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

pub(crate) struct RaftLog {
    hard: HardState,
    members: ConfState,
    /// Counts how often the members were set.
    membership: u64,
    /// Index and term of the entry before the first.
    base: (u64, u64),
    entries: VecDeque<Entry>,
    /// Bytes of the entries.
    bytes: usize,
}

impl RaftLog {
    /// A log that begins after an applied entry.
    pub fn new(index: u64, term: u64, hard: HardState, members: ConfState) -> RaftLog {
        RaftLog {
            hard,
            members,
            membership: 0,
            base: (index, term),
            entries: VecDeque::new(),
            bytes: 0,
        }
    }

    fn first(&self) -> u64 {
        self.base.0 + 1
    }

    fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    /// Adds entries, replacing those of the same and of higher indexes. Entries at or before the
    /// base are known already and skipped; a gap is refused.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), String> {
        for entry in entries {
            if entry.index <= self.base.0 {
                continue;
            }
            if entry.index > self.last() + 1 {
                return Err(format!(
                    "entry {} is missing, the next one is {}",
                    self.last() + 1,
                    entry.index
                ));
            }
            while self.last() >= entry.index {
                let replaced = self.entries.pop_back();
                self.bytes -= replaced.map_or(0, |replaced| replaced.data.len());
            }
            self.bytes += entry.data.len();
            self.entries.push_back(entry.clone());
        }
        Ok(())
    }

    /// Forgets all entries: the log goes on after this place.
    pub fn begin_at(&mut self, index: u64, term: u64) {
        self.base = (index, term);
        self.truncate();
    }

    /// Forgets all entries, which were not part of what goes on after the base.
    pub fn truncate(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// Takes the oldest entry out when it is at or before an index.
    pub fn pop_through(&mut self, index: u64) -> Option<Entry> {
        if self.entries.front()?.index > index {
            return None;
        }
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.data.len();
        self.base = (entry.index, entry.term);
        Some(entry)
    }

    /// The entry at an index, if it is held.
    pub fn get(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.first())?;
        self.entries.get(at as usize)
    }

    /// Drops entries up to an index.
    pub fn drop_through(&mut self, index: u64) {
        while self.pop_through(index).is_some() {}
    }

    /// Drops the oldest entries, at or before an index, beyond a number of bytes.
    pub fn drop_beyond(&mut self, bytes: usize, index: u64) {
        while self.bytes > bytes && self.pop_through(index).is_some() {}
    }

    pub fn hard(&self) -> &HardState {
        &self.hard
    }

    pub fn set_hard(&mut self, hard: HardState) {
        self.hard = hard;
    }

    pub fn set_commit(&mut self, commit: u64) {
        self.hard.commit = commit;
    }

    pub fn members(&self) -> &ConfState {
        &self.members
    }

    pub fn set_members(&mut self, members: ConfState) {
        self.members = members;
        self.membership += 1;
    }

    /// A number that changes with the members.
    pub fn membership(&self) -> u64 {
        self.membership
    }
}

impl Storage for RaftLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState {
            hard_state: self.hard.clone(),
            conf_state: self.members.clone(),
        })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 || low > high {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let from = (low - self.first()) as usize;
        let to = (high - self.first()) as usize;
        let most = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let mut found = Vec::new();
        for entry in self.entries.range(from..to) {
            size += entry.data.len() as u64 + 32;
            if size > most && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.0 {
            return Ok(self.base.1);
        }
        if index < self.first() {
            return Err(Error::Store(StorageError::Compacted));
        }
        let entry = self.entries.get((index - self.first()) as usize);
        entry
            .map(|entry| entry.term)
            .ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// Where a member that lags further than the entries reach has to go on. What is sent to it in the
    /// end is what has been applied by then, which is not known here.
    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let mut snapshot = Snapshot::default();
        let about = snapshot.mut_metadata();
        about.index = self.base.0.max(1);
        about.term = self.base.1.max(1);
        about.set_conf_state(self.members.clone());
        Ok(snapshot)
    }
}
