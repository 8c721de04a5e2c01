//! Earlier snapshots that somebody pages through, bounded by count and age.
//!
//! A snapshot shares structure with the current state, so keeping one costs what has changed
//! since; the bounds keep that small. Time is passed in.

use std::collections::VecDeque;
use std::time::Duration;

use coxswain_store::Snapshot;

/// Most snapshots kept.
const MOST: usize = 32;
/// Longest time after its last use.
const AGE: Duration = Duration::from_secs(300);

#[derive(Default)]
pub(crate) struct History {
    /// Least recently used first.
    kept: VecDeque<Kept>,
}

struct Kept {
    revision: u64,
    snapshot: Snapshot,
    /// What the snapshot is right for: everything, or one resource.
    only: Option<Box<str>>,
    used: Duration,
}

impl History {
    /// A kept snapshot of exactly this revision that is good for the resource.
    pub fn get(&mut self, revision: u64, only: Option<&str>, now: Duration) -> Option<Snapshot> {
        self.forget(now);
        let at = self
            .kept
            .iter()
            .position(|kept| kept.revision == revision && (kept.only.is_none() || kept.only.as_deref() == only))?;
        let mut kept = self.kept.remove(at)?;
        kept.used = now;
        let snapshot = kept.snapshot.clone();
        self.kept.push_back(kept);
        Some(snapshot)
    }

    /// Keeps a snapshot, at the cost of the one used longest ago when there are too many.
    pub fn keep(&mut self, snapshot: Snapshot, only: Option<&str>, now: Duration) {
        self.forget(now);
        let revision = snapshot.revision();
        let known = |kept: &Kept| kept.revision == revision && (kept.only.is_none() || kept.only.as_deref() == only);
        if let Some(kept) = self.kept.iter_mut().find(|kept| known(kept)) {
            kept.used = now;
            return;
        }
        self.kept.push_back(Kept {
            revision,
            snapshot,
            only: only.map(Into::into),
            used: now,
        });
        if self.kept.len() > MOST {
            self.kept.pop_front();
        }
    }

    /// Lets go of what has not been used for too long.
    pub fn forget(&mut self, now: Duration) {
        self.kept.retain(|kept| now.saturating_sub(kept.used) <= AGE);
    }

    /// Number of snapshots kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_bounded_by_count_and_age() {
        let mut history = History::default();
        for revision in 0..100 {
            history.keep(Snapshot::empty(revision), None, Duration::ZERO);
        }
        assert_eq!(history.len(), MOST);
        assert!(history.get(0, None, Duration::ZERO).is_none());
        assert!(history.get(99, None, AGE).is_some(), "used again at AGE");
        assert!(history.get(98, None, AGE * 2).is_none(), "too old");
        assert!(history.get(99, Some("pods"), AGE * 2).is_some());
        assert_eq!(history.len(), 1);
    }

    #[test]
    fn a_snapshot_of_one_resource_serves_only_that() {
        let mut history = History::default();
        history.keep(Snapshot::empty(5), Some("pods"), Duration::ZERO);
        assert!(history.get(5, Some("pods"), Duration::ZERO).is_some());
        assert!(history.get(5, Some("nodes"), Duration::ZERO).is_none());
        assert!(history.get(5, None, Duration::ZERO).is_none());
    }
}
