//! Records cut into sectors that check themselves, so that damage can be told from a torn write.
//!
//! ```text
//! sector (512 bytes) := content (504) | tag | check of offset, content and tag
//! ```
//! A record begins at a sector of its own and fills whole ones; the rest of its last one is zeros. Its sectors carry
//! its header check as their tag, which no other record has: it covers the nonce.
//!
//! What a disk may do: until a sync returns, each sector that was written holds either what it held before or what
//! was written, whichever and in whatever order. What it held before is zeros (a segment is filled with them when
//! it is made) or a sector of another tag (of an earlier use of the segment, or of a record that was torn at this
//! place); nothing else is ever written here. So for each sector of a record there are three cases:
//!
//! - it has the record's tag and its check is right: it was written;
//! - it is zeros, or right with another tag: it holds what it held before;
//! - anything else is neither, and no power cut leaves that: it has changed since.
//!
//! A record with a sector of the second case was not written whole, so its sync did not return and nobody was told
//! of it: the log ends there. A record without one was written whole. If it is not valid all the same it has
//! changed since, which is damage. In a record whose first sector has changed nothing can be told, which is damage,
//! too. Sectors of 4096 bytes are covered: each is eight of these with the same fate.
//!
//! What this cannot tell: a sector that was synced and holds again what it held before. The mark
//! ([`super::synced`]) is for that.

use std::ops::Range;

use super::format::{
    Found, Place, RECORD_HEADER, RecordHeader, SEGMENT_HEADER, SegmentHeader, Version, body_check, decode_successor,
    invalid_before,
};
use crate::crypt::TAG;

/// Bytes of a sector, the smallest unit that a disk writes as a whole.
pub(crate) const SECTOR: usize = 512;
/// Bytes of content in a sector.
const CONTENT: usize = SECTOR - 8;

/// What a sector holds.
enum Sector<'a> {
    /// Zeros: it was never written.
    Empty,
    /// Something that was written there, and its tag.
    Written(&'a [u8], u32),
    /// Something that was never written there.
    Changed,
}

/// Bytes that so many bytes of content take.
fn framed_size(content: usize) -> u64 {
    (content.div_ceil(CONTENT) * SECTOR) as u64
}

/// Bytes that a record with this much plain payload takes in its segment.
pub(crate) fn record_size(payload: usize) -> u64 {
    framed_size(RECORD_HEADER + payload + TAG)
}

/// Appends content as the sectors that begin at an offset.
pub(crate) fn frame(content: &[u8], tag: u32, mut offset: u64, out: &mut Vec<u8>) {
    for part in content.chunks(CONTENT) {
        let from = out.len();
        out.extend_from_slice(part);
        out.resize(from + CONTENT, 0);
        out.extend_from_slice(&tag.to_le_bytes());
        let check = sector_check(offset, &out[from..]);
        out.extend_from_slice(&check.to_le_bytes());
        offset += SECTOR as u64;
    }
}

/// Check of a sector's content and tag at its place.
fn sector_check(offset: u64, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&offset.to_le_bytes());
    hasher.update(content);
    hasher.finalize()
}

/// The sector at an offset; `None` behind the end of the segment.
fn sector(segment: &[u8], offset: u64) -> Option<Sector<'_>> {
    let bytes = segment.get(offset as usize..)?.get(..SECTOR)?;
    let (covered, check) = bytes.split_at(SECTOR - 4);
    if check == sector_check(offset, covered).to_le_bytes() {
        let (content, tag) = covered.split_at(CONTENT);
        let tag = tag.try_into().map_or(0, u32::from_le_bytes);
        return Some(Sector::Written(content, tag));
    }
    match bytes.iter().all(|byte| *byte == 0) {
        true => Some(Sector::Empty),
        false => Some(Sector::Changed),
    }
}

