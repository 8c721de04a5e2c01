//! Earlier snapshots that somebody pages through, bounded by count, age and memory.
//!
//! A snapshot shares structure with the current state: keeping it costs what has been replaced or deleted
//! since, at most its own size. Time and that amount are passed in.
//!
//! Age counts from when a snapshot was first asked for, used or not: a revision that somebody began to page through is
//! compacted for good after that time, as clients expect it to be.

use std::collections::VecDeque;
use std::time::Duration;

use coxswain_store::Snapshot;

/// Most snapshots kept.
const MOST: usize = 32;
/// Longest time that one is kept.
const AGE: Duration = Duration::from_secs(300);
/// Most bytes that all of them together may keep alive, by estimate. Beyond that a page's moment is found by taking
/// events back, as far as they reach.
const MOST_BYTES: u64 = 16 << 20;

/// Now, as the store counts it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    /// Time since the store was opened.
    pub time: Duration,
    /// Bytes of the versions that were replaced or deleted since the store was opened.
    pub superseded: u64,
}

/// After this time events are old: who resumes a watch from before may be told that it is too late.
const EVENT_AGE: Duration = Duration::from_secs(300);
/// Moments are at least this far apart.
const AGES_APART: Duration = Duration::from_secs(20);

/// Which revision there was at which time, over the last minutes.
#[derive(Default)]
pub(crate) struct Ages {
    /// Oldest first; of the same revision the first.
    noted: VecDeque<(Duration, u64)>,
}

impl Ages {
    /// Notes the revision of now, and returns the newest one that is old.
    pub fn note(&mut self, time: Duration, revision: u64) -> Option<u64> {
        let is_news = self
            .noted
            .back()
            .is_none_or(|(last, known)| *known < revision && time >= *last + AGES_APART);
        if is_news {
            self.noted.push_back((time, revision));
        }
        let is_old = |(noted, _): &mut (Duration, u64)| time >= *noted + EVENT_AGE;
        let mut old = None;
        while let Some((_, revision)) = self.noted.pop_front_if(is_old) {
            old = Some(revision);
        }
        old
    }
}

#[derive(Default)]
pub(crate) struct History {
    /// Least recently used first.
    kept: VecDeque<Kept>,
    /// No revision up to this one is given out any more.
    compacted: u64,
}

struct Kept {
    revision: u64,
    snapshot: Snapshot,
    /// What the snapshot is right for: everything, or one resource.
    only: Option<Box<str>>,
    since: Duration,
    /// What had been replaced or deleted when it was kept.
    superseded: u64,
}

impl Kept {
    fn serves(&self, revision: u64, only: Option<&str>) -> bool {
        self.revision == revision && (self.only.is_none() || self.only.as_deref() == only)
    }

    fn cost(&self, now: Moment) -> u64 {
        let superseded = now.superseded.saturating_sub(self.superseded);
        self.snapshot.stored_bytes().min(superseded)
    }
}

impl History {
    /// A kept snapshot of exactly this revision that is good for the resource.
    pub fn get(&mut self, revision: u64, only: Option<&str>, now: Moment) -> Option<Snapshot> {
        self.forget(now);
        let serves = |kept: &Kept| kept.serves(revision, only);
        let at = self.kept.iter().position(serves)?;
        let kept = self.kept.remove(at)?;
        let snapshot = kept.snapshot.clone();
        self.kept.push_back(kept);
        Some(snapshot)
    }

    /// Keeps a snapshot, at the cost of the one used longest ago when there are too many. One that was compacted, and
    /// is still the newest there is, is not kept again.
    pub fn keep(&mut self, snapshot: Snapshot, only: Option<&str>, now: Moment) {
        let known = self.get(snapshot.revision(), only, now).is_some();
        if known || snapshot.revision() <= self.compacted {
            return;
        }
        self.kept.push_back(Kept {
            revision: snapshot.revision(),
            snapshot,
            only: only.map(Into::into),
            since: now.time,
            superseded: now.superseded,
        });
        if self.kept.len() > MOST {
            self.kept.pop_front();
        }
    }

    /// The newest revision that is too old to be given out, 0 when there is none.
    pub fn compacted(&mut self, now: Moment) -> u64 {
        self.forget(now);
        self.compacted
    }

