//! The files: lines from a bounded queue, written by one thread, in parts of limited size.
//!
//! No client rolls the trail over: of each part, one owner of lines (a user, or all refused requests together) gets a
//! quarter, once a day. What an owner writes beyond that goes to a file beside it, which has two parts of its own.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Lines that wait for the disk.
const WAITING_MAX: usize = 8_192;
/// Bytes of one part.
const PART_BYTES_MAX: u64 = 16 << 20;
/// Bytes of one part that are one owner's, and for how long.
const SHARE_BYTES_MAX: u64 = PART_BYTES_MAX / 4;
const SHARE_FOR: Duration = Duration::from_secs(24 * 3600);
/// Owners that are told apart in one part; more share one share.
const OWNERS_MAX: usize = 10_000;
/// What comes within this time goes to the file together: a thread that wakes for every line costs more than the line.
const TOGETHER: Duration = Duration::from_millis(5);
/// How often counts that are due are asked for.
const COUNTS_EVERY: Duration = Duration::from_secs(5);
/// Parts that are kept beside the current one: `audit.log.1` is the newest.
const PARTS_KEPT: u32 = 4;
/// The same for what goes beyond the shares: `audit.log.overflow`.
const OVERFLOW_PARTS_KEPT: u32 = 1;

/// A line, and whose it is.
struct Line {
    owner: String,
    text: Vec<u8>,
}

enum Message {
    Line(Line),
    Flush(SyncSender<()>),
}

/// Lines that the writer asks for: counts that are due, or all of them when it is to be complete. They are nobody's.
pub(crate) type Counts = Box<dyn Fn(bool) -> Vec<Vec<u8>> + Send>;

/// A handle on the writer; it ends when the handle is gone.
pub(crate) struct Log {
    sender: SyncSender<Message>,
    dropped: AtomicU64,
}

impl Log {
    /// Opens the file (0600) to append, and starts the writer.
    pub fn open(path: &Path, counts: Counts) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let files = Files::open(path)?;
        let (sender, receiver) = sync_channel(WAITING_MAX);
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write_all(files, &receiver, &counts))?;
        Ok(Self {
            sender,
            dropped: AtomicU64::new(0),
        })
    }

    /// Hands over a line of an owner; drops it when the queue is full.
    pub fn write(&self, owner: String, text: Vec<u8>) {
        if self.sender.try_send(Message::Line(Line { owner, text })).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything handed over is in the file.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.sender.send(Message::Flush(done)).is_ok() {
            let _ = wait.recv();
        }
    }
}

/// A file and its older parts.
struct Part {
    path: PathBuf,
    kept: u32,
    file: BufWriter<File>,
    bytes: u64,
}

impl Part {
    fn open(path: &Path, kept: u32) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        Ok(Self {
            path: path.to_owned(),
            kept,
            bytes: file.metadata()?.len(),
            file: BufWriter::with_capacity(64 << 10, file),
        })
    }

    /// Appends a line; true when that began another part.
    fn write(&mut self, line: &[u8]) -> io::Result<bool> {
        let full = self.bytes > 0 && self.bytes + line.len() as u64 > PART_BYTES_MAX;
        if full {
            self.file.flush()?;
            for number in (1..self.kept).rev() {
                let _ = std::fs::rename(beside(&self.path, number), beside(&self.path, number + 1));
            }
            std::fs::rename(&self.path, beside(&self.path, 1))?;
            *self = Self::open(&self.path, self.kept)?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(full)
    }
}

fn beside(path: &Path, suffix: impl std::fmt::Display) -> PathBuf {
    let mut path = path.to_owned().into_os_string();
    path.push(format!(".{suffix}"));
    PathBuf::from(path)
}

/// The trail, and what goes beyond the shares.
struct Files {
    trail: Part,
    /// Opened when it is needed.
    overflow: Option<Part>,
    /// Bytes of the trail's present part by owner.
    shares: HashMap<String, u64>,
    since: Instant,
}

