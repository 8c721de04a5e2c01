//! The bytes of a log segment.
//!
//! ```text
//! segment := header (512 bytes) record* successor? remainder (zeros, or records of an earlier use)
//! record  := magic | length | number | nonce | body check | header check | sealed payload
//! ```
//! Records are numbered without a gap across segments. The body check covers the header check of the record
//! before, so records form a chain: a lost, repeated or displaced one is found. The header check begins with the
//! segment's own salt, so that a record of another segment is never taken for one of this.
//!
//! Since version 2 each record and the successor are cut into sectors ([`super::sectors`]). In version 1 they stood
//! in the file as they are, at multiples of 8; this is what [`find_unframed`] still reads.

use crate::crypt::{NONCE, TAG, WRAPPED};

/// Bytes of the segment header; a sector of its own.
pub(crate) const SEGMENT_HEADER: u64 = 512;
/// Bytes of a record header.
pub(crate) const RECORD_HEADER: usize = 36;

const SEGMENT_MAGIC: &[u8; 8] = b"cxwlog02";
const SEGMENT_MAGIC_UNFRAMED: &[u8; 8] = b"cxwlog01";
const RECORD_MAGIC: u32 = 0x6363_7872;
const ALIGN: u64 = 8;
const SUCCESSOR_MAGIC: u32 = 0x7478_656e;
/// Bytes of a successor's name.
const SUCCESSOR: usize = 20;

/// How the records of a segment stand in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// Version 1: without sectors. Read, and no longer written.
    Unframed,
    /// Version 2: cut into sectors that check themselves.
    Framed,
}

/// What a segment says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// How its records stand in the file.
    pub version: Version,
    /// Number of the segment; they count up without a gap.
    pub number: u64,
    /// Number of its first record.
    pub first_record: u64,
    /// Header check of the record before its first.
    pub chain: u32,
    /// Highest index of an entry in earlier segments.
    pub last_index: u64,
    /// Size of the file in bytes; 0 when it is not known, as in version 1.
    pub file_bytes: u64,
    /// Master key that wraps the data key.
    pub key_id: u32,
    /// The wrapped data key.
    pub wrapped: [u8; WRAPPED],
}

impl SegmentHeader {
    /// The header as it stands in a file of its version.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER as usize);
        out.extend_from_slice(match self.version {
            Version::Framed => SEGMENT_MAGIC,
            Version::Unframed => SEGMENT_MAGIC_UNFRAMED,
        });
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.first_record.to_le_bytes());
        out.extend_from_slice(&self.chain.to_le_bytes());
        out.extend_from_slice(&self.last_index.to_le_bytes());
        if self.version == Version::Framed {
            out.extend_from_slice(&self.file_bytes.to_le_bytes());
        }
        out.extend_from_slice(&self.key_id.to_le_bytes());
        out.extend_from_slice(&self.wrapped);
        let check = crc32fast::hash(&out);
        out.extend_from_slice(&check.to_le_bytes());
        out.resize(SEGMENT_HEADER as usize, 0);
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<SegmentHeader> {
        let mut at = Fields { bytes, at: 0 };
        let magic = at.take(8)?;
        let version = match magic {
            _ if magic == SEGMENT_MAGIC => Version::Framed,
            _ if magic == SEGMENT_MAGIC_UNFRAMED => Version::Unframed,
            _ => return None,
        };
        let number = at.u64()?;
        let first_record = at.u64()?;
        let chain = at.u32()?;
        let last_index = at.u64()?;
        let file_bytes = match version {
            Version::Framed => at.u64()?,
            Version::Unframed => 0,
        };
        let key_id = at.u32()?;
        let wrapped: [u8; WRAPPED] = at.take(WRAPPED)?.try_into().ok()?;
        let covered = at.at;
        let check = at.u32()?;
        (crc32fast::hash(bytes.get(..covered)?) == check).then_some(SegmentHeader {
            version,
            number,
            first_record,
            chain,
            last_index,
            file_bytes,
            key_id,
            wrapped,
        })
    }

    /// The salt of this segment's records: differs whenever the data key does.
    pub fn salt(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.number.to_le_bytes());
        hasher.update(&self.wrapped);
        hasher.finalize()
    }
}

/// What precedes a record's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    /// Bytes of the sealed payload, tag included.
    pub length: u32,
    /// Number of the record.
    pub number: u64,
    pub nonce: [u8; NONCE],
    pub body_check: u32,
    /// Check of the fields above; the chain value for the next record.
    pub header_check: u32,
}

impl RecordHeader {
    /// Header of a record with this sealed payload.
    pub fn new(number: u64, nonce: [u8; NONCE], sealed: &[u8], chain: u32, salt: u32) -> Self {
        let mut header = RecordHeader {
            length: sealed.len() as u32,
            number,
            nonce,
            body_check: body_check(sealed, chain),
            header_check: 0,
        };
        let bytes = header.encode();
        header.header_check = header_check(&bytes, salt);
        header
    }

