//! Whether the node has what the pod asks for, and how well it would fit.

use coxswain_api::bounded;

use super::{SCORE_MAX, scaled};
use crate::core::explain::Refusal;
use crate::core::node::NodeInfo;
use crate::core::pod::PodInfo;

/// A node lacks something: every lacking resource is named.
///
/// # Errors
/// The reasons.
pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Vec<Refusal>> {
    let mut lacking = Vec::new();
    let places = node.allocatable.get("pods");
    if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= places {
        lacking.push(Refusal::TooManyPods);
    }
    for (name, wanted) in pod.requests.0.iter().filter(|(_, wanted)| **wanted > 0) {
        if *wanted > node.allocatable.get(name).saturating_sub(node.used.get(name)) {
            lacking.push(Refusal::Insufficient {
                resource: name.clone(),
                always: *wanted > node.allocatable.get(name),
            });
        }
    }
    if lacking.is_empty() { Ok(()) } else { Err(lacking) }
}

/// Share of CPU and memory taken once the pod is there, in thousandths, at most one whole.
fn shares(pod: &PodInfo, node: &NodeInfo) -> [Option<i64>; 2] {
    let share = |used: i64, wanted: i64, name: &str| {
        let capacity = node.allocatable.get(name);
        (capacity > 0).then(|| scaled(used.saturating_add(wanted).max(0), 1000, capacity).min(1000))
    };
    [
        share(node.scoring_used.0, pod.scoring.0, "cpu"),
        share(node.scoring_used.1, pod.scoring.1, "memory"),
    ]
}

/// The emptier, the better.
#[must_use]
pub fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let free: Vec<i64> = shares(pod, node)
        .into_iter()
        .flatten()
        .map(|s| scaled(1000_i64.saturating_sub(s), SCORE_MAX, 1000))
        .collect();
    if free.is_empty() {
        0
    } else {
        let nodes = i64::try_from(free.len()).unwrap_or(1);
        scaled(bounded::sum(free), 1, nodes)
    }
}

/// The more evenly CPU and memory are taken, the better.
#[must_use]
pub fn balanced(pod: &PodInfo, node: &NodeInfo) -> i64 {
    match shares(pod, node) {
        // The standard deviation of two values is half their distance.
        [Some(cpu), Some(memory)] => {
            SCORE_MAX.saturating_sub(scaled(cpu.saturating_sub(memory).saturating_abs(), SCORE_MAX, 2000))
        }
        _ => SCORE_MAX,
    }
}
