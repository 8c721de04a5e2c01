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
use std::io;
use std::path::{Component, Path};

use coxswain_beneath::{Dir, Kind, Links, is_component};

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
/// A volume's entries that are looked at; a payload is at most some megabytes.
const ENTRIES_MAX: usize = 1 << 16;
const DEPTH_MAX: usize = 64;

/// Writes the payload; returns whether anything changed. `stamp` names the new directory and must
/// differ between calls.
///
/// Containers may have changed what is in the volume: names found there are only used when they could be ours, and
/// nothing found there is followed.
pub fn write(volume: &Dir, payload: &Payload, group: Option<u32>, stamp: &str) -> io::Result<bool> {
    for path in payload.keys() {
        check(path)?;
    }
    let current = current(volume);
    let is_current = |name: &String| is_unchanged(volume, name, payload);
    if current.as_ref().is_some_and(is_current) && links_are_there(volume, payload) {
        return Ok(false);
    }
    let fresh_name = format!("..{stamp}");
    volume.remove_all(&fresh_name)?;
    let fresh = volume.ensure_dir(&fresh_name, 0o755)?;
    for (path, content) in payload {
        if let Some(parent) = Path::new(path).parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fresh.ensure_dir(parent, 0o755)?;
        }
        let mode = if group.is_some() {
            content.mode | (content.mode & 0o400) >> 3
        } else {
            content.mode
        };
        fresh.write_new(path, &content.bytes, mode & 0o777, content.owner, group)?;
    }
    volume.remove_all("..data_tmp")?;
    volume.symlink(&fresh_name, "..data_tmp")?;
    if volume
        .find(DATA, Links::Refused)
        .is_ok_and(|found| found.kind() == Kind::Dir)
    {
        volume.remove_all(DATA)?;
    }
    volume.rename("..data_tmp", DATA)?;
    link_names(volume, payload)?;
    if let Some(old) = current.filter(|old| *old != fresh_name) {
        volume.remove_all(old)?;
    }
    Ok(true)
}

/// A payload's path: components that are names, the first of which is none of ours.
fn check(path: &str) -> io::Result<()> {
    let names = Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if names && !path.is_empty() && !path.starts_with("..") && path.split('/').all(is_component) && path.len() < 4096 {
        return Ok(());
    }
    let detail = format!("{path:?} is no path for a file of a volume: it must be relative, without '..'");
    Err(io::Error::new(io::ErrorKind::InvalidInput, detail))
}

/// The directory that `..data` leads to, when it is one that an earlier write made.
fn current(volume: &Dir) -> Option<String> {
    let target = volume.read_link(DATA).ok()?.into_os_string().into_string().ok()?;
    (target.starts_with("..") && target != DATA && is_component(&target)).then_some(target)
}

/// First path components that users see.
fn names(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().filter_map(|path| path.split('/').next()).collect()
}

fn links_are_there(volume: &Dir, payload: &Payload) -> bool {
    names(payload).iter().all(|name| {
        volume
            .read_link(name)
            .is_ok_and(|target| target == Path::new(DATA).join(name))
    })
}

fn link_names(volume: &Dir, payload: &Payload) -> io::Result<()> {
    let wanted = names(payload);
    for name in &wanted {
        let target = Path::new(DATA).join(name);
        if !volume.read_link(name).is_ok_and(|found| found == target) {
            volume.remove_all(name)?;
            volume.symlink(target, name)?;
        }
    }
    for entry in volume.entries(ENTRIES_MAX)? {
        let Some(name) = entry.name.to_str() else { continue };
        if entry.kind == Kind::Link && !name.starts_with("..") && !wanted.contains(name) {
            volume.remove_file(name)?;
        }
    }
    Ok(())
}

fn is_unchanged(volume: &Dir, data: &str, payload: &Payload) -> bool {
    let Ok(data) = volume.dir(data, Links::Refused) else {
        return false;
    };
    let same = |(path, content): (&String, &Content)| {
        let found = data.read(path, content.bytes.len() as u64);
        found.is_ok_and(|bytes| bytes == content.bytes)
    };
    payload.iter().all(same) && count(&data, DEPTH_MAX) == Some(payload.len())
}

