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
//! entry per object. `managedFields` are dropped from what is decoded: write with patches. Of typed objects the text is
//! held (beside the store: the store's own bytes) and decoded for who looks, see [`held`]; so who looks through many
//! objects selects by labels first, or looks at one after the other ([`Cache::select`]).
//!
//! Does not: promise that a write is visible when the call returns, see [`Cache::caught_up`].

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

use bytes::Bytes;
use coxswain_api::bounded;
use kube::Resource;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::item::{Item, ObjectKey};
use crate::transport::Client;
use crate::watch::{Source, follow};

mod changes;
mod held;

pub use changes::{Change, Changes};
use changes::{Pending, Subscription};
pub use held::Labels;
pub(crate) use held::{Held, Recent};

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
    recent: Arc<Recent<K>>,
    synced: watch::Sender<bool>,
    revision: watch::Sender<u64>,
    skipped: AtomicU64,
}

struct State<K> {
    objects: BTreeMap<ObjectKey, Arc<Held<K>>>,
    by_controller: HashMap<Arc<str>, BTreeSet<ObjectKey>>,
    subscribers: Vec<Weak<Subscription<K>>>,
    closed: bool,
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
        let taken = objects.into_iter().map(|object| cache.take(object, None));
        cache.replace_all(taken.collect(), 1);
        cache
    }

    fn empty() -> Cache<K> {
        let state = State {
            objects: BTreeMap::new(),
            by_controller: HashMap::new(),
            subscribers: Vec::new(),
            closed: false,
        };
        Cache {
            inner: Arc::new(Inner {
                state: RwLock::new(state),
                recent: Arc::default(),
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
        let held = self.read().objects.get(key).cloned();
        held?.object(&self.inner.recent)
    }

    /// All objects, ordered by namespace and name: for kinds that are few.
    pub fn list(&self) -> Vec<Arc<K>> {
        let held: Vec<_> = self.read().objects.values().cloned().collect();
        self.decoded(held)
    }

    /// The objects of one namespace, ordered by name: for kinds that are few.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let held = self.held(Some(namespace), |_| true);
        self.decoded(held)
    }

    /// The objects of one namespace whose labels are chosen, ordered by name.
    pub fn labelled(&self, namespace: &str, chosen: impl Fn(Option<&Labels>) -> bool) -> Vec<Arc<K>> {
        let held = self.held(Some(namespace), |held| chosen(held.labels.as_deref()));
        self.decoded(held)
    }

    /// The chosen ones of all objects or those of one namespace, ordered by namespace and name. Looks at one after the
    /// other, so that many need no more memory than those that are chosen.
    pub fn select(&self, namespace: Option<&str>, mut chosen: impl FnMut(&K) -> bool) -> Vec<Arc<K>> {
        let held = self.held(namespace, |_| true);
        let objects = held.iter().filter_map(|held| held.peek());
        objects.filter(|object| chosen(object)).collect()
    }

    /// Whether any object of a namespace is as wanted.
    pub fn any(&self, namespace: &str, wanted: impl Fn(&K) -> bool) -> bool {
        let held = self.held(Some(namespace), |_| true);
        held.iter().filter_map(|held| held.peek()).any(|object| wanted(&object))
    }

    /// The objects whose controller reference has this uid.
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        let held: Vec<_> = {
            let state = self.read();
            let keys = state.by_controller.get(uid).into_iter().flatten();
            keys.filter_map(|key| state.objects.get(key).cloned()).collect()
        };
        self.decoded(held)
    }

    /// The objects of a namespace that have no controller and whose labels are chosen.
    pub fn without_controller(&self, namespace: &str, chosen: impl Fn(Option<&Labels>) -> bool) -> Vec<Arc<K>> {
        let held = self.held(Some(namespace), |held| {
            held.controller.is_none() && chosen(held.labels.as_deref())
        });
        self.decoded(held)
    }

    fn held(&self, namespace: Option<&str>, chosen: impl Fn(&Held<K>) -> bool) -> Vec<Arc<Held<K>>> {
        let state = self.read();
        let first = namespace.map(|namespace| ObjectKey::new(namespace, ""));
        let first = first.map_or(Bound::Unbounded, Bound::Included);
        state
            .objects
            .range((first, Bound::Unbounded))
            .take_while(|(key, _)| namespace.is_none_or(|namespace| &*key.namespace == namespace))
            .filter(|(_, held)| chosen(held))
            .map(|(_, held)| held.clone())
            .collect()
    }

    fn decoded(&self, held: Vec<Arc<Held<K>>>) -> Vec<Arc<K>> {
        let objects = held.iter().filter_map(|held| held.object(&self.inner.recent));
        objects.collect()
    }

    /// Bytes of the texts it holds, which beside the store are the store's own.
    pub fn text_bytes(&self) -> usize {
        bounded::sum(self.read().objects.values().map(|held| held.text_bytes()))
    }

    /// Bytes that it takes without the texts, by estimate: an entry for each object, and what is decoded.
    pub fn bytes(&self) -> usize {
        // The key stands in the map and in the index; 96 bytes are what both spend on a place.
        const KEYS: usize = 2;
        const PLACES: usize = 96;
        let keys = size_of::<ObjectKey>().saturating_mul(KEYS);
        let entry = size_of::<Held<K>>().saturating_add(keys).saturating_add(PLACES);
        let decoded = self.inner.recent.bytes().saturating_mul(held::DECODED_TIMES);
        self.len().saturating_mul(entry).saturating_add(decoded)
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
            recent: self.inner.recent.clone(),
            wake: Notify::new(),
        });
        state.subscribers.push(Arc::downgrade(&subscription));
        Changes { subscription, taken: 0 }
    }

    /// An object as this cache is to hold it: by its text, if there is one.
    pub(crate) fn take(&self, object: K, text: Option<Bytes>) -> (ObjectKey, Held<K>) {
        (object.key(), Held::new(object, text, &self.inner.recent))
    }

    /// Replaces everything by a fresh list.
    pub(crate) fn replace_all(&self, objects: Vec<(ObjectKey, Held<K>)>, revision: u64) {
        self.change_state(|state| {
            let mut gone: BTreeSet<ObjectKey> = state.objects.keys().cloned().collect();
            for (key, held) in objects {
                gone.remove(&key);
                state.put(key, held);
            }
            for key in gone {
                state.remove(&key);
            }
        });
        self.advance(revision);
        self.inner.synced.send_replace(true);
    }

    /// One object appeared or changed.
    pub(crate) fn put(&self, (key, held): (ObjectKey, Held<K>)) {
        let revision = held.revision;
        self.change_state(|state| state.put(key, held));
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
        if state.objects.is_empty() {
            state.by_controller.shrink_to_fit();
            self.inner.recent.clear();
        }
    }
}

