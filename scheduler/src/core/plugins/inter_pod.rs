//! Affinity and anti-affinity between pods.

use std::collections::BTreeMap;

use coxswain_api::bounded;
use coxswain_client::k8s_openapi::api::core::v1::PodAffinityTerm;

use crate::core::explain::Refusal;
use crate::core::node::NodeInfo;
use crate::core::pod::PodInfo;
use crate::core::selector::{Labels, matches, node_label};
use crate::core::snapshot::Snapshot;

/// Pods by (label key, label value) of their nodes.
type Domains = BTreeMap<(String, String), i64>;

/// Where pods are that matter to this one.
pub struct Prepared {
    /// Required terms, with where pods are that satisfy all of them.
    affinity_keys: Vec<String>,
    affinity: Domains,
    /// The pod satisfies its own terms: the first of its kind may start anywhere.
    satisfies_itself: bool,
    anti_affinity: Domains,
    /// Where pods are whose own anti-affinity rejects this one.
    existing: Domains,
    preferences: Domains,
}

fn in_scope(term: &PodAffinityTerm, owner: &PodInfo, candidate: &PodInfo) -> bool {
    let named = |namespace: &str| term.namespaces.iter().flatten().any(|n| n == namespace);
    match &term.namespace_selector {
        // Namespaces' own labels are not known here beyond their name; an empty selector means all of them.
        Some(selector) => {
            let labels = Labels::from([(
                "kubernetes.io/metadata.name".to_owned(),
                candidate.key.namespace.to_string(),
            )]);
            matches(Some(selector), &labels) || named(&candidate.key.namespace)
        }
        None if term.namespaces.as_ref().is_none_or(Vec::is_empty) => candidate.key.namespace == owner.key.namespace,
        None => named(&candidate.key.namespace),
    }
}

/// Whether `candidate` is what a term of `owner` speaks of.
fn satisfies(term: &PodAffinityTerm, owner: &PodInfo, candidate: &PodInfo) -> bool {
    let shared = |keys: Option<&Vec<String>>, equal: bool| {
        keys.into_iter().flatten().all(|k| {
            owner
                .labels()
                .get(k)
                .is_none_or(|v| (candidate.labels().get(k) == Some(v)) == equal)
        })
    };
    in_scope(term, owner, candidate)
        && matches(term.label_selector.as_ref(), candidate.labels())
        && shared(term.match_label_keys.as_ref(), true)
        && shared(term.mismatch_label_keys.as_ref(), false)
}

fn count(domains: &mut Domains, node: &NodeInfo, key: &str, by: i64) {
    if let Some(value) = node_label(node.labels(), key) {
        let count = domains.entry((key.to_owned(), value.clone())).or_default();
        *count = count.saturating_add(by);
    }
}

fn present(domains: &Domains, node: &NodeInfo, key: &str) -> bool {
    node_label(node.labels(), key).is_some_and(|v| domains.get(&(key.to_owned(), v.clone())).is_some_and(|n| *n > 0))
}

impl Prepared {
    #[must_use]
    pub fn new(pod: &PodInfo, snapshot: &Snapshot) -> Self {
        let (required, anti) = (pod.required_affinity(), pod.required_anti_affinity());
        let mut this = Self {
            affinity_keys: required.iter().map(|t| t.topology_key.clone()).collect(),
            affinity: Domains::new(),
            satisfies_itself: required.iter().all(|t| satisfies(t, pod, pod)),
            anti_affinity: Domains::new(),
            existing: Domains::new(),
            preferences: Domains::new(),
        };
        for node in snapshot.nodes() {
            for other in node.pods.values().filter(|p| p.key != pod.key) {
                if !required.is_empty() && required.iter().all(|t| satisfies(t, pod, other)) {
                    required
                        .iter()
                        .for_each(|t| count(&mut this.affinity, node, &t.topology_key, 1));
                }
                for term in anti.iter().filter(|t| satisfies(t, pod, other)) {
                    count(&mut this.anti_affinity, node, &term.topology_key, 1);
                }
                for term in other
                    .required_anti_affinity()
                    .iter()
                    .filter(|t| satisfies(t, other, pod))
                {
                    count(&mut this.existing, node, &term.topology_key, 1);
                }
                this.prefer(pod, other, node);
            }
        }
        this
    }

    fn prefer(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo) {
        let both = [(pod, other), (other, pod)];
        for (owner, candidate) in both {
            for (terms, sign) in [(owner.preferred_affinity(), 1), (owner.preferred_anti_affinity(), -1)] {
                for weighted in terms
                    .iter()
                    .filter(|w| satisfies(&w.pod_affinity_term, owner, candidate))
                {
                    count(
                        &mut self.preferences,
                        node,
                        &weighted.pod_affinity_term.topology_key,
                        i64::from(weighted.weight).saturating_mul(sign),
                    );
                }
            }
        }
    }

    /// The node's neighbourhood must suit the pod, and the pod the neighbourhood.
    ///
    /// # Errors
    /// The reason.
    pub fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let labelled = self
            .affinity_keys
            .iter()
            .all(|k| node_label(node.labels(), k).is_some());
        let together = labelled && self.affinity_keys.iter().all(|k| present(&self.affinity, node, k));
        let first = labelled && self.affinity.is_empty() && self.satisfies_itself;
        if !self.affinity_keys.is_empty() && !together && !first {
            return Err(Refusal::PodAffinity);
        }
        if pod
            .required_anti_affinity()
            .iter()
            .any(|t| present(&self.anti_affinity, node, &t.topology_key))
        {
            return Err(Refusal::PodAntiAffinity);
        }
        let rejected = self
            .existing
            .keys()
            .any(|(key, value)| node_label(node.labels(), key) == Some(value));
        if rejected {
            Err(Refusal::ExistingAntiAffinity)
        } else {
            Ok(())
        }
    }

    /// Sum of the preferences that the node's neighbourhood meets.
    #[must_use]
    pub fn preference(&self, node: &NodeInfo) -> i64 {
        let near = self
            .preferences
            .iter()
            .filter(|((key, value), _)| node_label(node.labels(), key) == Some(value));
        bounded::sum(near.map(|(_, weight)| *weight))
    }
}
