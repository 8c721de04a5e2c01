//! A budget's arithmetic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coxswain_api::bounded;
use coxswain_client::k8s_openapi::api::core::v1::Pod;
use coxswain_client::k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use coxswain_client::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use jiff::Timestamp;

use crate::pods;

/// An eviction that has been allowed counts as gone for so long, until the pod really is.
const DISRUPTED_S: i64 = 120;

#[derive(Debug)]
pub(super) struct Plan {
    pub status: PodDisruptionBudgetStatus,
    pub requeue_after: Option<Duration>,
}

fn rounded_up(value: &IntOrString, total: i32) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let scaled = percent.saturating_mul(i64::from(total)).saturating_add(99) / 100;
            i32::try_from(scaled).unwrap_or(i32::MAX)
        }
    }
}

fn count(pods: usize) -> i32 {
    i32::try_from(pods).unwrap_or(i32::MAX)
}

/// How many pods are expected, and how many of them must be healthy.
fn expectation(budget: &PodDisruptionBudget, covered: usize, sizes: &BTreeMap<String, i32>) -> (i32, i32) {
    let spec = budget.spec.as_ref();
    let by_size = bounded::sum(sizes.values().copied());
    if let Some(most) = spec.and_then(|s| s.max_unavailable.as_ref()) {
        return (by_size, by_size.saturating_sub(rounded_up(most, by_size)).max(0));
    }
    match spec.and_then(|s| s.min_available.as_ref()) {
        Some(IntOrString::Int(number)) => (count(covered), *number),
        Some(percent) => (by_size, rounded_up(percent, by_size)),
        None => (count(covered), 1),
    }
}

pub(super) fn plan(
    budget: &PodDisruptionBudget,
    covered: &[Arc<Pod>],
    sizes: &BTreeMap<String, i32>,
    now: Timestamp,
) -> Plan {
    let old = budget.status.clone().unwrap_or_default();
    let (expected, desired) = expectation(budget, covered.len(), sizes);
    let mut disrupted = BTreeMap::new();
    let mut next: Option<Duration> = None;
    for (name, time) in old.disrupted_pods.iter().flatten() {
        let present = covered
            .iter()
            .any(|pod| pod.metadata.name.as_ref() == Some(name) && !pods::is_terminating(pod));
        let left = bounded::left(time.0, DISRUPTED_S, now);
        if let Some(left) = left.filter(|_| present) {
            disrupted.insert(name.clone(), time.clone());
            next = Some(next.map_or(left, |n| n.min(left)));
        }
    }
    let healthy = covered.iter().filter(|pod| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        !pods::is_terminating(pod) && pods::is_ready(pod) && !disrupted.contains_key(name)
    });
    let healthy = count(healthy.count());
    let allowed = if expected > 0 {
        healthy.saturating_sub(desired).max(0)
    } else {
        0
    };
    let generation = budget.metadata.generation;
    let conditions = conditions(old.conditions, allowed, generation, now);
    let status = PodDisruptionBudgetStatus {
        conditions: Some(conditions),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: generation,
    };
    let requeue_after = next.map(|left| left.saturating_add(Duration::from_millis(50)));
    Plan { status, requeue_after }
}

fn conditions(old: Option<Vec<Condition>>, allowed: i32, generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let (status, reason) = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    let mut all = old.unwrap_or_default();
    let known = all.iter().position(|c| c.type_ == "DisruptionAllowed");
    let before = known.and_then(|at| all.get(at)).filter(|c| c.status == status);
    let condition = Condition {
        type_: "DisruptionAllowed".to_string(),
        status: status.to_string(),
        reason: reason.to_string(),
        message: String::new(),
        observed_generation: generation,
        last_transition_time: before.map_or(Time(now), |c| c.last_transition_time.clone()),
    };
    match known.and_then(|at| all.get_mut(at)) {
        Some(place) => *place = condition,
        None => all.push(condition),
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn allowed() {
        let check = |spec: Value, ready: usize, unready: usize, size: i32, expected: (i32, i32, i32)| {
            let budget = serde_json::from_value(json!({"metadata": {"name": "b"}, "spec": spec.clone()}));
            let pods: Vec<Arc<Pod>> = (0..ready + unready)
                .map(|i| {
                    let status = if i < ready { "True" } else { "False" };
                    let pod = json!({"metadata": {"name": format!("p{i}")},
                        "status": {"conditions": [{"type": "Ready", "status": status}]}});
                    Arc::new(serde_json::from_value(pod).expect("a pod"))
                })
                .collect();
            let sizes = BTreeMap::from([("u".to_string(), size)]);
            let status = plan(&budget.expect("a budget"), &pods, &sizes, Timestamp::UNIX_EPOCH).status;
            let number = |n: Option<i32>| n.unwrap_or(0);
            let shown = (
                number(status.expected_pods),
                number(status.desired_healthy),
                number(status.disruptions_allowed),
            );
            assert_eq!(shown, expected, "{spec} {ready}+{unready} of {size}");
        };
        check(json!({"minAvailable": 1}), 1, 0, 1, (1, 1, 0));
        check(json!({"minAvailable": 1}), 3, 0, 3, (3, 1, 2));
        check(json!({"minAvailable": "50%"}), 3, 0, 3, (3, 2, 1));
        check(json!({"maxUnavailable": 1}), 3, 0, 3, (3, 2, 1));
        check(json!({"maxUnavailable": 1}), 2, 1, 3, (3, 2, 0));
        check(json!({"maxUnavailable": "34%"}), 3, 0, 3, (3, 1, 2));
        check(json!({"minAvailable": 0}), 0, 0, 0, (0, 0, 0));
    }

    #[test]
    fn extremes_of_every_field_have_a_plan() {
        let base = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1},
            "status": {"disruptedPods": {"p": "2026-01-01T00:00:00Z"}}});
        let pod = json!({"metadata": {"name": "p"}});
        let pods = [Arc::new(serde_json::from_value(pod).expect("a pod"))];
        for change in coxswain_api::schema::extremes::changes("io.k8s.api.policy.v1.PodDisruptionBudget", &base) {
            let Ok(budget) = serde_json::from_value(change.object) else {
                continue;
            };
            for size in [i32::MIN, 0, i32::MAX] {
                let sizes = BTreeMap::from([("u".to_string(), size), ("v".to_string(), i32::MAX)]);
                plan(&budget, &pods, &sizes, Timestamp::UNIX_EPOCH);
            }
        }
    }
}
