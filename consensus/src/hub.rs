//! What readers see: the published snapshot, and a ring of recent events for each resource.
//!
//! The order of publication is what makes a list followed by a watch free of gaps, and a watch
//! followed by a read free of surprises: first the events enter their rings, then the snapshot is
//! published, then watchers are woken and shown the events up to it.
//!
//! All rings share one budget of bytes, encoded frames included: when it is used up, the ring that holds most drops its
//! oldest events, so that a flood of one resource costs the others nothing. What is older than [`Hub::age`] was told is
//! kept only within a small part of the budget.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwap;
use coxswain_store::{Compacted, Event, FormBudget, Ring, RingLimit, Snapshot};
use tokio::sync::watch;

/// Most events handed to a watcher at once.
const MOST_AT_ONCE: usize = 512;

/// This part of the history's bytes may be frames.
const FRAMES_SHARE: usize = 6;
/// This part of the history's bytes is kept of old events.
const OLD_SHARE: usize = 8;
/// When the history is too large, this part of it is dropped at once.
const STEP_SHARE: usize = 64;

/// A watcher's place in the history is no longer kept, or the store has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Expired {
    /// The watcher was too slow.
    #[error(transparent)]
    Compacted(#[from] Compacted),
    /// The store is going away.
    #[error("the store has stopped")]
    Stopped,
}

/// One resource: its events, and the revision up to which watchers may see them.
struct Feed {
    ring: RwLock<Ring>,
    visible: watch::Sender<u64>,
}

pub(crate) struct Hub {
    feeds: RwLock<BTreeMap<Arc<str>, Arc<Feed>>>,
    published: ArcSwap<Snapshot>,
    revision: watch::Sender<u64>,
    limit: RingLimit,
    /// Bytes of all rings together.
    bytes: AtomicUsize,
    /// Bytes of the frames kept with events.
    frames: Arc<FormBudget>,
    /// Bytes of the versions that were replaced or deleted so far.
    superseded: AtomicU64,
    base: AtomicU64,
    closed: AtomicBool,
}

impl Hub {
    /// A hub that knows every event after `base`, publishing `base` itself at first.
    pub fn new(base: Snapshot, limit: RingLimit) -> Hub {
        let revision = base.revision();
        Hub {
            feeds: RwLock::default(),
            published: ArcSwap::from_pointee(base),
            revision: watch::Sender::new(revision),
            limit,
            bytes: AtomicUsize::new(0),
            frames: FormBudget::new(limit.bytes / FRAMES_SHARE),
            superseded: AtomicU64::new(0),
            base: AtomicU64::new(revision),
            closed: AtomicBool::new(false),
        }
    }

    /// Makes a batch of events and the snapshot after them visible.
    pub fn publish(&self, events: Vec<Arc<Event>>, snapshot: Snapshot) {
        let revision = snapshot.revision();
        let mut touched: Vec<Arc<Feed>> = Vec::new();
        let mut current: Option<(Arc<str>, Arc<Feed>)> = None;
        for event in events {
            let resource = &event.object.key.resource;
            let feed = match &current {
                Some((name, feed)) if name == resource => feed.clone(),
                _ => {
                    let feed = self.feed(resource);
                    current = Some((resource.clone(), feed.clone()));
                    if !touched.iter().any(|seen| Arc::ptr_eq(seen, &feed)) {
                        touched.push(feed.clone());
                    }
                    feed
                }
            };
            if let Some(previous) = &event.previous {
                previous.forget_form();
                self.superseded.fetch_add(previous.size() as u64, Ordering::Relaxed);
            }
            event.frames.keep_within(&self.frames);
            self.change(&feed, |ring| ring.push(event));
        }
        self.published.store(Arc::new(snapshot));
        self.revision.send_replace(revision);
        for feed in touched {
            feed.visible.send_replace(revision);
        }
        // Last, so that what is not published yet is never dropped.
        self.bound();
    }

