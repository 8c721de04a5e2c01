//! Growing pauses between attempts, as pure arithmetic on time stamps.

use jiff::{SignedDuration, Timestamp};

/// First pause between restarts of a container and between image pulls.
pub const FIRST_S: i64 = 10;
/// Longest pause.
pub const MAX_S: i64 = 300;

/// How long one thing waits between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The pause that applies now.
    pub delay_s: i64,
    /// When it was last made longer.
    pub updated_at: Timestamp,
}

impl Backoff {
    /// What a container that was already started `restarts` times before we knew it waits.
    pub fn after_restarts(restarts: u32, updated_at: Timestamp) -> Option<Backoff> {
        let steps = restarts.checked_sub(1)?.min(5);
        Some(Backoff {
            delay_s: (FIRST_S << steps).min(MAX_S),
            updated_at,
        })
    }

    /// The next, longer pause; the first one when there was none or it was long ago.
    pub fn next(previous: Option<Backoff>, now: Timestamp) -> Backoff {
        let delay_s = match previous {
            Some(previous) if !previous.is_old(now) => previous.delay_s.saturating_mul(2).min(MAX_S),
            _ => FIRST_S,
        };
        Backoff {
            delay_s,
            updated_at: now,
        }
    }

    /// Until when to wait after something that ended at `since`; absent when the time is over.
    pub fn wait_until(self, since: Timestamp, now: Timestamp) -> Option<Timestamp> {
        if self.is_old(now) {
            return None;
        }
        let until = since.checked_add(SignedDuration::from_secs(self.delay_s)).ok()?;
        (until > now).then_some(until)
    }

    /// Nothing went wrong for twice the longest pause: start from the beginning.
    fn is_old(self, now: Timestamp) -> bool {
        now.duration_since(self.updated_at) > SignedDuration::from_secs(2 * MAX_S)
    }
}

/// A pause as Kubernetes prints it: `10s`, `1m20s`, `5m0s`.
pub fn text(seconds: i64) -> String {
    if seconds < 60 {
        format!("{seconds}s")
    } else {
        format!("{}m{}s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let mut now = Timestamp::UNIX_EPOCH;
        let mut backoff = None;
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            let next = Backoff::next(backoff, now);
            assert_eq!(next.delay_s, expected);
            assert!(next.wait_until(now, now).is_some());
            now += SignedDuration::from_secs(next.delay_s);
            assert_eq!(next.wait_until(next.updated_at, now), None);
            backoff = Some(next);
        }
        now += SignedDuration::from_secs(601);
        assert_eq!(Backoff::next(backoff, now).delay_s, 10);
        assert_eq!(
            (text(10), text(80), text(300)),
            ("10s".into(), "1m20s".into(), "5m0s".into())
        );
    }
}
