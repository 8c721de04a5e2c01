//! What the user of the daemon sees: a line per step on standard output, one line for an error.

use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Prints steps as they become ready, with the time each took.
pub struct Report {
    last: Mutex<Instant>,
    begin: Instant,
}

impl Report {
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            last: Mutex::new(now),
            begin: now,
        }
    }

    /// A part is ready; `detail` says where or what.
    pub fn step(&self, name: &str, detail: &str) {
        let now = Instant::now();
        let took = match self.last.lock() {
            Ok(mut last) => now.duration_since(std::mem::replace(&mut *last, now)),
            Err(_) => Duration::ZERO,
        };
        line(&format!("  {name:<18} {detail:<44} {:>5} ms", took.as_millis()));
    }

    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }
}

/// A line on standard output; a closed pipe is not an error.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// One error, in one line: the operation that failed and its causes.
pub fn error(error: &anyhow::Error) {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        // A cause that its parent already quotes adds nothing.
        if !text.ends_with(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    eprintln!("error: {}", text.replace('\n', " "));
}