    /// Goes on from a snapshot that does not connect with what was published: watchers that are behind
    /// it are told so.
    pub fn reset(&self, snapshot: Snapshot) {
        let revision = snapshot.revision();
        self.base.store(revision, Ordering::Release);
        let feeds = self.feeds.read().unwrap_or_else(PoisonError::into_inner);
        for feed in feeds.values() {
            self.change(feed, |ring| *ring = Ring::new(revision, self.limit));
        }
        self.published.store(Arc::new(snapshot));
        self.revision.send_replace(revision);
        for feed in feeds.values() {
            feed.visible.send_replace(revision);
        }
    }

    /// Changes a ring and keeps count of the bytes.
    fn change<T>(&self, feed: &Feed, change: impl FnOnce(&mut Ring) -> T) -> T {
        let mut ring = feed.ring.write().unwrap_or_else(PoisonError::into_inner);
        let before = ring.bytes();
        let changed = change(&mut ring);
        let after = ring.bytes();
        drop(ring);
        self.bytes.fetch_add(after, Ordering::Relaxed);
        self.bytes.fetch_sub(before, Ordering::Relaxed);
        changed
    }

    /// Bytes that the history keeps alive: of events, and of their frames.
    pub fn history_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed) + self.frames.used()
    }

    /// Brings the history back into its budget.
    fn bound(&self) {
        if self.history_bytes() > self.limit.bytes {
            self.drop_down_to(self.limit.bytes - self.limit.bytes / STEP_SHARE, u64::MAX);
        }
    }

    /// Drops events up to a revision, always of the ring that holds most, until the history has no more than so many bytes.
    fn drop_down_to(&self, most: usize, upto: u64) {
        let feeds = self.feeds.read().unwrap_or_else(PoisonError::into_inner);
        let size = |feed: &Arc<Feed>| {
            let ring = feed.ring.read().unwrap_or_else(PoisonError::into_inner);
            let is_droppable = ring.first().is_some_and(|first| first <= upto);
            is_droppable.then(|| (ring.bytes(), feed.clone()))
        };
        let mut sizes: Vec<(usize, Arc<Feed>)> = feeds.values().filter_map(size).collect();
        drop(feeds);
        sizes.sort_by_key(|(bytes, _)| *bytes);
        while self.history_bytes() > most
            && let Some((_, largest)) = sizes.pop()
        {
            let second = sizes.last().map_or(0, |(bytes, _)| *bytes);
            let others = self.history_bytes();
            let is_old = |ring: &Ring| ring.first().is_some_and(|first| first <= upto);
            let left = self.change(&largest, |ring| {
                let others = others.saturating_sub(ring.bytes());
                let is_too_large = |ring: &Ring| ring.bytes() >= second && ring.bytes() + others > most;
                while is_too_large(ring) && is_old(ring) && ring.drop_oldest() {}
                is_old(ring).then(|| ring.bytes())
            });
            if let Some(bytes) = left {
                let at = sizes.partition_point(|(other, _)| *other < bytes);
                sizes.insert(at, (bytes, largest));
            }
        }
    }

    /// Declares everything up to a revision old: no more than a small part of the budget is kept of it.
    pub fn age(&self, revision: u64) {
        self.drop_down_to(self.limit.bytes / OLD_SHARE, revision);
    }

    /// Bytes of the versions that were replaced or deleted since the start.
    pub fn superseded(&self) -> u64 {
        self.superseded.load(Ordering::Relaxed)
    }

    fn base(&self) -> u64 {
        self.base.load(Ordering::Acquire)
    }

    fn feed(&self, resource: &str) -> Arc<Feed> {
        let feeds = self.feeds.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(feed) = feeds.get(resource) {
            return feed.clone();
        }
        drop(feeds);
        let mut feeds = self.feeds.write().unwrap_or_else(PoisonError::into_inner);
        feeds
            .entry(resource.into())
            .or_insert_with(|| {
                Arc::new(Feed {
                    ring: RwLock::new(Ring::new(self.base(), self.limit)),
                    visible: watch::Sender::new(self.first_visible()),
                })
            })
            .clone()
    }

    /// What a new feed shows at first; the end of time when the hub is closed.
    fn first_visible(&self) -> u64 {
        match self.closed.load(Ordering::Acquire) {
            true => u64::MAX,
            false => self.base(),
        }
    }

    /// The newest published snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published.load_full()
    }

    /// Published revision, to be waited on.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// The oldest revision from which a watch of `resource` can begin.
    pub fn oldest(&self, resource: &str) -> u64 {
        let feeds = self.feeds.read().unwrap_or_else(PoisonError::into_inner);
        feeds.get(resource).map_or(self.base(), |feed| {
            feed.ring.read().unwrap_or_else(PoisonError::into_inner).oldest()
        })
    }

    /// The events of `resource` after one published revision up to another, oldest first.
    pub fn between(&self, resource: &str, after: u64, upto: u64) -> Result<Vec<Arc<Event>>, Compacted> {
        let feed = self.feed(resource);
        let mut events = feed
            .ring
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .after(after, usize::MAX)?;
        // Events enter their ring before they are published.
        events.truncate(events.partition_point(|event| event.revision <= upto));
        Ok(events)
    }

    /// A cursor over the events of `resource` after a revision.
    pub fn watch(self: &Arc<Self>, resource: &str, after: u64) -> Result<Cursor, Compacted> {
        let feed = self.feed(resource);
        let oldest = self.oldest(resource);
        if after < oldest {
            return Err(Compacted { oldest });
        }
        Ok(Cursor {
            visible: feed.visible.subscribe(),
            feed,
            hub: self.clone(),
            position: after,
        })
    }

    /// The snapshot of an earlier revision, by taking back the events since. With a resource
    /// given, only that resource is certain to be right, and only its history must reach back.
    pub fn snapshot_at(&self, revision: u64, only: Option<&str>) -> Result<Snapshot, Compacted> {
        let mut snapshot = Snapshot::clone(&self.published.load());
        if revision >= snapshot.revision() {
            return Ok(snapshot);
        }
        let newest = snapshot.revision();
        let feeds: Vec<Arc<Feed>> = self
            .feeds
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|(name, _)| only.is_none_or(|only| &***name == only))
            .map(|(_, feed)| feed.clone())
            .collect();
        if revision < self.base() {
            return Err(Compacted { oldest: self.base() });
        }
        for feed in feeds {
            let ring = feed.ring.read().unwrap_or_else(PoisonError::into_inner);
            for event in ring.back_to(revision)? {
                // Events newer than the snapshot are in the ring before they are published.
                if event.revision <= newest {
                    snapshot.undo(event);
                }
            }
        }
        snapshot.set_revision(revision);
        Ok(snapshot)
    }

    /// Events held and events dropped by the bounds, of all resources together.
    pub fn counts(&self) -> (usize, u64) {
        let feeds = self.feeds.read().unwrap_or_else(PoisonError::into_inner);
        feeds.values().fold((0, 0), |sum, feed| {
            let ring = feed.ring.read().unwrap_or_else(PoisonError::into_inner);
            (sum.0 + ring.len(), sum.1 + ring.dropped())
        })
    }

    /// Ends all watches.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let mut feeds = self.feeds.write().unwrap_or_else(PoisonError::into_inner);
        for feed in std::mem::take(&mut *feeds).into_values() {
            feed.visible.send_replace(u64::MAX);
        }
    }
}

