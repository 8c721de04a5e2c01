//! How many refused requests are written one by one. Pure.
//!
//! Refusals cost a client nothing, so each source of them has a rate: a user who was identified, or an address whose
//! client was not. What is beyond it is counted, and the count is written as one line a minute.

use std::collections::HashMap;
use std::net::IpAddr;

/// Sources that are told apart; more share one count.
const SOURCES_MAX: usize = 4_096;
/// A count is written this often.
const SUMMARY_EVERY_MS: u64 = 60_000;

/// Refusals written at once, and in a second after that.
#[derive(Clone, Copy)]
struct Rate {
    burst: f64,
    per_second: f64,
}

const OF_A_USER: Rate = Rate {
    burst: 100.0,
    per_second: 2.0,
};
const OF_AN_ADDRESS: Rate = Rate {
    burst: 50.0,
    per_second: 1.0,
};
/// All clients together that were not identified: addresses cost nothing either.
const OF_ALL_UNKNOWN: Rate = Rate {
    burst: 500.0,
    per_second: 10.0,
};

/// Where a refused request came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Source {
    /// A user who was identified.
    User(String),
    /// The network of a client that was not: an IPv4 address, or 64 bits of an IPv6 address.
    Address(String),
    /// Everything that has no place of its own.
    Others,
}

impl Source {
    /// The source of a client that was not identified.
    pub fn of_address(address: Option<IpAddr>) -> Self {
        match address {
            None => Source::Others,
            Some(IpAddr::V4(address)) => Source::Address(address.to_string()),
            Some(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
                Some(address) => Source::Address(address.to_string()),
                None => {
                    let [a, b, c, d, ..] = address.segments();
                    Source::Address(format!("{a:x}:{b:x}:{c:x}:{d:x}::/64"))
                }
            },
        }
    }
}

struct Bucket {
    left: f64,
    at_ms: u64,
    not_written: u64,
    since_ms: u64,
}

impl Bucket {
    fn new(rate: Rate, now_ms: u64) -> Self {
        Self {
            left: rate.burst,
            at_ms: now_ms,
            not_written: 0,
            since_ms: now_ms,
        }
    }

    fn refill(&mut self, rate: Rate, now_ms: u64) {
        let passed_s = now_ms.saturating_sub(self.at_ms) as f64 / 1000.0;
        self.left = (self.left + passed_s * rate.per_second).min(rate.burst);
        self.at_ms = now_ms;
    }

    fn take(&mut self) -> bool {
        let has = self.left >= 1.0;
        if has {
            self.left -= 1.0;
        }
        has
    }
}

/// A count of what was not written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub source: Source,
    pub count: u64,
    /// How long ago counting began, in milliseconds.
    pub for_ms: u64,
}

/// The rates of all sources.
#[derive(Default)]
pub(super) struct Limiter {
    sources: HashMap<Source, Bucket>,
    unknown: Option<Bucket>,
}

impl Limiter {
    /// Whether one more refusal of a source is written.
    pub fn admits(&mut self, source: Source, now_ms: u64) -> bool {
        let rate = match source {
            Source::User(_) => OF_A_USER,
            _ => OF_AN_ADDRESS,
        };
        let known = self.sources.len() < SOURCES_MAX || self.sources.contains_key(&source);
        let source = if known { source } else { Source::Others };
        let is_user = matches!(source, Source::User(_));
        let bucket = self.sources.entry(source).or_insert_with(|| Bucket::new(rate, now_ms));
        bucket.refill(rate, now_ms);
        let mut admitted = bucket.take();
        if admitted && !is_user {
            let all = self.unknown.get_or_insert_with(|| Bucket::new(OF_ALL_UNKNOWN, now_ms));
            all.refill(OF_ALL_UNKNOWN, now_ms);
            admitted = all.take();
        }
        if !admitted {
            if bucket.not_written == 0 {
                bucket.since_ms = now_ms;
            }
            bucket.not_written += 1;
        }
        admitted
    }

    /// The counts that are due, or all; forgets sources that have been quiet.
    pub fn summaries(&mut self, now_ms: u64, all: bool) -> Vec<Summary> {
        let mut due = Vec::new();
        for (source, bucket) in &mut self.sources {
            let for_ms = now_ms.saturating_sub(bucket.since_ms);
            if bucket.not_written > 0 && (all || for_ms >= SUMMARY_EVERY_MS) {
                due.push(Summary {
                    source: source.clone(),
                    count: std::mem::take(&mut bucket.not_written),
                    for_ms,
                });
            }
        }
        let quiet = |bucket: &Bucket| now_ms.saturating_sub(bucket.at_ms) > 2 * SUMMARY_EVERY_MS;
        self.sources
            .retain(|_, bucket| bucket.not_written > 0 || !quiet(bucket));
        due.sort_by(|a, b| a.source.cmp(&b.source));
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Source {
        Source::of_address(Some(IpAddr::from([192, 0, 2, last])))
    }

    #[test]
    fn refusals_beyond_the_rate_are_counted() {
        let mut limiter = Limiter::default();
        let eve = || Source::User("eve".to_owned());
        let written = (0..10_000).filter(|_| limiter.admits(eve(), 0)).count();
        assert_eq!(written, 100);
        // Another user is not concerned.
        assert!(limiter.admits(Source::User("ann".to_owned()), 0));
        assert_eq!(limiter.summaries(59_999, false), []);
        let summary = Summary {
            source: eve(),
            count: 9_900,
            for_ms: 60_000,
        };
        assert_eq!(limiter.summaries(60_000, false), [summary]);
        assert_eq!(limiter.summaries(60_000, true), []);
        let written = (0..10_000).filter(|_| limiter.admits(eve(), 70_000)).count();
        assert_eq!(written, 100);
        assert_eq!(limiter.summaries(70_000, true)[0].count, 9_900);
        limiter.summaries(1_000_000, true);
        assert!(limiter.sources.is_empty());
    }

    #[test]
    fn many_addresses_are_bounded_together() {
        let mut limiter = Limiter::default();
        let mut written = 0;
        for last in 0..250 {
            written += (0..100).filter(|_| limiter.admits(address(last), 0)).count();
        }
        assert_eq!(written, 500);
        let counted: u64 = limiter.summaries(1, true).iter().map(|summary| summary.count).sum();
        assert_eq!(counted, 25_000 - 500);
        // More sources than are told apart: nothing is lost, and memory has an end.
        for number in 0..20_000 {
            limiter.admits(Source::User(format!("user-{number}")), 0);
        }
        assert!(limiter.sources.len() <= SOURCES_MAX + 1);
    }

    #[test]
    fn networks_of_addresses() {
        let of = |text: &str| Source::of_address(Some(text.parse().expect("an address")));
        assert_eq!(of("::ffff:192.0.2.1"), address(1));
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    }
}
