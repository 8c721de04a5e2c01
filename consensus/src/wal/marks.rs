//! What the log says about itself in its mark.

use super::synced::{Loaded, Mark, SYNCED, Synced};
use super::{Wal, broken, segment_name};
use crate::OpenError;
use crate::crypt::io_error;
use crate::disk::Disk;

impl Wal {
    /// Makes it durable how far the log is durable. Without effect when that is known already.
    pub fn mark(&mut self) -> Result<(), OpenError> {
        match self.is_marked() {
            true => Ok(()),
            false => self.write_mark(|_| {}),
        }
    }

    /// Whether the mark covers the last record.
    pub(super) fn is_marked(&self) -> bool {
        let known = self.synced.as_ref().map(|synced| synced.mark().next_record);
        // Without a file nothing has been written yet.
        known.is_none_or(|known| known == self.next_record)
    }

    /// Makes it durable that this member has lost entries up to an index that it had promised to hold: it will not
    /// start again. Returns that damage.
    pub fn owe(&mut self, index: u64) -> OpenError {
        match self.write_mark(|mark| mark.owed = index) {
            Ok(()) => OpenError::Corrupted {
                file: self.disk.path(&segment_name(self.segments.current())),
                offset: self.offset,
                detail: owed(index),
            },
            Err(error) => error,
        }
    }

    /// Says which member this is, unless the log is known to be another one's: two members that go by one number
    /// would vote twice. Returns that one's number then.
    pub fn belongs_to(&mut self, id: u64) -> Result<(), u64> {
        self.owner = id;
        let known = self.synced.as_ref().map_or(0, |synced| synced.mark().owner);
        match known == 0 || known == id {
            true => Ok(()),
            false => Err(known),
        }
    }

    /// Whether revisions have to move ahead, because records were given up.
    pub fn gave_up(&self) -> bool {
        self.synced.as_ref().is_some_and(|synced| synced.mark().gave_up)
    }

    /// Makes it durable that revisions have moved ahead.
    pub fn moved_ahead(&mut self) -> Result<(), OpenError> {
        self.write_mark(|mark| mark.gave_up = false)
    }

    pub(super) fn write_mark(&mut self, change: impl FnOnce(&mut Mark)) -> Result<(), OpenError> {
        if self.failed {
            return Err(self.failure("write", broken()));
        }
        let mut mark = self.synced.as_ref().map(Synced::mark).unwrap_or_default();
        mark.next_record = self.next_record;
        mark.chain = self.chain;
        mark.end = (self.segments.current(), self.offset);
        mark.last_index = self.segments.last_index();
        mark.owner = self.owner;
        change(&mut mark);
        let synced = match self.synced.take() {
            Some(synced) => Ok(synced),
            None => Synced::create(&*self.disk),
        };
        let written = synced.and_then(|mut synced| {
            synced.write(mark)?;
            Ok(synced)
        });
        match written {
            Ok(synced) => self.synced = Some(synced),
            Err(source) => {
                self.failed = true;
                let path = self.disk.path(SYNCED);
                return Err(io_error("write", path)(source));
            }
        }
        Ok(())
    }
}

/// What a member has lost that had promised to hold an entry.
pub(super) fn owed(index: u64) -> String {
    format!("the log ends here, and the leader knows that entries up to {index} had been made durable in it")
}

/// Up to where the log in a directory is marked as durable: the segment's file, and the offset in it. For tests of
/// damage.
pub fn marked_end(disk: &dyn Disk) -> Option<(String, u64)> {
    match Synced::load(disk) {
        Ok(Loaded::Whole(synced) | Loaded::Half(synced)) => {
            let (segment, offset) = synced.mark().end;
            Some((segment_name(segment), offset))
        }
        _ => None,
    }
}
