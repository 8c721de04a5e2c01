//! The revisioned object store as a pure state machine: a transaction goes in, an outcome and
//! events come out.
//!
//! Owns: the shape of a stored object ([`Stored`]), the transaction and its binary form
//! ([`Txn`], [`codec`]), the state machine ([`State`]), consistent snapshots by structure sharing
//! ([`Snapshot`]), the bounded event history of one resource ([`Ring`]), and indexes for those who select
//! ([`Indexes`]).
//!
//! Guarantees: [`State::apply`] is infallible and deterministic; every put and every delete takes
//! the next revision; a transaction happens as a whole or not at all; objects are kept in the very
//! bytes a client receives, so nobody encodes on a read.
//!
//! Does not: know about time, randomness, disks, threads, raft or the rules of any kind of object.
//! Whatever is not deterministic (uids, times, generated names) is stamped by the proposer.

pub mod codec;
mod index;
mod key;
mod object;
mod ring;
mod snapshot;
mod state;
mod txn;

#[cfg(test)]
mod tests;

pub use index::{Column, Indexes, Place, Wanted};
pub use key::Key;
pub use object::{Draft, FormBudget, Head, Stored};
pub use ring::{Compacted, Ring, RingLimit};
pub use snapshot::Snapshot;
pub use state::State;
pub use txn::{Event, EventKind, Frames, Op, Outcome, Precondition, Txn};
