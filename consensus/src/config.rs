//! What a member is told when it starts.

use std::path::PathBuf;

use coxswain_store::RingLimit;

/// Settings of one member's store.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of log and checkpoints; created when missing.
    pub data_dir: PathBuf,
    /// File of the encryption keys, created (0600) when the store is new. Kept apart from the
    /// data so that a copy of the data directory alone tells nothing.
    pub key_file: PathBuf,
    /// Raft id of this member, not 0.
    pub member: u64,
    /// Raft ids of all members, should the cluster be a new one; none for a member that is to join one.
    /// Without effect once there is data.
    pub voters: Vec<u64>,
    /// Bounds of the watch history: events of each resource, bytes of all together.
    pub history: RingLimit,
    /// Size of one log segment in bytes. A segment, a spare one and a reserve are kept allocated.
    pub segment_bytes: u64,
    /// A checkpoint is written after this many bytes of log, or after a third of the size of
    /// the stored objects, whichever is more.
    pub checkpoint_bytes: u64,
    /// Bytes of the log that are kept in memory for members that lag; one that lags further is sent a
    /// snapshot.
    pub lag_bytes: usize,
    /// Size of the parts of a snapshot on its way to another member, in bytes.
    pub chunk_bytes: usize,
    /// What is missing from a damaged log is given up: the store opens with what is whole before it. Only for a
    /// member that is alone; one of several gets everything back from the others.
    pub accept_log_damage: bool,
}

impl Config {
    /// The usual settings for a store in `data_dir`; the keys go to a sibling directory `keys`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Config {
        let data_dir = data_dir.into();
        let key_file = match data_dir.parent() {
            Some(parent) => parent.join("keys").join("store.key"),
            None => PathBuf::from("store.key"),
        };
        Config {
            data_dir,
            key_file,
            member: 1,
            voters: vec![1],
            history: RingLimit::default(),
            segment_bytes: 4 << 20,
            checkpoint_bytes: 16 << 20,
            lag_bytes: 32 << 20,
            chunk_bytes: 512 << 10,
            accept_log_damage: false,
        }
    }
}
