//! The last words of a container: its termination message file, or the end of its log.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::config::PodPaths;
use crate::runtime::{Container, label};

const FILE_MAX_BYTES: usize = 4096;
const LOG_MAX_BYTES: usize = 2048;
const LOG_MAX_LINES: usize = 80;

/// The termination message of a container that ended; empty when there is none.
pub fn message(container: &Container) -> String {
    let annotation = |key| container.annotations.get(key).map(String::as_str).unwrap_or_default();
    let file = annotation(label::TERMINATION_FILE);
    if !file.is_empty()
        && let Some(text) = tail(open(Path::new(file)), FILE_MAX_BYTES)
        && !text.is_empty()
    {
        return text;
    }
    if annotation(label::TERMINATION_POLICY) == "FallbackToLogsOnError" && container.exit_code != 0 {
        return tail(crate::logs::open(Path::new(&container.log_path)), 64 << 10)
            .map(|text| log_tail(&text))
            .unwrap_or_default();
    }
    String::new()
}

fn open(file: &Path) -> io::Result<File> {
    let (root, path) = coxswain_beneath::divide(file, PodPaths::MESSAGE_DEPTH)?;
    root.file(path)
}

/// At most `limit` bytes of text from the end of a file. Bytes that are no text become replacement characters, which are
/// longer.
fn tail(file: io::Result<File>, limit: usize) -> Option<String> {
    let mut file = file.ok()?;
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(limit as u64))).ok()?;
    let mut bytes = Vec::new();
    file.take(limit as u64).read_to_end(&mut bytes).ok()?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    cut_front(&mut text, limit);
    Some(text)
}

/// Keeps at most the last `limit` bytes of a text.
fn cut_front(text: &mut String, limit: usize) {
    let from = text.len().saturating_sub(limit);
    let from = (from..text.len()).find(|at| text.is_char_boundary(*at));
    text.drain(..from.unwrap_or(text.len()));
}

/// The text of the last lines of a log in the runtime's format.
fn log_tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let from = lines.len().saturating_sub(LOG_MAX_LINES);
    let mut out: String = lines[from..].iter().flat_map(|line| [*line, "\n"]).collect();
    cut_front(&mut out, LOG_MAX_BYTES);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_tail_keeps_the_text_only() {
        let log = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr F two words\n";
        assert_eq!(log_tail(log), "one\ntwo words\n");
    }

    #[test]
    fn messages_are_bounded_and_come_from_files_only() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let runs = dir.path().join("uid/containers/c");
        std::fs::create_dir_all(&runs)?;
        let read = |name: &str| tail(open(&runs.join(name)), FILE_MAX_BYTES);
        std::fs::write(runs.join("binary"), vec![0xff; 100_000])?;
        assert_eq!(read("binary").map(|text| text.len()), Some(4095));
        std::fs::write(runs.join("long"), "ä".repeat(50_000))?;
        assert_eq!(read("long").map(|text| text.len()), Some(4096));
        nix::unistd::mkfifo(&runs.join("pipe"), nix::sys::stat::Mode::S_IRWXU)?;
        std::os::unix::fs::symlink(runs.join("long"), runs.join("link"))?;
        for name in ["pipe", "link", "absent"] {
            assert_eq!(read(name), None, "{name}");
        }
        let mut text = "ä".to_string();
        cut_front(&mut text, 1);
        assert_eq!(text, "");
        Ok(())
    }
}
