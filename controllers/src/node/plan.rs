//! What a node's silence or conditions mean: its conditions, its taints, and which pods must go.

use std::sync::Arc;
use std::time::Duration;

use coxswain_api::bounded;
use coxswain_client::k8s_openapi::api::core::v1::{
    Node, NodeCondition, NodeStatus, Pod, PodCondition, PodStatus, Taint, Toleration,
};
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use jiff::{SignedDuration, Timestamp};

use crate::pods;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions other than Ready that keep new pods away.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub node: Arc<Node>,
    /// The node's pods; empty when nothing is to be done about them.
    pub pods: Vec<Arc<Pod>>,
    pub heard: Timestamp,
    pub grace_s: u64,
    /// Whether the node may have a taint that moves pods away.
    pub no_execute: NoExecute,
    /// Since when this controller has observed the cluster: no toleration began to run out before.
    pub observing_since: Timestamp,
    pub now: Timestamp,
}

/// What becomes of the `NoExecute` taints for a node that is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoExecute {
    /// The node gets the one it needs.
    Granted,
    /// It keeps what it has (one may replace the other) and gets none yet; looked at again after this time, or
    /// when the zone changes.
    Wait(Option<Duration>),
    /// It has none: every zone is silent.
    Suspended,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub status: Option<NodeStatus>,
    pub taints: Option<Vec<Taint>>,
    pub not_ready: Vec<Arc<Pod>>,
    pub evict: Vec<Arc<Pod>>,
    pub requeue_after: Option<Duration>,
}

pub(super) fn ready(node: &Node) -> Option<&NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "Ready")
}

/// It reports that it is ready.
pub(super) fn is_ready(node: &Node) -> bool {
    ready(node).is_some_and(|c| c.status == "True")
}

/// It is not ready, and has no taint yet that moves its pods away.
pub(super) fn wants_no_execute(node: &Node) -> bool {
    !is_ready(node) && !has_no_execute(node)
}

/// It has a taint of this controller that moves pods away.
pub(super) fn has_no_execute(node: &Node) -> bool {
    let own = |taint: &&Taint| taint.key == NOT_READY || taint.key == UNREACHABLE;
    taints(node).iter().filter(own).any(|t| t.effect == "NoExecute")
}

/// Its state is unknown because it stopped reporting.
pub(super) fn is_given_up(node: &Node) -> bool {
    ready(node).is_some_and(|c| c.status == "Unknown")
}

fn taints(node: &Node) -> &[Taint] {
    let spec = node.spec.as_ref();
    spec.and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

/// It has a taint that moves pods away.
pub(super) fn evicts(node: &Node) -> bool {
    taints(node).iter().any(|t| t.effect == "NoExecute")
}

/// Something is to be done about its pods.
pub(super) fn concerns_pods(node: &Node) -> bool {
    evicts(node) || ready(node).is_some_and(|c| c.status != "True")
}

pub(super) fn plan(observed: Observed) -> Plan {
    let Observed {
        node,
        pods,
        heard,
        grace_s,
        no_execute,
        observing_since,
        now,
    } = observed;
    let mut plan = Plan::default();
    if node.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let grace = SignedDuration::from_secs(i64::try_from(grace_s).unwrap_or(i64::MAX));
    let silent = now.duration_since(heard);
    if silent > grace {
        plan.status = unknown(&node, now);
    } else if !is_given_up(&node) {
        plan.requeue_after = later(grace.saturating_sub(silent));
    }
    if plan.status.is_some() {
        return plan;
    }
    let wanted = wanted_taints(&node, no_execute, now);
    if wanted != taints(&node) {
        plan.taints = Some(wanted.clone());
    }
    if let NoExecute::Wait(Some(left)) = no_execute {
        plan.requeue_after = Some(plan.requeue_after.map_or(left, |after| after.min(left)));
    }
    let is_ready = is_ready(&node);
    for pod in pods.iter().filter(|pod| !pods::is_finished(pod)) {
        if !is_ready && pods::is_ready(pod) {
            plan.not_ready.push(pod.clone());
        }
        match deadline(pod, &wanted, observing_since) {
            Verdict::Stays => {}
            Verdict::Goes(at) if at <= now && !pods::is_terminating(pod) => plan.evict.push(pod.clone()),
            Verdict::Goes(at) if at > now => {
                let left = later(at.duration_since(now));
                plan.requeue_after = [plan.requeue_after, left].into_iter().flatten().min();
            }
            Verdict::Goes(_) => {}
        }
    }
    plan
}

fn later(left: SignedDuration) -> Option<Duration> {
    let left = bounded::wait(left).unwrap_or_default();
    Some(left.saturating_add(Duration::from_millis(50)))
}

/// The status of a node that stopped reporting; `None` when it has it already.
fn unknown(node: &Node, now: Timestamp) -> Option<NodeStatus> {
    let mut status = node.status.clone().unwrap_or_default();
    let conditions = status.conditions.get_or_insert_default();
    let mut changed = false;
    for name in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let never = ("NodeStatusNeverUpdated", "Kubelet never posted node status.");
        let stopped = ("NodeStatusUnknown", "Kubelet stopped posting node status.");
        match conditions.iter_mut().find(|c| c.type_ == name) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_string();
                condition.reason = Some(stopped.0.to_string());
                condition.message = Some(stopped.1.to_string());
                condition.last_transition_time = Some(Time(now));
                changed = true;
            }
            None => {
                conditions.push(NodeCondition {
                    type_: name.to_string(),
                    status: "Unknown".to_string(),
                    reason: Some(never.0.to_string()),
                    message: Some(never.1.to_string()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(Time(now)),
                });
                changed = true;
            }
        }
    }
    changed.then_some(status)
}

