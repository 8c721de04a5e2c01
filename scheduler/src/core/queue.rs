//! Pods that wait for a node: ready ones by priority and age, failed ones until something happens or their time comes.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use coxswain_client::ObjectKey;

/// First and longest wait after a failed attempt, in milliseconds.
const BACKOFF_MS: (u64, u64) = (1_000, 10_000);
/// A pod that nothing woke is tried again after this time, in milliseconds: a safety net only.
const UNSCHEDULABLE_MS_MAX: u64 = 300_000;

/// Higher priority first, then older, then by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    priority: Reverse<i32>,
    created_s: i64,
    key: ObjectKey,
}

#[derive(Debug, Clone)]
struct Waiting {
    rank: Rank,
    attempts: u32,
    /// Not before this time, in milliseconds.
    not_before_ms: u64,
    /// Waits for an event, not only for its time.
    parked: bool,
}

/// The queue; time is an argument.
#[derive(Debug, Default)]
pub struct Queue {
    ready: BTreeMap<Rank, ()>,
    waiting: BTreeMap<ObjectKey, Waiting>,
    attempts: BTreeMap<ObjectKey, (Rank, u32)>,
}

impl Queue {
    /// A pod that needs a node; one that waits already keeps its place.
    pub fn add(&mut self, key: &ObjectKey, priority: i32, created_s: i64) {
        if !self.waiting.contains_key(key) {
            let rank = Rank {
                priority: Reverse(priority),
                created_s,
                key: key.clone(),
            };
            self.attempts.entry(key.clone()).or_insert((rank.clone(), 0));
            self.ready.insert(rank, ());
        }
    }

    /// The pod has changed in a way that may help it: try at once.
    pub fn wake(&mut self, key: &ObjectKey) {
        if let Some(waiting) = self.waiting.remove(key) {
            self.ready.insert(waiting.rank, ());
        }
    }

    /// The pod needs no node any more.
    pub fn remove(&mut self, key: &ObjectKey) {
        if let Some((rank, _)) = self.attempts.remove(key) {
            self.ready.remove(&rank);
        }
        self.waiting.remove(key);
    }

    /// The pod whose turn it is.
    pub fn pop(&mut self) -> Option<ObjectKey> {
        self.ready.pop_first().map(|(rank, ())| rank.key)
    }

    /// The attempt failed: wait for an event (`parked`), or for the backoff alone.
    pub fn failed(&mut self, key: &ObjectKey, now_ms: u64, parked: bool) {
        let Some((rank, attempts)) = self.attempts.get_mut(key) else {
            return;
        };
        *attempts = attempts.saturating_add(1);
        let wait = BACKOFF_MS
            .0
            .checked_shl(attempts.saturating_sub(1))
            .unwrap_or(BACKOFF_MS.1)
            .clamp(BACKOFF_MS.0, BACKOFF_MS.1);
        let waiting = Waiting {
            rank: rank.clone(),
            attempts: *attempts,
            not_before_ms: now_ms.saturating_add(wait),
            parked,
        };
        self.waiting.insert(key.clone(), waiting);
    }

    /// Something freed room or changed a node: parked pods go back in as soon as their backoff is over.
    pub fn room_appeared(&mut self, now_ms: u64) {
        for waiting in self.waiting.values_mut() {
            waiting.parked = false;
        }
        self.tick(now_ms);
    }

    /// Moves what is due to the ready ones.
    pub fn tick(&mut self, now_ms: u64) {
        let due = |w: &Waiting| {
            let at = if w.parked {
                w.not_before_ms.saturating_add(UNSCHEDULABLE_MS_MAX)
            } else {
                w.not_before_ms
            };
            at <= now_ms
        };
        let keys: Vec<ObjectKey> = self
            .waiting
            .iter()
            .filter(|(_, w)| due(w))
            .map(|(k, _)| k.clone())
            .collect();
        keys.iter().for_each(|k| self.wake(k));
    }

    /// When [`Queue::tick`] has something to do next, in milliseconds.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        let at = |w: &Waiting| {
            if w.parked {
                w.not_before_ms.saturating_add(UNSCHEDULABLE_MS_MAX)
            } else {
                w.not_before_ms
            }
        };
        self.waiting.values().map(at).min()
    }

    /// How often the pod has been tried without success.
    #[must_use]
    pub fn attempts(&self, key: &ObjectKey) -> u32 {
        self.waiting.get(key).map_or(0, |w| w.attempts)
    }
}
