//! What scheduling needs to know of a node: what it has, and what its pods take of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use coxswain_client::ObjectKey;
use coxswain_client::k8s_openapi::api::core::v1::{Node, Taint};

use super::pod::PodInfo;
use super::resources::Resources;
use super::selector::Labels;

/// A node and the pods on it; the sums are kept, not recounted.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    pub name: String,
    /// None while only its pods are known: nothing is scheduled there.
    pub node: Option<Arc<Node>>,
    pub allocatable: Resources,
    pub used: Resources,
    /// CPU and memory for scoring.
    pub scoring_used: (i64, i64),
    pub pods: BTreeMap<ObjectKey, Arc<PodInfo>>,
    /// A sum reached the largest number.
    lost_count: bool,
}

impl NodeInfo {
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            node: None,
            allocatable: Resources::default(),
            used: Resources::default(),
            scoring_used: (0, 0),
            pods: BTreeMap::new(),
            lost_count: false,
        }
    }

    pub fn set_node(&mut self, node: Option<Arc<Node>>) {
        self.allocatable = Resources::of(node.as_ref().and_then(|n| n.status.as_ref()?.allocatable.as_ref()));
        self.node = node;
    }

    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.remove(&pod.key);
        self.count(&pod);
        self.pods.insert(pod.key.clone(), pod);
    }

    pub fn remove(&mut self, key: &ObjectKey) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(key)?;
        self.used.subtract(&pod.requests);
        self.scoring_used.0 = self.scoring_used.0.saturating_sub(pod.scoring.0);
        self.scoring_used.1 = self.scoring_used.1.saturating_sub(pod.scoring.1);
        if self.lost_count {
            self.recount();
        }
        Some(pod)
    }

    /// Adds up what the pods take. Sums that once reached the largest number cannot be taken back by subtraction.
    fn recount(&mut self) {
        self.used = Resources::default();
        self.scoring_used = (0, 0);
        self.lost_count = false;
        for pod in self.pods.clone().into_values() {
            self.count(&pod);
        }
    }

    fn count(&mut self, pod: &PodInfo) {
        self.used.add(&pod.requests);
        self.scoring_used.0 = self.scoring_used.0.saturating_add(pod.scoring.0);
        self.scoring_used.1 = self.scoring_used.1.saturating_add(pod.scoring.1);
        let scoring = [self.scoring_used.0, self.scoring_used.1];
        self.lost_count |= self.used.0.values().chain(&scoring).any(|sum| *sum == i64::MAX);
    }

    #[must_use]
    pub fn labels(&self) -> &Labels {
        static NONE: Labels = Labels::new();
        self.node
            .as_ref()
            .and_then(|n| n.metadata.labels.as_ref())
            .unwrap_or(&NONE)
    }

    #[must_use]
    pub fn taints(&self) -> &[Taint] {
        self.node
            .as_ref()
            .and_then(|n| n.spec.as_ref()?.taints.as_deref())
            .unwrap_or_default()
    }

    #[must_use]
    pub fn is_unschedulable(&self) -> bool {
        self.node
            .as_ref()
            .and_then(|n| n.spec.as_ref()?.unschedulable)
            .unwrap_or(false)
    }
}
