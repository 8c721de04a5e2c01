//! A consistent view of everything at one revision.
//!
//! Snapshots share structure with the state they were taken from: taking one costs a reference
//! count, and keeping one costs only what has changed since.

use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;

use crate::{Event, EventKind, Stored};

type Objects = OrdMap<Arc<str>, Arc<Stored>>;

/// Objects of one resource, by namespace and name.
#[derive(Clone, Debug, Default)]
struct Resource {
    namespaces: OrdMap<Arc<str>, Objects>,
    count: usize,
    /// [`Snapshot::steps`] after the last insertion or removal.
    changed: u64,
}

/// All objects as they were at [`Snapshot::revision`]. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    revision: u64,
    resources: OrdMap<Arc<str>, Resource>,
    count: usize,
    bytes: u64,
    /// Insertions and removals so far.
    steps: u64,
}

impl Snapshot {
    /// The empty snapshot at `revision`.
    pub fn empty(revision: u64) -> Snapshot {
        Snapshot {
            revision,
            ..Snapshot::default()
        }
    }

    /// Revision of the last write this snapshot contains.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// One object.
    pub fn get(&self, key: &crate::Key) -> Option<&Arc<Stored>> {
        self.find(&key.resource, &key.namespace, &key.name)
    }

    /// One object by the parts of its key.
    pub fn find(&self, resource: &str, namespace: &str, name: &str) -> Option<&Arc<Stored>> {
        self.resources.get(resource)?.namespaces.get(namespace)?.get(name)
    }

