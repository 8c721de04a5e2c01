//! A local, always current copy of the objects of one kind.
//!
//! ```text
//!   API server --watch (initial events, bookmarks)--> watch.rs --> Cache --> get / list / owned
//!                                                                   |
//!                                                                   +--> Changes (one per subscriber)
//! ```
//!
//! Guarantees: never polls; each subscriber sees every object's latest state, in order of first
//! change; a slow subscriber loses intermediate states, never the last one, and costs at most one
//! entry per object. `managedFields` are dropped from cached objects: write with patches.
//!
//! Does not: promise that a write is visible when the call returns, see [`Cache::caught_up`].

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

use kube::Resource;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::item::{Item, ObjectKey};
use crate::transport::Client;
use crate::watch::{Source, follow};

/// Which objects a cache holds. The default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only objects that match this label selector.
    pub labels: Option<String>,
    /// Only objects that match this field selector.
    pub fields: Option<String>,
}

impl Scope {
    /// Everything.
    pub fn all() -> Scope {
        Scope::default()
    }

    /// Only what the field selector matches.
    pub fn fields(selector: &str) -> Scope {
        Scope {
            fields: Some(selector.to_string()),
            ..Scope::default()
        }
    }
}

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

/// See the module text. Clones share the same copy.
pub struct Cache<K> {
    inner: Arc<Inner<K>>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Cache {
            inner: self.inner.clone(),
        }
    }
}

struct Inner<K> {
    state: RwLock<State<K>>,
    synced: watch::Sender<bool>,
    revision: watch::Sender<u64>,
    skipped: AtomicU64,
}

struct State<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    by_controller: HashMap<String, BTreeSet<ObjectKey>>,
    without_controller: BTreeSet<ObjectKey>,
    subscribers: Vec<Weak<Subscription<K>>>,
    closed: bool,
}

struct Subscription<K> {
    pending: Mutex<Pending<K>>,
    wake: Notify,
}

struct Pending<K> {
    order: VecDeque<ObjectKey>,
    changes: HashMap<ObjectKey, Change<K>>,
    closed: bool,
}

/// The stream of changes of one subscriber. It starts with every object the cache holds.
pub struct Changes<K> {
    subscription: Arc<Subscription<K>>,
}

impl<K: Item> Cache<K> {
    /// Starts following all objects of the kind within the scope, until the token is cancelled.
    pub fn spawn(client: &Client, scope: Scope, token: CancellationToken) -> Cache<K>
    where
        K: Resource<DynamicType: Default>,
    {
        let dynamic = K::DynamicType::default();
        let path = K::url_path(&dynamic, scope.namespace.as_deref());
        let source = Source {
            path,
            labels: scope.labels,
            fields: scope.fields,
        };
        Cache::spawn_source(client, source, token)
    }

    /// Starts following a collection by its path.
    pub fn spawn_source(client: &Client, source: Source, token: CancellationToken) -> Cache<K> {
        let cache = Cache::empty();
        tokio::spawn(follow(client.clone(), source, cache.clone(), token));
        cache
    }

    /// A cache that follows nothing and holds these objects: for tests of its users.
    pub fn fixed(objects: Vec<K>) -> Cache<K> {
        let cache = Cache::empty();
        cache.replace_all(objects, 1);
        cache
    }

