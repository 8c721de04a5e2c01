//! Puts a set of files into a volume so that a reader sees either all old or all new ones.
//!
//! ```text
//!   volume/..2026_11_21_10_00_00.123/key   the files
//!   volume/..data -> ..2026_11_21_...      swapped by one rename
//!   volume/key -> ..data/key               what containers open
//! ```
//!
//! The same layout as on every Kubernetes node, because programs watch `..data`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::Path;

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner, when it is not root.
    pub owner: Option<u32>,
}

/// Files by relative path.
pub type Payload = BTreeMap<String, Content>;

const DATA: &str = "..data";

/// Writes the payload; returns whether anything changed. `stamp` names the new directory and must
/// differ between calls.
pub fn write(volume: &Path, payload: &Payload, group: Option<u32>, stamp: &str) -> io::Result<bool> {
    let current = fs::read_link(volume.join(DATA)).ok();
    if current.is_some() && unchanged(volume, payload) {
        return Ok(false);
    }
    let fresh_name = format!("..{stamp}");
    let fresh = volume.join(&fresh_name);
    fs::DirBuilder::new().mode(0o755).recursive(true).create(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, content) in payload {
        let target = fresh.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &content.bytes)?;
        let mode = if group.is_some() {
            content.mode | (content.mode & 0o400) >> 3
        } else {
            content.mode
        };
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
        if content.owner.is_some() || group.is_some() {
            chown(&target, content.owner, group)?;
        }
    }
    let next = volume.join("..data_tmp");
    let _ = fs::remove_file(&next);
    symlink(&fresh_name, &next)?;
    fs::rename(&next, volume.join(DATA))?;
    link_names(volume, payload)?;
    if let Some(old) = current {
        let _ = fs::remove_dir_all(volume.join(old));
    }
    Ok(true)
}

/// First path components that users see.
fn names(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().filter_map(|path| path.split('/').next()).collect()
}

fn link_names(volume: &Path, payload: &Payload) -> io::Result<()> {
    let wanted = names(payload);
    for name in &wanted {
        let link = volume.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(volume)?.filter_map(Result::ok) {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if is_link && !name.starts_with("..") && !wanted.contains(name) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn unchanged(volume: &Path, payload: &Payload) -> bool {
    let base = volume.join(DATA);
    let mut found = BTreeSet::new();
    collect(&base, String::new(), &mut found);
    found.len() == payload.len()
        && payload.iter().all(|(path, content)| {
            found.contains(path) && fs::read(base.join(path)).is_ok_and(|bytes| bytes == content.bytes)
        })
}

fn collect(dir: &Path, prefix: String, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), format!("{name}/"), found);
        } else {
            found.insert(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let content = |text: &str| Content {
            bytes: text.as_bytes().to_vec(),
            mode: 0o644,
            owner: None,
        };
        files
            .iter()
            .map(|(path, text)| (path.to_string(), content(text)))
            .collect()
    }

    #[test]
    fn files_change_all_at_once_and_vanish() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let read = |path: &str| fs::read_to_string(dir.path().join(path)).ok();
        assert!(write(dir.path(), &payload(&[("a", "1"), ("d/b", "2")]), None, "one")?);
        assert_eq!((read("a").as_deref(), read("d/b").as_deref()), (Some("1"), Some("2")));
        assert!(!write(dir.path(), &payload(&[("a", "1"), ("d/b", "2")]), None, "two")?);
        assert!(write(dir.path(), &payload(&[("a", "3")]), None, "three")?);
        assert_eq!((read("a").as_deref(), read("d/b")), (Some("3"), None));
        assert!(!dir.path().join("..one").exists());
        assert_eq!(fs::read_link(dir.path().join("..data"))?, Path::new("..three"));
        Ok(())
    }
}
