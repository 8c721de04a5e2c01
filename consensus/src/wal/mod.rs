//! The write-ahead log: what makes an acknowledged write survive.
//!
//! Owns the files `log-<number>` (segments, preallocated with zeros), `spare...` (the next segments,
//! made ahead of time or used before) and `reserve` (the last resort on a full disk). One record per batch, one
//! sync per record, and no record is begun before the one before is durable: after a crash only
//! the last record can be torn, and whatever else is invalid is damage, which is reported and
//! never repaired silently. A segment that is full names its successor behind its last record, so that a
//! newest segment that is gone is missed.
//!
//! ```text
//!  member: Log (what is under way, what there is room for) --Write--> Writer: Wal (files, syncs)
//!                      ^-----------------------------------Written--------'
//! ```
//! The [`Log`] never waits for the disk; the [`Writer`] does nothing else. A member that is alone keeps the
//! writer in its log and waits; otherwise whoever turns the member lets somebody else wait.
//!
//! Guarantees: when [`Wal::append`] returns, the record is on disk. After any failed write or sync
//! the log refuses everything: what a disk did with the earlier writes is not known then. Space is
//! claimed ([`Log::claim`]) before a write is accepted, so that a full disk refuses writes instead
//! of breaking accepted ones.
//!
//! Does not: know what entries mean; run in the background. Making spares is a separate function
//! ([`make_spare`]) that the housekeeping thread calls.

mod cut;
mod format;
mod log;
mod marks;
mod payload;
mod recover;
mod sectors;
mod segments;
mod synced;
mod upgrade;
mod writer;

use std::io;
use std::sync::Arc;

use raft::eraftpb::{Entry, HardState};

use crate::OpenError;
use crate::crypt::{DataKey, Keyring, TAG, io_error};
use crate::disk::{Disk, DiskFile, is_full, read_range};
use format::{RECORD_HEADER, RecordHeader, SEGMENT_HEADER, SegmentHeader, Version};
use sectors::{SECTOR, frame, record_size};
use segments::Segments;
use synced::Synced;

pub(crate) use log::{Log, Room};
pub use marks::marked_end;
pub(crate) use payload::{Payload, append_size};
pub(crate) use recover::{Recovered, recover, segment_numbers};
pub use sectors::last_record;
#[cfg(test)]
pub(crate) use upgrade::downgrade;
pub(crate) use writer::Install;
pub use writer::{Write, Writer, Written};

/// Names of the segments made ahead of time. One is always wanted; the others take in segments that
/// the log no longer needs, so that a busy log writes no zeros.
const SPARES: [&str; 4] = ["spare", "spare-2", "spare-3", "spare-4"];
/// Name of the segment kept for a full disk.
const RESERVE: &str = "reserve";
/// Name under which a segment is filled with zeros.
const UNFINISHED: &str = "tmp-segment";

/// How much trouble a write is worth when the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// It can be refused.
    Ordinary,
    /// It frees space, or keeps the member alive: the reserve may be used.
    Vital,
}

/// Why space could not be claimed.
#[derive(Debug)]
pub(crate) enum ClaimError {
    /// The disk is full. The log is unharmed.
    Full,
    /// The disk failed; the log is finished.
    Failed(OpenError),
}

/// Bytes of a segment that claims leave free: for the successor's name, and records of a few votes.
const SLACK: u64 = 5 * SECTOR as u64;
/// Bytes of the successor's name in its sector.
const SUCCESSOR_BYTES: u64 = SECTOR as u64;

/// The open log.
pub(crate) struct Wal {
    disk: Arc<dyn Disk>,
    keyring: Arc<Keyring>,
    segment_bytes: u64,
    segments: Arc<Segments>,
    file: Box<dyn DiskFile>,
    file_bytes: u64,
    offset: u64,
    /// Of the current segment. One of an earlier version is only read: the next record begins another.
    version: Version,
    key: DataKey,
    /// Master key of the current segment.
    key_id: u32,
    salt: u32,
    next_record: u64,
    chain: u32,
    /// Raft id of the member, 0 until it is said.
    owner: u64,
    /// How far the log is known to be durable; none yet in a directory of version 1.
    synced: Option<Synced>,
    /// Whether the current segment was the reserve: ordinary writes are to get another first.
    on_reserve: bool,
    failed: bool,
    buffer: Vec<u8>,
    framed: Vec<u8>,
}

/// Name of a segment.
pub(crate) fn segment_name(number: u64) -> String {
    format!("log-{number:016x}")
}

