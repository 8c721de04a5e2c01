//! The side of the log that waits for the disk.

use std::sync::Arc;

use raft::eraftpb::{Entry, HardState};

use super::sectors::record_size;
use super::segments::Segments;
use super::{ClaimError, Need, Wal, append_size};
use crate::OpenError;
use crate::checkpoint::{self, Meta};
use crate::crypt::Keyring;
use crate::disk::Disk;
use coxswain_store::Snapshot;

/// Entries of several writes share a record up to this many bytes.
const MOST_MERGED: usize = 4 << 20;

/// Something to be done on the disk.
pub struct Write {
    /// Writes count up.
    pub(super) number: u64,
    pub(super) act: Act,
}

pub(super) enum Act {
    /// Make it durable that these entries follow and this is the hard state.
    Append(HardState, Vec<Entry>),
    /// Put another member's snapshot in the place of everything before.
    Install(Box<Install>),
    /// Have room for a record with so many bytes.
    Room(usize, Need),
    /// Make it durable how far the log is durable.
    Mark,
    /// Make it durable that entries up to this index had been promised and are lost; the log ends with that.
    Owe(u64),
}

/// A snapshot of another member, to be kept as a checkpoint.
pub(crate) struct Install {
    pub meta: Meta,
    pub snapshot: Snapshot,
}

/// What has become of writes.
pub struct Written(pub(crate) Result<Report, OpenError>);

/// How the log stands after writes.
pub(crate) struct Report {
    /// Everything up to this write is durable.
    pub through: u64,
    /// Bytes that the current segment still has.
    pub free: u64,
    /// Whether it is durable, too, that everything is.
    pub is_marked: bool,
    /// Whether ordinary writes are to get another segment first.
    pub on_reserve: bool,
    /// The disk was too full for room of this kind.
    pub full: Option<Need>,
    /// Whether room was asked for.
    pub made_room: bool,
    /// Indexes of the snapshots that have become checkpoints, in order.
    pub installed: Vec<u64>,
}

/// Does what the log wants written, in order. Blocks for as long as the disk does.
pub struct Writer {
    wal: Wal,
    /// The last write done.
    through: u64,
}

/// Appends that go into one record.
#[derive(Default)]
struct Merged {
    hard: Option<HardState>,
    entries: Vec<Entry>,
}

impl Writer {
    pub(crate) fn new(wal: Wal) -> Writer {
        Writer { wal, through: 0 }
    }

    /// Does all of these; when it returns they are durable, or the log is finished.
    pub fn perform(&mut self, writes: Vec<Write>) -> Written {
        Written(self.try_perform(writes))
    }

    fn try_perform(&mut self, writes: Vec<Write>) -> Result<Report, OpenError> {
        let mut report = self.report();
        let mut merged = Merged::default();
        let mut marks = false;
        for write in writes {
            // A mark is for when nothing follows it.
            marks = matches!(write.act, Act::Mark);
            match write.act {
                Act::Append(hard, entries) => {
                    if !self.fits_with(&merged, &entries) {
                        self.append(&mut merged)?;
                    }
                    merged.hard = Some(hard);
                    merged.entries.extend(entries);
                }
                Act::Install(install) => {
                    self.append(&mut merged)?;
                    let Install { meta, snapshot } = *install;
                    checkpoint::write(self.disk(), self.keyring(), &meta, &snapshot)?;
                    self.wal.reset(&meta.hard, meta.index, meta.term)?;
                    report.installed.push(meta.index);
                }
                Act::Room(payload, need) => {
                    self.append(&mut merged)?;
                    report.made_room = true;
                    match self.wal.claim(payload, need) {
                        Ok(()) => report.full = None,
                        Err(ClaimError::Full) => report.full = Some(need),
                        Err(ClaimError::Failed(error)) => return Err(error),
                    }
                }
                Act::Mark => {}
                Act::Owe(index) => {
                    self.append(&mut merged)?;
                    return Err(self.wal.owe(index));
                }
            }
            self.through = write.number;
        }
        self.append(&mut merged)?;
        if marks {
            self.wal.mark()?;
        }
        Ok(Report {
            full: report.full,
            made_room: report.made_room,
            installed: report.installed,
            ..self.report()
        })
    }

    /// Whether further entries belong into the same record: one that stays in the segment in which the
    /// member has claimed their place.
    fn fits_with(&self, merged: &Merged, entries: &[Entry]) -> bool {
        let size = append_size(&merged.entries) + append_size(entries);
        merged.hard.is_none() || (size <= MOST_MERGED && record_size(size) <= self.wal.free())
    }

    fn append(&mut self, merged: &mut Merged) -> Result<(), OpenError> {
        match std::mem::take(merged) {
            Merged {
                hard: Some(hard),
                entries,
            } => self.wal.append(&hard, &entries),
            Merged { hard: None, .. } => Ok(()),
        }
    }

    pub(super) fn report(&self) -> Report {
        Report {
            through: self.through,
            free: self.wal.free(),
            is_marked: self.wal.is_marked(),
            on_reserve: self.wal.on_reserve,
            full: None,
            made_room: false,
            installed: Vec::new(),
        }
    }

    pub(super) fn segments(&self) -> Arc<Segments> {
        self.wal.segments.clone()
    }

    pub(super) fn moved_ahead(&mut self) -> Result<(), OpenError> {
        self.wal.moved_ahead()
    }

    /// Closes the log: it is durable how far it is.
    pub(crate) fn close(&mut self) -> Result<(), OpenError> {
        self.wal.mark()
    }

    fn disk(&self) -> &dyn Disk {
        &*self.wal.disk
    }

    fn keyring(&self) -> &Keyring {
        &self.wal.keyring
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::ConfState;

    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn each_snapshot_of_a_write_is_reported() {
        let (disk, keyring) = (Arc::new(MemoryDisk::new()), Arc::new(Keyring::in_memory(1)));
        let mut writer = Writer::new(Wal::create(disk, keyring, 1 << 20).expect("a log"));
        let install = |number, index| {
            let meta = Meta {
                index,
                term: 1,
                members: ConfState::default(),
                hard: HardState::default(),
                revision: index,
                installed: true,
            };
            let snapshot = Snapshot::empty(index);
            Write {
                number,
                act: Act::Install(Box::new(Install { meta, snapshot })),
            }
        };
        let report = writer.perform(vec![install(1, 5), install(2, 9)]).0.expect("written");
        assert_eq!((report.through, report.installed), (2, vec![5, 9]));
    }
}
