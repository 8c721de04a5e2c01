//! Container logs, read from the files the runtime writes.
//!
//! A line is `TIME STREAM TAG TEXT`, where the tag F ends a line and P continues it. Reads begin at the
//! end when only the last lines are wanted; following waits for the kernel to say that the file grew
//! and goes on in the next file after a rotation.

use std::io::SeekFrom;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Go on as the log grows.
    pub follow: bool,
    /// Only the last lines.
    pub tail: Option<usize>,
    /// Only from this time on.
    pub since: Option<Timestamp>,
    /// Put the time before every line.
    pub timestamps: bool,
    /// Stop after this many bytes.
    pub limit: Option<usize>,
    /// Only `stdout` or `stderr`.
    pub stream: Option<String>,
}

impl Options {
    /// From a query, as kubectl's server side writes it. Errors are sentences.
    pub fn parse(query: &[(String, String)], now: Timestamp) -> Result<Options, String> {
        let mut options = Options::default();
        for (key, value) in query {
            let bad = || format!("invalid value {value:?} for {key}");
            match key.as_str() {
                "follow" => options.follow = truthy(value),
                "timestamps" => options.timestamps = truthy(value),
                "tailLines" => {
                    let lines: i64 = value.parse().map_err(|_| bad())?;
                    options.tail = usize::try_from(lines).ok();
                }
                "limitBytes" => options.limit = Some(value.parse().map_err(|_| bad())?),
                "sinceSeconds" => {
                    let seconds: i64 = value.parse().map_err(|_| bad())?;
                    options.since = now.checked_sub(SignedDuration::from_secs(seconds)).ok();
                }
                "sinceTime" => options.since = Some(value.parse().map_err(|_| bad())?),
                "stream" if value == "Stdout" => options.stream = Some("stdout".into()),
                "stream" if value == "Stderr" => options.stream = Some("stderr".into()),
                _ => {}
            }
        }
        Ok(options)
    }
}

/// Whether a query value means yes.
pub fn truthy(value: &str) -> bool {
    matches!(value, "" | "1" | "true" | "True" | "TRUE" | "t" | "T")
}

const CHUNK: usize = 64 << 10;
const LINE_MAX: usize = 256 << 10;

/// Where the last `lines` complete lines of a file begin.
async fn tail_offset(file: &mut File, lines: usize, out: &mpsc::Sender<Bytes>) -> std::io::Result<u64> {
    let size = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 {
        return Ok(size);
    }
    let mut left = lines;
    let mut at = size;
    let mut buffer = vec![0u8; CHUNK];
    while at > 0 && !out.is_closed() {
        let n = (CHUNK as u64).min(at);
        at -= n;
        file.seek(SeekFrom::Start(at)).await?;
        let part = &mut buffer[..n as usize];
        file.read_exact(part).await?;
        for (index, byte) in part.iter().enumerate().rev() {
            if *byte == b'\n' && at + index as u64 + 1 < size {
                left -= 1;
                if left == 0 {
                    return Ok(at + index as u64 + 1);
                }
            }
        }
    }
    Ok(0)
}

struct Line<'a> {
    time: &'a str,
    stream: &'a str,
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tag = parts.next()?;
    let text = parts.next().unwrap_or_default();
    Some(Line {
        time,
        stream,
        partial: tag.first() == Some(&b'P'),
        text,
    })
}

/// Turns raw lines into what the user asked for.
struct Filter<'a> {
    options: &'a Options,
    left: usize,
    in_partial: bool,
}

impl Filter<'_> {
    /// Appends one raw line; false when the limit is reached.
    fn add(&mut self, raw: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(line) = parse(raw) else { return true };
        if self
            .options
            .stream
            .as_deref()
            .is_some_and(|stream| stream != line.stream)
        {
            return true;
        }
        if let Some(since) = self.options.since
            && line.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return true;
        }
        let mut piece = Vec::with_capacity(line.text.len() + 40);
        if self.options.timestamps && !self.in_partial {
            piece.extend_from_slice(line.time.as_bytes());
            piece.push(b' ');
        }
        piece.extend_from_slice(line.text);
        if !line.partial {
            piece.push(b'\n');
        }
        self.in_partial = line.partial;
        piece.truncate(self.left);
        self.left -= piece.len();
        out.extend_from_slice(&piece);
        self.left > 0
    }
}