impl Wal {
    /// A new log in a directory that has none.
    pub fn create(disk: Arc<dyn Disk>, keyring: Arc<Keyring>, segment_bytes: u64) -> Result<Wal, OpenError> {
        let name = segment_name(1);
        let path = disk.path(&name);
        let (key, key_id, wrapped) = keyring.new_data_key()?;
        let header = SegmentHeader {
            version: Version::Framed,
            number: 1,
            first_record: 1,
            chain: 0,
            last_index: 0,
            file_bytes: segment_bytes,
            key_id,
            wrapped,
        };
        let write = || -> io::Result<(Synced, Box<dyn DiskFile>)> {
            let synced = Synced::create(&*disk)?;
            zeroed(&*disk, UNFINISHED, segment_bytes)?;
            let mut file = disk.open(UNFINISHED)?;
            file.write_at(0, &header.encode())?;
            file.sync()?;
            disk.rename(UNFINISHED, &name)?;
            disk.sync_dir()?;
            Ok((synced, file))
        };
        let (synced, file) = write().map_err(io_error("create", path))?;
        Ok(Wal {
            file_bytes: segment_bytes,
            file,
            offset: SEGMENT_HEADER,
            version: Version::Framed,
            owner: 0,
            synced: Some(synced),
            key,
            key_id,
            salt: header.salt(),
            next_record: 1,
            chain: 0,
            segments: Arc::new(Segments::new([(1, 0)], 1)),
            disk,
            keyring,
            segment_bytes,
            on_reserve: false,
            failed: false,
            buffer: Vec::new(),
            framed: Vec::new(),
        })
    }

    /// Makes sure that a record with `payload` bytes has its place, taking a new segment when the
    /// current one has none left.
    pub fn claim(&mut self, payload: usize, need: Need) -> Result<(), ClaimError> {
        if self.failed {
            return Err(ClaimError::Failed(self.failure("write", broken())));
        }
        let size = record_size(payload) + SLACK;
        let allowed = need == Need::Vital || !self.on_reserve;
        let is_framed = self.version == Version::Framed;
        let fits = allowed && is_framed && self.offset + size <= self.file_bytes;
        if fits && self.is_of_current_key() {
            return Ok(());
        }
        let wanted = self.segment_bytes.max(SEGMENT_HEADER + size);
        match self.roll(wanted, if fits { Need::Ordinary } else { need }) {
            // A new key waits for more space; writes don't.
            Err(ClaimError::Full) if fits => Ok(()),
            rolled => rolled,
        }
    }

    /// Whether the current segment is of the current master key, or else to be left.
    fn is_of_current_key(&self) -> bool {
        self.key_id == self.keyring.current()
    }