impl<K: Item> State<K> {
    fn put(&mut self, mut key: ObjectKey, mut held: Held<K>) {
        // Neighbours are often of one namespace and one owner: what they have in common is held once.
        let near = self.objects.range(..=&key).next_back();
        let near = near.map(|(known, near)| (known.clone(), near.clone()));
        if let Some((known, near)) = &near {
            if *known == key && near.revision != 0 && near.revision == held.revision && near.uid == held.uid {
                return;
            }
            if *known == key {
                key = known.clone();
            } else if known.namespace == key.namespace {
                key.namespace = known.namespace.clone();
            }
        }
        held.fit(&key, near.as_ref().map(|(_, near)| &**near));
        let held = Arc::new(held);
        self.objects.insert(key.clone(), held.clone());
        let old = near.filter(|(known, _)| *known == key);
        let old = old.map(|(_, old)| old);
        if old.as_ref().map(|old| &old.controller) != Some(&held.controller) {
            if let Some(old) = &old {
                self.unindex(&key, old);
            }
            if let Some(uid) = &held.controller {
                let keys = self.by_controller.entry(uid.clone()).or_default();
                keys.insert(key.clone());
            }
        }
        self.publish(&key, old, Some(held));
    }

    fn remove(&mut self, key: &ObjectKey) {
        if let Some(old) = self.objects.remove(key) {
            self.unindex(key, &old);
            self.publish(key, Some(old), None);
        }
    }

    fn unindex(&mut self, key: &ObjectKey, old: &Held<K>) {
        let Some(uid) = &old.controller else {
            return;
        };
        if let Some(keys) = self.by_controller.get_mut(uid) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_controller.remove(uid);
            }
        }
    }

    fn publish(&mut self, key: &ObjectKey, old: Option<Arc<Held<K>>>, new: Option<Arc<Held<K>>>) {
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

/// The caches of one process: one per kind and scope, started when first asked for.
#[derive(Clone)]
pub struct Caches {
    client: Client,
    token: CancellationToken,
    started: Arc<Mutex<Started>>,
}

type Started = HashMap<(TypeId, Scope), (Box<dyn Any + Send>, Measure)>;

/// The bytes that a cache takes, by estimate.
type Measure = Box<dyn Fn() -> usize + Send>;

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
        let known = started.get(&id).and_then(|(any, _)| any.downcast_ref::<Cache<K>>());
        if let Some(cache) = known {
            return cache.clone();
        }
        let cache = Cache::spawn(&self.client, scope, self.token.clone());
        let measured = cache.clone();
        started.insert(id, (Box::new(cache.clone()), Box::new(move || measured.bytes())));
        cache
    }

    /// What tells the bytes that all of them take, by estimate and without the texts, for as long as they are there.
    pub fn measure(&self) -> impl Fn() -> usize + Send + Sync + use<> {
        let started = Arc::downgrade(&self.started);
        move || {
            let Some(started) = started.upgrade() else { return 0 };
            let started = started.lock().unwrap_or_else(PoisonError::into_inner);
            bounded::sum(started.values().map(|(_, measure)| measure()))
        }
    }
}

#[cfg(test)]
mod tests;
