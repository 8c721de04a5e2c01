//! The port to the disk: one flat directory of files.
//!
//! Small on purpose: it has exactly the steps between which a machine can lose power. The log and
//! the checkpoints are written against it, so that their tests can cut the power between any two
//! of those steps ([`MemoryDisk`]) while the product runs on [`RealDisk`].

mod memory;
mod real;

use std::io;
use std::path::PathBuf;

pub use memory::{Fault, MemoryDisk};
pub use real::RealDisk;

/// A directory.
pub trait Disk: Send + Sync {
    /// Names of the files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Creates a file, empty, in place of one of that name.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Renames, replacing; durable after [`Disk::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file; durable after [`Disk::sync_dir`].
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// The file's path, for messages.
    fn path(&self, name: &str) -> PathBuf;
}

/// A file.
pub trait DiskFile: Send {
    /// Size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Fills the buffer from an offset; less only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes everything at an offset; durable after [`DiskFile::sync`].
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// Whether an error says that the disk is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Reads exactly `length` bytes, or up to the end of the file.
pub fn read_range(file: &dyn DiskFile, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    let read = file.read_at(offset, &mut buffer)?;
    buffer.truncate(read);
    Ok(buffer)
}
