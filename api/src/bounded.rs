//! Arithmetic on what users and other machines wrote: counts, durations and times that may have any value.
//!
//! Nothing here overflows, panics or wraps: a result that does not fit is the nearest one that does. The crates that act
//! on objects forbid the plain operators on numbers by lint, and `cargo xtask tidy` the methods that no lint sees.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The longest time to wait before looking again, 30 days: long before any clock or timer overflows.
pub const WAIT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// A number that can be summed without overflow.
pub trait Saturating: Copy {
    /// Nothing.
    const ZERO: Self;
    /// The sum, or the nearest number.
    #[must_use]
    fn plus(self, other: Self) -> Self;
}

macro_rules! saturating {
    ($($number:ty),*) => {
        $(impl Saturating for $number {
            const ZERO: Self = 0;
            fn plus(self, other: Self) -> Self {
                self.saturating_add(other)
            }
        })*
    };
}

saturating!(i32, i64, u32, u64, usize);

/// The sum of all, or the nearest number of the type.
pub fn sum<N: Saturating>(numbers: impl IntoIterator<Item = N>) -> N {
    numbers.into_iter().fold(N::ZERO, N::plus)
}

/// One more.
pub fn count<N: Saturating + From<bool>>(number: &mut N) {
    *number = number.plus(N::from(true));
}

/// `seconds` after a time, or the first or last time there is.
pub fn after(time: Timestamp, seconds: i64) -> Timestamp {
    let end = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    time.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(end)
}

/// What is left at `now` until `seconds` after `since`, as something to wait for: `None` when it is over, at most
/// [`WAIT_MAX`].
pub fn left(since: Timestamp, seconds: i64, now: Timestamp) -> Option<Duration> {
    let passed = now.duration_since(since);
    wait(SignedDuration::from_secs(seconds).saturating_sub(passed))
}

/// What is left at `now` until a time, as something to wait for: `None` when it has come, at most [`WAIT_MAX`].
pub fn until(time: Timestamp, now: Timestamp) -> Option<Duration> {
    wait(time.duration_since(now))
}

/// A positive duration as something to wait for, at most [`WAIT_MAX`]; `None` for one that is not positive.
pub fn wait(left: SignedDuration) -> Option<Duration> {
    let left = Duration::try_from(left).ok().filter(|left| !left.is_zero())?;
    Some(left.min(WAIT_MAX))
}

/// So many seconds as something to wait for: none for a negative number, at most [`WAIT_MAX`].
pub fn seconds(number: i64) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(0)).min(WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: [Timestamp; 3] = [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX];
    const SECONDS: [i64; 7] = [i64::MIN, i64::MIN + 1, -1, 0, 1, 9_223_372_036, i64::MAX];

    #[test]
    fn every_time_and_number_of_seconds_has_a_result() {
        for (time, now) in TIMES.iter().flat_map(|time| TIMES.map(|now| (*time, now))) {
            for number in SECONDS {
                let moved = after(time, number);
                assert_eq!(moved >= time, number >= 0 || time == Timestamp::MIN, "{time} {number}");
                let left = left(time, number, now);
                assert!(
                    left.is_none_or(|left| !left.is_zero() && left <= WAIT_MAX),
                    "{time} {number}"
                );
                assert!(seconds(number) <= WAIT_MAX);
            }
            assert_eq!(until(time, now).is_some(), time > now, "{time} {now}");
        }
        assert_eq!(
            left(Timestamp::UNIX_EPOCH, 10, after(Timestamp::UNIX_EPOCH, 4)),
            Some(Duration::from_secs(6))
        );
        assert_eq!(left(Timestamp::UNIX_EPOCH, 10, after(Timestamp::UNIX_EPOCH, 10)), None);
    }

    #[test]
    fn sums_stop_at_the_last_number() {
        assert_eq!(sum([i32::MAX, 1, i32::MAX]), i32::MAX);
        assert_eq!(sum([i64::MIN, -1]), i64::MIN);
        assert_eq!(sum([1usize, 2, 3]), 6);
    }
}
