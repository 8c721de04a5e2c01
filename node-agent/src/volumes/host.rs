//! Directories, mounts and checks on the node's own file system.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Checks a hostPath against its type and makes it where the type says so.
pub fn check(path: &str, kind: &str) -> Result<(), String> {
    let target = Path::new(path);
    let found = fs::metadata(target).ok();
    let wrong = |what: &str| Err(format!("hostPath type check failed: {path} is not {what}"));
    match kind {
        "DirectoryOrCreate" => match found {
            Some(meta) if meta.is_dir() => Ok(()),
            Some(_) => wrong("a directory"),
            None => super::make_dir(target, 0o755).map_err(|error| format!("{path}: {error}")),
        },
        "FileOrCreate" => match found {
            Some(meta) if meta.is_file() => Ok(()),
            Some(_) => wrong("a file"),
            None => fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(target)
                .and_then(|_| fs::set_permissions(target, fs::Permissions::from_mode(0o644)))
                .map_err(|error| format!("{path}: {error}")),
        },
        "Directory" if !found.as_ref().is_some_and(fs::Metadata::is_dir) => wrong("a directory"),
        "File" if !found.as_ref().is_some_and(fs::Metadata::is_file) => wrong("a file"),
        "Socket" if !found.as_ref().is_some_and(|meta| meta.file_type().is_socket()) => wrong("a socket file"),
        "CharDevice" if !found.as_ref().is_some_and(|meta| meta.file_type().is_char_device()) => {
            wrong("a character device")
        }
        "BlockDevice" if !found.as_ref().is_some_and(|meta| meta.file_type().is_block_device()) => {
            wrong("a block device")
        }
        "" if found.is_none() => super::make_dir(target, 0o755).map_err(|error| format!("{path}: {error}")),
        _ => Ok(()),
    }
}

/// An emptyDir: a world-writable directory, on a memory file system when asked.
pub fn empty_dir(path: &Path, in_memory: bool, limit_bytes: Option<u64>, group: Option<u32>) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("{}: {error}", path.display());
    if !path.is_dir() {
        super::make_dir(path, 0o777).map_err(fail)?;
    }
    if in_memory && !is_mount_point(path) {
        let options = limit_bytes.map(|bytes| format!("size={bytes}"));
        mount_tmpfs(path, options.as_deref(), MsFlags::empty())?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(fail)?;
    }
    if let Some(group) = group {
        chown(path, None, Some(group)).map_err(fail)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o2777)).map_err(fail)?;
    }
    Ok(())
}

/// A directory whose files never reach a disk.
pub fn memory_dir(path: &Path) -> Result<(), String> {
    if is_mount_point(path) {
        return Ok(());
    }
    super::make_dir(path, 0o755).map_err(|error| format!("{}: {error}", path.display()))?;
    mount_tmpfs(path, Some("mode=0755"), MsFlags::MS_NODEV)?;
    Ok(())
}

fn mount_tmpfs(path: &Path, options: Option<&str>, flags: MsFlags) -> Result<(), String> {
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, options)
        .map_err(|error| format!("mounting a memory file system on {}: {error}", path.display()))
}

/// Gives everything below a directory to a group, readable as its owner may read.
pub fn give_to_group(path: &Path, group: u32) -> Result<(), String> {
    chown(path, None, Some(group))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o2775)))
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// Whether a directory is on another file system than its parent.
pub fn is_mount_point(path: &Path) -> bool {
    let (Ok(own), Some(parent)) = (fs::symlink_metadata(path), path.parent()) else {
        return false;
    };
    fs::symlink_metadata(parent).is_ok_and(|parent| parent.dev() != own.dev())
}

/// Whether something is mounted at exactly this directory, also from its own file system.
pub fn is_mounted(path: &Path) -> bool {
    mount_points().iter().any(|point| point == path)
}

fn mount_points() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .collect()
}

/// Unmounts everything mounted below a directory, deepest first.
pub fn unmount_below(directory: &Path) {
    let mut points = mount_points();
    points.retain(|point| point.starts_with(directory));
    points.sort_by_key(|point| std::cmp::Reverse(point.as_os_str().len()));
    for point in points {
        if let Err(error) = umount2(&point, MntFlags::MNT_DETACH) {
            tracing::warn!(path = %point.display(), %error, "unmount");
        }
    }
}

fn unescape(text: &str) -> PathBuf {
    PathBuf::from(
        text.replace("\\040", " ")
            .replace("\\011", "\t")
            .replace("\\012", "\n")
            .replace("\\134", "\\"),
    )
}

/// The host path of a subPath inside a volume. Refuses to leave the volume, also through links.
pub fn sub_path(volume: &Path, sub: &str) -> Result<PathBuf, String> {
    let relative = Path::new(sub);
    if relative.is_absolute() || relative.components().any(|part| matches!(part, Component::ParentDir)) {
        return Err(format!("subPath {sub:?} must be relative and must not contain '..'"));
    }
    let target = volume.join(relative);
    if fs::symlink_metadata(&target).is_err() {
        super::make_dir(&target, 0o750).map_err(|error| format!("failed to create subPath directory: {error}"))?;
        let mode = fs::metadata(volume).map_or(0o755, |meta| meta.permissions().mode() & 0o7777);
        let _ = fs::set_permissions(&target, fs::Permissions::from_mode(mode));
    }
    let real = fs::canonicalize(&target).map_err(|error| format!("{}: {error}", target.display()))?;
    let base = fs::canonicalize(volume).map_err(|error| format!("{}: {error}", volume.display()))?;
    if !real.starts_with(&base) {
        return Err(format!("subpath {sub:?} not within volume path"));
    }
    Ok(real)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_paths_stay_inside() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let volume = dir.path().join("volume");
        fs::create_dir(&volume)?;
        std::os::unix::fs::symlink("/etc", volume.join("out"))?;
        for (sub, allowed) in [
            ("a/b", true),
            ("../x", false),
            ("/etc", false),
            ("out", false),
            ("a", true),
        ] {
            assert_eq!(sub_path(&volume, sub).is_ok(), allowed, "{sub}");
        }
        Ok(())
    }

    #[test]
    fn host_paths_are_checked_by_type() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("file");
        fs::write(&file, b"")?;
        let path = |name: &str| dir.path().join(name).display().to_string();
        let table = [
            (path("file"), "File", true),
            (path("file"), "Directory", false),
            (path("file"), "Socket", false),
            (path("made"), "DirectoryOrCreate", true),
            (path("made"), "Directory", true),
            (path("made-file"), "FileOrCreate", true),
            (path("absent"), "Directory", false),
            ("/dev/null".to_string(), "CharDevice", true),
        ];
        for (path, kind, allowed) in table {
            assert_eq!(check(&path, kind).is_ok(), allowed, "{path} {kind}");
        }
        Ok(())
    }
}