fn wanted_taints(node: &Node, no_execute: NoExecute, now: Timestamp) -> Vec<Taint> {
    let is = |name: &str| {
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
        conditions
            .into_iter()
            .flatten()
            .any(|c| c.type_ == name && c.status == "True")
    };
    let (not_ready, unreachable) = match ready(node).map(|c| c.status.as_str()) {
        Some("True") => (false, false),
        Some("Unknown") => (false, true),
        _ => (true, false),
    };
    let moves = match no_execute {
        NoExecute::Granted => true,
        NoExecute::Wait(_) => has_no_execute(node),
        NoExecute::Suspended => false,
    };
    let closed = node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true));
    let mut wanted = vec![
        (NOT_READY, "NoSchedule", not_ready),
        (UNREACHABLE, "NoSchedule", unreachable),
        (UNSCHEDULABLE, "NoSchedule", closed),
        (NOT_READY, "NoExecute", not_ready && moves),
        (UNREACHABLE, "NoExecute", unreachable && moves),
    ];
    wanted.extend(PRESSURES.map(|(condition, key)| (key, "NoSchedule", is(condition))));
    let mut all = taints(node).to_vec();
    for (key, effect, present) in wanted {
        let same = |taint: &Taint| taint.key == key && taint.effect == effect;
        let has = all.iter().any(same);
        if has && !present {
            all.retain(|taint| !same(taint));
        } else if present && !has {
            all.push(Taint {
                key: key.to_string(),
                effect: effect.to_string(),
                time_added: Some(Time(now)),
                value: None,
            });
        }
    }
    all
}

/// Whether a pod may stay on a node.
#[derive(Debug, PartialEq)]
enum Verdict {
    Stays,
    Goes(Timestamp),
}

pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or("");
    let key = toleration.key.as_deref().unwrap_or("");
    let value = toleration.value.as_deref().unwrap_or("");
    let exists = toleration.operator.as_deref() == Some("Exists");
    (effect.is_empty() || effect == taint.effect)
        && (key == taint.key || (key.is_empty() && exists))
        && (exists || value == taint.value.as_deref().unwrap_or(""))
}

/// The earliest time at which one of the taints ends the pod. A toleration runs from when this controller could first
/// observe the taint: what passed while nobody could tell whether the node had recovered is not held against the pod.
fn deadline(pod: &Pod, taints: &[Taint], observing_since: Timestamp) -> Verdict {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref());
    let tolerations = tolerations.unwrap_or_default();
    let mut earliest = None;
    for taint in taints.iter().filter(|t| t.effect == "NoExecute") {
        let matching: Vec<&Toleration> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        let added = taint.time_added.as_ref().map_or(Timestamp::MIN, |t| t.0);
        let since = added.max(observing_since);
        let seconds = matching.iter().filter_map(|t| t.toleration_seconds).min();
        let at = match (matching.is_empty(), seconds) {
            (true, _) => added,
            (false, None) => continue,
            (false, Some(seconds)) => {
                let wait = SignedDuration::from_secs(seconds.max(0));
                since.checked_add(wait).unwrap_or(Timestamp::MAX)
            }
        };
        earliest = Some(earliest.map_or(at, |e: Timestamp| e.min(at)));
    }
    earliest.map_or(Verdict::Stays, Verdict::Goes)
}

fn with_condition(pod: &Pod, condition: PodCondition) -> PodStatus {
    let mut status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|c| c.type_ == condition.type_) {
        Some(place) if place.status == condition.status => {}
        Some(place) => *place = condition,
        None => conditions.push(condition),
    }
    status
}

/// The pod's status with its Ready condition false.
pub(super) fn not_ready_status(pod: &Pod, now: Timestamp) -> PodStatus {
    let old = pods::condition(pod, "Ready").cloned().unwrap_or_default();
    let condition = PodCondition {
        type_: "Ready".to_string(),
        status: "False".to_string(),
        last_transition_time: Some(Time(now)),
        ..old
    };
    with_condition(pod, condition)
}

/// The pod's status with the reason for its eviction.
pub(super) fn disrupted_status(pod: &Pod, now: Timestamp) -> PodStatus {
    let condition = PodCondition {
        type_: "DisruptionTarget".to_string(),
        status: "True".to_string(),
        reason: Some("DeletionByTaintManager".to_string()),
        message: Some("Taint manager: deleting due to NoExecute taint".to_string()),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    };
    with_condition(pod, condition)
}
