//! One decision: which node gets a pod, or why none can.

use std::collections::BTreeMap;

use super::explain::{Explain, Refusal, preemption_text};
use super::node::NodeInfo;
use super::plugins::Prepared;
use super::pod::PodInfo;
use super::preempt::{self, Preemption};
use super::snapshot::Snapshot;

/// What to do with a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Bind {
        node: String,
    },
    /// Take the victims away; the pod gets the node when they are gone.
    Preempt(Preemption, Explain),
    Unschedulable(Explain),
}

/// Decides for one pod. `seed` breaks ties between equally good nodes.
#[must_use]
pub fn schedule(pod: &PodInfo, snapshot: &Snapshot, seed: u64) -> Decision {
    let prepared = Prepared::new(pod, snapshot);
    let mut refused: BTreeMap<String, Vec<Refusal>> = BTreeMap::new();
    let mut feasible: Vec<&NodeInfo> = Vec::new();
    for node in snapshot.nodes() {
        match prepared.filter(node) {
            Ok(()) => feasible.push(node),
            Err(reasons) => {
                refused.insert(node.name.clone(), reasons);
            }
        }
    }
    if let Some(node) = best(&prepared, &feasible, seed) {
        return Decision::Bind { node };
    }
    if let Some(preemption) = preempt::find(pod, snapshot, &refused) {
        let explain = Explain {
            nodes: refused,
            preemption: String::new(),
        };
        return Decision::Preempt(preemption, explain);
    }
    let preemption = if refused.is_empty() {
        String::new()
    } else {
        preemption_text(&refused, preempt::forbidden(pod))
    };
    Decision::Unschedulable(Explain {
        nodes: refused,
        preemption,
    })
}

fn best(prepared: &Prepared<'_>, feasible: &[&NodeInfo], seed: u64) -> Option<String> {
    let scores = if feasible.len() > 1 {
        prepared.score(feasible)
    } else {
        vec![0; feasible.len()]
    };
    let top = scores.iter().max()?;
    let ties: Vec<&&NodeInfo> = feasible
        .iter()
        .zip(&scores)
        .filter(|(_, s)| *s == top)
        .map(|(n, _)| n)
        .collect();
    let index = usize::try_from(seed)
        .ok()
        .and_then(|seed| seed.checked_rem(ties.len()))
        .unwrap_or(0);
    ties.get(index).map(|n| n.name.clone())
}
