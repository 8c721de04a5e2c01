//! Removing a tree that others may still change, of any depth, with bounded memory, stack and descriptors.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{Dir, Kind};

/// Directories that are open at the same time; what lies deeper is first moved up.
const DEPTH_MAX: usize = 48;
/// Entries listed at a time.
const BATCH: usize = 1024;
/// Passes over one directory into which others keep putting entries.
const PASSES_MAX: usize = 1 << 24;

/// Removes `name` in `parent` with everything below it.
pub(super) fn all(parent: &Dir, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let mut counter = 0_u64;
    let top = enter(parent, name)?;
    let mut open: Vec<(Dir, OsString)> = vec![(top, name.to_owned())];
    for _ in 0..PASSES_MAX {
        let depth = open.len();
        let Some((current, own_name)) = open.last() else {
            return Ok(());
        };
        match empty(current, depth, open.first().map(|(top, _)| top), &mut counter)? {
            Some(deeper) => match enter(current, &deeper) {
                Ok(dir) => open.push((dir, deeper)),
                // It is not there any more, or something else is: the next look finds out.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error),
            },
            None => {
                let above = match depth {
                    1 => parent,
                    _ => &open[depth - 2].0,
                };
                match rustix::fs::unlinkat(&above.fd, own_name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => {
                        open.pop();
                    }
                    // Something was put into it after the last look.
                    Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Err(Errno::BUSY)
}

/// Removes the entries of a directory that are no directories; returns a directory to be emptied first, if there is one.
/// At the greatest depth, directories are moved up into `top` instead.
fn empty(dir: &Dir, depth: usize, top: Option<&Dir>, counter: &mut u64) -> Result<Option<OsString>, Errno> {
    let entries = dir.entries(BATCH).map_err(|error| errno(&error))?;
    let mut deeper = None;
    for entry in entries {
        if entry.kind != Kind::Dir {
            match rustix::fs::unlinkat(&dir.fd, &entry.name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => {}
                Err(error) => return Err(error),
            }
            continue;
        }
        // Most directories of a tree are empty or nearly so.
        match rustix::fs::unlinkat(&dir.fd, &entry.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            Err(error) => return Err(error),
        }
        match top.filter(|_| depth >= DEPTH_MAX) {
            Some(top) => move_up(dir, &entry.name, top, counter)?,
            None => deeper = Some(entry.name),
        }
    }
    Ok(deeper)
}

fn move_up(dir: &Dir, name: &OsStr, top: &Dir, counter: &mut u64) -> Result<(), Errno> {
    loop {
        *counter += 1;
        let fresh = format!("..removing-{counter}");
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&dir.fd, name, &top.fd, &fresh, flags) {
            Err(Errno::EXIST) if *counter < 1 << 32 => {}
            Err(Errno::NOENT) => return Ok(()),
            other => return other,
        }
    }
}

/// Opens a directory in another one for removal: no link, not another file system's root.
fn enter(dir: &Dir, name: &OsStr) -> Result<Dir, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let fd: OwnedFd = rustix::fs::openat2(&dir.fd, name, flags, Mode::empty(), how)?;
    Ok(Dir { fd })
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}
