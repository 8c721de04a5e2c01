//! What a data directory must still hold once a cluster has lived in it.
//!
//! Owns the mark `<data-dir>/cluster`, written when the control plane has come up for the first time. From then on
//! losing the store, its keys or the authority is a loss to be told, never a reason to start an empty cluster in
//! their place. Without the mark nothing is missing: a first start that was interrupted simply starts again.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// What cannot be made again, and what it is to the user.
const ESSENTIAL: [(&str, &str); 5] = [
    ("store", "the store"),
    ("keys/store.key", "the store's keys"),
    ("pki/ca.crt", "the authority's certificate"),
    ("pki/ca.key", "the authority's key"),
    ("pki/sa.key", "the key of the service account tokens"),
];

/// Where the mark is.
pub fn mark_path(data_dir: &Path) -> PathBuf {
    data_dir.join("cluster")
}

/// Refuses a data directory whose cluster has lost something that cannot be made again. A server whose damaged
/// store is being replaced by the other servers' may be without one.
///
/// # Errors
/// Names what is missing, or what stands where a directory belongs, with the cure.
pub fn check(data_dir: &Path) -> Result<()> {
    for name in ["store", "keys", "pki"] {
        need_directory(
            &data_dir.join(name),
            "move it away, or restore the data directory from a backup",
        )?;
    }
    if crate::backup::is_unfinished(data_dir) {
        bail!(
            "a restore into {dir} was interrupted: run it again, or start anew with `coxswain down --purge --data-dir \
             {dir}`",
            dir = data_dir.display(),
        );
    }
    let has_lived = mark_path(data_dir).exists() || data_dir.join("store/FORMAT").exists();
    let missing: Vec<String> = ESSENTIAL
        .iter()
        .map(|(name, what)| (data_dir.join(name), what))
        .filter(|(path, _)| has_lived && !is_there(path))
        .filter(|(path, _)| !(path.ends_with("store") && crate::peers::is_joining_again(data_dir)))
        .map(|(path, what)| format!("{what} ({})", path.display()))
        .collect();
    if !missing.is_empty() {
        bail!(
            "a cluster has lived in {dir}, but {} cannot be found: mount or restore what is missing, or start anew \
             with `coxswain down --purge --data-dir {dir}`",
            missing.join(" and "),
            dir = data_dir.display(),
        );
    }
    Ok(())
}

/// Remembers that a cluster lives in the data directory.
///
/// # Errors
/// When the mark cannot be written.
pub fn mark(data_dir: &Path) -> Result<()> {
    let path = mark_path(data_dir);
    if path.exists() {
        return Ok(());
    }
    crate::pki::write_secret(&path, "A Coxswain cluster lives in this directory.\n")
}

/// Whether a cluster or a node has been started in the data directory, or is being started.
#[must_use]
pub fn is_known(data_dir: &Path) -> bool {
    data_dir.join("lock").exists()
}

/// Refuses a path that cannot be a directory, since a file stands there or above it.
///
/// # Errors
/// Names the file; `cure` says what to do.
pub fn need_directory(path: &Path, cure: &str) -> Result<()> {
    let existing = path.ancestors().find(|p| p.symlink_metadata().is_ok());
    match existing.filter(|p| !p.is_dir()) {
        None => Ok(()),
        Some(file) if file == path => bail!("{} is not a directory: {cure}", path.display()),
        Some(file) => bail!(
            "{} cannot be a directory, since {} is none: {cure}",
            path.display(),
            file.display()
        ),
    }
}

/// Whether a file, or a directory with something in it, is at the path. A lock says nothing about data.
fn is_there(path: &Path) -> bool {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().any(|entry| entry.file_name() != "LOCK"),
        Err(_) => path.is_file(),
    }
}

/// Entries of a data directory that are removed in one run.
const ENTRIES_MAX: usize = 1 << 16;

/// Removes everything from the data directory, the lock last, so that a removal that fails halfway can be repeated.
///
/// # Errors
/// The first thing that cannot be removed.
pub fn purge(data_dir: &Path) -> Result<()> {
    let dir = coxswain_beneath::Dir::open(data_dir).with_context(|| format!("open {}", data_dir.display()))?;
    let mut entries = dir.entries(ENTRIES_MAX)?;
    entries.sort_by_key(|entry| entry.name == "lock");
    for entry in entries {
        // Pods and images could write below it, and a volume may still be mounted: no link is followed, no mount entered.
        let removed = dir.remove_all(&entry.name);
        removed.with_context(|| format!("remove {}", data_dir.join(&entry.name).display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn living(dir: &Path) -> Result<()> {
        for (name, _) in ESSENTIAL {
            let path = if name == "store" {
                dir.join("store/FORMAT")
            } else {
                dir.join(name)
            };
            std::fs::create_dir_all(path.parent().context("a folder")?)?;
            std::fs::write(path, "1")?;
        }
        mark(dir)
    }

    #[test]
    fn whatever_is_lost_is_named_with_the_cure() -> Result<()> {
        // What is removed, and what the refusal must name; nothing when there is none.
        let cases: [(&[&str], &[&str]); 9] = [
            (&[], &[]),
            (&["store"], &["the store ("]),
            (&["store", "keys"], &["the store (", "the store's keys ("]),
            (&["store", "keys", "pki"], &["the store (", "the authority's key ("]),
            (&["pki/ca.crt", "pki/ca.key"], &["pki/ca.crt", "pki/ca.key"]),
            (&["pki/sa.key"], &["pki/sa.key"]),
            (&["cluster"], &[]),
            (&["cluster", "pki"], &["pki/ca.crt", "pki/sa.key"]),
            // The first start was interrupted before the store was there.
            (&["cluster", "store", "keys"], &[]),
        ];
        for (lost, named) in cases {
            let dir = tempfile::tempdir()?;
            living(dir.path())?;
            for name in lost {
                let path = dir.path().join(name);
                if path.is_dir() {
                    std::fs::remove_dir_all(path)?;
                } else {
                    std::fs::remove_file(path)?;
                }
            }
            let text = check(dir.path()).err().map(|e| e.to_string()).unwrap_or_default();
            assert_eq!(text.is_empty(), named.is_empty(), "{lost:?}: {text}");
            for part in named.iter().chain(named.first().map(|_| &"coxswain down --purge")) {
                assert!(text.contains(part), "{lost:?}: {text:?} should contain {part:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn an_empty_store_is_a_lost_one_and_a_file_is_none() -> Result<()> {
        let dir = tempfile::tempdir()?;
        living(dir.path())?;
        std::fs::rename(dir.path().join("store/FORMAT"), dir.path().join("store/LOCK"))?;
        assert!(check(dir.path()).is_err());
        std::fs::remove_dir_all(dir.path().join("store"))?;
        std::fs::write(dir.path().join("store"), "")?;
        let text = check(dir.path()).err().context("must be refused")?.to_string();
        assert!(text.contains("store is not a directory: move it away"), "{text}");
        Ok(())
    }

    #[test]
    fn purging_leaves_an_empty_directory() -> Result<()> {
        let dir = tempfile::tempdir()?;
        living(dir.path())?;
        std::fs::write(dir.path().join("lock"), "1")?;
        purge(dir.path())?;
        assert_eq!(std::fs::read_dir(dir.path())?.count(), 0);
        assert!(!is_known(dir.path()));
        Ok(())
    }
}
