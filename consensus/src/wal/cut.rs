//! Giving up the damaged end of a log, when somebody has demanded that.

use std::io;

use super::{Wal, segment_name, segment_numbers};
use crate::OpenError;
use crate::crypt::io_error;
use crate::disk::DiskFile;

/// Bytes written at once.
const STEP: u64 = 1 << 20;

impl Wal {
    /// Makes the log end where its last whole record ends: later segments go, the rest of the current one becomes
    /// zeros. The mark comes first, so that revisions move ahead even if the damage goes and the rest does not follow;
    /// as long as any of it is left the log is damaged, and this is done again.
    pub fn give_up_rest(&mut self) -> Result<(), OpenError> {
        self.write_mark(|mark| {
            mark.gave_up = true;
            mark.owed = 0;
        })?;
        let current = self.segments.current();
        let mut later = segment_numbers(&*self.disk)?;
        later.retain(|number| *number > current);
        let cut = || -> io::Result<()> {
            for number in later.into_iter().rev() {
                self.disk.remove(&segment_name(number))?;
            }
            self.disk.sync_dir()?;
            clear(&mut *self.file, self.offset, self.file_bytes)
        };
        let done = cut().map_err(io_error("cut off", self.disk.path(&segment_name(current))));
        if done.is_err() {
            self.failed = true;
        }
        done
    }
}

/// Fills a file with zeros from one offset to another.
fn clear(file: &mut dyn DiskFile, mut from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; STEP as usize];
    while from < to {
        let step = STEP.min(to - from);
        file.write_at(from, &zeros[..step as usize])?;
        from += step;
    }
    file.sync()
}