    /// The objects of a resource in the order of namespace and name, of one namespace or of all,
    /// beginning after the given (namespace, name), which need not exist.
    pub fn list<'a>(
        &'a self,
        resource: &str,
        namespace: Option<&str>,
        start_after: Option<(&str, &str)>,
    ) -> impl Iterator<Item = &'a Arc<Stored>> + use<'a> {
        let start: Option<(Arc<str>, Arc<str>)> = start_after.map(|(namespace, name)| (namespace.into(), name.into()));
        let namespace: Option<Arc<str>> = namespace.map(Into::into);
        self.resources.get(resource).into_iter().flat_map(move |resource| {
            let start = start.clone();
            let (low, high) = bounds(namespace.as_deref(), start.as_ref().map(|(n, _)| &**n));
            resource
                .namespaces
                .range::<_, str>((low, high))
                .flat_map(move |(namespace, objects)| {
                    let low = match &start {
                        Some((first, name)) if first == namespace => Bound::Excluded(&**name),
                        _ => Bound::Unbounded,
                    };
                    objects
                        .range::<_, str>((low, Bound::Unbounded))
                        .map(|(_, object)| object)
                })
        })
    }

    /// The namespaces in which a resource has objects, sorted; "" for a cluster-scoped one.
    pub fn namespaces(&self, resource: &str) -> impl Iterator<Item = &Arc<str>> {
        self.resources
            .get(resource)
            .into_iter()
            .flat_map(|resource| resource.namespaces.keys())
    }

    /// Number of objects of a resource, in one namespace or in all.
    pub fn count(&self, resource: &str, namespace: Option<&str>) -> usize {
        let Some(resource) = self.resources.get(resource) else {
            return 0;
        };
        match namespace {
            None => resource.count,
            Some(namespace) => resource.namespaces.get(namespace).map_or(0, OrdMap::len),
        }
    }

    /// A number that differs between two states of one resource in this store's life; 0 while the resource
    /// has no objects. For those who keep something that they made from its objects.
    pub fn changed(&self, resource: &str) -> u64 {
        self.resources.get(resource).map_or(0, |resource| resource.changed)
    }

    /// Storage names of the resources that have objects, sorted.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<str>> {
        self.resources.keys()
    }

    /// Every object, ordered by key.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.resources
            .values()
            .flat_map(|resource| resource.namespaces.values())
            .flat_map(OrdMap::values)
    }

    /// Every object behind a key, which need not exist, ordered by key; all of them without one.
    pub fn all_after<'a>(&'a self, key: Option<&crate::Key>) -> impl Iterator<Item = &'a Arc<Stored>> + use<'a> {
        let key = key.cloned();
        let low = match &key {
            Some(key) => Bound::Included(key.resource.clone()),
            None => Bound::Unbounded,
        };
        let resources = self.resources.range((low, Bound::Unbounded));
        resources.flat_map(move |(resource, _)| {
            let start = key.as_ref().filter(|key| key.resource == *resource);
            self.list(resource, None, start.map(|key| (&*key.namespace, &*key.name)))
        })
    }

    /// Number of objects of all resources.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no object at all.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of all stored objects together, without bookkeeping.
    pub fn stored_bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes one change back. Given the newest event first, a snapshot walks back in time; the
    /// caller passes every event of the resource it wants to see, without a gap.
    pub fn undo(&mut self, event: &Event) {
        match (&event.kind, &event.previous) {
            (EventKind::Added, _) | (_, None) => {
                self.remove(&event.object.key);
            }
            (_, Some(previous)) => {
                self.insert(previous.clone());
            }
        }
    }

    /// Declares that this snapshot shows `revision`, after undoing events down to it.
    pub fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
    }

    /// Inserts or replaces, sharing the key's strings with what is there already.
    pub(crate) fn insert(&mut self, object: Arc<Stored>) -> Option<Arc<Stored>> {
        let key = &object.key;
        if self.resources.get_mut(&*key.resource).is_none() {
            self.resources.insert(key.resource.clone(), Resource::default());
        }
        let resource = self.resources.get_mut(&*key.resource)?;
        if resource.namespaces.get_mut(&*key.namespace).is_none() {
            resource.namespaces.insert(key.namespace.clone(), OrdMap::new());
        }
        let objects = resource.namespaces.get_mut(&*key.namespace)?;
        self.bytes += object.bytes.len() as u64;
        self.steps += 1;
        resource.changed = self.steps;
        let before = objects.insert(key.name.clone(), object.clone());
        match &before {
            Some(before) => self.bytes = self.bytes.saturating_sub(before.bytes.len() as u64),
            None => {
                resource.count += 1;
                self.count += 1;
            }
        }
        before
    }

    /// Removes an object and the maps it leaves empty.
    pub(crate) fn remove(&mut self, key: &crate::Key) -> Option<Arc<Stored>> {
        let resource = self.resources.get_mut(&*key.resource)?;
        let objects = resource.namespaces.get_mut(&*key.namespace)?;
        let removed = objects.remove(&*key.name)?;
        if objects.is_empty() {
            resource.namespaces.remove(&*key.namespace);
        }
        resource.count -= 1;
        self.steps += 1;
        resource.changed = self.steps;
        if resource.count == 0 {
            self.resources.remove(&*key.resource);
        }
        self.count -= 1;
        self.bytes = self.bytes.saturating_sub(removed.bytes.len() as u64);
        Some(removed)
    }

    /// The resource's and namespace's strings already in use, so that equal ones are kept once.
    pub(crate) fn interned(&self, key: &crate::Key) -> crate::Key {
        let mut key = key.clone();
        if let Some((resource, objects)) = self.resources.get_key_value(&*key.resource) {
            if let Some((namespace, _)) = objects.namespaces.get_key_value(&*key.namespace) {
                key.namespace = namespace.clone();
            }
            key.resource = resource.clone();
        }
        key
    }
}

/// The range of namespaces to visit. An empty range is a valid range only when it isn't reversed,
/// so a start behind the wanted namespace becomes an excluded point.
fn bounds<'a>(namespace: Option<&'a str>, start: Option<&'a str>) -> (Bound<&'a str>, Bound<&'a str>) {
    match (namespace, start) {
        (None, None) => (Bound::Unbounded, Bound::Unbounded),
        (None, Some(start)) => (Bound::Included(start), Bound::Unbounded),
        (Some(namespace), Some(start)) if start > namespace => (Bound::Included(start), Bound::Excluded(start)),
        (Some(namespace), _) => (Bound::Included(namespace), Bound::Included(namespace)),
    }
}
