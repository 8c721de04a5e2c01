//! What readers see: the published snapshot, and a ring of recent events for each resource.
//!
//! The order of publication is what makes a list followed by a watch free of gaps, and a watch
//! followed by a read free of surprises: first the events enter their rings, then the snapshot is
//! published, then watchers are woken and shown the events up to it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwap;
use coxswain_store::{Compacted, Event, Ring, RingLimit, Snapshot};
use tokio::sync::watch;

/// Most events handed to a watcher at once.
const MOST_AT_ONCE: usize = 512;

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
            feed.ring.write().unwrap_or_else(PoisonError::into_inner).push(event);
        }
        self.published.store(Arc::new(snapshot));
        self.revision.send_replace(revision);
        for feed in touched {
            feed.visible.send_replace(revision);
        }
    }

    /// Goes on from a snapshot that does not connect with what was published: watchers that are behind
    /// it are told so.
    pub fn reset(&self, snapshot: Snapshot) {
        let revision = snapshot.revision();
        self.base.store(revision, Ordering::Release);
        let feeds = self.feeds.read().unwrap_or_else(PoisonError::into_inner);
        for feed in feeds.values() {
            *feed.ring.write().unwrap_or_else(PoisonError::into_inner) = Ring::new(revision, self.limit);
        }
        self.published.store(Arc::new(snapshot));
        self.revision.send_replace(revision);
        for feed in feeds.values() {
            feed.visible.send_replace(revision);
        }
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
    pub fn counts(&self) -> (usize, usize, u64) {
        let feeds = self.feeds.read().unwrap_or_else(PoisonError::into_inner);
        feeds.values().fold((0, 0, 0), |sum, feed| {
            let ring = feed.ring.read().unwrap_or_else(PoisonError::into_inner);
            (sum.0 + ring.len(), sum.1 + ring.bytes(), sum.2 + ring.dropped())
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