/// A place in the history of one resource. Costs nothing while it waits.
pub struct Cursor {
    feed: Arc<Feed>,
    hub: Arc<Hub>,
    visible: watch::Receiver<u64>,
    position: u64,
}

impl Cursor {
    /// Waits for the next events, oldest first, never empty. Cancel-safe: a dropped wait loses
    /// nothing.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, Expired> {
        loop {
            let visible = *self.visible.borrow_and_update();
            let events = self.take(visible)?;
            if !events.is_empty() {
                return Ok(events);
            }
            if visible == u64::MAX || self.visible.changed().await.is_err() {
                return Err(Expired::Stopped);
            }
        }
    }

    /// The events that are there already, possibly none.
    pub fn ready(&mut self) -> Result<Vec<Arc<Event>>, Expired> {
        let visible = *self.visible.borrow_and_update();
        self.take(visible)
    }

    fn take(&mut self, visible: u64) -> Result<Vec<Arc<Event>>, Expired> {
        let ring = self.feed.ring.read().unwrap_or_else(PoisonError::into_inner);
        let mut events = ring.after(self.position, MOST_AT_ONCE)?;
        drop(ring);
        let shown = events.partition_point(|event| event.revision <= visible);
        events.truncate(shown);
        if let Some(last) = events.last() {
            self.position = last.revision;
        }
        Ok(events)
    }

    /// The revision up to which this watcher has seen everything: what a bookmark may say. It
    /// moves on with the store while the resource itself is quiet.
    pub fn revision(&mut self) -> u64 {
        let published = self.hub.published.load().revision();
        let ring = self.feed.ring.read().unwrap_or_else(PoisonError::into_inner);
        if ring.newest() <= self.position {
            self.position = self.position.max(published);
        }
        self.position
    }
}

