//! The store's members and their clients in one thread, with virtual time, network and disks.
//!
//! Owns: the world ([`run`]), its faults, the clients, and the checkers ([`history`], [`linear`]). The
//! members are the real ones: engine, inbox, handle, hub, log and checkpoints of `coxswain-consensus`, on its
//! in-memory disk. A run is a function of its seed.
//!
//! Guarantees: a violation names its seed, and the same seed gives the same run again.
//!
//! Does not: know TLS, gRPC, threads or the API server; those have tests of their own.

mod clients;
#[cfg(test)]
mod directed;
mod faults;
pub mod history;
pub mod linear;
mod machine;
mod plan;
mod random;
mod report;
mod watchers;
mod world;

pub use faults::Mutant;
pub use report::{Report, Violation};
pub use world::run;