    /// Lets go of what is too old, and of what costs too much.
    pub fn forget(&mut self, now: Moment) {
        let is_young = |kept: &Kept| now.time.saturating_sub(kept.since) <= AGE;
        let old = self
            .kept
            .iter()
            .filter(|kept| !is_young(kept))
            .map(|kept| kept.revision);
        self.compacted = old.max().unwrap_or(0).max(self.compacted);
        self.kept.retain(is_young);
        let mut cost: u64 = self.kept.iter().map(|kept| kept.cost(now)).sum();
        while cost > MOST_BYTES {
            let Some(dropped) = self.kept.pop_front() else {
                break;
            };
            cost -= dropped.cost(now);
        }
    }

    /// Bytes that the kept snapshots keep alive, by estimate.
    pub fn bytes(&self, now: Moment) -> u64 {
        self.kept.iter().map(|kept| kept.cost(now)).sum()
    }

    /// Number of snapshots kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }
}

#[cfg(test)]
mod tests {
    use coxswain_store::{Draft, Head, Key, Precondition, State, Txn};

    use super::*;

    fn at(time: Duration) -> Moment {
        Moment { time, superseded: 0 }
    }

    #[test]
    fn revisions_are_old_after_five_minutes() {
        let mut ages = Ages::default();
        let mut note = |seconds: u64, revision| ages.note(Duration::from_secs(seconds), revision);
        for (seconds, revision, old) in [
            (0, 5, None),
            (10, 7, None), // Too soon after the last.
            (20, 8, None),
            (299, 8, None), // Nothing new.
            (300, 8, Some(5)),
            (310, 9, None),
            (320, 9, Some(8)),
            (609, 9, None),
            (900, 9, Some(9)),
            (2000, 9, None),
        ] {
            assert_eq!(note(seconds, revision), old, "{seconds}");
        }
    }

    #[test]
    fn is_bounded_by_count_and_age() {
        let mut history = History::default();
        for revision in 1..=99 {
            history.keep(Snapshot::empty(revision), None, at(Duration::ZERO));
        }
        assert_eq!(history.len(), MOST);
        assert!(history.get(1, None, at(Duration::ZERO)).is_none());
        assert!(history.get(99, None, at(AGE)).is_some());
        assert!(history.get(99, Some("pods"), at(AGE)).is_some());
        assert_eq!(history.compacted(at(AGE)), 0);
        history.keep(Snapshot::empty(120), None, at(AGE));
        let later = at(AGE + Duration::from_secs(1));
        assert!(history.get(99, None, later).is_none(), "too old, though it was used");
        assert_eq!((history.compacted(later), history.len()), (99, 1));
        history.keep(Snapshot::empty(99), None, later);
        assert!(
            history.get(99, None, later).is_none(),
            "too old, though it is the newest"
        );
    }

    #[test]
    fn is_bounded_by_what_it_keeps_alive() {
        let mut state = State::new();
        let value = serde_json::json!({"text": "x".repeat(1 << 20)});
        let draft = Draft::new(Key::new("pods", "", ""), value, Head::default());
        for number in 0..7u32 {
            let key = Key::new("pods", "default", number.to_string());
            let draft = Draft { key, ..draft.clone() };
            state.apply(Txn::put(draft, Precondition::None));
        }
        let mut history = History::default();
        for revision in 1..=4 {
            let mut snapshot = state.snapshot();
            snapshot.set_revision(revision);
            history.keep(snapshot, None, Moment::default());
        }
        let kept = |history: &mut History, mebibytes: u64| {
            history.forget(Moment {
                time: Duration::ZERO,
                superseded: mebibytes << 20,
            });
            history.len()
        };
        assert_eq!(kept(&mut history, 4), 4);
        assert_eq!(kept(&mut history, 5), 3);
        assert_eq!(kept(&mut history, 10_000), 2, "each costs its size at most");
    }

    #[test]
    fn a_snapshot_of_one_resource_serves_only_that() {
        let mut history = History::default();
        let now = Moment::default();
        history.keep(Snapshot::empty(5), Some("pods"), now);
        assert!(history.get(5, Some("pods"), now).is_some());
        assert!(history.get(5, Some("nodes"), now).is_none());
        assert!(history.get(5, None, now).is_none());
    }
}
