//! Backups: everything that was true at one revision, in one encrypted file that a bare machine can be
//! made a cluster from.
//!
//! ```text
//!  a server                        the command on its machine                    a bare machine
//!  Parts of a snapshot  --TLS-->   Writer: sealed blocks, the cluster's files    restore(): a store
//! ```
//! A backup does not hold the store's own keys: what is restored gets new ones, and a key that was
//! rotated away does not live on in old backups.
//!
//! Does not: know what the cluster's files are, or where a passphrase comes from; reach a server.

mod file;
mod restore;
mod secret;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use coxswain_store::codec::{decode_objects, encode_object};
use coxswain_store::{Key, Snapshot, Stored};
use serde::{Deserialize, Serialize};

pub use file::{Reader, Writer};
pub(crate) use restore::AHEAD;
pub use restore::{check, restore, verify};
pub use secret::{Kind, Secret};

use crate::OpenError;

/// Bytes at which a part of objects is closed.
const PART: usize = 512 << 10;
/// Largest part that is believed: one object may exceed the usual size.
pub const MOST_PART: usize = 64 << 20;

const CLUSTER: u8 = 1;
const HEAD: u8 = 2;
const OBJECTS: u8 = 3;
const END: u8 = 4;

/// Why a backup cannot be written, read or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file is something else.
    #[error("it is not a backup")]
    Foreign,
    /// A newer version wrote it.
    #[error("it has format {found}, and this version knows formats up to {known}; use the newer version that wrote it")]
    NewerFormat {
        /// Format found.
        found: u32,
        /// Newest format this build reads.
        known: u32,
    },
    /// It is damaged or cut off.
    #[error("it is damaged at byte {offset}: {detail}; use another backup")]
    Damaged {
        /// Where.
        offset: u64,
        /// What is wrong there.
        detail: &'static str,
    },
    /// The passphrase or key is another one.
    #[error("the {0} is not the one that it was made with")]
    WrongSecret(&'static str),
    /// It wants the other kind of secret.
    #[error("it was made with a {0}")]
    OtherSecret(&'static str),
    /// What was to be backed up did not come whole.
    #[error("it ended early or makes no sense")]
    Incomplete,
    /// The machine has no randomness, or too little memory.
    #[error("encryption is not possible: {0}")]
    Cryptography(&'static str),
    /// It was another one a moment ago.
    #[error("it has changed while it was read")]
    Changed,
    /// There is something already where the store is to go.
    #[error("there is a store in {0} already")]
    Exists(PathBuf),
    /// The revision has no room for more.
    #[error("its revision is too large to go on from")]
    Revision,
    /// The store could not be written.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Some file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The backup itself could not be read or written.
    #[error(transparent)]
    Stream(#[from] io::Error),
}

/// What a bare machine needs besides the objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// When the backup was taken.
    pub taken: String,
    /// Files by a name that whoever wrote them understands.
    pub files: BTreeMap<String, String>,
}

/// What a backup is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Revision of the last write that it contains.
    pub revision: u64,
    /// Number of objects.
    pub objects: u64,
}

/// The parts of a snapshot, encoded as they are asked for.
pub struct Parts {
    snapshot: Snapshot,
    place: Option<Key>,
    next: u8,
}

impl Parts {
    /// The parts of this snapshot.
    pub fn of(snapshot: Snapshot) -> Parts {
        Parts {
            snapshot,
            place: None,
            next: HEAD,
        }
    }

    fn head(&self) -> Head {
        Head {
            revision: self.snapshot.revision(),
            objects: self.snapshot.len() as u64,
        }
    }
}

impl Iterator for Parts {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut part = vec![self.next];
        match self.next {
            HEAD => {
                serde_json::to_writer(&mut part, &self.head()).ok()?;
                self.next = OBJECTS;
            }
            OBJECTS => {
                let mut last = None;
                for object in self.snapshot.all_after(self.place.as_ref()) {
                    encode_object(object, &mut part);
                    last = Some(object.key.clone());
                    if part.len() >= PART {
                        break;
                    }
                }
                if last.is_none() {
                    self.next = 0;
                    return Some(vec![END]);
                }
                self.place = last;
            }
            _ => return None,
        }
        Some(part)
    }
}

/// A part with its length in front, as it travels.
pub fn framed(part: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(4 + part.len());
    frame.extend_from_slice(&(part.len() as u32).to_le_bytes());
    frame.extend_from_slice(part);
    frame
}

/// Takes parts out of a stream of framed ones.
#[derive(Default)]
pub struct Frames {
    buffer: Vec<u8>,
}

impl Frames {
    /// Takes in what has come, and hands each whole part to `each`.
    ///
    /// # Errors
    /// A part that is too large, and what `each` says.
    pub fn take(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        self.buffer.extend_from_slice(bytes);
        let mut rest = self.buffer.as_slice();
        while let Some((length, behind)) = rest.split_first_chunk() {
            let length = u32::from_le_bytes(*length) as usize;
            if length > MOST_PART {
                return Err(BackupError::Incomplete);
            }
            let Some(part) = behind.get(..length) else {
                break;
            };
            each(part)?;
            rest = behind.get(length..).unwrap_or_default();
        }
        let used = self.buffer.len() - rest.len();
        self.buffer.drain(..used);
        Ok(())
    }
}

/// Where one is among the parts: only a whole sequence of them is a backup.
#[derive(Default)]
struct Sequence {
    cluster: Option<Cluster>,
    head: Option<Head>,
    count: u64,
    ended: bool,
}

impl Sequence {
    /// Takes in the next part and hands its objects to `each`; `None` when it cannot be the next one.
    fn take(&mut self, part: &[u8], mut each: impl FnMut(Stored)) -> Option<()> {
        let (kind, content) = part.split_first()?;
        match *kind {
            CLUSTER if self.cluster.is_none() => self.cluster = Some(serde_json::from_slice(content).ok()?),
            HEAD if self.cluster.is_some() && self.head.is_none() => {
                self.head = Some(serde_json::from_slice(content).ok()?);
            }
            OBJECTS if self.head.is_some() && !self.ended => {
                let count = &mut self.count;
                decode_objects(content, |object| {
                    *count += 1;
                    each(object);
                })
                .ok()?;
            }
            END if content.is_empty() && !self.ended => {
                self.ended = self.head.is_some_and(|head| head.objects == self.count);
                return self.ended.then_some(());
            }
            _ => return None,
        }
        Some(())
    }

    /// What the parts were of, once they are whole.
    fn whole(self) -> Option<(Cluster, Head)> {
        if self.ended { self.cluster.zip(self.head) } else { None }
    }
}

fn cluster_part(cluster: &Cluster) -> Vec<u8> {
    let mut part = vec![CLUSTER];
    // Text in memory has no way to fail.
    part.extend(serde_json::to_vec(cluster).unwrap_or_default());
    part
}

#[cfg(test)]
mod tests;