    /// Appends one record and makes it durable.
    pub fn append(&mut self, hard: &HardState, entries: &[Entry]) -> Result<(), OpenError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.resize(RECORD_HEADER, 0);
        payload::encode_append(hard, entries, &mut buffer);
        let written = self.write_record(&mut buffer);
        self.give_back(buffer);
        written?;
        if let Some(highest) = entries.iter().map(|entry| entry.index).max() {
            self.segments.holds(highest);
        }
        Ok(())
    }

    /// Makes it durable that all entries before are void and the log goes on after a place.
    pub fn reset(&mut self, hard: &HardState, index: u64, term: u64) -> Result<(), OpenError> {
        let mut buffer = vec![0; RECORD_HEADER];
        payload::encode_reset(hard, index, term, &mut buffer);
        self.write_record(&mut buffer)?;
        // As long as entries follow the place, this record is needed.
        self.segments.holds(index + 1);
        Ok(())
    }

    /// Keeps the buffers for the next record, unless they have grown beyond the usual.
    fn give_back(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() <= 2 << 20 {
            self.buffer = buffer;
        }
        if self.framed.capacity() > 2 << 20 {
            self.framed = Vec::new();
        }
    }

    /// Completes, writes and syncs the record whose plain payload follows the space for its header.
    fn write_record(&mut self, buffer: &mut Vec<u8>) -> Result<(), OpenError> {
        if self.failed {
            return Err(self.failure("write", broken()));
        }
        let size = record_size(buffer.len() - RECORD_HEADER);
        let fits = self.version == Version::Framed && self.offset + size + SUCCESSOR_BYTES <= self.file_bytes;
        if !fits || !self.is_of_current_key() {
            match self.claim(buffer.len() - RECORD_HEADER, Need::Vital) {
                Ok(()) => {}
                Err(ClaimError::Failed(error)) => return Err(error),
                Err(ClaimError::Full) => {
                    let full = io::Error::from(io::ErrorKind::StorageFull);
                    return Err(self.failure("extend", full));
                }
            }
        }
        let bound_to = self.next_record.to_le_bytes();
        let Some((nonce, tag)) = self.key.seal(&mut buffer[RECORD_HEADER..], &bound_to) else {
            return Err(self.failure("encrypt", io::Error::other("encryption failed")));
        };
        buffer.extend_from_slice(&tag);
        debug_assert_eq!(TAG, tag.len());
        let sealed = &buffer[RECORD_HEADER..];
        let header = RecordHeader::new(self.next_record, nonce, sealed, self.chain, self.salt);
        buffer[..RECORD_HEADER].copy_from_slice(&header.encode());
        self.framed.clear();
        frame(buffer, header.header_check, self.offset, &mut self.framed);
        debug_assert_eq!(self.framed.len() as u64, size);
        let written = self.file.write_at(self.offset, &self.framed);
        if let Err(error) = written.and_then(|()| self.file.sync()) {
            return Err(self.failure("write", error));
        }
        self.offset += size;
        self.next_record += 1;
        self.chain = header.header_check;
        self.segments.wrote(size);
        Ok(())
    }

    /// Continues in a new segment of at least `wanted` bytes.
    fn roll(&mut self, wanted: u64, need: Need) -> Result<(), ClaimError> {
        if self.version == Version::Unframed {
            self.upgrade().map_err(ClaimError::Failed)?;
        }
        let source = self.next_file(wanted, need)?;
        let number = self.segments.current() + 1;
        match self.begin_segment(source, number) {
            Ok(()) => {
                self.on_reserve = source == RESERVE;
                Ok(())
            }
            Err(error) => {
                self.failed = true;
                Err(ClaimError::Failed(error))
            }
        }
    }

    /// A zeroed file for the next segment: the spare, a new one, or in need the reserve.
    fn next_file(&mut self, wanted: u64, need: Need) -> Result<&'static str, ClaimError> {
        for name in SPARES.into_iter().chain([RESERVE]) {
            if name == RESERVE {
                match zeroed(&*self.disk, UNFINISHED, wanted) {
                    Ok(()) => return Ok(UNFINISHED),
                    Err(error) if is_full(&error) => {
                        let _ = self.disk.remove(UNFINISHED);
                        if need == Need::Ordinary {
                            return Err(ClaimError::Full);
                        }
                    }
                    Err(error) => {
                        return Err(ClaimError::Failed(self.failure("extend", error)));
                    }
                }
            }
            match size_of(&*self.disk, name) {
                Ok(Some(size)) if size >= wanted => return Ok(name),
                Ok(_) => {}
                Err(error) if is_full(&error) => return Err(ClaimError::Full),
                Err(error) => return Err(ClaimError::Failed(self.failure("open", error))),
            }
        }
        Err(ClaimError::Full)
    }

    /// Writes the header first and gives the file its name then: a named segment is a valid one. Its
    /// predecessor names it as soon as it is sure to be there.
    fn begin_segment(&mut self, source: &'static str, number: u64) -> Result<(), OpenError> {
        let keyring = self.keyring.clone();
        let _making = keyring.making();
        let (key, key_id, wrapped) = self.keyring.new_data_key()?;
        let mut header = SegmentHeader {
            version: Version::Framed,
            number,
            first_record: self.next_record,
            chain: self.chain,
            last_index: self.segments.last_index(),
            file_bytes: 0,
            key_id,
            wrapped,
        };
        let name = segment_name(number);
        let mut begin = || -> io::Result<Box<dyn DiskFile>> {
            let mut file = self.disk.open(source)?;
            header.file_bytes = file.size()?;
            file.write_at(0, &header.encode())?;
            file.sync()?;
            self.disk.rename(source, &name)?;
            self.disk.sync_dir()?;
            Ok(file)
        };
        let file = begin().map_err(io_error("begin", self.disk.path(&name)))?;
        let mark = self.successor(number);
        if self.offset + mark.len() as u64 <= self.file_bytes {
            let marked = self.file.write_at(self.offset, &mark);
            let marked = marked.and_then(|()| self.file.sync());
            marked.map_err(|error| self.failure("write", error))?;
        }
        self.segments.begin(number);
        self.file = file;
        self.file_bytes = header.file_bytes;
        self.offset = SEGMENT_HEADER;
        self.version = Version::Framed;
        self.key = key;
        self.key_id = key_id;
        self.salt = header.salt();
        Ok(())
    }

    /// What stands behind the last record of the current segment when another one continues it.
    fn successor(&self, number: u64) -> Vec<u8> {
        let name = format::successor(number, self.salt);
        match self.version {
            Version::Unframed => name,
            Version::Framed => {
                let mut out = Vec::new();
                frame(&name, self.salt, self.offset, &mut out);
                out
            }
        }
    }

    fn failure(&mut self, action: &'static str, source: io::Error) -> OpenError {
        self.failed = true;
        OpenError::Io {
            action,
            path: self.disk.path(&segment_name(self.segments.current())),
            source,
        }
    }

    /// Bytes that the current segment still has.
    fn free(&self) -> u64 {
        match self.version {
            Version::Framed => self.file_bytes.saturating_sub(self.offset),
            Version::Unframed => 0,
        }
    }
}

