//! Moments that lie a wait from now, whatever wait was computed from what users wrote.

use std::time::Duration;

use tokio::time::Instant;

/// The longest wait. Whoever would wait longer wakes up then, looks again and waits again.
pub const WAIT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The moment `wait` after now, at most [`WAIT_MAX`] away.
#[must_use]
pub fn deadline(wait: Duration) -> Instant {
    later(Instant::now(), wait)
}

/// The moment `wait` after `start`, at most [`WAIT_MAX`] away.
#[must_use]
pub fn later(start: Instant, wait: Duration) -> Instant {
    start.checked_add(wait.min(WAIT_MAX)).unwrap_or(start)
}
