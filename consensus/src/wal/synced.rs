//! The mark: how far the log is known to be durable, kept apart from the log.
//!
//! Owns the file `synced`: two sectors, written in turn, the one with the higher sequence counts. A mark is written
//! after the sync of the records it speaks of has returned, and synced itself; so a log that ends before it has lost
//! something. It is written when the log has been idle for a moment and when it is closed, never in the way of a
//! write: under load each record proves the one before, and a change in the last one is told by its sectors
//! ([`super::sectors`]). What the mark adds is a log at rest whose end reads as if it had never been written: zeros, an
//! older copy, a file that was cut off or deleted.

use std::io;

use crate::disk::{Disk, DiskFile, read_range};

/// Name of the file.
pub(crate) const SYNCED: &str = "synced";
const UNFINISHED: &str = "tmp-synced";

const MAGIC: &[u8; 8] = b"cxsynced";
/// Distance of the two sectors: no disk writes both at once.
const APART: u64 = 4096;
const SLOT: usize = 512;
/// Bytes of a mark, its check included.
const MARK: usize = 8 + 7 * 8 + 4 + 1 + 4;

/// How far the log is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Counts marks.
    sequence: u64,
    /// Number of the record after the last durable one.
    pub next_record: u64,
    /// Header check of that last one.
    pub chain: u32,
    /// Segment and offset at which it ends.
    pub end: (u64, u64),
    /// Highest index of an entry.
    pub last_index: u64,
    /// The leader was told that entries up to this index are durable here, and they are not: this member has
    /// lost what it promised. 0 if nothing is known to be lost.
    pub owed: u64,
    /// Raft id of the member whose log this is; 0 until it is known.
    pub owner: u64,
    /// Records were given up on demand: revisions have to move ahead before anything is written.
    pub gave_up: bool,
}

impl Mark {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SLOT);
        out.extend_from_slice(MAGIC);
        let (segment, offset) = self.end;
        for number in [
            self.sequence,
            self.next_record,
            segment,
            offset,
            self.last_index,
            self.owed,
            self.owner,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.chain.to_le_bytes());
        out.push(u8::from(self.gave_up));
        let check = crc32fast::hash(&out);
        out.extend_from_slice(&check.to_le_bytes());
        debug_assert_eq!(out.len(), MARK);
        out.resize(SLOT, 0);
        out
    }

    fn decode(slot: &[u8]) -> Option<Mark> {
        let (covered, check) = slot.get(..MARK)?.split_at(MARK - 4);
        let fields = covered.strip_prefix(MAGIC)?;
        if crc32fast::hash(covered).to_le_bytes() != check {
            return None;
        }
        let number = |at: usize| -> Option<u64> {
            let bytes = fields.get(at * 8..at * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let chain = fields.get(56..60)?.try_into().ok()?;
        Some(Mark {
            sequence: number(0)?,
            next_record: number(1)?,
            end: (number(2)?, number(3)?),
            last_index: number(4)?,
            owed: number(5)?,
            owner: number(6)?,
            chain: u32::from_le_bytes(chain),
            gave_up: *fields.get(60)? != 0,
        })
    }
}

/// The file, and the newest mark in it.
pub(crate) struct Synced {
    file: Box<dyn DiskFile>,
    mark: Mark,
}

/// What the file says.
pub(crate) enum Loaded {
    /// It is not there.
    Missing,
    /// Neither sector holds a mark.
    Invalid,
    /// The newest mark.
    Whole(Synced),
    /// One of the sectors is damaged; this is what the other one says.
    Half(Synced),
}

impl Synced {
    /// A file without a mark, in the place of one that is there.
    pub fn create(disk: &dyn Disk) -> io::Result<Synced> {
        let mark = Mark::default();
        let mut file = disk.create(UNFINISHED)?;
        let mut bytes = mark.encode();
        bytes.resize(2 * APART as usize, 0);
        file.write_at(0, &bytes)?;
        file.sync()?;
        disk.rename(UNFINISHED, SYNCED)?;
        disk.sync_dir()?;
        Ok(Synced { file, mark })
    }

    /// Reads the file.
    pub fn load(disk: &dyn Disk) -> io::Result<Loaded> {
        let file = match disk.open(SYNCED) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Missing),
            Err(error) => return Err(error),
        };
        let (mut newest, mut damaged) = (None::<Mark>, file.size()? < 2 * APART);
        for at in [0, APART] {
            let slot = read_range(&*file, at, SLOT)?;
            match Mark::decode(&slot) {
                Some(mark) if newest.is_some_and(|newest| newest.sequence >= mark.sequence) => {}
                Some(mark) => newest = Some(mark),
                // The second one is empty until there is a second mark.
                None => damaged |= at == 0 || slot.iter().any(|byte| *byte != 0),
            }
        }
        Ok(match newest {
            None => Loaded::Invalid,
            Some(mark) if damaged => Loaded::Half(Synced { file, mark }),
            Some(mark) => Loaded::Whole(Synced { file, mark }),
        })
    }

    /// The newest mark.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Makes a newer mark durable.
    pub fn write(&mut self, mark: Mark) -> io::Result<()> {
        let sequence = self.mark.sequence + 1;
        let mark = Mark { sequence, ..mark };
        self.file.write_at(sequence % 2 * APART, &mark.encode())?;
        self.file.sync()?;
        self.mark = mark;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn the_newest_of_two_marks_counts_and_a_damaged_one_is_told() {
        let disk = MemoryDisk::new();
        assert!(matches!(Synced::load(&disk), Ok(Loaded::Missing)));
        let mut synced = Synced::create(&disk).expect("created");
        for next_record in 1..6 {
            let mark = Mark {
                next_record,
                chain: 7,
                end: (3, 1024),
                last_index: 9,
                gave_up: next_record == 5,
                ..Mark::default()
            };
            synced.write(mark).expect("written");
            let Ok(Loaded::Whole(loaded)) = Synced::load(&disk) else {
                panic!("mark {next_record} is not whole");
            };
            assert_eq!(loaded.mark(), synced.mark());
        }
        // The fifth stands in the second sector.
        disk.damage(SYNCED, APART as usize + 20);
        let Ok(Loaded::Half(older)) = Synced::load(&disk) else {
            panic!("damage went unnoticed");
        };
        assert_eq!((older.mark().next_record, older.mark().gave_up), (4, false));
        disk.damage(SYNCED, 20);
        assert!(matches!(Synced::load(&disk), Ok(Loaded::Invalid)));
    }
}
