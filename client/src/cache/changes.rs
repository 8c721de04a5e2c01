//! What has changed for one subscriber of a cache, folded by object.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::held::{Held, Recent};
use crate::item::{Item, ObjectKey};

/// Places for changes that a subscriber keeps when there are few.
pub(super) const SPARE_MAX: usize = 1024;
/// A subscriber that has taken so many changes lets others have their turn, while those are still decoded.
const TURN: u32 = 32;

/// One object that appeared (`old` is `None`), changed, or went away (`new` is `None`).
///
/// Several changes may have been folded into one; when an object was deleted and created again in
/// between, `old` and `new` have different uids.
#[derive(Debug)]
pub struct Change<K> {
    /// Which object.
    pub key: ObjectKey,
    /// The last state this subscriber was told.
    pub old: Option<Arc<K>>,
    /// The current state.
    pub new: Option<Arc<K>>,
}

impl<K> Clone for Change<K> {
    fn clone(&self) -> Self {
        Change {
            key: self.key.clone(),
            old: self.old.clone(),
            new: self.new.clone(),
        }
    }
}

/// What one subscriber has not taken yet.
pub(super) struct Subscription<K> {
    pub pending: Mutex<Pending<K>>,
    pub recent: Arc<Recent<K>>,
    pub wake: Notify,
}

/// The changes by object, in order of first change.
pub(super) struct Pending<K> {
    pub order: VecDeque<ObjectKey>,
    pub changes: HashMap<ObjectKey, FromTo<K>>,
    pub closed: bool,
}

/// The stream of changes of one subscriber. It starts with every object the cache holds.
pub struct Changes<K> {
    pub(super) subscription: Arc<Subscription<K>>,
    /// Changes taken since others had their turn.
    pub(super) taken: u32,
}

impl<K> Subscription<K> {
    pub fn pending(&self) -> MutexGuard<'_, Pending<K>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has become of an object since a subscriber looked last: from what, to what.
type FromTo<K> = (Option<Arc<Held<K>>>, Option<Arc<Held<K>>>);

impl<K> Pending<K> {
    pub fn add(&mut self, key: &ObjectKey, old: Option<Arc<Held<K>>>, new: Option<Arc<Held<K>>>) {
        if let Some(change) = self.changes.get_mut(key) {
            change.1 = new;
            return;
        }
        self.order.push_back(key.clone());
        self.changes.insert(key.clone(), (old, new));
    }

    fn pop(&mut self) -> Option<(ObjectKey, FromTo<K>)> {
        while let Some(key) = self.order.pop_front() {
            let change = self.changes.remove(&key);
            self.shrink();
            if let Some((old, new)) = change.filter(|(old, new)| old.is_some() || new.is_some()) {
                return Some((key, (old, new)));
            }
        }
        None
    }

    /// Gives back the places that a flood of changes has taken.
    fn shrink(&mut self) {
        if self.order.capacity() > SPARE_MAX && self.order.len() < self.order.capacity() / 4 {
            self.order.shrink_to(self.order.len().saturating_mul(2));
            self.changes.shrink_to(self.changes.len().saturating_mul(2));
        }
    }
}

impl<K: Item> Changes<K> {
    /// The next change; `None` when the cache has stopped.
    pub async fn recv(&mut self) -> Option<Change<K>> {
        if self.taken >= TURN {
            self.taken = 0;
            tokio::task::yield_now().await;
        }
        loop {
            let notified = self.subscription.wake.notified();
            let closed = {
                let mut pending = self.subscription.pending();
                match pending.pop() {
                    Some(folded) => {
                        drop(pending);
                        self.taken = self.taken.saturating_add(1);
                        return Some(self.decoded(folded));
                    }
                    None => pending.closed,
                }
            };
            if closed {
                return None;
            }
            self.taken = 0;
            notified.await;
        }
    }

    /// The next change if there is one already.
    pub fn try_recv(&mut self) -> Option<Change<K>> {
        let folded = self.subscription.pending().pop();
        folded.map(|folded| self.decoded(folded))
    }

    /// Leaves out the changes there are.
    pub fn skip(&mut self) {
        while self.subscription.pending().pop().is_some() {}
    }

    fn decoded(&self, (key, (old, new)): (ObjectKey, FromTo<K>)) -> Change<K> {
        let recent = &self.subscription.recent;
        Change {
            key,
            old: old.and_then(|old| old.object(recent)),
            new: new.and_then(|new| new.object(recent)),
        }
    }
}
