//! Mounts of the node: bind mounts of what was opened, memory file systems, and taking them away. Sources and targets
//! are descriptors, so that nobody can put something else in their place.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use coxswain_beneath::{Dir, Handle, Kind, Links};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounts over each other at one place that are taken away.
const STACKED_MAX: usize = 64;
/// The mounts that this thread sees; the same as the process's, except in tests with a mount namespace of their own.
const TABLE: &str = "/proc/thread-self/mountinfo";

/// Mounts a memory file system on a directory.
pub fn tmpfs(on: &Dir, options: &str, flags: MsFlags) -> io::Result<()> {
    mount(Some("tmpfs"), &on.magic_path(), Some("tmpfs"), flags, Some(options)).map_err(io::Error::from)
}

/// Makes what was opened appear at `place` below `root`, which belongs to the agent alone, and looks whether it is what
/// appeared. What is mounted there already stays when it is the same and goes when it is something else.
pub fn bind(what: &Handle, root: &Dir, place: &Path) -> io::Result<()> {
    if let Ok(found) = root.find(place, Links::Refused) {
        if found.is_mount_root()? && found.identity() == what.identity() {
            return Ok(());
        }
        drop(found);
        unmount(root, place)?;
        root.remove_all(place)?;
    }
    match what.kind() {
        Kind::Dir => drop(root.ensure_dir(place, 0o750)?),
        Kind::Link | Kind::Unknown => return Err(io::Error::other("it is neither a file nor a directory")),
        _ => root.write_new(place, b"", 0o640, None, None)?,
    }
    let target = root.find(place, Links::Refused)?;
    mount(
        Some(&what.magic_path()),
        &target.magic_path(),
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )?;
    let appeared = root.find(place, Links::Refused)?;
    if appeared.is_mount_root()? && appeared.identity() == what.identity() {
        return Ok(());
    }
    drop(appeared);
    unmount(root, place)?;
    Err(io::Error::other("something else was mounted than was opened"))
}

/// Takes away everything that is mounted at exactly this place.
pub fn unmount(root: &Dir, place: &Path) -> io::Result<()> {
    for _ in 0..STACKED_MAX {
        let found = match root.find(place, Links::Refused) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        if !found.is_mount_root()? {
            return Ok(());
        }
        // Detached, because the descriptor that names it keeps it busy.
        umount2(&found.magic_path(), MntFlags::MNT_DETACH)?;
    }
    Err(io::Error::other(format!(
        "more than {STACKED_MAX} mounts over each other"
    )))
}

/// Whether something is mounted at exactly this directory of the agent.
pub fn is_mounted(path: &Path) -> bool {
    let found = Dir::open(path).and_then(|dir| dir.is_mount_root());
    found.unwrap_or(false)
}

/// Unmounts everything that is mounted at or below a directory, deepest first. Follows no links below it. What cannot be
/// unmounted is logged and stays.
pub fn unmount_below(directory: &Path) {
    let Ok(real) = fs::canonicalize(directory) else {
        return;
    };
    let Some((parent, name)) = real.parent().zip(real.file_name()) else {
        return;
    };
    let mut left = usize::MAX;
    loop {
        // One mount can hide others: what was hidden shows in the next pass.
        let mut points = points_below(&real);
        if points.is_empty() {
            return;
        }
        if points.len() >= left {
            tracing::warn!(path = %directory.display(), left = points.len(), "mounts cannot be taken away");
            return;
        }
        left = points.len();
        points.sort_by_key(|point| std::cmp::Reverse(point.as_os_str().len()));
        for point in points {
            let place = Path::new(name).join(point.strip_prefix(&real).unwrap_or(&point));
            if let Err(error) = Dir::open(parent).and_then(|root| unmount(&root, &place)) {
                tracing::warn!(path = %point.display(), %error, "unmount");
            }
        }
    }
}

fn points_below(directory: &Path) -> Vec<PathBuf> {
    let table = fs::read(TABLE).unwrap_or_default();
    let points = table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape);
    points.filter(|point| point.starts_with(directory)).collect()
}

/// The kernel writes blanks and backslashes of names as three octal digits.
fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = &after[3..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_mount_table() {
        for (text, path) in [
            ("/a/b", "/a/b"),
            ("/a\\040b", "/a b"),
            ("/a\\134040", "/a\\040"),
            ("/\\0", "/\\0"),
        ] {
            assert_eq!(unescape(text.as_bytes()), Path::new(path), "{text}");
        }
    }
}
