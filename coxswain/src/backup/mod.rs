//! `coxswain backup`, `coxswain restore` and `coxswain rotate-key`.
//!
//! The first and the last ask the server on this machine, over its API, as the cluster's administrator whose
//! certificate is in the data directory; nobody but the server opens the store. The cluster's keys go from the data
//! directory into the backup: they never travel, and an administrator elsewhere cannot ask for them.
//!
//! Does not: hold the store's keys, or the servers' own authority ([`crate::peers`]), in a backup: what is restored is
//! a cluster of one server that no server of the old one knows.

mod args;
mod every;
mod restore;
mod secret;
mod server;
mod take;

use anyhow::{Context, Result};

pub use args::{Backup, Restore, RotateKey};
pub use restore::{is_unfinished, run as restore};
pub use server::announce;

use crate::report::line;
use crate::tasks::runtime;

/// The files of a data directory that make a server one of its cluster, and that cannot be made again.
const FILES: [&str; 3] = ["pki/ca.crt", "pki/ca.key", "pki/sa.key"];

/// `coxswain backup`: takes one, or one after the other until told to stop.
///
/// # Errors
/// Whatever keeps a single backup from being taken, or the service from starting.
pub fn run(args: &Backup) -> Result<()> {
    let data_dir = &args.place.data_dir;
    server::check(data_dir)?;
    let file = args.file.as_ref();
    if let Some(file) = file {
        take::check(file)?;
    }
    let secret = secret::for_backup(&args.lock)?;
    let runtime = runtime()?;
    let Some(file) = file else {
        let plan = every::Plan::of(args, secret)?;
        return runtime.block_on(every::run(&plan));
    };
    let taken = runtime.block_on(take::take(data_dir, &secret, file))?;
    line(&format!("{taken}: {}", file.display()));
    Ok(())
}

/// `coxswain rotate-key`: has the server on this machine encrypt its disk with a new key.
///
/// # Errors
/// When there is no server, or it says why not.
pub fn rotate_key(args: &RotateKey) -> Result<()> {
    let data_dir = &args.place.data_dir;
    server::check(data_dir)?;
    runtime()?
        .block_on(async { server::post(data_dir, "/cluster/rotate-key").await.map(drop) })
        .context("the key has not been rotated to the end; run this again to go on")?;
    line("Everything that this server stores is encrypted with a new key; the old one is destroyed.");
    Ok(())
}