#[cfg(test)]
mod tests {
    use coxswain_store::{Draft, Head, Key, Op, Precondition, State, Txn};
    use serde_json::json;

    use super::*;

    const LIMIT: RingLimit = RingLimit {
        events: 1000,
        bytes: 100_000,
    };

    struct Fixture {
        state: State,
        hub: Arc<Hub>,
    }

    impl Fixture {
        fn new() -> Fixture {
            let state = State::new();
            let hub = Arc::new(Hub::new(state.snapshot(), LIMIT));
            Fixture { state, hub }
        }

        fn apply(&mut self, op: Op) -> u64 {
            let (_, events) = self.state.apply(Txn { ops: vec![op] });
            self.hub.publish(events, self.state.snapshot());
            self.state.revision()
        }

        fn put(&mut self, resource: &str, name: &str) -> u64 {
            let value = json!({"metadata": {}, "text": "x".repeat(1000)});
            let draft = Draft::new(Key::new(resource, "n", name), value, Head::default());
            let when = Precondition::None;
            self.apply(Op::Put { draft, when })
        }

        fn delete(&mut self, resource: &str, name: &str) -> u64 {
            let key = Key::new(resource, "n", name);
            let when = Precondition::None;
            self.apply(Op::Delete { key, when })
        }

        /// Events that can be had after a revision, or the oldest that one can go on from.
        fn after(&self, resource: &str, revision: u64) -> Result<usize, u64> {
            match self.hub.watch(resource, revision) {
                Ok(mut cursor) => {
                    let mut count = 0;
                    loop {
                        match cursor.ready().map(|events| events.len()) {
                            Ok(0) => return Ok(count),
                            Ok(more) => count += more,
                            Err(expired) => panic!("{expired}"),
                        }
                    }
                }
                Err(Compacted { oldest }) => Err(oldest),
            }
        }
    }

