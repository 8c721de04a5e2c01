//! Making room: which pods of lower priority would have to go for a pod to fit.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use coxswain_api::bounded;
use coxswain_client::ObjectKey;

use super::explain::Refusal;
use super::plugins::Prepared;
use super::pod::PodInfo;
use super::snapshot::Snapshot;

/// Nodes tried at most; the search stops at the best of them.
const CANDIDATES_MAX: usize = 100;

/// A node, and the pods on it that have to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preemption {
    pub node: String,
    pub victims: Vec<ObjectKey>,
}

/// What a set of victims costs: fewer important ones first, then fewer in all. The name makes it total.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    highest_priority: i32,
    priorities: i64,
    count: usize,
    node: String,
}

/// The cheapest node on which taking pods away makes room.
#[must_use]
pub fn find(pod: &PodInfo, snapshot: &Snapshot, refused: &BTreeMap<String, Vec<Refusal>>) -> Option<Preemption> {
    if forbidden(pod) {
        return None;
    }
    refused
        .iter()
        .filter(|(_, reasons)| reasons.iter().all(Refusal::preemption_could_help))
        .take(CANDIDATES_MAX)
        .filter_map(|(name, _)| on_node(pod, snapshot, name))
        .min_by(|a, b| a.0.cmp(&b.0))
        .map(|(_, preemption)| preemption)
}

/// The pod must not take others away.
#[must_use]
pub fn forbidden(pod: &PodInfo) -> bool {
    pod.spec().and_then(|s| s.preemption_policy.as_deref()) == Some("Never")
}

fn on_node(pod: &PodInfo, snapshot: &Snapshot, name: &str) -> Option<(Cost, Preemption)> {
    let lower: Vec<Arc<PodInfo>> = snapshot
        .node(name)?
        .pods
        .values()
        .filter(|p| p.priority < pod.priority)
        .cloned()
        .collect();
    if lower.is_empty() {
        return None;
    }
    let mut trial = snapshot.clone();
    lower.iter().for_each(|p| trial.forget(&p.key));
    fits(pod, &trial, name)?;
    // Spare as many as possible, the most important first.
    let mut order = lower;
    order.sort_by_key(|p| (Reverse(p.priority), p.key.clone()));
    let mut victims: Vec<Arc<PodInfo>> = Vec::new();
    for candidate in order {
        trial.place(candidate.clone(), name);
        if fits(pod, &trial, name).is_none() {
            trial.forget(&candidate.key);
            victims.push(candidate);
        }
    }
    let cost = Cost {
        highest_priority: victims.iter().map(|v| v.priority).max()?,
        priorities: bounded::sum(victims.iter().map(|v| i64::from(v.priority))),
        count: victims.len(),
        node: name.to_owned(),
    };
    let victims = victims.iter().map(|v| v.key.clone()).collect();
    Some((
        cost,
        Preemption {
            node: name.to_owned(),
            victims,
        },
    ))
}

fn fits(pod: &PodInfo, snapshot: &Snapshot, name: &str) -> Option<()> {
    Prepared::new(pod, snapshot).filter(snapshot.node(name)?).ok()
}
