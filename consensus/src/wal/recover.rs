//! Reading the log after a start.
//!
//! Everything is checked before anything is changed, and reading changes nothing: a torn tail is
//! simply where writing goes on. What distinguishes it from damage: a torn record is the last one.
//! If a valid record, or a later segment, follows the place where a record should be, then that
//! place had once been written and synced, and has been damaged since.

use std::io;
use std::sync::Arc;

use super::format::{
    RECORD_HEADER, RecordHeader, SEGMENT_HEADER, SegmentHeader, aligned, body_check, decode_successor, later_record,
};
use super::segments::Segments;
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

/// Reads all segments, hands the records to `each` in order, and returns the log ready for
/// appending. Segments that hold nothing after the entry `after` are checked but not decoded.
/// There must be at least one segment. Nothing on disk is changed.
pub(crate) fn recover(
    disk: Arc<dyn Disk>,
    keyring: Arc<Keyring>,
    segment_bytes: u64,
    after: u64,
    mut each: impl FnMut(Payload) -> Result<(), String>,
) -> Result<Wal, OpenError> {
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
    };
    let mut segments = Vec::new();
    let mut tail = None;
    let newest_from = match numbers.last() {
        Some(last) => reader.before(*last)?.1,
        None => u64::MAX,
    };
    for (at, &number) in numbers.iter().enumerate() {
        if at > 0 && numbers[at - 1] + 1 != number {
            let missing = segment_name(numbers[at - 1] + 1);
            return Err(reader.damaged(&missing, 0, "the file is missing".into()));
        }
        let (last_index, first_record) = match numbers.get(at + 1) {
            Some(next) => reader.before(*next)?,
            None => (u64::MAX, u64::MAX),
        };
        // The newest record has the vote, even if no entry is needed any more.
        let needed = last_index > after || first_record >= newest_from;
        tail = Some(reader.segment(number, at == 0, needed, &mut each)?);
        if !needed {
            reader.last_index = reader.last_index.max(last_index);
        }
        segments.push((number, reader.last_index));
    }
    let Some(tail) = tail else {
        return Err(reader.damaged(&segment_name(1), 0, "the file is missing".into()));
    };
    if let Some(next) = tail.successor {
        return Err(reader.damaged(&segment_name(next), 0, "the file is missing".into()));
    }
    let key = reader
        .keyring
        .unwrap_data_key(tail.header.key_id, &tail.header.wrapped)?;
    // Without a reserve on disk, the current segment may be what became of it.
    let on_reserve = reader.disk.open(RESERVE).is_err();
    Ok(Wal {
        on_reserve,
        disk: reader.disk,
        keyring: reader.keyring,
        segment_bytes,
        segments: Arc::new(Segments::new(segments, reader.newest_record_in)),
        file: tail.file,
        file_bytes: tail.file_bytes,
        offset: tail.offset,
        key,
        key_id: tail.header.key_id,
        salt: tail.header.salt(),
        next_record: reader.next_record,
        chain: reader.chain,
        failed: false,
        buffer: Vec::new(),
    })
}

impl Reader {
    fn damaged(&self, name: &str, offset: u64, detail: String) -> OpenError {
        OpenError::Corrupted {
            file: self.disk.path(name),
            offset,
            detail,
        }
    }

    /// Reads one segment.
    fn segment(
        &mut self,
        number: u64,
        is_first: bool,
        needed: bool,
        each: &mut impl FnMut(Payload) -> Result<(), String>,
    ) -> Result<Tail, OpenError> {
        let name = segment_name(number);
        let path = self.disk.path(&name);
        let file = self.disk.open(&name).map_err(io_error("open", path.clone()))?;
        let file_bytes = file.size().map_err(io_error("read", path.clone()))?;
        if file_bytes < self.segment_bytes {
            let detail = format!(
                "the file ends here, but was made with {} bytes: records may be missing",
                self.segment_bytes
            );
            return Err(self.damaged(&name, file_bytes, detail));
        }
        let mut bytes = read_range(&*file, 0, file_bytes as usize).map_err(io_error("read", path))?;
        let header = self.header(&name, &bytes, number, is_first)?;
        let offset = self.records(&name, &mut bytes, &header, needed, each)?;
        if self.next_record > header.first_record || is_first {
            self.newest_record_in = number;
        }
        let behind = bytes.get(offset as usize..).unwrap_or_default();
        Ok(Tail {
            successor: decode_successor(behind, header.salt()),
            file,
            file_bytes,
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
    fn header(&mut self, name: &str, bytes: &[u8], number: u64, is_first: bool) -> Result<SegmentHeader, OpenError> {
        let header = SegmentHeader::decode(bytes)
            .ok_or_else(|| self.damaged(name, 0, "the segment header is invalid".into()))?;
        if header.number != number {
            let detail = format!("this is segment {}, under another name", header.number);
            return Err(self.damaged(name, 8, detail));
        }
        self.last_index = self.last_index.max(header.last_index);
        if is_first {
            self.next_record = header.first_record;
            self.chain = header.chain;
        } else if header.first_record != self.next_record || header.chain != self.chain {
            let detail = format!(
                "record {} is invalid, but a later segment begins with record {}",
                self.next_record, header.first_record
            );
            return Err(self.damaged(&segment_name(self.end.0), self.end.1, detail));
        }
        Ok(header)
    }

    /// Reads the records of a segment and returns the offset behind the last.
    fn records(
        &mut self,
        name: &str,
        bytes: &mut [u8],
        header: &SegmentHeader,
        needed: bool,
        each: &mut impl FnMut(Payload) -> Result<(), String>,
    ) -> Result<u64, OpenError> {
        let key = self.keyring.unwrap_data_key(header.key_id, &header.wrapped)?;
        let salt = header.salt();
        let mut offset = SEGMENT_HEADER;
        while let Some(record) = self.valid_record(bytes, offset, salt) {
            let from = offset as usize + RECORD_HEADER;
            let to = from + record.length as usize;
            self.next_record += 1;
            self.chain = record.header_check;
            let at = offset;
            offset = aligned(to as u64);
            if !needed {
                continue;
            }
            let bound_to = record.number.to_le_bytes();
            let plain = bytes
                .get_mut(from..to)
                .and_then(|sealed| key.open(record.nonce, sealed, &bound_to));
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
        self.check_tail(name, bytes, offset, salt)?;
        self.end = (header.number, offset);
        Ok(offset)
    }

    /// The record at an offset, if the one that is expected there is there and whole.
    fn valid_record(&self, bytes: &[u8], offset: u64, salt: u32) -> Option<RecordHeader> {
        let bytes = bytes.get(offset as usize..)?;
        let record = RecordHeader::decode(bytes, salt)?;
        let sealed = bytes.get(RECORD_HEADER..RECORD_HEADER + record.length as usize)?;
        let expected = record.number == self.next_record;
        (expected && body_check(sealed, self.chain) == record.body_check).then_some(record)
    }

    /// Decides whether the place behind the last valid record is the end of the segment or damage.
    /// Whether a further segment continues from here is for that one's header to say.
    fn check_tail(&self, name: &str, bytes: &[u8], offset: u64, salt: u32) -> Result<(), OpenError> {
        match later_record(bytes, offset, self.next_record, salt) {
            None => Ok(()),
            Some(later) => {
                let detail = format!(
                    "record {} is invalid, but a later record follows at byte {}",
                    self.next_record, later.start
                );
                Err(self.damaged(name, offset, detail))
            }
        }
    }
}
