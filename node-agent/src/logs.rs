//! Container logs that grow are cut into files: at most five of 10 MiB for each container.
//!
//! ```text
//!   0.log                       being written
//!   0.log.20261121-101112       the last one, plain: a reader may still be in it
//!   0.log.20261121-100000.gz    older ones
//! ```
//!
//! Sizes are looked at every ten seconds; a file that is too large is renamed and the runtime is asked
//! to open the log again. Names and limits are those of every Kubernetes node.
//!
//! Containers that mount the node's log directory can put anything in the place of a log. The three last components of a
//! log's path (pod, container, file) are therefore resolved below the directory of all logs without following links, and
//! only regular files are read.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coxswain_beneath::{Dir, Kind, Links, divide};
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::runtime::Cri;

const FILE_MAX_BYTES: u64 = 10 << 20;
const FILES_MAX: usize = 5;
/// Components of a log's path, counted from the end, that belong to a pod.
const DEPTH: usize = 3;
/// Files of one container's logs that are looked at.
const ENTRIES_MAX: usize = 4096;
const PERIOD: Duration = Duration::from_secs(10);

/// Cuts the logs of running containers until cancelled.
pub async fn keep_short(runtime: Arc<Cri>, token: CancellationToken) {
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        for (id, log) in runtime.running_logs() {
            let too_large = size(&log).is_ok_and(|bytes| bytes > FILE_MAX_BYTES);
            if too_large && let Err(error) = rotate(&runtime, &id, &log).await {
                tracing::warn!(container = id, %error, "rotating a log");
            }
        }
    }
}

/// Opens a log for reading.
pub fn open(log: &Path) -> io::Result<File> {
    let (logs, path) = divide(log, DEPTH)?;
    logs.file(path)
}

/// The size of a log in bytes; an error when it is no regular file.
fn size(log: &Path) -> io::Result<u64> {
    let (logs, path) = divide(log, DEPTH)?;
    let found = logs.find(&path, Links::Refused)?;
    match found.kind() {
        Kind::File => Ok(found.size()),
        _ => Err(io::Error::other(format!("{} is not a regular file", path.display()))),
    }
}

/// Makes the directory of a pod's logs.
pub fn make_directory(logs_of_pod: &Path) -> io::Result<()> {
    let (logs, name) = divide(logs_of_pod, 1)?;
    logs.ensure_dir(name, 0o755).map(drop)
}

/// Sees to it that the runtime, which opens a new container's log by its name, finds nothing there or a regular file.
pub fn clear_place(logs_of_pod: &Path, container: &str, restarts: u32) -> io::Result<()> {
    let (logs, name) = divide(logs_of_pod, 1)?;
    let place = name.join(container);
    if logs
        .find(&place, Links::Refused)
        .is_ok_and(|found| found.kind() != Kind::Dir)
    {
        logs.remove_all(&place)?;
    }
    let directory = logs.ensure_dir(&place, 0o755)?;
    let file = format!("{restarts}.log");
    match directory.find(&file, Links::Refused) {
        Ok(found) if found.kind() != Kind::File => directory.remove_all(&file),
        _ => Ok(()),
    }
}

/// Removes the logs of a pod.
pub fn remove_directory(logs_of_pod: &Path) -> io::Result<()> {
    match divide(logs_of_pod, 1) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.and_then(|(logs, name)| logs.remove_all(name)),
    }
}

/// The directory that a log is in, and its name there.
fn place(log: &Path) -> io::Result<(Dir, String)> {
    let (logs, path) = divide(log, DEPTH)?;
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?
        .to_owned();
    let directory = logs.dir(path.parent().unwrap_or(Path::new("")), Links::Refused)?;
    Ok((directory, name))
}

async fn rotate(runtime: &Cri, id: &str, log: &Path) -> Result<(), String> {
    let at = |error: io::Error| format!("{}: {error}", log.display());
    let path = log.to_path_buf();
    let (directory, name) = tokio::task::spawn_blocking(move || {
        let (directory, name) = place(&path)?;
        make_room(&directory, &name)?;
        Ok((directory, name))
    })
    .await
    .map_err(|error| error.to_string())?
    .map_err(at)?;
    let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let old = format!("{name}.{stamp}");
    directory.rename(&name, &old).map_err(at)?;
    if let Err(error) = runtime.reopen_log(id).await {
        // The runtime still writes to the old file: its name must stay the one that is read.
        let _ = directory.rename(&old, &name);
        return Err(error.to_string());
    }
    Ok(())
}

/// What becomes of the older files of one log.
#[derive(Debug, Default, PartialEq, Eq)]
struct Room {
    remove: Vec<String>,
    compress: Vec<String>,
}

/// Decides it from the names after the log's own; leaves room for the log and the one it becomes.
fn plan_room(mut suffixes: Vec<String>) -> Room {
    let mut room = Room::default();
    suffixes.sort();
    let (unfinished, done): (Vec<String>, Vec<String>) =
        suffixes.into_iter().partition(|suffix| suffix.ends_with(".tmp"));
    let excess = done.len().saturating_sub(FILES_MAX - 2);
    room.remove = unfinished;
    for (index, suffix) in done.into_iter().enumerate() {
        if index < excess {
            room.remove.push(suffix);
        } else if !suffix.ends_with(".gz") {
            room.compress.push(suffix);
        }
    }
    room
}

