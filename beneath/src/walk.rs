//! Resolving a path below a directory, and making what is missing of it.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::Dir;

/// What happens to symbolic links on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// A link on the way is an error; the last component is opened itself when it is one.
    Refused,
    /// Links are followed as long as what they lead to is below the directory.
    Inside,
}

/// How often a path is resolved again while others keep renaming what it leads through.
const TRIES: usize = 64;

/// Opens what a path names.
pub(super) fn open(root: &Dir, path: &Path, links: Links) -> Result<OwnedFd, Errno> {
    match links {
        Links::Refused => resolve(root, path, OFlags::NOFOLLOW, ResolveFlags::NO_SYMLINKS),
        Links::Inside => match resolve(root, path, OFlags::empty(), ResolveFlags::empty()) {
            Err(Errno::XDEV) => open_absolute_links(root, path),
            other => other,
        },
    }
}

/// The kernel takes every absolute link for one that leads outside. Where it in fact leads back inside, the path it
/// stands for is opened, without any link.
fn open_absolute_links(root: &Dir, path: &Path) -> Result<OwnedFd, Errno> {
    let base = std::fs::read_link(root.magic_path()).map_err(|_| Errno::XDEV)?;
    let real = std::fs::canonicalize(base.join(path)).map_err(|error| match error.raw_os_error() {
        Some(code) => Errno::from_raw_os_error(code),
        None => Errno::XDEV,
    })?;
    let inside = real.strip_prefix(&base).map_err(|_| Errno::XDEV)?;
    resolve(root, inside, OFlags::NOFOLLOW, ResolveFlags::NO_SYMLINKS)
}

fn resolve(root: &Dir, path: &Path, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    let how = how | ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES {
        match rustix::fs::openat2(&root.fd, path, flags, Mode::empty(), how) {
            // Something on the way was renamed in the middle of a step to a parent.
            Err(Errno::AGAIN) => std::thread::yield_now(),
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens what a path names, after making directories for what is missing. What is returned was resolved in one step
/// from the root, whatever was made on the way.
pub(super) fn ensure(root: &Dir, path: &Path, mode: u32, links: Links) -> Result<OwnedFd, Errno> {
    for _ in 0..TRIES {
        match open(root, path, links) {
            Err(Errno::NOENT) => make(root, path, mode, links)?,
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Makes the directories of a path that are missing. Each is made in the open directory before it and opened there
/// without following a link, so that a link put in its place in between is an error.
fn make(root: &Dir, path: &Path, mode: u32, links: Links) -> Result<(), Errno> {
    let names: Vec<&OsStr> = path.components().map(|part| part.as_os_str()).collect();
    let mut at = None;
    for known in (0..names.len()).rev() {
        let prefix: PathBuf = names[..known].iter().collect();
        match open(root, &prefix, links) {
            Ok(fd) => {
                at = Some((fd, known));
                break;
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    let (mut fd, known) = at.ok_or(Errno::NOENT)?;
    for name in &names[known..] {
        let made = match rustix::fs::mkdirat(&fd, *name, Mode::from_raw_mode(0o700)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error),
        };
        let parent = Dir { fd };
        let next = resolve(
            &parent,
            Path::new(name),
            OFlags::NOFOLLOW | OFlags::DIRECTORY,
            ResolveFlags::NO_SYMLINKS,
        )?;
        if made {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let readable = rustix::fs::openat(&next, c".", flags, Mode::empty())?;
            rustix::fs::fchmod(&readable, Mode::from_raw_mode(mode & 0o7777))?;
        }
        fd = next;
    }
    Ok(())
}
