//! What scheduling needs to know of a pod, worked out once.

use std::sync::Arc;

use coxswain_client::ObjectKey;
use coxswain_client::k8s_openapi::api::core::v1::{
    Pod, PodAffinity, PodAffinityTerm, PodAntiAffinity, PodSpec, WeightedPodAffinityTerm,
};

use super::resources::{self, Resources};
use super::selector::Labels;

/// A port that a pod takes on its node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    /// Both cannot be on one node: the same port and protocol, on the same address or on all.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

/// A pod with its requests, ports and affinity terms at hand.
///
/// Of a pod that is to be placed the whole is there; of one that has its place, which there may be many of, only what
/// matters to others.
#[derive(Debug)]
pub struct PodInfo {
    pub key: ObjectKey,
    pub uid: String,
    /// The whole pod, while it is to be placed.
    pub pod: Option<Arc<Pod>>,
    pub requests: Resources,
    /// CPU and memory for scoring.
    pub scoring: (i64, i64),
    pub ports: Vec<HostPort>,
    pub priority: i32,
    labels: Labels,
    /// What it wants beside it, and not.
    near: Option<Box<PodAffinity>>,
    apart: Option<Box<PodAntiAffinity>>,
    node: String,
    terminating: bool,
}

impl PodInfo {
    /// A pod that has its place.
    #[must_use]
    pub fn placed(pod: &Pod) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let affinity = spec.affinity.as_ref();
        let requests = resources::of_pod(spec);
        let scoring = resources::for_scoring(spec, &requests);
        let on_host = spec.host_network.unwrap_or(false);
        let ports = spec
            .containers
            .iter()
            .flat_map(|c| c.ports.iter().flatten())
            .filter_map(|p| {
                let port = p.host_port.or(on_host.then_some(p.container_port)).filter(|p| *p > 0)?;
                let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                Some(HostPort {
                    ip: p.host_ip.clone().unwrap_or_default(),
                    protocol,
                    port,
                })
            })
            .collect();
        let priority = spec.priority.unwrap_or(0);
        Self {
            key: ObjectKey::of(&pod.metadata),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            pod: None,
            requests,
            scoring,
            ports,
            priority,
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            near: affinity.and_then(|a| a.pod_affinity.clone()).map(Box::new),
            apart: affinity.and_then(|a| a.pod_anti_affinity.clone()).map(Box::new),
            node: spec.node_name.clone().unwrap_or_default(),
            terminating: pod.metadata.deletion_timestamp.is_some(),
        }
    }

    /// A pod that is to be placed.
    #[must_use]
    pub fn new(pod: Arc<Pod>) -> Self {
        Self {
            pod: Some(pod.clone()),
            ..Self::placed(&pod)
        }
    }

    /// The specification, while the pod is to be placed.
    #[must_use]
    pub fn spec(&self) -> Option<&PodSpec> {
        self.pod.as_ref()?.spec.as_ref()
    }

    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The node it is bound to.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        Some(self.node.as_str()).filter(|node| !node.is_empty())
    }

    /// It is on its way out: it will free what it holds.
    #[must_use]
    pub fn is_terminating(&self) -> bool {
        self.terminating
    }

    /// Terms that other pods must satisfy for this one to run beside them.
    #[must_use]
    pub fn required_affinity(&self) -> &[PodAffinityTerm] {
        let near = self.near.as_ref();
        near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())
            .unwrap_or_default()
    }

    /// Terms that no pod beside this one may satisfy.
    #[must_use]
    pub fn required_anti_affinity(&self) -> &[PodAffinityTerm] {
        let apart = self.apart.as_ref();
        apart
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())
            .unwrap_or_default()
    }

    #[must_use]
    pub fn preferred_affinity(&self) -> &[WeightedPodAffinityTerm] {
        let near = self.near.as_ref();
        near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref())
            .unwrap_or_default()
    }

    #[must_use]
    pub fn preferred_anti_affinity(&self) -> &[WeightedPodAffinityTerm] {
        let apart = self.apart.as_ref();
        apart
            .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref())
            .unwrap_or_default()
    }
}
