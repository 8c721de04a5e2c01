//! From a backup to a store that a bare machine can serve.
//!
//! The store becomes that of one member, with a raft history, a membership and keys of its own: the members of the
//! cluster that was backed up are strangers to it. Every object's revision, and the store's own, moves
//! ahead by [`AHEAD`], so that none is ever given out twice and none goes back, whatever clients have
//! seen since the backup; a watch from before finds its place compacted.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use coxswain_store::State;

use super::file::Header;
use super::{BackupError, Cluster, Head, Kind, Reader, Secret};
use crate::Config;
use crate::crypt::Keyring;
use crate::datadir::DataDir;
use crate::disk::{Disk, RealDisk};
use crate::peers::{ROSTER, TOKENS};
use crate::start::lay_out;

/// How far revisions move ahead: more than two years of 15,000 writes a second. There is room for nine million
/// restores.
pub(crate) const AHEAD: u64 = 1_000_000_000_000;

fn input(path: &Path) -> Result<BufReader<File>, BackupError> {
    let file = File::open(path).map_err(|source| BackupError::Io {
        action: "open",
        path: path.to_owned(),
        source,
    })?;
    Ok(BufReader::with_capacity(1 << 20, file))
}

fn open(path: &Path, secret: &Secret) -> Result<Reader<BufReader<File>>, BackupError> {
    Reader::open(input(path)?, secret)
}

/// Looks whether a file is a backup that was made with this kind of secret, before one is asked for.
///
/// # Errors
/// When it is not.
pub fn check(path: &Path, kind: Kind) -> Result<(), BackupError> {
    Header::read(&mut input(path)?)?.check(kind)
}

/// Reads a whole backup, for the sake of what is wrong with it.
///
/// # Errors
/// When it cannot be restored.
pub fn verify(path: &Path, secret: &Secret) -> Result<(Cluster, Head), BackupError> {
    let (cluster, head) = open(path, secret)?.read(drop)?;
    ahead(head.revision)?;
    Ok((cluster, head))
}

fn ahead(revision: u64) -> Result<u64, BackupError> {
    revision.checked_add(AHEAD).ok_or(BackupError::Revision)
}

/// Makes a new store, with new keys, in a directory that has none, from a backup that [`verify`] has found whole.
/// Returns the revision at which the store goes on. What is there after an error is of no use.
///
/// # Errors
/// When the backup cannot be read, or the store not be written.
pub fn restore(path: &Path, secret: &Secret, verified: Head, config: &Config) -> Result<u64, BackupError> {
    let revision = ahead(verified.revision)?;
    let data_dir = DataDir::acquire(&config.data_dir)?;
    if !data_dir.is_new() {
        return Err(BackupError::Exists(config.data_dir.clone()));
    }
    let mut state = State::restore(revision, []);
    let (_, head) = open(path, secret)?.read(|object| {
        // The old cluster's servers and the tokens for joining it mean nothing in the restored one.
        if ![ROSTER, TOKENS].contains(&&*object.key.resource) {
            state.restore_object(object.at_revision(object.revision.saturating_add(AHEAD)));
        }
    })?;
    if head != verified {
        return Err(BackupError::Changed);
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&config.data_dir));
    let keyring = Arc::new(Keyring::load_or_create(&config.key_file)?);
    lay_out(&disk, &keyring, config.segment_bytes, &config.voters, &state)?;
    data_dir.mark_format()?;
    Ok(revision)
}
