//! The last words of a container: its termination message file, or the end of its log.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use crate::runtime::{Container, label};

const FILE_MAX_BYTES: usize = 4096;
const LOG_MAX_BYTES: usize = 2048;
const LOG_MAX_LINES: usize = 80;

/// The termination message of a container that ended; empty when there is none.
pub fn message(container: &Container) -> String {
    let annotation = |key| container.annotations.get(key).map(String::as_str).unwrap_or_default();
    let file = annotation(label::TERMINATION_FILE);
    if !file.is_empty()
        && let Some(text) = tail(file, FILE_MAX_BYTES)
        && !text.is_empty()
    {
        return text;
    }
    if annotation(label::TERMINATION_POLICY) == "FallbackToLogsOnError" && container.exit_code != 0 {
        return tail(&container.log_path, 64 << 10)
            .map(|text| log_tail(&text))
            .unwrap_or_default();
    }
    String::new()
}

fn tail(path: &str, limit: usize) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(limit as u64))).ok()?;
    let mut bytes = Vec::new();
    file.take(limit as u64).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The text of the last lines of a log in the runtime's format.
fn log_tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let from = lines.len().saturating_sub(LOG_MAX_LINES);
    let mut out: String = lines[from..].iter().flat_map(|line| [*line, "\n"]).collect();
    while out.len() > LOG_MAX_BYTES {
        let Some(cut) = (out.len() - LOG_MAX_BYTES..out.len()).find(|at| out.is_char_boundary(*at)) else {
            break;
        };
        out = out.split_off(cut);
    }
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
}
