//! Directories on the node's own file system: hostPath volumes, emptyDir volumes, memory directories.

use std::io;
use std::path::Path;

use coxswain_beneath::{Dir, Kind, Links};
use nix::mount::MsFlags;

use super::mounts;

/// Checks a hostPath against its type and makes it where the type says so.
pub fn check(path: &str, kind: &str) -> Result<(), String> {
    let failed = |error: io::Error| format!("{path}: {error}");
    let root = Dir::open(Path::new("/")).map_err(failed)?;
    let inner = path.trim_start_matches('/');
    let found = match root.find(inner, Links::Inside) {
        Ok(found) => Some(found.kind()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    let (wanted, name) = match kind {
        "DirectoryOrCreate" | "Directory" => (Kind::Dir, "a directory"),
        "FileOrCreate" | "File" => (Kind::File, "a file"),
        "Socket" => (Kind::Socket, "a socket file"),
        "CharDevice" => (Kind::CharDevice, "a character device"),
        "BlockDevice" => (Kind::BlockDevice, "a block device"),
        _ if found.is_some() => return Ok(()),
        _ => return root.ensure(inner, 0o755, Links::Inside).map(drop).map_err(failed),
    };
    match (found, kind) {
        (Some(found), _) if found == wanted => Ok(()),
        (None, "DirectoryOrCreate") => root.ensure(inner, 0o755, Links::Inside).map(drop).map_err(failed),
        (None, "FileOrCreate") => make_file(&root, Path::new(inner)).map_err(failed),
        _ => Err(format!("hostPath type check failed: {path} is not {name}")),
    }
}

fn make_file(root: &Dir, path: &Path) -> io::Result<()> {
    let parent = root.dir(path.parent().unwrap_or(Path::new("")), Links::Inside)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    match parent.create_file(name, 0o644) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop),
    }
}

/// An emptyDir at `plugin/name` below the pod's directory: world-writable, on a memory file system when asked. It has
/// its group and mode from the moment it is there; what containers change about them later stays.
pub fn empty_dir(
    pod: &Dir,
    plugin: &str,
    name: &str,
    in_memory: bool,
    limit_bytes: Option<u64>,
    group: Option<u32>,
) -> io::Result<()> {
    let parent = pod.ensure_dir(plugin, 0o750)?;
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    if in_memory {
        let dir = parent.ensure_dir(name, mode)?;
        if dir.is_mount_root()? {
            return Ok(());
        }
        let mut options = format!("mode={mode:o}");
        if let Some(group) = group {
            options.push_str(&format!(",gid={group}"));
        }
        if let Some(bytes) = limit_bytes {
            options.push_str(&format!(",size={bytes}"));
        }
        return mounts::tmpfs(&dir, &options, MsFlags::empty());
    }
    if parent.dir(name, Links::Refused).is_ok() {
        return Ok(());
    }
    let unfinished = format!("..{name}");
    parent.remove_all(&unfinished)?;
    let dir = parent.ensure_dir(&unfinished, 0o700)?;
    dir.set_owner(None, group)?;
    dir.set_mode(mode)?;
    parent.rename(&unfinished, name)
}

/// A directory at `plugin/name` below the pod's directory whose files never reach a disk.
pub fn memory_dir(pod: &Dir, plugin: &str, name: &str) -> io::Result<Dir> {
    let parent = pod.ensure_dir(plugin, 0o750)?;
    let dir = parent.ensure_dir(name, 0o755)?;
    if dir.is_mount_root()? {
        return Ok(dir);
    }
    mounts::tmpfs(&dir, "mode=0755", MsFlags::MS_NODEV)?;
    parent.dir(name, Links::Refused)
}

/// Gives a volume's directory to a group, which may read and change what is in it.
pub fn give_to_group(volume: &Dir, group: u32) -> io::Result<()> {
    volume.set_owner(None, Some(group))?;
    volume.set_mode(0o2775)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn host_paths_are_checked_by_type() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("file");
        std::fs::write(&file, b"")?;
        std::fs::create_dir(dir.path().join("real"))?;
        symlink(dir.path().join("real"), dir.path().join("link"))?;
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR)?;
        let path = |name: &str| dir.path().join(name).display().to_string();
        let table = [
            (path("file"), "File", true),
            (path("file"), "Directory", false),
            (path("file"), "Socket", false),
            (path("made"), "DirectoryOrCreate", true),
            (path("made"), "Directory", true),
            (path("made-file"), "FileOrCreate", true),
            (path("made-file"), "FileOrCreate", true),
            (path("no/parent"), "FileOrCreate", false),
            (path("absent"), "Directory", false),
            (path("pipe"), "FileOrCreate", false),
            (path("pipe"), "", true),
            (path("link/x"), "DirectoryOrCreate", true),
            (path("link"), "Directory", true),
            (path("any"), "", true),
            ("/dev/null".to_string(), "CharDevice", true),
            ("/dev/null".to_string(), "FileOrCreate", false),
        ];
        for (path, kind, allowed) in table {
            assert_eq!(check(&path, kind).is_ok(), allowed, "{path} {kind}");
        }
        assert!(
            dir.path().join("real/x").is_dir(),
            "the host's own links lead where they lead"
        );
        Ok(())
    }

    #[test]
    fn an_empty_dir_keeps_what_containers_made_of_it() -> io::Result<()> {
        let base = tempfile::tempdir()?;
        let pod = Dir::open(base.path())?;
        empty_dir(&pod, "volumes/p", "v", false, None, None)?;
        let path = base.path().join("volumes/p/v");
        assert_eq!(std::fs::metadata(&path)?.mode() & 0o7777, 0o777);
        pod.dir("volumes/p/v", Links::Refused)?.set_mode(0o700)?;
        empty_dir(&pod, "volumes/p", "v", false, None, None)?;
        assert_eq!(std::fs::metadata(&path)?.mode() & 0o7777, 0o700);
        assert_eq!(std::fs::metadata(base.path().join("volumes/p"))?.mode() & 0o7777, 0o750);
        Ok(())
    }
}
