//! One daemon per data directory.
//!
//! The lock is an advisory lock on `<data-dir>/lock`, whose content is the holder's process id; it goes with the
//! process, however that ends. Does not: decide anything about stale state, since there is none.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Pid;

use crate::{estate, secrets};

/// How long a killed process may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Held for as long as this process may use the data directory.
pub struct Instance {
    _lock: Flock<File>,
}

fn lock_path(data_dir: &Path) -> PathBuf {
    data_dir.join("lock")
}

/// Makes the data directory (0700) if it is not there.
///
/// # Errors
/// When it cannot be created.
pub fn create(data_dir: &Path) -> Result<()> {
    estate::need_directory(data_dir, "choose another place with --data-dir")?;
    secrets::create_dir(data_dir).context("the data directory")
}

/// Takes the data directory for this process, and makes the keys in it private before anything is read.
///
/// # Errors
/// As [`lock`], and when others could have changed a key.
pub fn acquire(data_dir: &Path) -> Result<Instance> {
    let instance = lock(data_dir)?;
    secrets::secure(data_dir)?;
    Ok(instance)
}

/// Takes the data directory for this process, creating it (0700) if need be. A killed process holds it until its
/// memory has been given back: that is waited for, at most five seconds.
///
/// # Errors
/// When another process holds it (named by its id), or it cannot be created.
pub fn lock(data_dir: &Path) -> Result<Instance> {
    create(data_dir)?;
    let path = lock_path(data_dir);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    let start = Instant::now();
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                lock.set_len(0)?;
                lock.rewind()?;
                writeln!(lock, "{}", std::process::id())?;
                return Ok(Instance { _lock: lock });
            }
            Err((file, _)) => file,
        };
        let mut holder = String::new();
        file.rewind()?;
        file.read_to_string(&mut holder)?;
        let holder = holder.trim();
        if start.elapsed() > ENDS_WITHIN || !is_ending(holder) {
            bail!(
                "a cluster already runs on {} (process {holder}): stop it with `coxswain down --data-dir {}`, or choose another --data-dir",
                data_dir.display(),
                data_dir.display()
            )
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process is on its way out: it has no program any more.
fn is_ending(process: &str) -> bool {
    std::fs::read_link(format!("/proc/{process}/exe")).is_err()
}

/// The process that holds the data directory now, if one does.
///
/// # Errors
/// When the lock file exists but cannot be read.
pub fn holder(data_dir: &Path) -> Result<Option<Pid>> {
    let path = lock_path(data_dir);
    let file = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(_) => Ok(None),
        Err((mut file, _)) => {
            let mut text = String::new();
            file.read_to_string(&mut text)
                .with_context(|| format!("read {}", path.display()))?;
            let pid = text
                .trim()
                .parse()
                .with_context(|| format!("{} does not hold a process id", path.display()))?;
            Ok(Some(Pid::from_raw(pid)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_who_has_it() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let data_dir = dir.path().join("data");
        assert_eq!(holder(&data_dir)?, None);
        let first = acquire(&data_dir)?;
        let refusal = acquire(&data_dir).err().context("must be refused")?.to_string();
        assert!(
            refusal.contains(&format!("process {}", std::process::id())),
            "{refusal}"
        );
        assert_eq!(holder(&data_dir)?, Some(Pid::this()));
        drop(first);
        assert_eq!(holder(&data_dir)?, None);
        acquire(&data_dir)?;
        Ok(())
    }

    #[test]
    fn a_killed_holder_is_waited_for() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let mut ended = std::process::Command::new("true").spawn()?;
        ended.wait()?;
        let file = File::create(lock_path(dir.path()))?;
        std::fs::write(lock_path(dir.path()), ended.id().to_string())?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error)?;
        let held = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(lock);
        });
        acquire(dir.path())?;
        held.join().map_err(|_| anyhow::anyhow!("a panic"))
    }
}
