//! A keyed work queue: a key waits at most once, is worked on by at most one worker at a time, and
//! comes back later with a per-key exponential delay when its work failed.
//!
//! A key added while it is being worked on runs again afterwards. Bounded by the number of keys.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coxswain_supervise::deadline;
use tokio::sync::Notify;
use tokio::time::Instant;

const BACKOFF_MS_MIN: u64 = 5;
const BACKOFF_MS_MAX: u64 = 60_000;

/// See the module text. Clones share the same queue.
pub struct Queue<K> {
    inner: Arc<Inner<K>>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Queue {
            inner: self.inner.clone(),
        }
    }
}

struct Inner<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    waiting: HashSet<K>,
    working: HashSet<K>,
    delayed: BTreeSet<(Instant, K)>,
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
    closed: bool,
}

impl<K: Clone + Eq + Hash + Ord> Default for Queue<K> {
    fn default() -> Self {
        Queue::new()
    }
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    /// An empty queue.
    pub fn new() -> Queue<K> {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            working: HashSet::new(),
            delayed: BTreeSet::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            closed: false,
        };
        Queue {
            inner: Arc::new(Inner {
                state: Mutex::new(state),
                wake: Notify::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the key due now.
    pub fn add(&self, key: K) {
        let mut state = self.state();
        state.enqueue(key);
        drop(state);
        self.inner.wake.notify_one();
    }

    /// Makes the key due after `delay`, unless it is due earlier already. A delay of more than
    /// [`coxswain_supervise::WAIT_MAX`] ends then: who is woken too early looks and waits again.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let at = deadline(delay);
        let mut state = self.state();
        match state.due.get(&key) {
            Some(earlier) if *earlier <= at => return,
            Some(later) => {
                let later = *later;
                state.delayed.remove(&(later, key.clone()));
            }
            None => {}
        }
        state.due.insert(key.clone(), at);
        state.delayed.insert((at, key));
        drop(state);
        self.inner.wake.notify_one();
    }

    /// Makes the key due after its own exponential delay (5 ms doubling to 60 s).
    pub fn add_failed(&self, key: K) -> Duration {
        let mut state = self.state();
        let count = state.failures.entry(key.clone()).or_insert(0);
        let delay = BACKOFF_MS_MIN.saturating_mul(1 << (*count).min(20)).min(BACKOFF_MS_MAX);
        *count = count.saturating_add(1);
        drop(state);
        let delay = Duration::from_millis(delay);
        self.add_after(key, delay);
        delay
    }

    /// Forgets earlier failures of the key.
    pub fn forget(&self, key: &K) {
        self.state().failures.remove(key);
    }

    /// The next due key; it stays "being worked on" until [`Queue::done`]. `None` once closed.
    pub async fn next(&self) -> Option<K> {
        loop {
            let notified = self.inner.wake.notified();
            let sleep_until = {
                let mut state = self.state();
                if state.closed {
                    return None;
                }
                state.promote(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.waiting.remove(&key);
                    state.working.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.inner.wake.notify_one();
                    }
                    return Some(key);
                }
                state.delayed.first().map(|(at, _)| *at)
            };
            match sleep_until {
                Some(at) => {
                    tokio::select! {
                        () = notified => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => notified.await,
            }
        }
    }

    /// Ends the work on a key that [`Queue::next`] handed out.
    pub fn done(&self, key: &K) {
        let mut state = self.state();
        state.working.remove(key);
        if state.waiting.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.inner.wake.notify_one();
        }
    }

    /// Ends all waiting workers.
    pub fn close(&self) {
        self.state().closed = true;
        self.inner.wake.notify_waiters();
        self.inner.wake.notify_one();
    }

    /// Number of keys that wait or are delayed.
    pub fn len(&self) -> usize {
        let state = self.state();
        state.waiting.len().saturating_add(state.delayed.len())
    }

    /// Nothing waits and nothing is delayed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Clone + Eq + Hash + Ord> State<K> {
    fn enqueue(&mut self, key: K) {
        if self.closed || !self.waiting.insert(key.clone()) {
            return;
        }
        if let Some(at) = self.due.remove(&key) {
            self.delayed.remove(&(at, key.clone()));
        }
        if !self.working.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn promote(&mut self, now: Instant) {
        while let Some((at, _)) = self.delayed.first() {
            if *at > now {
                return;
            }
            if let Some((_, key)) = self.delayed.pop_first() {
                self.due.remove(&key);
                self.enqueue(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_worker_per_key_and_coalescing() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, Some("a"));
        queue.add("a");
        assert_eq!(queue.next().await, Some("b"));
        queue.done(&"b");
        assert!(
            tokio::time::timeout(Duration::from_secs(1), queue.next())
                .await
                .is_err()
        );
        queue.done(&"a");
        assert_eq!(queue.next().await, Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_of_any_length_leaves_the_queue_working() {
        let queue = Queue::new();
        for (key, delay) in [
            ("longest", Duration::MAX),
            ("seconds of an i64", Duration::from_secs(i64::MAX as u64)),
            ("milliseconds of an i64", Duration::from_millis(i64::MAX as u64)),
            ("a moment", Duration::from_nanos(1)),
        ] {
            queue.add_after(key, delay);
        }
        assert_eq!(queue.next().await, Some("a moment"));
        queue.add_after("longest", Duration::from_secs(1));
        assert_eq!(queue.next().await, Some("longest"));
        assert_eq!(queue.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn delays_and_backoff() {
        let queue = Queue::new();
        queue.add_after("late", Duration::from_secs(5));
        queue.add_after("late", Duration::from_secs(9));
        queue.add_after("soon", Duration::from_secs(1));
        let start = Instant::now();
        assert_eq!(queue.next().await, Some("soon"));
        assert_eq!(queue.next().await, Some("late"));
        assert_eq!(start.elapsed().as_secs(), 5);
        assert_eq!(queue.add_failed("x").as_millis(), 5);
        assert_eq!(queue.add_failed("x").as_millis(), 10);
        queue.forget(&"x");
        assert_eq!(queue.add_failed("x").as_millis(), 5);
        queue.close();
        assert_eq!(queue.next().await, None);
    }
}