    #[test]
    fn all_resources_share_one_budget_and_the_largest_gives_way() {
        let mut fixture = Fixture::new();
        let first = fixture.put("few", "a");
        for _ in 0..10 {
            fixture.put("few", "a");
        }
        let flooded = fixture.put("many", "a");
        for _ in 0..500 {
            fixture.put("many", "a");
            assert!(fixture.hub.history_bytes() <= LIMIT.bytes);
        }
        assert_eq!(fixture.after("few", first), Ok(10), "a flood of others costs nothing");
        let oldest = fixture.after("many", flooded).expect_err("beyond the budget");
        let held = fixture.after("many", oldest).expect("within the budget");
        assert!(held > 50 && held as u64 == fixture.state.revision() - oldest, "{held}");
        // Equal floods share: neither is left with nothing.
        for _ in 0..500 {
            fixture.put("others", "a");
            fixture.put("many", "a");
        }
        let last = |resource: &str| fixture.hub.oldest(resource);
        let (many, others) = (last("many"), last("others"));
        let held = [fixture.after("many", many), fixture.after("others", others)];
        let [Ok(many), Ok(others)] = held else {
            panic!("{held:?}")
        };
        assert!(
            many > 20 && others > 20 && many.abs_diff(others) < 10,
            "{many} {others}"
        );
        assert!(fixture.hub.counts().1 > 1000);
    }

    #[test]
    fn objects_that_stay_cost_the_history_next_to_nothing() {
        let mut fixture = Fixture::new();
        let first = fixture.put("many", "0");
        for number in 1..200 {
            fixture.put("many", &number.to_string());
        }
        assert_eq!(fixture.after("many", first), Ok(199));
        assert!(fixture.hub.history_bytes() < 60_000, "{}", fixture.hub.history_bytes());
        // What is deleted does cost: the version before, and what the delete shows.
        for number in 0..200 {
            fixture.delete("many", &number.to_string());
            assert!(fixture.hub.history_bytes() <= LIMIT.bytes);
        }
        assert!(fixture.after("many", first).is_err());
    }

    #[test]
    fn frames_count_in_the_budget() {
        let mut fixture = Fixture::new();
        let first = fixture.put("pods", "a");
        fixture.put("pods", "b");
        let before = fixture.hub.history_bytes();
        let mut cursor = fixture.hub.watch("pods", first).expect("a watch");
        let events = cursor.ready().expect("events");
        let form: Arc<str> = "json".into();
        events[0].frames.get("ADDED", &form, || vec![0; 5000].into());
        assert_eq!(fixture.hub.history_bytes(), before + 5000);
        events[0]
            .frames
            .get("ADDED", &"other".into(), || vec![0; LIMIT.bytes].into());
        assert_eq!(fixture.hub.history_bytes(), before + 5000, "there is no room");
    }

    #[test]
    fn old_events_keep_a_small_part() {
        let mut fixture = Fixture::new();
        let first = fixture.put("pods", "a");
        let quiet = fixture.put("nodes", "a");
        for _ in 0..60 {
            fixture.put("pods", "a");
        }
        let old = fixture.state.revision();
        for _ in 0..3 {
            fixture.put("pods", "a");
        }
        fixture.hub.age(0);
        assert_eq!(fixture.after("pods", first), Ok(63), "nothing is old");
        fixture.hub.age(old);
        assert!(fixture.hub.history_bytes() <= LIMIT.bytes / OLD_SHARE);
        assert!(fixture.after("pods", first).is_err());
        assert_eq!(fixture.after("pods", old), Ok(3), "what is young stays");
        assert_eq!(fixture.after("nodes", quiet), Ok(0), "who missed nothing goes on");
        fixture.hub.age(u64::MAX);
        let newest = fixture.state.revision();
        assert_eq!(fixture.after("pods", newest), Ok(0));
    }

    #[test]
    fn forms_of_versions_that_are_stored_no_longer_are_given_up() {
        let mut fixture = Fixture::new();
        let forms = FormBudget::new(1 << 20);
        fixture.put("pods", "a");
        let snapshot = fixture.hub.snapshot();
        let stored = snapshot.find("pods", "n", "a").expect("it is there");
        stored.other_form(&forms, || vec![0; 900].into());
        assert_eq!(forms.used(), 900);
        fixture.delete("pods", "a");
        assert_eq!(forms.used(), 0);
        assert!(fixture.hub.superseded() > 1000);
    }
}