impl Files {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            trail: Part::open(path, PARTS_KEPT)?,
            overflow: None,
            shares: HashMap::new(),
            since: Instant::now(),
        })
    }

    /// Writes a line where its owner has room.
    fn write(&mut self, line: Line) -> io::Result<()> {
        if self.since.elapsed() >= SHARE_FOR {
            self.renew();
        }
        let bytes = line.text.len() as u64;
        let known = self.shares.len() < OWNERS_MAX || self.shares.contains_key(&line.owner);
        let share = self
            .shares
            .entry(if known { line.owner } else { String::new() })
            .or_default();
        if *share + bytes > SHARE_BYTES_MAX {
            let overflow = match &mut self.overflow {
                Some(overflow) => overflow,
                None => {
                    let path = beside(&self.trail.path, "overflow");
                    self.overflow.insert(Part::open(&path, OVERFLOW_PARTS_KEPT)?)
                }
            };
            return overflow.write(&line.text).map(drop);
        }
        *share += bytes;
        if self.trail.write(&line.text)? {
            self.renew();
        }
        Ok(())
    }

    fn renew(&mut self) {
        self.shares.clear();
        self.since = Instant::now();
    }

    fn flush(&mut self) -> io::Result<()> {
        let overflow = self.overflow.as_mut().map_or(Ok(()), |part| part.file.flush());
        self.trail.file.flush().and(overflow)
    }
}

/// Writes until the handle is gone; flushes whenever nothing waits.
fn write_all(mut files: Files, receiver: &Receiver<Message>, counts: &Counts) {
    let mut complained = false;
    loop {
        let mut next = match receiver.recv_timeout(COUNTS_EVERY) {
            Ok(first) => Some(first),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if matches!(next, Some(Message::Line(_))) {
            std::thread::sleep(TOGETHER);
        }
        let mut waiting = Vec::new();
        let mut written = Ok(());
        while let Some(message) = next {
            match message {
                Message::Line(line) => written = written.and_then(|()| files.write(line)),
                Message::Flush(done) => waiting.push(done),
            }
            next = receiver.try_recv().ok();
        }
        for line in counts(!waiting.is_empty()) {
            written = written.and_then(|()| files.trail.write(&line).map(drop));
        }
        let written = written.and_then(|()| files.flush());
        if let Err(error) = &written
            && !complained
        {
            tracing::error!(%error, path = %files.trail.path.display(), "the audit log cannot be written");
        }
        complained = written.is_err();
        for done in waiting {
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(directory: &Path) -> Vec<(String, u64)> {
        let entries = std::fs::read_dir(directory).expect("a directory");
        let mut sizes: Vec<(String, u64)> = entries
            .map(|entry| {
                let entry = entry.expect("an entry");
                let name = entry.file_name().to_string_lossy().into_owned();
                (name, entry.metadata().expect("a file").len())
            })
            .collect();
        sizes.sort();
        sizes
    }

    fn line(owner: &str, bytes: usize) -> Line {
        let mut text = vec![b'x'; bytes];
        text.splice(..owner.len(), owner.bytes());
        text.push(b'\n');
        Line {
            owner: owner.to_owned(),
            text,
        }
    }

    #[test]
    fn parts_are_bounded() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut files = Files::open(&directory.path().join("audit.log")).expect("files");
        // Each owner has a quarter of a part.
        for number in 0..40 {
            for _ in 0..5 {
                files.write(line(&format!("user-{number}"), 1 << 20)).expect("written");
            }
        }
        files.flush().expect("written");
        let sizes = sizes(directory.path());
        let names: Vec<&str> = sizes.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "audit.log",
                "audit.log.1",
                "audit.log.2",
                "audit.log.3",
                "audit.log.4",
                "audit.log.overflow",
                "audit.log.overflow.1"
            ]
        );
        assert!(
            sizes.iter().all(|(_, bytes)| *bytes > 0 && *bytes <= PART_BYTES_MAX),
            "{sizes:?}"
        );
    }

    #[test]
    fn nobody_rolls_the_trail_over() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.log");
        let mut files = Files::open(&path).expect("files");
        files.write(line("important", 100)).expect("written");
        for _ in 0..2_000 {
            files.write(line("greedy", 64 << 10)).expect("written");
        }
        files.write(line("important", 100)).expect("written");
        files.flush().expect("written");
        let text = std::fs::read_to_string(&path).expect("the trail");
        assert_eq!(text.matches("important").count(), 2);
        assert!(text.contains("greedy"));
        let total: u64 = sizes(directory.path()).iter().map(|(_, bytes)| bytes).sum();
        assert!(total <= 2 * PART_BYTES_MAX + SHARE_BYTES_MAX + 1024, "{total}");
        assert!(!path.with_extension("log.1").exists());
    }
}
