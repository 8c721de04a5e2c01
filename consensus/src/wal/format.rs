//! The bytes of a log segment.
//!
//! ```text
//! segment := header (512 bytes) record* successor? remainder (zeros, or records of an earlier use)
//! record  := magic | length | number | nonce | body check | header check | sealed payload | padding
//! ```
//! Records are numbered without a gap across segments and start at multiples of 8. The body check
//! covers the header check of the record before, so records form a chain: a lost, repeated or
//! displaced one is found. The header check begins with the segment's own salt, so that a record
//! of another segment is never taken for one of this.

use std::ops::Range;

use crate::crypt::{NONCE, TAG, WRAPPED};

/// Bytes of the segment header; a sector of its own.
pub(crate) const SEGMENT_HEADER: u64 = 512;
/// Bytes of a record header.
pub(crate) const RECORD_HEADER: usize = 36;

const SEGMENT_MAGIC: &[u8; 8] = b"cxwlog01";
const RECORD_MAGIC: u32 = 0x6363_7872;
const ALIGN: u64 = 8;
const SUCCESSOR_MAGIC: u32 = 0x7478_656e;
/// Bytes of a successor's name.
const SUCCESSOR: usize = 20;

/// What a segment says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Number of the segment; they count up without a gap.
    pub number: u64,
    /// Number of its first record.
    pub first_record: u64,
    /// Header check of the record before its first.
    pub chain: u32,
    /// Highest index of an entry in earlier segments.
    pub last_index: u64,
    /// Master key that wraps the data key.
    pub key_id: u32,
    /// The wrapped data key.
    pub wrapped: [u8; WRAPPED],
}

impl SegmentHeader {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER as usize);
        out.extend_from_slice(SEGMENT_MAGIC);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.first_record.to_le_bytes());
        out.extend_from_slice(&self.chain.to_le_bytes());
        out.extend_from_slice(&self.last_index.to_le_bytes());
        out.extend_from_slice(&self.key_id.to_le_bytes());
        out.extend_from_slice(&self.wrapped);
        let check = crc32fast::hash(&out);
        out.extend_from_slice(&check.to_le_bytes());
        out.resize(SEGMENT_HEADER as usize, 0);
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<SegmentHeader> {
        let mut at = Fields { bytes, at: 0 };
        if at.take(8)? != SEGMENT_MAGIC {
            return None;
        }
        let number = at.u64()?;
        let first_record = at.u64()?;
        let chain = at.u32()?;
        let last_index = at.u64()?;
        let key_id = at.u32()?;
        let wrapped: [u8; WRAPPED] = at.take(WRAPPED)?.try_into().ok()?;
        let covered = at.at;
        let check = at.u32()?;
        (crc32fast::hash(bytes.get(..covered)?) == check).then_some(SegmentHeader {
            number,
            first_record,
            chain,
            last_index,
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

/// Bytes that a record with this much plain payload takes in its segment.
pub(crate) fn record_size(payload: usize) -> u64 {
    aligned((RECORD_HEADER + payload + TAG) as u64)
}

/// The next multiple of the alignment.
pub(crate) fn aligned(offset: u64) -> u64 {
    offset.next_multiple_of(ALIGN)
}

/// Where a later record of the segment begins, after a place that holds none: the proof that the
/// place was damaged after it had been written.
pub(crate) fn later_record(segment: &[u8], from: u64, expected: u64, salt: u32) -> Option<Range<u64>> {
    let mut at = aligned(from + 1);
    while let Some(bytes) = segment.get(at as usize..) {
        if bytes.len() < RECORD_HEADER {
            break;
        }
        if let Some(header) = RecordHeader::decode(bytes, salt)
            && header.number > expected
        {
            return Some(at..at + u64::from(header.length));
        }
        at += ALIGN;
    }
    None
}

/// The bytes of a segment's last record, whole or torn: an empty range behind its header if there is none, or if the
/// header is invalid. A record that decays while it is the last of all looks like one that was torn, so this is what
/// tests of damage have to leave alone.
pub fn last_record(segment: &[u8]) -> Range<usize> {
    let first = SEGMENT_HEADER as usize;
    let mut last = first..first;
    let Some(salt) = SegmentHeader::decode(segment).map(|header| header.salt()) else {
        return last;
    };
    loop {
        let from = aligned(last.end as u64) as usize;
        let Some(record) = segment.get(from..).and_then(|bytes| RecordHeader::decode(bytes, salt)) else {
            return last;
        };
        last = from..from + RECORD_HEADER + record.length as usize;
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
