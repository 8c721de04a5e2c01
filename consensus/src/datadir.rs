//! The data directory: whose it is, and which format it has.
//!
//! Owns the files `LOCK` and `FORMAT`. The lock is the kernel's and goes away with the process,
//! however that ends.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::OpenError;
use crate::crypt::io_error;
use crate::disk::{Disk, RealDisk};

/// The newest format this build reads, and the one it writes. Since 2 the log stands in sectors that check
/// themselves, beside the file `synced`.
pub(crate) const FORMAT: u32 = 2;
const NAME: &str = "FORMAT";
const UNFINISHED: &str = "tmp-format";

/// A data directory that this process owns.
#[derive(Debug)]
pub(crate) struct DataDir {
    dir: PathBuf,
    is_new: bool,
    _lock: File,
}

impl DataDir {
    /// Creates the directory when it is missing, takes its lock and checks its format.
    pub fn acquire(dir: &Path) -> Result<DataDir, OpenError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(io_error("create", dir))?;
        let lock = take_lock(dir)?;
        let found = read_format(dir)?;
        if found.is_none() {
            sync_ancestors(dir);
        }
        if let Some(found) = found.filter(|found| *found > FORMAT) {
            return Err(OpenError::NewerFormat {
                dir: dir.to_owned(),
                found,
                known: FORMAT,
            });
        }
        Ok(DataDir {
            dir: dir.to_owned(),
            is_new: found.is_none(),
            _lock: lock,
        })
    }

    /// Whether nothing has ever been stored here.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Records the format of a directory that has none yet.
    pub fn mark_format(&self) -> Result<(), OpenError> {
        if !self.is_new {
            return Ok(());
        }
        write_format(&RealDisk::new(&self.dir))
    }
}

/// Records in a directory that says its format that it has the newest one from now on.
pub(crate) fn upgrade(disk: &dyn Disk) -> Result<(), OpenError> {
    match disk.open(NAME) {
        Ok(_) => write_format(disk),
        // It is said when the store has been opened for the first time.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error("open", disk.path(NAME))(error)),
    }
}

fn write_format(disk: &dyn Disk) -> Result<(), OpenError> {
    let write = || -> io::Result<()> {
        let mut file = disk.create(UNFINISHED)?;
        file.write_at(0, format!("{FORMAT}\n").as_bytes())?;
        file.sync()?;
        disk.rename(UNFINISHED, NAME)?;
        disk.sync_dir()
    };
    write().map_err(io_error("write", disk.path(NAME)))
}

/// Makes the directory's own name durable, and those of the directories above, which may be new
/// as well. One that can't be opened was not made by us.
pub(crate) fn sync_ancestors(path: &Path) {
    for dir in path.ancestors().skip(1) {
        if dir.as_os_str().is_empty() || RealDisk::sync_path(dir).is_err() {
            break;
        }
    }
}

fn take_lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("LOCK");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("open", path.clone()))?;
    if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(io_error("lock", path)(error.into()));
        }
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        let pid = match pid.trim() {
            "" => "unknown".to_owned(),
            pid => pid.chars().filter(char::is_ascii_digit).collect(),
        };
        return Err(OpenError::Locked {
            dir: dir.to_owned(),
            pid,
        });
    }
    let record = |file: &mut File| -> io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    // On a full disk the holder's number is missing from the file; the lock holds all the same.
    let _ = record(&mut file);
    Ok(file)
}

fn read_format(dir: &Path) -> Result<Option<u32>, OpenError> {
    let path = dir.join(NAME);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
        Err(error) => return Err(io_error("read", path)(error)),
    };
    match text.trim().parse() {
        Ok(format) => Ok(Some(format)),
        Err(_) => Err(OpenError::Corrupted {
            file: path,
            offset: 0,
            detail: format!("it does not hold a format number; if nothing else is damaged, write {FORMAT} into it"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner_and_a_known_format() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("store");
        let owner = DataDir::acquire(&path).expect("acquired");
        assert!(owner.is_new());
        owner.mark_format().expect("marked");
        let refused = DataDir::acquire(&path).expect_err("held already");
        let expected = format!(
            "the data directory {} is in use by process {}; stop that process, or choose another data directory",
            path.display(),
            std::process::id()
        );
        assert_eq!(refused.to_string(), expected);
        drop(owner);
        assert!(!DataDir::acquire(&path).expect("released").is_new());

        fs::write(path.join("FORMAT"), "7\n").expect("written");
        let newer = DataDir::acquire(&path).expect_err("too new");
        assert!(matches!(
            newer,
            OpenError::NewerFormat {
                found: 7,
                known: FORMAT,
                ..
            }
        ));
        fs::write(path.join("FORMAT"), "what").expect("written");
        let odd = DataDir::acquire(&path).expect_err("not a number");
        assert!(matches!(odd, OpenError::Corrupted { .. }));
    }
}
