//! Who owns whom, by uid, and which objects a change makes worth looking at.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use coxswain_client::discovery::ResourceInfo;
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use coxswain_client::{Change, Relations};

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// One object.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub resource: Arc<ResourceInfo>,
    pub object: Arc<Relations>,
}

impl Node {
    /// It goes when its dependents have gone.
    pub fn waits(&self) -> bool {
        self.object.deleting && self.has(FOREGROUND)
    }

    /// It can own what is in this namespace; empty: what is in none.
    pub fn is_in_reach(&self, namespace: &str) -> bool {
        let own = &*self.object.key.namespace;
        own.is_empty() || own == namespace
    }

    /// A reference in this namespace means this very object, not only its uid.
    pub fn is_meant(&self, reference: &OwnerReference, namespace: &str) -> bool {
        let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
        self.is_in_reach(namespace)
            && *self.object.key.name == *reference.name
            && self.resource.kind == reference.kind
            && self.resource.group == group
    }

    fn has(&self, finalizer: &str) -> bool {
        self.object.finalizers.iter().any(|found| found == finalizer)
    }
}

/// All objects that matter: nodes by uid, and dependents by their owner's uid.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<Arc<str>, Node>,
    dependents: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

fn node(resource: &Arc<ResourceInfo>, object: Option<&Arc<Relations>>) -> Option<Node> {
    let object = object.filter(|object| !object.uid.is_empty())?;
    Some(Node {
        resource: resource.clone(),
        object: object.clone(),
    })
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The objects that name this owner.
    pub fn dependents(&self, uid: &str) -> Vec<&Node> {
        let uids = self.dependents.get(uid);
        let uids = uids.into_iter().flatten();
        uids.filter_map(|uid| self.nodes.get(uid)).collect()
    }

    /// Takes a change in; the uids that are worth looking at now.
    pub fn take(&mut self, resource: &Arc<ResourceInfo>, change: &Change<Relations>) -> Vec<Arc<str>> {
        let old = node(resource, change.old.as_ref());
        let new = node(resource, change.new.as_ref());
        let mut wake = Vec::new();
        let replaced = match (&old, &new) {
            (Some(old), Some(new)) => old.object.uid != new.object.uid,
            (Some(_), None) => true,
            _ => false,
        };
        if let Some(old) = old.filter(|_| replaced) {
            self.remove(&old.object.uid, &mut wake);
        }
        if let Some(new) = new {
            self.put(new, &mut wake);
        }
        wake
    }

    /// A resource is no longer served: its objects are unknown now.
    pub fn forget_resource(&mut self, resource: &Arc<ResourceInfo>) -> Vec<Arc<str>> {
        let of_resource = self.nodes.values().filter(|n| n.resource == *resource);
        let uids: Vec<Arc<str>> = of_resource.map(|n| n.object.uid.clone()).collect();
        let mut wake = Vec::new();
        for uid in uids {
            self.remove(&uid, &mut wake);
        }
        wake
    }

    fn put(&mut self, new: Node, wake: &mut Vec<Arc<str>>) {
        let (uid, owners) = (&new.object.uid, &new.object.owners);
        let before = self.nodes.remove(uid);
        for owner in before.iter().flat_map(|before| &before.object.owners) {
            if !owners.iter().any(|o| o.uid == owner.uid) {
                self.unlink(&owner.uid, uid);
                wake.extend(self.waiting_owner(&owner.uid));
            }
        }
        for owner in owners {
            let set = self.dependents.entry(owner.uid.as_str().into()).or_default();
            set.insert(uid.clone());
        }
        let doubtful = owners.iter().any(|owner| {
            let known = self.nodes.get(owner.uid.as_str());
            known.is_none_or(|known| known.waits() || !known.is_meant(owner, &new.object.key.namespace))
        });
        let was_unblocking = before.as_ref().is_some_and(|b| blocking(b) != blocking(&new));
        let special = new.object.deleting && (new.has(FOREGROUND) || new.has(ORPHAN));
        if special || doubtful {
            wake.push(uid.clone());
        }
        if was_unblocking {
            wake.extend(owners.iter().filter_map(|o| self.waiting_owner(&o.uid)));
        }
        self.nodes.insert(uid.clone(), new);
    }

    fn remove(&mut self, uid: &str, wake: &mut Vec<Arc<str>>) {
        let Some(old) = self.nodes.remove(uid) else {
            return;
        };
        for owner in &old.object.owners {
            self.unlink(&owner.uid, uid);
            wake.extend(self.waiting_owner(&owner.uid));
        }
        wake.extend(self.dependents.get(uid).into_iter().flatten().cloned());
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(set) = self.dependents.get_mut(owner) {
            set.remove(dependent);
            if set.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    /// The owner, when it waits for its dependents to go.
    fn waiting_owner(&self, uid: &str) -> Option<Arc<str>> {
        let owner = self.nodes.get(uid).filter(|owner| owner.waits())?;
        Some(owner.object.uid.clone())
    }
}

/// The uids of the owners whose deletion this object holds up.
fn blocking(node: &Node) -> Vec<&str> {
    let owners = node.object.owners.iter();
    let blocking = owners.filter(|o| o.block_owner_deletion == Some(true));
    blocking.map(|o| o.uid.as_str()).collect()
}