    fn empty() -> Cache<K> {
        let state = State {
            objects: BTreeMap::new(),
            by_controller: HashMap::new(),
            without_controller: BTreeSet::new(),
            subscribers: Vec::new(),
            closed: false,
        };
        Cache {
            inner: Arc::new(Inner {
                state: RwLock::new(state),
                synced: watch::Sender::new(false),
                revision: watch::Sender::new(0),
                skipped: AtomicU64::new(0),
            }),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State<K>> {
        self.inner.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the first complete list has arrived.
    pub async fn synced(&self) {
        let mut synced = self.inner.synced.subscribe();
        // The sender lives as long as this handle, so the wait cannot fail.
        let _ = synced.wait_for(|ready| *ready).await;
    }

    /// The first complete list has arrived.
    pub fn is_synced(&self) -> bool {
        *self.inner.synced.borrow()
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.by_key(&ObjectKey::new(namespace, name))
    }

    /// One object.
    pub fn by_key(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    /// The objects of one namespace, ordered by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let first = ObjectKey::new(namespace, "");
        self.read()
            .objects
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(|(key, _)| &*key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// The objects whose controller reference has this uid.
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        let state = self.read();
        let keys = state.by_controller.get(uid);
        keys.into_iter()
            .flatten()
            .filter_map(|key| state.objects.get(key).cloned())
            .collect()
    }

    /// The objects of a namespace that have no controller.
    pub fn without_controller(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.read();
        let first = ObjectKey::new(namespace, "");
        state
            .without_controller
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(|key| &*key.namespace == namespace)
            .filter_map(|key| state.objects.get(key).cloned())
            .collect()
    }

    /// How many objects it holds.
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// It holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The newest revision it has seen.
    pub fn revision(&self) -> u64 {
        *self.inner.revision.borrow()
    }

    /// How many objects were left out because they could not be decoded.
    pub fn skipped(&self) -> u64 {
        self.inner.skipped.load(Ordering::Relaxed)
    }

    /// Waits until it shows a write of this kind that got `revision`; false after `timeout`.
    pub async fn caught_up(&self, revision: u64, timeout: Duration) -> bool {
        let mut seen = self.inner.revision.subscribe();
        let wait = seen.wait_for(|now| *now >= revision);
        matches!(tokio::time::timeout(timeout, wait).await, Ok(Ok(_)))
    }

    /// Waits until `condition` holds, looking again after each change; false after `timeout`.
    pub async fn until(&self, timeout: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let mut seen = self.inner.revision.subscribe();
        let wait = async {
            loop {
                seen.mark_unchanged();
                if condition(self) {
                    return true;
                }
                if seen.changed().await.is_err() {
                    return false;
                }
            }
        };
        tokio::time::timeout(timeout, wait).await.unwrap_or(false)
    }

    /// Follows the changes, beginning with everything it holds now.
    pub fn changes(&self) -> Changes<K> {
        let mut state = self.inner.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut pending = Pending {
            order: VecDeque::new(),
            changes: HashMap::new(),
            closed: state.closed,
        };
        for (key, object) in &state.objects {
            pending.add(key, None, Some(object.clone()));
        }
        let subscription = Arc::new(Subscription {
            pending: Mutex::new(pending),
            wake: Notify::new(),
        });
        state.subscribers.push(Arc::downgrade(&subscription));
        Changes { subscription }
    }

    /// Replaces everything by a fresh list.
    pub(crate) fn replace_all(&self, objects: Vec<K>, revision: u64) {
        self.change_state(|state| {
            let mut gone: BTreeSet<ObjectKey> = state.objects.keys().cloned().collect();
            for object in objects {
                gone.remove(&object.key());
                state.put(object);
            }
            for key in gone {
                state.remove(&key);
            }
        });
        self.advance(revision);
        self.inner.synced.send_replace(true);
    }

    /// One object appeared or changed.
    pub(crate) fn put(&self, object: K) {
        let revision = object.revision();
        self.change_state(|state| state.put(object));
        self.advance(revision);
    }

    /// One object went away.
    pub(crate) fn remove(&self, key: &ObjectKey, revision: u64) {
        self.change_state(|state| state.remove(key));
        self.advance(revision);
    }

    /// One object could not be decoded: it is left out and counted.
    pub(crate) fn skip(&self, key: Option<&ObjectKey>, error: &str) {
        self.inner.skipped.fetch_add(1, Ordering::Relaxed);
        let shown = key.map(ObjectKey::to_string).unwrap_or_default();
        tracing::warn!(object = %shown, "left out of the cache, cannot be decoded: {error}");
        if let Some(key) = key {
            self.change_state(|state| state.remove(key));
        }
    }

    /// Everything up to this revision has been seen.
    pub(crate) fn advance(&self, revision: u64) {
        self.inner.revision.send_modify(|now| *now = (*now).max(revision));
    }

    /// No more changes will come.
    pub(crate) fn close(&self) {
        self.change_state(|state| {
            state.closed = true;
            for subscriber in state.subscribers.iter().filter_map(Weak::upgrade) {
                subscriber.pending().closed = true;
                subscriber.wake.notify_one();
            }
        });
    }

    fn change_state(&self, change: impl FnOnce(&mut State<K>)) {
        let mut state = self.inner.state.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
    }
}

impl<K: Item> State<K> {
    fn put(&mut self, object: K) {
        let mut key = object.key();
        // One text for the namespace of many objects.
        if let Some((near, _)) = self.objects.range(..=&key).next_back()
            && near.namespace == key.namespace
        {
            key.namespace = near.namespace.clone();
        }
        if let Some(old) = self.objects.get(&key)
            && old.revision() != 0
            && old.revision() == object.revision()
            && old.uid() == object.uid()
        {
            return;
        }
        let object = Arc::new(object.fitted(&key));
        let old = self.objects.insert(key.clone(), object.clone());
        if let Some(old) = &old {
            self.unindex(&key, old);
        }
        if let Some(uid) = object.controller() {
            let keys = self.by_controller.entry(uid.to_string()).or_default();
            keys.insert(key.clone());
        } else if !K::METADATA_ONLY {
            self.without_controller.insert(key.clone());
        }
        self.publish(&key, old, Some(object));
    }

    fn remove(&mut self, key: &ObjectKey) {
        if let Some(old) = self.objects.remove(key) {
            self.unindex(key, &old);
            self.publish(key, Some(old), None);
        }
    }

    fn unindex(&mut self, key: &ObjectKey, old: &K) {
        let Some(uid) = old.controller() else {
            self.without_controller.remove(key);
            return;
        };
        if let Some(keys) = self.by_controller.get_mut(uid) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_controller.remove(uid);
            }
        }
    }

    fn publish(&mut self, key: &ObjectKey, old: Option<Arc<K>>, new: Option<Arc<K>>) {
        self.subscribers.retain(|subscriber| {
            let Some(subscriber) = subscriber.upgrade() else {
                return false;
            };
            subscriber.pending().add(key, old.clone(), new.clone());
            subscriber.wake.notify_one();
            true
        });
    }
}

impl<K> Subscription<K> {
    fn pending(&self) -> MutexGuard<'_, Pending<K>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Pending<K> {
    fn add(&mut self, key: &ObjectKey, old: Option<Arc<K>>, new: Option<Arc<K>>) {
        if let Some(change) = self.changes.get_mut(key) {
            change.new = new;
            return;
        }
        self.order.push_back(key.clone());
        let change = Change {
            key: key.clone(),
            old,
            new,
        };
        self.changes.insert(key.clone(), change);
    }

    fn pop(&mut self) -> Option<Change<K>> {
        while let Some(key) = self.order.pop_front() {
            let change = self.changes.remove(&key);
            if let Some(change) = change.filter(|c| c.old.is_some() || c.new.is_some()) {
                return Some(change);
            }
        }
        None
    }
}

impl<K> Changes<K> {
    /// The next change; `None` when the cache has stopped.
    pub async fn recv(&mut self) -> Option<Change<K>> {
        loop {
            let notified = self.subscription.wake.notified();
            {
                let mut pending = self.subscription.pending();
                if let Some(change) = pending.pop() {
                    return Some(change);
                }
                if pending.closed {
                    return None;
                }
            }
            notified.await;
        }
    }

    /// The next change if there is one already.
    pub fn try_recv(&mut self) -> Option<Change<K>> {
        self.subscription.pending().pop()
    }
}

/// The caches of one process: one per kind and scope, started when first asked for.
#[derive(Clone)]
pub struct Caches {
    client: Client,
    token: CancellationToken,
    started: Arc<Mutex<Started>>,
}

type Started = HashMap<(TypeId, Scope), Box<dyn Any + Send>>;

impl Caches {
    /// Caches that stop with the token.
    pub fn new(client: Client, token: CancellationToken) -> Caches {
        Caches {
            client,
            token,
            started: Arc::new(Mutex::new(HashMap::new())),
        }
    }

    /// The client the caches use.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// All objects of a kind.
    pub fn of<K: Item + Resource<DynamicType: Default>>(&self) -> Cache<K> {
        self.scoped(Scope::all())
    }

    /// The objects of a kind within a scope.
    pub fn scoped<K: Item + Resource<DynamicType: Default>>(&self, scope: Scope) -> Cache<K> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let id = (TypeId::of::<K>(), scope.clone());
        let known = started.get(&id).and_then(|any| any.downcast_ref::<Cache<K>>());
        if let Some(cache) = known {
            return cache.clone();
        }
        let cache = Cache::spawn(&self.client, scope, self.token.clone());
        started.insert(id, Box::new(cache.clone()));
        cache
    }
}

#[cfg(test)]
mod tests;