fn make_room(directory: &Dir, name: &str) -> io::Result<()> {
    let room = plan_room(suffixes(directory, name)?);
    for suffix in &room.remove {
        directory.remove_all(format!("{name}{suffix}"))?;
    }
    for suffix in &room.compress {
        let plain = format!("{name}{suffix}");
        let mut source = match directory.file(&plain) {
            Ok(source) => source,
            // Not one of the runtime's files, whoever put it there.
            Err(_) => {
                directory.remove_all(&plain)?;
                continue;
            }
        };
        let unfinished = format!("{plain}.tmp");
        let mut encoder = GzEncoder::new(directory.create_file(&unfinished, 0o640)?, Compression::fast());
        io::copy(&mut source, &mut encoder)?;
        encoder.finish()?;
        directory.rename(&unfinished, format!("{plain}.gz"))?;
        directory.remove_file(&plain)?;
    }
    Ok(())
}

/// What follows the log's name in the names of its older files.
fn suffixes(directory: &Dir, name: &str) -> io::Result<Vec<String>> {
    let entries = directory.entries(ENTRIES_MAX)?.into_iter();
    Ok(entries
        .filter_map(|entry| entry.name.to_str()?.strip_prefix(name).map(str::to_string))
        .filter(|suffix| suffix.starts_with('.'))
        .collect())
}

/// Removes a log with its older files.
pub fn remove(log: &Path) {
    let removed = place(log).and_then(|(directory, name)| {
        for suffix in suffixes(&directory, &name)? {
            directory.remove_all(format!("{name}{suffix}"))?;
        }
        directory.remove_all(&name)
    });
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(log = %log.display(), %error, "removing a log");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn five_files_stay() {
        let table: [(&[&str], &[&str], &[&str]); 4] = [
            (&[], &[], &[]),
            (&[".20261121-1"], &[], &[".20261121-1"]),
            (&[".3", ".2.gz", ".1.gz"], &[], &[".3"]),
            (
                &[".4", ".3.gz", ".4.tmp", ".1.gz", ".2.gz"],
                &[".4.tmp", ".1.gz"],
                &[".4"],
            ),
        ];
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_string()).collect::<Vec<_>>();
        for (found, remove, compress) in table {
            let expected = Room {
                remove: owned(remove),
                compress: owned(compress),
            };
            assert_eq!(plan_room(owned(found)), expected, "{found:?}");
        }
    }

    #[test]
    fn older_files_are_compressed_and_removed_with_the_log() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let log = dir.path().join("0.log");
        for name in ["0.log", "0.log.1", "10.log"] {
            fs::write(dir.path().join(name), name)?;
        }
        make_room(&Dir::open(dir.path())?, "0.log")?;
        let mut text = String::new();
        let packed = File::open(dir.path().join("0.log.1.gz"))?;
        io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed), &mut text)?;
        assert_eq!(text, "0.log.1");
        remove(&log);
        let left: Vec<_> = fs::read_dir(dir.path())?
            .filter_map(Result::ok)
            .map(|e| e.file_name())
            .collect();
        assert_eq!(left, ["10.log"]);
        Ok(())
    }

    /// What a container that mounts the node's log directory puts in the place of logs is neither read nor followed.
    #[test]
    fn what_is_not_a_log_is_not_read() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let outside = dir.path().join("secret");
        fs::write(&outside, b"secret")?;
        let logs = dir.path().join("logs/ns_pod_uid/c");
        fs::create_dir_all(&logs)?;
        let log = logs.join("0.log");
        symlink(&outside, &log)?;
        assert!(open(&log).is_err() && size(&log).is_err(), "a link was followed");
        symlink(&outside, logs.join("0.log.1"))?;
        symlink(&outside, logs.join("0.log.2.tmp"))?;
        fs::write(logs.join("0.log.2"), b"text")?;
        make_room(&Dir::open(&logs)?, "0.log")?;
        let mut names: Vec<_> = fs::read_dir(&logs)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        assert_eq!(names, ["0.log", "0.log.2.gz"]);
        clear_place(&dir.path().join("logs/ns_pod_uid"), "c", 0)?;
        assert!(
            fs::symlink_metadata(&log).is_err(),
            "the runtime would write through a link"
        );
        nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU)?;
        assert!(open(&log).is_err() && size(&log).is_err(), "a named pipe was opened");
        remove(&log);
        fs::remove_dir_all(&logs)?;
        symlink(dir.path(), &logs)?;
        fs::write(dir.path().join("0.log"), b"secret")?;
        assert!(open(&log).is_err(), "a link was followed");
        remove(&log);
        clear_place(&dir.path().join("logs/ns_pod_uid"), "c", 0)?;
        assert!(fs::symlink_metadata(&logs)?.is_dir());
        remove_directory(&dir.path().join("logs/ns_pod_uid"))?;
        assert_eq!(fs::read(&outside)?, b"secret");
        assert!(dir.path().join("0.log").exists());
        Ok(())
    }
}