/// How many files there are below a directory; `None` when it cannot be one that was written here.
fn count(dir: &Dir, depth: usize) -> Option<usize> {
    let mut files = 0;
    for entry in dir.entries(ENTRIES_MAX).ok()? {
        let found = match entry.kind {
            Kind::Dir => count(&dir.dir(&entry.name, Links::Refused).ok()?, depth.checked_sub(1)?)?,
            _ => 1,
        };
        files = found.saturating_add(files);
    }
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

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
        let volume = Dir::open(dir.path())?;
        let read = |path: &str| fs::read_to_string(dir.path().join(path)).ok();
        assert!(write(&volume, &payload(&[("a", "1"), ("d/b", "2")]), None, "one")?);
        assert_eq!((read("a").as_deref(), read("d/b").as_deref()), (Some("1"), Some("2")));
        assert!(!write(&volume, &payload(&[("a", "1"), ("d/b", "2")]), None, "two")?);
        assert!(write(&volume, &payload(&[("a", "3")]), None, "three")?);
        assert_eq!((read("a").as_deref(), read("d/b")), (Some("3"), None));
        assert!(!dir.path().join("..one").exists());
        assert_eq!(fs::read_link(dir.path().join("..data"))?, Path::new("..three"));
        Ok(())
    }

    /// Whatever a container made of its volume: the next write repairs it and touches nothing outside.
    #[test]
    fn a_volume_that_a_container_changed_leads_nowhere() -> io::Result<()> {
        type Attack = fn(&Path, &Path) -> io::Result<()>;
        let attacks: [(&str, Attack); 9] = [
            ("..data leads to a directory outside", |volume, outside| {
                relink(&volume.join("..data"), outside)
            }),
            ("..data leads up", |volume, _| {
                relink(&volume.join("..data"), Path::new("../outside"))
            }),
            ("..data leads to itself", |volume, _| {
                relink(&volume.join("..data"), Path::new("..data"))
            }),
            ("..data is a directory", |volume, _| {
                fs::remove_file(volume.join("..data"))?;
                fs::create_dir_all(volume.join("..data/x"))
            }),
            ("the data directory is a link", |volume, outside| {
                fs::remove_dir_all(volume.join("..one"))?;
                symlink(outside, volume.join("..one"))
            }),
            ("the new directory is there already, as a link", |volume, outside| {
                symlink(outside, volume.join("..two"))
            }),
            ("..data_tmp is a directory", |volume, _| {
                fs::create_dir_all(volume.join("..data_tmp/x"))
            }),
            ("a name leads outside", |volume, outside| {
                relink(&volume.join("a"), &outside.join("secret"))
            }),
            ("a file became a named pipe", |volume, _| {
                fs::remove_file(volume.join("..one/a"))?;
                Ok(nix::unistd::mkfifo(
                    &volume.join("..one/a"),
                    nix::sys::stat::Mode::S_IRWXU,
                )?)
            }),
        ];
        for (name, attack) in attacks {
            let dir = tempfile::tempdir()?;
            let (path, outside) = (dir.path().join("volume"), dir.path().join("outside"));
            fs::create_dir(&path)?;
            fs::create_dir(&outside)?;
            fs::write(outside.join("secret"), b"secret")?;
            let volume = Dir::open(&path)?;
            write(&volume, &payload(&[("a", "1")]), None, "one")?;
            attack(&path, &outside)?;
            write(&volume, &payload(&[("a", "2"), ("d/b", "3")]), None, "two")?;
            assert_eq!(fs::read_to_string(path.join("a"))?, "2", "{name}");
            assert_eq!(fs::read_to_string(path.join("d/b"))?, "3", "{name}");
            assert_eq!(fs::read(outside.join("secret"))?, b"secret", "{name}");
            assert_eq!(fs::read_dir(&outside)?.count(), 1, "{name}");
        }
        Ok(())
    }

    fn relink(link: &Path, target: &Path) -> io::Result<()> {
        fs::remove_file(link)?;
        symlink(target, link)
    }

    #[test]
    fn payloads_name_files_of_the_volume_only() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let volume = Dir::open(dir.path())?;
        let long = "x".repeat(256);
        for path in [
            "",
            "/etc/x",
            "../x",
            "a/../../x",
            "..data",
            "..x/y",
            "a//b",
            "a/",
            "./a",
            &long,
            "a\0b",
        ] {
            assert!(
                write(&volume, &payload(&[(path, "1")]), None, "one").is_err(),
                "{path:?}"
            );
        }
        assert!(write(&volume, &payload(&[("a", "1"), ("a/b", "2")]), None, "one").is_err());
        Ok(())
    }
}
