//! Topology spread: pods of a kind evenly over zones, nodes or any other label.

use std::collections::{BTreeMap, BTreeSet};

use coxswain_api::bounded;
use coxswain_client::k8s_openapi::api::core::v1::TopologySpreadConstraint;
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::node_rules;
use crate::core::explain::Refusal;
use crate::core::node::NodeInfo;
use crate::core::pod::PodInfo;
use crate::core::selector::{matches, node_label};
use crate::core::snapshot::Snapshot;

struct Constraint {
    key: String,
    skew_max: i64,
    hard: bool,
    counts_itself: bool,
    /// Matching pods in each domain.
    counts: BTreeMap<String, i64>,
    min: i64,
}

/// The pod's constraints with the counts of each domain.
pub struct Prepared(Vec<Constraint>);

/// The selector, narrowed to pods that share the values of `matchLabelKeys`.
fn selector(constraint: &TopologySpreadConstraint, pod: &PodInfo) -> Option<LabelSelector> {
    let mut selector = constraint.label_selector.clone()?;
    for key in constraint.match_label_keys.iter().flatten() {
        if let Some(value) = pod.labels().get(key) {
            selector
                .match_labels
                .get_or_insert_default()
                .insert(key.clone(), value.clone());
        }
    }
    Some(selector)
}

impl Prepared {
    #[must_use]
    pub fn new(pod: &PodInfo, snapshot: &Snapshot) -> Self {
        let constraints = pod
            .spec()
            .and_then(|s| s.topology_spread_constraints.as_deref())
            .unwrap_or_default();
        let keys: Vec<&str> = constraints
            .iter()
            .filter(|c| c.when_unsatisfiable == "DoNotSchedule")
            .map(|c| c.topology_key.as_str())
            .collect();
        Self(constraints.iter().map(|c| prepare(c, &keys, pod, snapshot)).collect())
    }

    /// The node's domain must not get too far ahead of the emptiest.
    ///
    /// # Errors
    /// The reason.
    pub fn filter(&self, _pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        for constraint in self.0.iter().filter(|c| c.hard) {
            let Some(domain) = node_label(node.labels(), &constraint.key) else {
                return Err(Refusal::SpreadLabelMissing);
            };
            let here = constraint.counts.get(domain).copied().unwrap_or(0);
            let here = here.saturating_add(i64::from(constraint.counts_itself));
            if here.saturating_sub(constraint.min) > constraint.skew_max {
                return Err(Refusal::Spread);
            }
        }
        Ok(())
    }

    /// How full the node's domains are by the soft constraints.
    #[must_use]
    pub fn soft_skew(&self, node: &NodeInfo) -> i64 {
        bounded::sum(self.0.iter().filter(|c| !c.hard).map(|c| {
            node_label(node.labels(), &c.key)
                .and_then(|d| c.counts.get(d))
                .copied()
                .unwrap_or(0)
        }))
    }
}

fn prepare(
    constraint: &TopologySpreadConstraint,
    hard_keys: &[&str],
    pod: &PodInfo,
    snapshot: &Snapshot,
) -> Constraint {
    let selector = selector(constraint, pod);
    let hard = constraint.when_unsatisfiable == "DoNotSchedule";
    let honours = |policy: Option<&str>, default: &str| policy.unwrap_or(default) == "Honor";
    let by_affinity = honours(constraint.node_affinity_policy.as_deref(), "Honor");
    let by_taints = honours(constraint.node_taints_policy.as_deref(), "Ignore");
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for node in snapshot.nodes() {
        let eligible = (!by_affinity || node_rules::affinity(pod, node).is_ok())
            && (!by_taints || node_rules::taints(pod, node).is_ok());
        let labelled = !hard || hard_keys.iter().all(|k| node_label(node.labels(), k).is_some());
        let Some(domain) = node_label(node.labels(), &constraint.topology_key).filter(|_| eligible && labelled) else {
            continue;
        };
        let matching = node.pods.values().filter(|p| {
            p.key != pod.key
                && p.key.namespace == pod.key.namespace
                && !p.is_terminating()
                && matches(selector.as_ref(), p.labels())
        });
        let count = counts.entry(domain.clone()).or_default();
        *count = count.saturating_add(i64::try_from(matching.count()).unwrap_or(0));
    }
    let domains: BTreeSet<&String> = counts.keys().collect();
    let enough = i64::try_from(domains.len()).unwrap_or(0) >= i64::from(constraint.min_domains.unwrap_or(1));
    let min = if enough {
        counts.values().min().copied().unwrap_or(0)
    } else {
        0
    };
    Constraint {
        key: constraint.topology_key.clone(),
        skew_max: i64::from(constraint.max_skew),
        hard,
        counts_itself: matches(selector.as_ref(), pod.labels()),
        counts,
        min,
    }
}