/// Sends a log file's wanted part; with `follow`, goes on until `alive` says that the container ended
/// and everything was read, or the receiver is gone.
pub async fn send<F, Fut>(path: PathBuf, options: Options, out: mpsc::Sender<Bytes>, alive: F) -> std::io::Result<()>
where
    F: Fn() -> Fut,
    Fut: Future<Output = bool>,
{
    let mut file = File::from_std(crate::logs::open(&path)?);
    let offset = match options.tail {
        Some(lines) => tail_offset(&mut file, lines, &out).await?,
        None => 0,
    };
    file.seek(SeekFrom::Start(offset)).await?;
    let mut filter = Filter {
        options: &options,
        left: options.limit.unwrap_or(usize::MAX),
        in_partial: false,
    };
    if filter.left == 0 {
        return Ok(());
    }
    let mut watch = options.follow.then(|| Watch::new(&file)).flatten();
    let mut lines = Lines::default();
    let mut buffer = vec![0u8; CHUNK];
    let mut was_alive = true;
    let mut next = None;
    loop {
        // A filter that lets nothing through must not read on for a client that left.
        if out.is_closed() {
            return Ok(());
        }
        let n = file.read(&mut buffer).await?;
        if n > 0 {
            let mut text = Vec::new();
            let more = lines.take(&buffer[..n], &mut filter, &mut text);
            if !text.is_empty() && out.send(Bytes::from(text)).await.is_err() {
                return Ok(());
            }
            if !more {
                return Ok(());
            }
            continue;
        }
        if !options.follow || !was_alive {
            return Ok(());
        }
        if let Some(next) = next.take() {
            // What was still written to the old file has been read by now.
            file = next;
            watch = Watch::new(&file);
            continue;
        }
        next = rotated(&path, &file).await;
        if next.is_some() {
            continue;
        }
        was_alive = alive().await;
        if !was_alive {
            continue;
        }
        tokio::select! {
            () = out.closed() => return Ok(()),
            () = changed(&mut watch) => {}
        }
    }
}

/// Cuts what is read into lines. The runtime's lines have 16 KiB; of one that is longer than [`LINE_MAX`] only the
/// beginning is kept.
#[derive(Default)]
struct Lines {
    pending: Vec<u8>,
    /// The rest of the line is passed over.
    skipping: bool,
}

impl Lines {
    /// Takes over a piece of the file and appends what the filter makes of the lines in it; false when it wants no more.
    fn take(&mut self, piece: &[u8], filter: &mut Filter<'_>, text: &mut Vec<u8>) -> bool {
        let mut rest = piece;
        while let Some(end) = memchr(rest) {
            let (line, after) = rest.split_at(end);
            rest = &after[1..];
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            let more = if self.pending.is_empty() {
                filter.add(line, text)
            } else {
                self.pending.extend_from_slice(line);
                let whole = std::mem::take(&mut self.pending);
                filter.add(&whole, text)
            };
            if !more {
                return false;
            }
        }
        if self.skipping {
            return true;
        }
        self.pending.extend_from_slice(rest);
        if self.pending.len() <= LINE_MAX {
            return true;
        }
        self.skipping = true;
        let beginning = std::mem::take(&mut self.pending);
        filter.add(&beginning[..LINE_MAX], text)
    }
}