    pub fn encode(&self) -> [u8; RECORD_HEADER] {
        let mut out = [0u8; RECORD_HEADER];
        out[0..4].copy_from_slice(&RECORD_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&self.length.to_le_bytes());
        out[8..16].copy_from_slice(&self.number.to_le_bytes());
        out[16..28].copy_from_slice(&self.nonce);
        out[28..32].copy_from_slice(&self.body_check.to_le_bytes());
        out[32..36].copy_from_slice(&self.header_check.to_le_bytes());
        out
    }

    /// The header at the front of `bytes`, when it is one of a segment with this salt.
    pub fn decode(bytes: &[u8], salt: u32) -> Option<RecordHeader> {
        let mut at = Fields { bytes, at: 0 };
        if at.u32()? != RECORD_MAGIC {
            return None;
        }
        let length = at.u32()?;
        let number = at.u64()?;
        let nonce: [u8; NONCE] = at.take(NONCE)?.try_into().ok()?;
        let body_check = at.u32()?;
        let check = at.u32()?;
        let header = RecordHeader {
            length,
            number,
            nonce,
            body_check,
            header_check: check,
        };
        let whole = (length as usize) >= TAG;
        (whole && header_check(bytes, salt) == check).then_some(header)
    }
}

/// Check of a sealed payload, chained to the record before.
pub(crate) fn body_check(sealed: &[u8], chain: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&chain.to_le_bytes());
    hasher.update(sealed);
    hasher.finalize()
}

fn header_check(bytes: &[u8], salt: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(bytes.get(..RECORD_HEADER - 4).unwrap_or_default());
    hasher.finalize()
}

/// What stands behind the last record of a segment that another one continues: that one's number.
pub(crate) fn successor(number: u64, salt: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(SUCCESSOR);
    out.extend_from_slice(&SUCCESSOR_MAGIC.to_le_bytes());
    out.extend_from_slice(&salt.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out
}

/// Number of the segment that continues one with this salt whose records end where `bytes` begin, if it
/// names one.
pub(crate) fn decode_successor(bytes: &[u8], salt: u32) -> Option<u64> {
    let mut at = Fields { bytes, at: 0 };
    let is_mark = at.u32()? == SUCCESSOR_MAGIC && at.u32()? == salt;
    let number = at.u64()?;
    let check = at.u32()?;
    (is_mark && crc32fast::hash(bytes.get(..SUCCESSOR - 4)?) == check).then_some(number)
}

/// Where a record is expected, and which.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Offset in the segment, in bytes.
    pub offset: u64,
    /// Number of the record.
    pub number: u64,
    /// Header check of the record before.
    pub chain: u32,
    /// Salt of the segment.
    pub salt: u32,
}

/// What is found at a place where a record is expected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The record, whole; where the next one is expected.
    Record(RecordHeader, u64),
    /// None: it was never written, or not whole, so that its sync cannot have returned.
    End,
    /// One that was written whole and has changed since, or of which that cannot be excluded.
    Damaged {
        /// Where the damage is, in bytes.
        offset: u64,
        /// What is wrong there.
        detail: String,
    },
}

/// Looks for a record in a segment of version 1, in which a last record that has changed cannot be told from a
/// torn one. Its payload is put into `sealed`.
pub(crate) fn find_unframed(segment: &[u8], place: &Place, sealed: &mut Vec<u8>) -> Found {
    let whole = || {
        let bytes = segment.get(place.offset as usize..)?;
        let record = RecordHeader::decode(bytes, place.salt)?;
        let body = bytes.get(RECORD_HEADER..RECORD_HEADER + record.length as usize)?;
        let expected = record.number == place.number && body_check(body, place.chain) == record.body_check;
        expected.then_some((record, body))
    };
    if let Some((record, body)) = whole() {
        sealed.clear();
        sealed.extend_from_slice(body);
        let behind = place.offset + (RECORD_HEADER + body.len()) as u64;
        return Found::Record(record, behind.next_multiple_of(ALIGN));
    }
    let mut at = place.offset + ALIGN;
    while let Some(bytes) = segment.get(at as usize..).filter(|bytes| bytes.len() >= RECORD_HEADER) {
        if RecordHeader::decode(bytes, place.salt).is_some_and(|later| later.number > place.number) {
            return invalid_before(place, at);
        }
        at += ALIGN;
    }
    Found::End
}

/// A later record proves that the one before had been synced.
pub(crate) fn invalid_before(place: &Place, later: u64) -> Found {
    let detail = format!(
        "record {} is invalid, but a later record follows at byte {later}",
        place.number
    );
    Found::Damaged {
        offset: place.offset,
        detail,
    }
}

struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at + length)?;
        self.at += length;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}