/// The header of a record of a segment with this salt that begins in a sector.
fn header_in(sector: &Sector<'_>, salt: u32) -> Option<RecordHeader> {
    let Sector::Written(content, tag) = sector else {
        return None;
    };
    RecordHeader::decode(content, salt).filter(|header| header.header_check == *tag)
}

/// Number of the segment that continues one with this salt whose records end at an offset, if it names one.
pub(crate) fn successor_at(segment: &[u8], offset: u64, salt: u32) -> Option<u64> {
    match sector(segment, offset)? {
        Sector::Written(content, _) => decode_successor(content, salt),
        Sector::Empty | Sector::Changed => None,
    }
}

/// Looks for a record. Its payload is put into `sealed`.
pub(crate) fn find(segment: &[u8], place: &Place, sealed: &mut Vec<u8>) -> Found {
    let Some(first) = sector(segment, place.offset) else {
        return Found::End;
    };
    let number = place.number;
    let found = match (&first, header_in(&first, place.salt)) {
        (Sector::Changed, _) => {
            let detail = format!("the first sector of record {number} has changed since it was written");
            damaged(place.offset, detail)
        }
        (_, Some(header)) => whole(segment, place, header, sealed),
        (_, None) => Found::End,
    };
    match found {
        Found::End => later_record(segment, place).map_or(Found::End, |later| invalid_before(place, later)),
        found => found,
    }
}

/// The record with this header, if all of it was written and is what was written.
fn whole(segment: &[u8], place: &Place, header: RecordHeader, sealed: &mut Vec<u8>) -> Found {
    let number = place.number;
    if header.number != number {
        let detail = format!("record {} stands in the place of record {number}", header.number);
        return damaged(place.offset, detail);
    }
    let bytes = RECORD_HEADER + header.length as usize;
    let end = place.offset + framed_size(bytes);
    if end > segment.len() as u64 {
        let detail = format!("record {number} does not fit into the file");
        return damaged(place.offset, detail);
    }
    sealed.clear();
    let mut changed = None;
    for offset in (place.offset..end).step_by(SECTOR) {
        match sector(segment, offset) {
            Some(Sector::Written(content, tag)) if tag == header.header_check => sealed.extend_from_slice(content),
            Some(Sector::Changed) => drop(changed.get_or_insert(offset)),
            _ => return Found::End,
        }
    }
    if let Some(offset) = changed {
        let detail = format!("record {number} was written whole, and this sector of it has changed since");
        return damaged(offset, detail);
    }
    sealed.truncate(bytes);
    sealed.drain(..RECORD_HEADER);
    if body_check(sealed, place.chain) != header.body_check {
        let detail = format!("record {number} does not continue the record before");
        return damaged(place.offset, detail);
    }
    Found::Record(header, end)
}

fn damaged(offset: u64, detail: String) -> Found {
    Found::Damaged { offset, detail }
}

/// Where a later record of the segment begins.
fn later_record(segment: &[u8], place: &Place) -> Option<u64> {
    let mut offset = place.offset + SECTOR as u64;
    while let Some(sector) = sector(segment, offset) {
        if header_in(&sector, place.salt).is_some_and(|later| later.number > place.number) {
            return Some(offset);
        }
        offset += SECTOR as u64;
    }
    None
}

/// The bytes of a segment's last record, whole or torn: an empty range where it would begin if there is none. For
/// tests of damage.
pub fn last_record(segment: &[u8]) -> Range<usize> {
    let first = SEGMENT_HEADER as usize;
    let mut last = first..first;
    let header = SegmentHeader::decode(segment).filter(|header| header.version == Version::Framed);
    let Some(salt) = header.map(|header| header.salt()) else {
        return last;
    };
    loop {
        let next = sector(segment, last.end as u64).and_then(|sector| header_in(&sector, salt));
        let Some(record) = next else {
            return last;
        };
        let bytes = framed_size(RECORD_HEADER + record.length as usize) as usize;
        last = last.end..(last.end + bytes).min(segment.len());
    }
}
