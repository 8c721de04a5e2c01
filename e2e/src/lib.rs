//! A real cluster for tests: the real binaries, real containers, real clients.
//!
//! [`Cluster`] runs `coxswain up` in a temporary data directory on free ports and takes everything away again when it
//! goes out of scope, also after a failed test. One at a time on a machine: the pod network is the machine's.

mod agent;
mod cluster;
pub mod failover;
pub mod follow;
mod images;
pub mod load;
pub mod places;
pub mod script;
mod server;
pub mod servers;

pub use agent::Agent;
pub use cluster::{Cluster, Outcome};
pub use images::{busybox, web};
pub use server::Server;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Tries until `attempt` gives a value, or fails with its last error after `limit`.
///
/// # Errors
/// The last failure of `attempt`.
pub fn eventually<T>(limit: Duration, what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => bail!("{what} did not come true within {limit:?}: {error:#}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Manifests that people publish, kept beside the checkout; `None` where they are not there.
#[must_use]
pub fn workloads() -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/workloads");
    path.is_dir().then_some(path)
}
