//! From a directory of version 1 to one of version 2, as soon as the first record is written.

use std::io;

use super::synced::Synced;
use super::{SPARES, Wal};
use crate::OpenError;
use crate::crypt::io_error;
use crate::datadir::FORMAT;

impl Wal {
    /// The log goes on in segments of version 2. Earlier versions of Coxswain refuse the directory from here on.
    /// What it does is done again if it was cut off.
    pub(super) fn upgrade(&mut self) -> Result<(), OpenError> {
        let dir = self.disk.path("");
        tracing::warn!(
            dir = %dir.display(),
            format = FORMAT,
            "the store was written by an earlier version of Coxswain: its log goes on in a format that earlier \
             versions cannot read"
        );
        crate::datadir::upgrade(&*self.disk)?;
        let prepare = || -> io::Result<Synced> {
            // What they hold from earlier uses has no sectors that check themselves.
            for spare in SPARES {
                match self.disk.remove(spare) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            Synced::create(&*self.disk)
        };
        let synced = prepare().map_err(io_error("upgrade", dir));
        if synced.is_err() {
            self.failed = true;
        }
        self.synced = Some(synced?);
        Ok(())
    }
}

/// Turns a closed directory into one as version 1 left it.
#[cfg(test)]
pub(crate) fn downgrade(disk: &crate::disk::MemoryDisk) {
    use super::format::{Found, Place, SEGMENT_HEADER, SegmentHeader, Version, successor};
    use super::sectors::{find, successor_at};
    use crate::disk::Disk;

    for name in disk.list().expect("listed") {
        let mut file = disk.open(&name).expect("opened");
        let bytes = disk.contents(&name).expect("there");
        let header = SegmentHeader::decode(&bytes).filter(|_| name.starts_with("log-"));
        let Some(header) = header else {
            continue;
        };
        let salt = header.salt();
        let unframed = SegmentHeader {
            version: Version::Unframed,
            file_bytes: 0,
            ..header.clone()
        };
        let mut out = unframed.encode();
        let mut place = Place {
            offset: SEGMENT_HEADER,
            number: header.first_record,
            chain: header.chain,
            salt,
        };
        let mut sealed = Vec::new();
        while let Found::Record(record, offset) = find(&bytes, &place, &mut sealed) {
            out.extend_from_slice(&record.encode());
            out.extend_from_slice(&sealed);
            out.resize(out.len().next_multiple_of(8), 0);
            let (number, chain) = (record.number + 1, record.header_check);
            place = Place {
                offset,
                number,
                chain,
                salt,
            };
        }
        if let Some(next) = successor_at(&bytes, place.offset, salt) {
            out.extend_from_slice(&successor(next, salt));
        }
        out.resize(bytes.len(), 0);
        file.write_at(0, &out).expect("written");
        file.sync().expect("synced");
    }
    disk.remove(super::synced::SYNCED).expect("removed");
    let mut format = disk.create("FORMAT").expect("created");
    format.write_at(0, b"1\n").expect("written");
    format.sync().expect("synced");
    disk.sync_dir().expect("synced");
}
