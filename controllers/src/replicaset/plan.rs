//! Which pods a ReplicaSet adopts, releases, creates and deletes, and its new status.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coxswain_api::bounded;
use coxswain_client::k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use coxswain_client::k8s_openapi::api::core::v1::Pod;
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use jiff::Timestamp;

use crate::adoption::claim;
use crate::{labels, pods};

/// No reconcile creates or deletes more pods than this.
pub(super) const BURST_MAX: usize = 500;

#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub set: Arc<ReplicaSet>,
    /// Pods it controls, and the namespace's pods without a controller.
    pub pods: Vec<Arc<Pod>>,
    /// Pods of all sets of the same owner.
    pub relatives: Vec<Arc<Pod>>,
    /// The status says how many pods are on their way out.
    pub counts_terminating: bool,
    pub now: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub adopt: Vec<Arc<Pod>>,
    pub release: Vec<Arc<Pod>>,
    pub create: usize,
    pub delete: Vec<Arc<Pod>>,
    /// The status to write when everything above succeeds.
    pub status: Option<ReplicaSetStatus>,
    pub requeue_after: Option<Duration>,
}

pub(super) fn plan(observed: Observed) -> Plan {
    let Observed {
        set,
        pods: candidates,
        relatives,
        counts_terminating,
        now,
    } = observed;
    let Some(spec) = &set.spec else {
        return Plan::default();
    };
    let claimed = claim(&set.metadata, &spec.selector, unfinished(candidates));
    let (terminating, active): (Vec<_>, Vec<_>) = claimed.owned.into_iter().partition(|pod| pods::is_terminating(pod));
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let deleting = set.metadata.deletion_timestamp.is_some();
    let mut plan = Plan {
        adopt: claimed.adopt,
        release: claimed.release,
        ..Plan::default()
    };
    if !deleting && active.len() < wanted {
        plan.create = wanted.saturating_sub(active.len()).min(BURST_MAX);
    } else if !deleting && active.len() > wanted {
        let surplus = active.len().saturating_sub(wanted).min(BURST_MAX);
        plan.delete = least_valuable(&active, &relatives, now, surplus);
    }
    let terminating = counts_terminating.then_some(terminating.len());
    let status = status(&set, &active, terminating, now);
    let min_ready_s = spec.min_ready_seconds.unwrap_or(0);
    plan.requeue_after = next_available(&active, min_ready_s, now);
    if set.status.as_ref() != Some(&status) {
        plan.status = Some(status);
    }
    plan
}

fn unfinished(candidates: Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
    candidates.into_iter().filter(|pod| !pods::is_finished(pod)).collect()
}

/// When the next ready pod becomes available.
fn next_available(active: &[Arc<Pod>], min_ready_s: i32, now: Timestamp) -> Option<Duration> {
    if min_ready_s <= 0 {
        return None;
    }
    pods::next_available(active, min_ready_s, now)
}

fn status(set: &ReplicaSet, active: &[Arc<Pod>], terminating: Option<usize>, now: Timestamp) -> ReplicaSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let spec = set.spec.as_ref();
    let template = spec.and_then(|s| s.template.as_ref());
    let wanted = template
        .and_then(|t| t.metadata.as_ref())
        .and_then(|m| m.labels.clone())
        .unwrap_or_default();
    let min_ready_s = spec.and_then(|s| s.min_ready_seconds).unwrap_or(0);
    let count =
        |test: &dyn Fn(&Pod) -> bool| i32::try_from(active.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX);
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: some(count(&|p| labels::contains(p.metadata.labels.as_ref(), &wanted))),
        ready_replicas: some(count(&|p| pods::is_ready(p))),
        available_replicas: some(count(&|p| pods::is_available(p, min_ready_s, now))),
        terminating_replicas: terminating.map(|count| i32::try_from(count).unwrap_or(i32::MAX)),
        observed_generation: set.metadata.generation,
        conditions: old
            .conditions
            .map(|c| {
                c.into_iter()
                    .filter(|c| c.type_ != "ReplicaFailure")
                    .collect::<Vec<_>>()
            })
            .filter(|c| !c.is_empty()),
    }
}

/// Counts of zero are left out on the wire.
fn some(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// The status after creating or deleting pods failed.
pub(super) fn failed(
    set: &ReplicaSet,
    mut status: ReplicaSetStatus,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> ReplicaSetStatus {
    let known = set.status.as_ref().and_then(|s| s.conditions.as_ref());
    let old = known.and_then(|c| c.iter().find(|c| c.type_ == "ReplicaFailure"));
    let condition = match old {
        Some(old) if old.reason.as_deref() == Some(reason) => old.clone(),
        _ => ReplicaSetCondition {
            type_: "ReplicaFailure".to_string(),
            status: "True".to_string(),
            reason: Some(reason.to_string()),
            message: Some(message.to_string()),
            last_transition_time: Some(Time(now)),
        },
    };
    status.conditions.get_or_insert_default().push(condition);
    status
}

/// How much a pod is worth keeping: the smallest go first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Worth {
    assigned: bool,
    phase: u8,
    ready: bool,
    deletion_cost: i64,
    /// Pods of the same family on its node: the more, the sooner it goes.
    doubled: Reverse<usize>,
    /// Logarithm of how long it has been ready.
    ready_age: i64,
    restarts: Reverse<i32>,
    age: i64,
    uid: String,
}

fn worth(pod: &Pod, on_node: &HashMap<&str, usize>, now: Timestamp) -> Worth {
    let annotations = pod.metadata.annotations.as_ref();
    let cost = annotations.and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"));
    let node = pods::node_name(pod);
    Worth {
        assigned: !node.is_empty(),
        phase: match pods::phase(pod) {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        },
        ready: pods::is_ready(pod),
        deletion_cost: cost.and_then(|c| c.parse().ok()).unwrap_or(0),
        doubled: Reverse(on_node.get(node).copied().unwrap_or(0)),
        ready_age: pods::ready_since(pod).map_or(0, |since| magnitude(since, now)),
        restarts: Reverse(pods::restarts_max(pod)),
        age: pod
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(-1, |t| magnitude(t.0, now)),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
    }
}

/// The order of magnitude of an age, so that pods of about the same age go in random order.
fn magnitude(since: Timestamp, now: Timestamp) -> i64 {
    let passed_s = now.duration_since(since).as_secs();
    match u64::try_from(passed_s) {
        Ok(0) => 0,
        Ok(passed_s) => i64::from(passed_s.ilog2()).saturating_add(1),
        Err(_) => -1,
    }
}

fn least_valuable(active: &[Arc<Pod>], relatives: &[Arc<Pod>], now: Timestamp, count: usize) -> Vec<Arc<Pod>> {
    let family = if relatives.is_empty() { active } else { relatives };
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in family.iter().filter(|pod| pods::is_active(pod)) {
        bounded::count(on_node.entry(pods::node_name(pod)).or_default());
    }
    let mut ranked: Vec<(Worth, &Arc<Pod>)> = active.iter().map(|pod| (worth(pod, &on_node, now), pod)).collect();
    ranked.sort_by(|a, b| a.0.cmp(&b.0));
    ranked.into_iter().take(count).map(|(_, pod)| pod.clone()).collect()
}
