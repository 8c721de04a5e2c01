//! Drives the object store with raft and keeps it on disk.
//!
//! Owns: the data directory, the write-ahead log, checkpoints, the raft member and its thread, the
//! watch hub, and the [`Store`] handle by which everybody else reaches the store. The only crate
//! that sees raft's types.
//!
//! Guarantees: an acknowledged write is on disk before its answer leaves; nothing acknowledged is
//! lost by a crash at any moment; revisions never go back; after the first failed write or sync
//! nothing is acknowledged any more.
//!
//! Does not: know kinds, rules or HTTP; poll; keep anything of promised durability outside its
//! own log and checkpoints.
//!
//! ```text
//!  Store::propose --> Inbox --> Driver thread: raft -> log (one fdatasync) -> apply -> Hub
//!  Store::snapshot <------------------------- published snapshot <--------------'   |
//!  Store::watch    <------------------------- ring of the resource <----------------'
//! ```

pub mod backup;
mod checkpoint;
mod config;
mod crypt;
mod datadir;
pub mod disk;
mod driver;
pub mod engine;
mod error;
mod history;
mod hub;
mod inbox;
mod member;
mod message;
pub mod peers;
mod raft_log;
mod raft_logger;
pub mod rotation;
mod start;
mod store;
mod transport;
mod wal;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use coxswain_store::{
    Compacted, Draft, Event, EventKind, Head, Key, Op, Outcome, Precondition, RingLimit, Snapshot, Stored, Txn,
};
pub use crypt::Keyring;
pub use error::{OpenError, ProposeError, RotateError};
pub use hub::{Cursor, Expired};
pub use member::{Change, Cluster, Status};
pub use message::{Message, Refusal};
pub use store::{Stats, Store, WaitTimeout};
pub use transport::{NoPeers, Transport};
