//! Earlier snapshots that somebody pages through, bounded by count, age and memory.
//!
//! A snapshot shares structure with the current state: keeping it costs what has been written
//! since, at most its own size. Time and the amount written are passed in.
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
/// Most bytes that all of them together may keep alive, by estimate.
const MOST_BYTES: u64 = 128 << 20;

/// Now, as the store counts it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    /// Time since the store was opened.
    pub time: Duration,
    /// Bytes written since the store was opened.
    pub written: u64,
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
    /// What had been written when it was kept.
    written: u64,
}

impl Kept {
    fn serves(&self, revision: u64, only: Option<&str>) -> bool {
        self.revision == revision && (self.only.is_none() || self.only.as_deref() == only)
    }

    fn cost(&self, now: Moment) -> u64 {
        let written = now.written.saturating_sub(self.written);
        self.snapshot.stored_bytes().min(written)
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
            written: now.written,
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
        Moment { time, written: 0 }
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
        for number in 0..60u32 {
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
                written: mebibytes << 20,
            });
            history.len()
        };
        assert_eq!(kept(&mut history, 30), 4);
        assert_eq!(kept(&mut history, 40), 3);
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
