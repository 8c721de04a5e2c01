//! Reading the log after a start.
//!
//! Everything is checked before anything is changed, and reading changes nothing: a torn tail is
//! simply where writing goes on. What distinguishes it from damage is said in [`super::sectors`], [`super::synced`]
//! and, for segments of version 1, in [`find_unframed`].

use std::io;
use std::sync::Arc;

use super::format::{Found, Place, SEGMENT_HEADER, SegmentHeader, Version, decode_successor, find_unframed};
use super::marks::owed;
use super::sectors::{find, successor_at};
use super::segments::Segments;
use super::synced::{Loaded, SYNCED, Synced};
use super::{Payload, RESERVE, Wal, payload, segment_name};
use crate::OpenError;
use crate::crypt::{Keyring, io_error};
use crate::disk::{Disk, DiskFile, read_range};

/// Numbers of the segments in a directory, ascending.
pub(crate) fn segment_numbers(disk: &dyn Disk) -> Result<Vec<u64>, OpenError> {
    let names = disk.list().map_err(io_error("list", disk.path("")))?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| name.strip_prefix("log-"))
        .filter_map(|digits| u64::from_str_radix(digits, 16).ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Where reading has come to.
struct Reader {
    disk: Arc<dyn Disk>,
    keyring: Arc<Keyring>,
    /// Every segment was made with at least so many bytes.
    segment_bytes: u64,
    next_record: u64,
    chain: u32,
    last_index: u64,
    newest_record_in: u64,
    /// Segment and offset at which the last record read ended.
    end: (u64, u64),
    /// What is wrong behind that, unless the next segment shows that nothing is missing there.
    damage: Option<OpenError>,
    /// Payload of the record under the eyes.
    sealed: Vec<u8>,
}

/// The segment that was read last, which is where writing goes on.
struct Tail {
    file: Box<dyn DiskFile>,
    file_bytes: u64,
    offset: u64,
    header: SegmentHeader,
    /// The segment that continues it, if it names one.
    successor: Option<u64>,
}

/// Why a segment could not be read.
enum Unread {
    /// It is damaged before its first record, or does not continue the one before.
    Damaged(OpenError),
    /// Something else failed.
    Failed(OpenError),
}

impl From<OpenError> for Unread {
    fn from(error: OpenError) -> Unread {
        Unread::Failed(error)
    }
}

/// What was read.
pub(crate) struct Recovered {
    /// The log, ready for appending behind the last whole record.
    pub wal: Wal,
    /// What is wrong behind it: records that had been durable are missing. Nothing may be appended then, unless
    /// they are given up.
    pub damage: Option<OpenError>,
}

/// Reads all segments, hands the records to `each` in order, and returns the log. Segments that hold nothing after
/// the entry `after` are checked but not decoded. There must be at least one segment. Nothing on disk is changed.
pub(crate) fn recover(
    disk: Arc<dyn Disk>,
    keyring: Arc<Keyring>,
    segment_bytes: u64,
    after: u64,
    mut each: impl FnMut(Payload) -> Result<(), String>,
) -> Result<Recovered, OpenError> {
    let numbers = segment_numbers(&*disk)?;
    let mut reader = Reader {
        disk,
        keyring,
        segment_bytes,
        next_record: 0,
        chain: 0,
        last_index: 0,
        newest_record_in: 0,
        end: (0, 0),
        damage: None,
        sealed: Vec::new(),
    };
    let mut segments = Vec::new();
    let mut tail = None::<Tail>;
    let newest_from = match numbers.last() {
        Some(last) => reader.before(*last)?.1,
        None => u64::MAX,
    };
    for (at, &number) in numbers.iter().enumerate() {
        let (last_index, first_record) = match numbers.get(at + 1) {
            Some(next) => reader.before(*next)?,
            None => (u64::MAX, u64::MAX),
        };
        // The newest record has the vote, even if no entry is needed any more.
        let needed = last_index > after || first_record >= newest_from;
        let earlier = at.checked_sub(1).and_then(|before| numbers.get(before));
        match reader.segment(number, earlier.copied(), needed, &mut each) {
            Ok(read) => tail = Some(read),
            Err(Unread::Failed(error)) => return Err(error),
            Err(Unread::Damaged(error)) if tail.is_none() => return Err(error),
            Err(Unread::Damaged(error)) => {
                reader.damage = Some(error);
                break;
            }
        }
        if !needed {
            reader.last_index = reader.last_index.max(last_index);
        }
        segments.push((number, reader.last_index));
    }
    let Some(tail) = tail else {
        return Err(reader.damaged(&segment_name(1), 0, "the file is missing".into()));
    };
    reader.finish(tail, segments)
}

impl Reader {
    fn damaged(&self, name: &str, offset: u64, detail: String) -> OpenError {
        OpenError::Corrupted {
            file: self.disk.path(name),
            offset,
            detail,
        }
    }

    /// The log as it was read, and what is missing from it.
    fn finish(mut self, tail: Tail, segments: Vec<(u64, u64)>) -> Result<Recovered, OpenError> {
        if let (None, Some(next)) = (&self.damage, tail.successor) {
            self.damage = Some(self.damaged(&segment_name(next), 0, "the file is missing".into()));
        }
        let loaded = Synced::load(&*self.disk).map_err(io_error("read", self.disk.path(SYNCED)))?;
        if self.damage.is_none() {
            self.damage = self.missing(&loaded, tail.header.version);
        }
        let key = self.keyring.unwrap_data_key(tail.header.key_id, &tail.header.wrapped)?;
        let wal = Wal {
            // Without a reserve on disk, the current segment may be what became of it.
            on_reserve: self.disk.open(RESERVE).is_err(),
            disk: self.disk,
            keyring: self.keyring,
            segment_bytes: self.segment_bytes,
            segments: Arc::new(Segments::new(segments, self.newest_record_in)),
            file: tail.file,
            file_bytes: tail.file_bytes,
            offset: tail.offset,
            version: tail.header.version,
            key,
            key_id: tail.header.key_id,
            salt: tail.header.salt(),
            next_record: self.next_record,
            chain: self.chain,
            owner: 0,
            synced: match loaded {
                Loaded::Whole(synced) | Loaded::Half(synced) => Some(synced),
                Loaded::Missing | Loaded::Invalid => None,
            },
            failed: false,
            buffer: Vec::new(),
            framed: Vec::new(),
        };
        Ok(Recovered {
            wal,
            damage: self.damage,
        })
    }

    /// What the mark shows to be missing from the log.
    fn missing(&self, loaded: &Loaded, version: Version) -> Option<OpenError> {
        let mark = match loaded {
            Loaded::Missing if version == Version::Unframed => return None,
            Loaded::Missing => return Some(self.damaged(SYNCED, 0, "the file is missing".into())),
            Loaded::Invalid => {
                return Some(self.damaged(SYNCED, 0, "it does not say how far the log is durable".into()));
            }
            Loaded::Half(synced) => {
                let file = self.disk.path(SYNCED);
                tracing::error!(file = %file.display(), "one of the two marks is damaged; the other one does, and a new one follows");
                synced.mark()
            }
            Loaded::Whole(synced) => synced.mark(),
        };
        let end = segment_name(self.end.0);
        if mark.owed > 0 {
            return Some(self.damaged(&end, self.end.1, owed(mark.owed)));
        }
        if mark.next_record > self.next_record && mark.end.0 > self.end.0 {
            return Some(self.damaged(&segment_name(mark.end.0), 0, "the file is missing".into()));
        }
        let is_same = mark.next_record != self.next_record || mark.chain == self.chain;
        if mark.next_record <= self.next_record && is_same {
            return None;
        }
        let last = mark.next_record - 1;
        let detail = match is_same {
            true => format!(
                "record {} is missing; records up to {last}, with entries up to {}, had been made durable",
                self.next_record, mark.last_index
            ),
            false => format!("record {last} is not the one that had been made durable"),
        };
        Some(self.damaged(&end, self.end.1, detail))
    }

    /// Reads one segment, after the one of the number `earlier`.
    fn segment(
        &mut self,
        number: u64,
        earlier: Option<u64>,
        needed: bool,
        each: &mut impl FnMut(Payload) -> Result<(), String>,
    ) -> Result<Tail, Unread> {
        if let Some(missing) = earlier.map(|earlier| earlier + 1).filter(|next| *next != number) {
            let missing = self.damaged(&segment_name(missing), 0, "the file is missing".into());
            return Err(Unread::Damaged(missing));
        }
        let name = segment_name(number);
        let path = self.disk.path(&name);
        let file = self.disk.open(&name).map_err(io_error("open", path.clone()))?;
        let file_bytes = file.size().map_err(io_error("read", path.clone()))?;
        let bytes = read_range(&*file, 0, file_bytes as usize).map_err(io_error("read", path))?;
        let header = self.header(&name, &bytes, number, earlier.is_none())?;
        let offset = self.records(&name, &bytes, &header, needed, each)?;
        let made_with = header.file_bytes.max(self.segment_bytes);
        if file_bytes < made_with {
            let detail = format!("the file ends here, but was made with {made_with} bytes: records may be missing");
            self.damage = Some(self.damaged(&name, file_bytes, detail));
        }
        if self.next_record > header.first_record || earlier.is_none() {
            self.newest_record_in = number;
        }
        let successor = match header.version {
            Version::Framed => successor_at(&bytes, offset, header.salt()),
            Version::Unframed => decode_successor(bytes.get(offset as usize..).unwrap_or_default(), header.salt()),
        };
        Ok(Tail {
            successor,
            file,
            file_bytes: file_bytes.max(made_with),
            offset,
            header,
        })
    }

    /// Highest index of an entry before a segment, and the number of its first record, as that one's
    /// header says. An invalid header is reported when its own turn comes.
    fn before(&mut self, number: u64) -> Result<(u64, u64), OpenError> {
        let name = segment_name(number);
        let path = self.disk.path(&name);
        let unknown = (u64::MAX, u64::MAX);
        let bytes = match self.disk.open(&name) {
            Ok(file) => read_range(&*file, 0, SEGMENT_HEADER as usize),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(unknown),
            Err(error) => Err(error),
        };
        let bytes = bytes.map_err(io_error("read", path))?;
        let header = SegmentHeader::decode(&bytes);
        Ok(header.map_or(unknown, |header| (header.last_index, header.first_record)))
    }

    /// Checks the segment's header against the records before it.
    fn header(&mut self, name: &str, bytes: &[u8], number: u64, is_first: bool) -> Result<SegmentHeader, Unread> {
        let Some(header) = SegmentHeader::decode(bytes) else {
            let invalid = self.damaged(name, 0, "the segment header is invalid".into());
            return Err(Unread::Damaged(self.damage.take().unwrap_or(invalid)));
        };
        if header.number != number {
            let detail = format!("this is segment {}, under another name", header.number);
            return Err(Unread::Damaged(self.damaged(name, 8, detail)));
        }
        if is_first {
            self.next_record = header.first_record;
            self.chain = header.chain;
        } else if header.first_record != self.next_record || header.chain != self.chain {
            let detail = format!(
                "record {} is invalid, but a later segment begins with record {}",
                self.next_record, header.first_record
            );
            let missing = self.damaged(&segment_name(self.end.0), self.end.1, detail);
            return Err(Unread::Damaged(self.damage.take().unwrap_or(missing)));
        }
        // Whatever is behind the last record of the segment before, it is not a record.
        self.damage = None;
        self.last_index = self.last_index.max(header.last_index);
        Ok(header)
    }

    /// Reads the records of a segment and returns the offset behind the last.
    fn records(
        &mut self,
        name: &str,
        bytes: &[u8],
        header: &SegmentHeader,
        needed: bool,
        each: &mut impl FnMut(Payload) -> Result<(), String>,
    ) -> Result<u64, OpenError> {
        let key = self.keyring.unwrap_data_key(header.key_id, &header.wrapped)?;
        let mut sealed = std::mem::take(&mut self.sealed);
        let mut place = Place {
            offset: SEGMENT_HEADER,
            number: self.next_record,
            chain: self.chain,
            salt: header.salt(),
        };
        loop {
            let found = match header.version {
                Version::Framed => find(bytes, &place, &mut sealed),
                Version::Unframed => find_unframed(bytes, &place, &mut sealed),
            };
            let (record, next) = match found {
                Found::Record(record, next) => (record, next),
                Found::End => break,
                Found::Damaged { offset, detail } => {
                    self.damage = Some(self.damaged(name, offset, detail));
                    break;
                }
            };
            let at = place.offset;
            place = Place {
                offset: next,
                number: record.number + 1,
                chain: record.header_check,
                ..place
            };
            (self.next_record, self.chain) = (place.number, place.chain);
            if !needed {
                continue;
            }
            let plain = key.open(record.nonce, &mut sealed, &record.number.to_le_bytes());
            let payload = plain.and_then(payload::decode).ok_or_else(|| {
                let detail = format!("record {} cannot be decrypted", record.number);
                self.damaged(name, at, detail)
            })?;
            let last = match &payload {
                Payload::Append { entries, .. } => entries.iter().map(|entry| entry.index).max().unwrap_or(0),
                Payload::Reset { index, .. } => index + 1,
                Payload::Seal => 0,
            };
            self.last_index = self.last_index.max(last);
            each(payload).map_err(|detail| self.damaged(name, at, detail))?;
        }
        self.sealed = sealed;
        self.end = (header.number, place.offset);
        Ok(place.offset)
    }
}
