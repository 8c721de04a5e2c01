//! The file: lines from a bounded queue, written by one thread, in parts of limited size.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Lines that wait for the disk.
const WAITING_MAX: usize = 8_192;
/// Bytes of one part.
const PART_BYTES_MAX: u64 = 16 << 20;
/// What comes within this time goes to the file together: a thread that wakes for every line costs more than the line.
const TOGETHER: Duration = Duration::from_millis(5);
/// Parts that are kept beside the current one: `audit.log.1` is the newest.
const PARTS_KEPT: u32 = 4;

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// A handle on the writer; it ends when the handle is gone.
pub(crate) struct Log {
    sender: SyncSender<Message>,
    dropped: AtomicU64,
}

impl Log {
    /// Opens the file (0600) to append, and starts the writer.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let part = Part::open(path)?;
        let (sender, receiver) = sync_channel(WAITING_MAX);
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write_all(part, &receiver))?;
        Ok(Self {
            sender,
            dropped: AtomicU64::new(0),
        })
    }

    /// Hands over a line; drops it when the queue is full.
    pub fn write(&self, line: Vec<u8>) {
        if self.sender.try_send(Message::Line(line)).is_err() {
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

struct Part {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
}

impl Part {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        Ok(Self {
            path: path.to_owned(),
            bytes: file.metadata()?.len(),
            file: BufWriter::with_capacity(64 << 10, file),
        })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > PART_BYTES_MAX {
            self.file.flush()?;
            let numbered = |number: u32| {
                let mut path = self.path.clone().into_os_string();
                path.push(format!(".{number}"));
                PathBuf::from(path)
            };
            for number in (1..PARTS_KEPT).rev() {
                let _ = std::fs::rename(numbered(number), numbered(number + 1));
            }
            std::fs::rename(&self.path, numbered(1))?;
            *self = Self::open(&self.path)?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

/// Writes until the handle is gone; flushes whenever nothing waits.
fn write_all(mut part: Part, receiver: &Receiver<Message>) {
    let mut complained = false;
    while let Ok(first) = receiver.recv() {
        if matches!(first, Message::Line(_)) {
            std::thread::sleep(TOGETHER);
        }
        let mut next = Some(first);
        let mut waiting = Vec::new();
        let mut written = Ok(());
        while let Some(message) = next {
            match message {
                Message::Line(line) => written = written.and_then(|()| part.write(&line)),
                Message::Flush(done) => waiting.push(done),
            }
            next = receiver.try_recv().ok();
        }
        let written = written.and_then(|()| part.file.flush());
        if let Err(error) = &written
            && !complained
        {
            tracing::error!(%error, path = %part.path.display(), "the audit log cannot be written");
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

    #[test]
    fn parts_are_bounded() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.log");
        let mut part = Part::open(&path).expect("a part");
        let line = vec![b'x'; 6 << 20];
        for _ in 0..14 {
            part.write(&line).expect("written");
        }
        part.file.flush().expect("written");
        let mut names: Vec<String> = std::fs::read_dir(directory.path())
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(
            names,
            ["audit.log", "audit.log.1", "audit.log.2", "audit.log.3", "audit.log.4"]
        );
        for name in names {
            let bytes = std::fs::metadata(directory.path().join(&name)).expect("a file").len();
            assert!(bytes > 0 && bytes <= PART_BYTES_MAX, "{name} {bytes}");
        }
    }
}
