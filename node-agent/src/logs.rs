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

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::runtime::Cri;

const FILE_MAX_BYTES: u64 = 10 << 20;
const FILES_MAX: usize = 5;
const PERIOD: Duration = Duration::from_secs(10);

/// Cuts the logs of running containers until cancelled.
pub async fn keep_short(runtime: Arc<Cri>, token: CancellationToken) {
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        for (id, log) in runtime.running_logs() {
            let too_large = fs::metadata(&log).is_ok_and(|meta| meta.len() > FILE_MAX_BYTES);
            if too_large && let Err(error) = rotate(&runtime, &id, &log).await {
                tracing::warn!(container = id, %error, "rotating a log");
            }
        }
    }
}

async fn rotate(runtime: &Cri, id: &str, log: &Path) -> Result<(), String> {
    let at = |error: std::io::Error| format!("{}: {error}", log.display());
    let path = log.to_path_buf();
    tokio::task::spawn_blocking(move || make_room(&path))
        .await
        .map_err(|error| error.to_string())?
        .map_err(at)?;
    let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let old = with_suffix(log, &format!(".{stamp}"));
    fs::rename(log, &old).map_err(at)?;
    if let Err(error) = runtime.reopen_log(id).await {
        // The runtime still writes to the old file: its name must stay the one that is read.
        let _ = fs::rename(&old, log);
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

fn make_room(log: &Path) -> std::io::Result<()> {
    let room = plan_room(suffixes(log));
    for suffix in &room.remove {
        fs::remove_file(with_suffix(log, suffix))?;
    }
    for suffix in &room.compress {
        let plain = with_suffix(log, suffix);
        let unfinished = with_suffix(log, &format!("{suffix}.tmp"));
        let mut encoder = GzEncoder::new(File::create(&unfinished)?, Compression::fast());
        std::io::copy(&mut File::open(&plain)?, &mut encoder)?;
        encoder.finish()?;
        fs::rename(&unfinished, with_suffix(log, &format!("{suffix}.gz")))?;
        fs::remove_file(&plain)?;
    }
    Ok(())
}

fn with_suffix(log: &Path, suffix: &str) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// What follows the log's name in the names of its older files.
fn suffixes(log: &Path) -> Vec<String> {
    let (Some(parent), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let entries = fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok);
    entries
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix(name).map(str::to_string))
        .filter(|suffix| suffix.starts_with('.'))
        .collect()
}

/// Removes a log with its older files.
pub fn remove(log: &Path) {
    for suffix in suffixes(log) {
        let _ = fs::remove_file(with_suffix(log, &suffix));
    }
    let _ = fs::remove_file(log);
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn older_files_are_compressed_and_removed_with_the_log() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let log = dir.path().join("0.log");
        for name in ["0.log", "0.log.1", "10.log"] {
            fs::write(dir.path().join(name), name)?;
        }
        make_room(&log)?;
        let mut text = String::new();
        let packed = File::open(dir.path().join("0.log.1.gz"))?;
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed), &mut text)?;
        assert_eq!(text, "0.log.1");
        remove(&log);
        let left: Vec<_> = fs::read_dir(dir.path())?
            .filter_map(Result::ok)
            .map(|e| e.file_name())
            .collect();
        assert_eq!(left, ["10.log"]);
        Ok(())
    }
}