fn memchr(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

/// The new file, when the path names another one than is being read.
async fn rotated(path: &Path, current: &File) -> Option<File> {
    let named = crate::logs::open(path).ok()?;
    let (new, open) = (named.metadata().ok()?, current.metadata().await.ok()?);
    (new.ino() != open.ino()).then(|| File::from_std(named))
}

/// Wakes when a file changes.
struct Watch {
    inotify: tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
}

impl Watch {
    fn new(file: &File) -> Option<Watch> {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        use std::os::fd::AsRawFd;
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
        let flags = WatchFlags::MODIFY | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF | WatchFlags::CLOSE_WRITE;
        // The file that is read, whatever has its name by now.
        add_watch(&inotify, format!("/proc/self/fd/{}", file.as_raw_fd()), flags).ok()?;
        // The descriptor is owned by the wrapper alone, which is all that its soundness asks for.
        #[allow(deprecated)]
        let inotify = tokio::io::unix::AsyncFd::new(inotify).ok()?;
        Some(Watch { inotify })
    }
}

/// Resolves when the file changed, or after a second: the end of a container writes nothing.
async fn changed(watch: &mut Option<Watch>) {
    const PATIENCE: Duration = Duration::from_secs(1);
    match watch {
        Some(watch) => {
            if let Ok(Ok(mut guard)) = tokio::time::timeout(PATIENCE, watch.inotify.readable()).await {
                let mut events = [0u8; 4096];
                let _ = rustix::io::read(guard.get_inner(), &mut events);
                guard.clear_ready();
            }
        }
        None => tokio::time::sleep(PATIENCE / 4).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(log: &str, options: Options) -> String {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("0.log");
        std::fs::write(&path, log).expect("log");
        let (sender, mut receiver) = mpsc::channel(64);
        send(path, options, sender, || async { false }).await.expect("read");
        let mut text = Vec::new();
        while let Some(bytes) = receiver.recv().await {
            text.extend_from_slice(&bytes);
        }
        String::from_utf8(text).expect("text")
    }

    #[tokio::test]
    async fn options_choose_lines() {
        let log = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n\
                   2026-01-01T00:00:01Z stderr F o\n2026-01-01T00:00:02Z stdout F three\n";
        let base = Options::default;
        assert_eq!(read(log, base()).await, "one\ntwo\nthree\n");
        assert_eq!(
            read(
                log,
                Options {
                    tail: Some(1),
                    ..base()
                }
            )
            .await,
            "three\n"
        );
        assert_eq!(
            read(
                log,
                Options {
                    tail: Some(0),
                    ..base()
                }
            )
            .await,
            ""
        );
        assert_eq!(
            read(
                log,
                Options {
                    tail: Some(99),
                    ..base()
                }
            )
            .await,
            "one\ntwo\nthree\n"
        );
        assert_eq!(
            read(
                log,
                Options {
                    limit: Some(5),
                    ..base()
                }
            )
            .await,
            "one\nt"
        );
        assert_eq!(
            read(
                log,
                Options {
                    stream: Some("stderr".into()),
                    ..base()
                }
            )
            .await,
            "two\n"
        );
        let since = "2026-01-01T00:00:02Z".parse().ok();
        assert_eq!(
            read(
                log,
                Options {
                    since,
                    timestamps: true,
                    ..base()
                }
            )
            .await,
            "2026-01-01T00:00:02Z three\n"
        );
    }

    /// Whatever is in a log: a line of 100 MB, no line end at all, no text, no format. What is sent is bounded, and what
    /// follows is read.
    #[test]
    fn hostile_logs_are_read_in_bounded_memory() {
        let options = Options::default();
        let head = b"2026-01-01T00:00:00Z stdout F ";
        let mut filter = Filter {
            options: &options,
            left: usize::MAX,
            in_partial: false,
        };
        let (mut lines, mut sent, mut largest) = (Lines::default(), 0, 0);
        let mut feed = |bytes: &[u8], lines: &mut Lines| {
            let mut text = Vec::new();
            assert!(lines.take(bytes, &mut filter, &mut text));
            largest = largest.max(lines.pending.capacity());
            sent += text.len();
            text
        };
        feed(head, &mut lines);
        let chunk = vec![b'x'; CHUNK];
        for _ in 0..100 << 4 {
            feed(&chunk, &mut lines);
        }
        feed(b"\n", &mut lines);
        for _ in 0..16 {
            feed(&[0xff; 4096], &mut lines);
        }
        feed(b"\n\n\0\n \n   \n", &mut lines);
        let last = feed(&[&head[..], b"after\n"].concat(), &mut lines);
        assert_eq!(last, b"after\n");
        assert!(largest <= 2 * (LINE_MAX + CHUNK), "{largest} bytes were kept");
        assert!(sent <= LINE_MAX + 64, "{sent} bytes of one line were sent");
    }

    /// Nobody reads any more: the file is not read on, however long it is.
    #[tokio::test]
    async fn reading_ends_when_the_client_leaves() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("0.log");
        let file = std::fs::File::create(&path).expect("log");
        file.set_len(1 << 40).expect("a long log without lines");
        for tail in [None, Some(10)] {
            let (sender, receiver) = mpsc::channel(1);
            drop(receiver);
            let options = Options {
                tail,
                ..Options::default()
            };
            let reading = send(path.clone(), options, sender, || async { true });
            let ended = tokio::time::timeout(Duration::from_secs(20), reading).await;
            ended.expect("ends").expect("without an error");
        }
    }
}
