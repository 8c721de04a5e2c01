//! Why a store doesn't open, and why a write is refused. Each is one sentence that says what to do.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why the store could not be opened. Nothing on disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the data directory.
    #[error("the data directory {dir} is in use by process {pid}; stop that process, or choose another data directory")]
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// Process that holds it, "unknown" when it could not be told.
        pid: String,
    },
    /// A file is damaged.
    #[error(
        "{file} is damaged at byte {offset}: {detail}; nothing was changed; restore the data directory from a backup"
    )]
    Corrupted {
        /// Which file.
        file: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong there.
        detail: String,
    },
    /// The end of the log is damaged: records that had been made durable are missing.
    #[error(
        "{file} is damaged at byte {offset}: {detail}; nothing was changed; restore the data directory from a backup, \
         or start once with --accept-log-damage, which gives up every write after revision {revision}"
    )]
    LogDamaged {
        /// Which file.
        file: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong there.
        detail: String,
        /// Revision of the last write that is known to be whole.
        revision: u64,
    },
    /// Something was stored here, and its files are gone.
    #[error("the files of the store in {dir} are gone; restore the directory from a backup")]
    Lost {
        /// The data directory.
        dir: PathBuf,
    },
    /// The directory was written by a newer version.
    #[error(
        "the data directory {dir} has format {found}, and this version knows formats up to {known}; use the newer version that wrote it"
    )]
    NewerFormat {
        /// The data directory.
        dir: PathBuf,
        /// Format found.
        found: u32,
        /// Newest format this build can read.
        known: u32,
    },
    /// The encryption key is missing, wrong or unusable.
    #[error("{detail} (key file {key_file}); put the key file that belongs to this data back")]
    Key {
        /// The key file.
        key_file: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The disk is full.
    #[error("no space is left on the disk of {dir}, which needs {needed_mib} MiB free to start")]
    NoSpace {
        /// The data directory.
        dir: PathBuf,
        /// Space needed, in MiB.
        needed_mib: u64,
    },
    /// Some other operation failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The other members have removed this one.
    #[error(
        "this member was removed from the cluster; to have it back, let it join again with an empty data directory"
    )]
    Removed,
    /// The consensus library refused the recovered state.
    #[error("the recovered state was refused: {0}")]
    Raft(String),
}

impl OpenError {
    /// Whether the store is not what it was: a member of several is made whole by the others.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            OpenError::Corrupted { .. } | OpenError::LogDamaged { .. } | OpenError::Lost { .. }
        )
    }
}

/// Why a write was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The disk is nearly full: only deletes are accepted until there is space again.
    #[error(
        "no space is left on the disk of {place}: writes are refused, reads and deletes still work; free space on it and writes resume by themselves"
    )]
    NoSpace {
        /// The data directory, or the member whose disk it is.
        place: Arc<str>,
    },
    /// No leader took it in time. It was not written.
    #[error("the cluster has no leader at the moment; try again")]
    NoLeader,
    /// It was not confirmed in time.
    #[error("the write was not confirmed in time; it may or may not have been done")]
    Unknown,
    /// The transaction is larger than one log record may be.
    #[error("the transaction has {bytes} bytes, and the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Too many writes are waiting already.
    #[error("too many writes are waiting; try again later")]
    Overloaded,
    /// The store has stopped; the text says why. The outcome of a write that was under way when
    /// it stopped is unknown.
    #[error("the store has stopped: {0}")]
    Stopped(Arc<str>),
}

/// Why a rotation of keys has not ended. Nothing is lost: it goes on when it is asked for again.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// A write that is part of it was refused.
    #[error(transparent)]
    Refused(#[from] ProposeError),
    /// A file could not be read or written.
    #[error(transparent)]
    Files(#[from] OpenError),
    /// A checkpoint could not be written; the log says why.
    #[error("a checkpoint could not be written; the server's log tells why")]
    Checkpoint,
    /// Something else went on with the same files all the time.
    #[error("files of the old key are still in use; try again later")]
    Unfinished,
}