fn broken() -> io::Error {
    io::Error::other("an earlier write failed, so that nothing more can be promised")
}

/// The master key of a segment on disk; `None` when its header is invalid.
pub(crate) fn master_key(file: &dyn DiskFile) -> io::Result<Option<u32>> {
    let header = read_range(file, 0, SEGMENT_HEADER as usize)?;
    Ok(SegmentHeader::decode(&header).map(|header| header.key_id))
}

/// Makes the reserve and a spare segment when they are missing: the reserve first.
pub(crate) fn make_spare(disk: &dyn Disk, segment_bytes: u64) -> io::Result<()> {
    make(disk, RESERVE, "tmp-reserve", segment_bytes)?;
    for name in SPARES {
        if size_of(disk, name)?.is_some_and(|size| size >= segment_bytes) {
            return Ok(());
        }
    }
    make(disk, SPARES[0], "tmp-spare", segment_bytes)
}

fn make(disk: &dyn Disk, name: &str, unfinished: &str, segment_bytes: u64) -> io::Result<()> {
    if size_of(disk, name)?.is_some_and(|size| size >= segment_bytes) {
        return Ok(());
    }
    if let Err(error) = zeroed(disk, unfinished, segment_bytes) {
        let _ = disk.remove(unfinished);
        return Err(error);
    }
    disk.rename(unfinished, name)?;
    disk.sync_dir()
}

/// Removes files that are not needed any more. Segments of the usual size become spares while there
/// is room for such: their blocks are allocated and written already, and their old records are not
/// taken for new ones, because each use of a segment has a salt of its own.
///
/// Segments older than one of these are not needed either: if an earlier attempt failed on them they go
/// now, and first, because a gap would be taken for damage.
///
/// A segment durably loses its old name before it may be written to again: otherwise a power cut
/// could bring the old name back with the new content.
pub(crate) fn discard(disk: &dyn Disk, names: &[String], segment_bytes: u64) -> io::Result<()> {
    let mut free = Vec::new();
    for spare in SPARES {
        if size_of(disk, spare)?.is_none() {
            free.push(spare);
        }
    }
    let mut used_before = Vec::new();
    for name in &with_older_segments(disk, names)? {
        let is_segment = name.starts_with("log-") && is_reusable(disk, name, segment_bytes)?;
        let spare = if is_segment { free.pop() } else { None };
        match spare {
            Some(spare) => {
                let unnamed = format!("tmp-{name}");
                disk.rename(name, &unnamed)?;
                used_before.push((unnamed, spare));
            }
            None => disk.remove(name)?,
        }
    }
    disk.sync_dir()?;
    for (unnamed, spare) in &used_before {
        disk.rename(unnamed, spare)?;
    }
    disk.sync_dir()
}

/// The names, each that is there, with segments first, in order, and those before them.
fn with_older_segments(disk: &dyn Disk, names: &[String]) -> io::Result<Vec<String>> {
    let newest = names.iter().filter(|name| name.starts_with("log-")).max();
    let mut there = disk.list()?;
    there.retain(|name| {
        let is_older = name.starts_with("log-") && newest.is_some_and(|newest| name <= newest);
        is_older || names.contains(name)
    });
    there.sort_unstable();
    Ok(there)
}

/// Whether a segment can be used again: it has the usual size, and sectors that check themselves.
fn is_reusable(disk: &dyn Disk, name: &str, segment_bytes: u64) -> io::Result<bool> {
    let file = disk.open(name)?;
    let header = SegmentHeader::decode(&read_range(&*file, 0, SEGMENT_HEADER as usize)?);
    let is_framed = header.is_some_and(|header| header.version == Version::Framed);
    Ok(is_framed && file.size()? == segment_bytes)
}

/// Size of a file, if there is one of that name.
fn size_of(disk: &dyn Disk, name: &str) -> io::Result<Option<u64>> {
    match disk.open(name).and_then(|file| file.size()) {
        Ok(size) => Ok(Some(size)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates a file of zeros whose blocks are really allocated and written, so that later syncs of
/// it have nothing to do but data.
fn zeroed(disk: &dyn Disk, name: &str, bytes: u64) -> io::Result<()> {
    const STEP: usize = 1 << 20;
    let zeros = vec![0u8; STEP.min(bytes as usize)];
    let mut file = disk.create(name)?;
    let mut at = 0;
    while at < bytes {
        let step = (bytes - at).min(zeros.len() as u64);
        file.write_at(at, &zeros[..step as usize])?;
        at += step;
    }
    file.sync()
}
