//! The cluster as the scheduler sees it, kept up to date change by change, its own bindings included.

use std::collections::BTreeMap;
use std::sync::Arc;

use coxswain_client::ObjectKey;
use coxswain_client::k8s_openapi::api::core::v1::{Node, Pod};

use super::node::NodeInfo;
use super::pod::PodInfo;

/// Nodes by name with their pods.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, NodeInfo>,
    /// Where each bound pod is.
    places: BTreeMap<ObjectKey, String>,
}

fn has_ended(pod: &Pod) -> bool {
    matches!(
        pod.status.as_ref().and_then(|s| s.phase.as_deref()),
        Some("Succeeded" | "Failed")
    )
}

impl Snapshot {
    /// Nodes that pods can be given to, in order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().filter(|n| n.node.is_some())
    }

    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name)
    }

    /// A node appeared, changed or went.
    pub fn set_node(&mut self, name: &str, node: Option<Arc<Node>>) {
        let gone = node.is_none();
        let info = self.nodes.entry(name.to_owned()).or_insert_with(|| NodeInfo::new(name));
        info.set_node(node);
        if gone && info.pods.is_empty() {
            self.nodes.remove(name);
        }
    }

    /// A pod appeared, changed or went. Pods that have ended hold nothing.
    pub fn set_pod(&mut self, key: &ObjectKey, pod: Option<&Arc<Pod>>) {
        let bound = pod.filter(|p| !has_ended(p)).map(|p| PodInfo::placed(p));
        match bound {
            Some(info) => {
                // Not yet bound as far as the API tells: an assumption of ours stays until it is confirmed or withdrawn.
                if let Some(node) = info.node().map(str::to_owned) {
                    self.place(Arc::new(info), &node);
                }
            }
            None => self.forget(key),
        }
    }

    /// Puts a pod on a node, before the API confirms it.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        if self.places.get(&pod.key).is_some_and(|old| old != node) {
            self.forget(&pod.key);
        }
        self.places.insert(pod.key.clone(), node.to_owned());
        self.nodes
            .entry(node.to_owned())
            .or_insert_with(|| NodeInfo::new(node))
            .add(pod);
    }

    /// Takes a pod off its node.
    pub fn forget(&mut self, key: &ObjectKey) {
        if let Some(name) = self.places.remove(key)
            && let Some(info) = self.nodes.get_mut(&name)
        {
            info.remove(key);
            if info.node.is_none() && info.pods.is_empty() {
                self.nodes.remove(&name);
            }
        }
    }

    /// Whether the pod holds a place.
    #[must_use]
    pub fn is_placed(&self, key: &ObjectKey) -> bool {
        self.places.contains_key(key)
    }
}
