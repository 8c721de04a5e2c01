//! Who owns whom, by uid, and which objects a change makes worth looking at.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use coxswain_client::discovery::ResourceInfo;
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use coxswain_client::{Change, ObjectKey};

use crate::inventory::Meta;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// One object.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub resource: Arc<ResourceInfo>,
    pub key: ObjectKey,
    pub uid: String,
    pub owners: Vec<OwnerReference>,
    pub deleting: bool,
    pub foreground: bool,
    pub orphan: bool,
}

/// All objects that matter: nodes by uid, and dependents by their owner's uid.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<String, Node>,
    dependents: BTreeMap<String, BTreeSet<String>>,
}

fn node(resource: &Arc<ResourceInfo>, meta: &ObjectMeta) -> Option<Node> {
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    Some(Node {
        resource: resource.clone(),
        key: ObjectKey::of(meta),
        uid: meta.uid.clone()?,
        owners: meta.owner_references.clone().unwrap_or_default(),
        deleting: meta.deletion_timestamp.is_some(),
        foreground: has(FOREGROUND),
        orphan: has(ORPHAN),
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
    pub fn take(&mut self, resource: &Arc<ResourceInfo>, change: &Change<Meta>) -> Vec<String> {
        let old = change.old.as_ref().and_then(|o| node(resource, &o.metadata));
        let new = change.new.as_ref().and_then(|o| node(resource, &o.metadata));
        let mut wake = Vec::new();
        let replaced = match (&old, &new) {
            (Some(old), Some(new)) => old.uid != new.uid,
            (Some(_), None) => true,
            _ => false,
        };
        if let Some(old) = old.filter(|_| replaced) {
            self.remove(&old.uid, &mut wake);
        }
        if let Some(new) = new {
            self.put(new, &mut wake);
        }
        wake
    }

    /// A resource is no longer served: its objects are unknown now.
    pub fn forget_resource(&mut self, resource: &Arc<ResourceInfo>) -> Vec<String> {
        let of_resource = self.nodes.values().filter(|n| n.resource == *resource);
        let uids: Vec<String> = of_resource.map(|n| n.uid.clone()).collect();
        let mut wake = Vec::new();
        for uid in uids {
            self.remove(&uid, &mut wake);
        }
        wake
    }

    fn put(&mut self, new: Node, wake: &mut Vec<String>) {
        let before = self.nodes.remove(&new.uid);
        for owner in before.iter().flat_map(|b| &b.owners) {
            if !new.owners.iter().any(|o| o.uid == owner.uid) {
                self.unlink(&owner.uid, &new.uid);
                wake.extend(self.waiting_owner(&owner.uid));
            }
        }
        for owner in &new.owners {
            let set = self.dependents.entry(owner.uid.clone()).or_default();
            set.insert(new.uid.clone());
        }
        let doubtful = new.owners.iter().any(|owner| {
            let known = self.nodes.get(&owner.uid);
            known.is_none_or(|k| (k.deleting && k.foreground) || k.key.name.as_ref() != owner.name)
        });
        let was_unblocking = before.as_ref().is_some_and(|b| blocking(b) != blocking(&new));
        let special = new.deleting && (new.foreground || new.orphan);
        if special || (doubtful && !new.owners.is_empty()) {
            wake.push(new.uid.clone());
        }
        if was_unblocking {
            let owners = new.owners.iter();
            wake.extend(owners.filter_map(|o| self.waiting_owner(&o.uid)));
        }
        self.nodes.insert(new.uid.clone(), new);
    }

    fn remove(&mut self, uid: &str, wake: &mut Vec<String>) {
        let Some(old) = self.nodes.remove(uid) else {
            return;
        };
        for owner in &old.owners {
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
    fn waiting_owner(&self, uid: &str) -> Option<String> {
        let owner = self.nodes.get(uid)?;
        (owner.deleting && owner.foreground).then(|| owner.uid.clone())
    }
}

/// The uids of the owners whose deletion this object holds up.
fn blocking(node: &Node) -> Vec<&str> {
    let owners = node.owners.iter();
    let blocking = owners.filter(|o| o.block_owner_deletion == Some(true));
    blocking.map(|o| o.uid.as_str()).collect()
}
