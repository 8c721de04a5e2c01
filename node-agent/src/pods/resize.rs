//! Resources that change while containers run: what differs, whether the node has room, what restarts.
//! Pure.
//!
//! A container keeps what it was given (`actual`) until the node has room for what its pod asks for.

use std::collections::BTreeMap;
use std::sync::Arc;

use coxswain_api::bounded;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use super::fields;
use super::resources::{bytes, milli, request};

/// What a container was given, by its runtime id.
pub type Actual = BTreeMap<String, ResourceRequirements>;

/// What is missing on the node, and with it why a change has to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// `cpu` or `memory`.
    pub resource: &'static str,
    /// What the pod asks for: cpu in thousandths, memory in bytes.
    pub requested: i64,
    /// What others ask for.
    pub used: i64,
    /// What the node has.
    pub capacity: i64,
}

impl Pending {
    /// The condition's reason: whether waiting can help.
    pub fn reason(&self) -> &'static str {
        if self.requested > self.capacity {
            "Infeasible"
        } else {
            "Deferred"
        }
    }

    /// The condition's message.
    pub fn message(&self) -> String {
        if self.requested <= self.capacity {
            return self.shortage();
        }
        format!(
            "Node didn't have enough capacity: {}, requested: {}, capacity: {}",
            self.resource, self.requested, self.capacity
        )
    }

    /// The shortage as a sentence.
    pub fn shortage(&self) -> String {
        format!(
            "Node didn't have enough resource: {}, requested: {}, used: {}, capacity: {}",
            self.resource, self.requested, self.used, self.capacity
        )
    }
}

/// Where a pod's resize is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resize {
    /// What running containers were given, by id.
    pub actual: Actual,
    /// What containers may be given when they start, by name; those of the pod unless it has to wait.
    pub allocated: BTreeMap<String, ResourceRequirements>,
    /// Why the node does not give what the pod asks for.
    pub pending: Option<Pending>,
    /// What went wrong when it was applied; cleared by the next attempt.
    pub error: Option<String>,
}

const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// The resources of a container that differ from what it was given.
pub fn changed(wanted: &Container, actual: &ResourceRequirements) -> Vec<&'static str> {
    let asked = wanted.resources.clone().unwrap_or_default();
    let differs = |name: &&str| {
        let of = |resources: &ResourceRequirements| {
            let read = |map: &Option<BTreeMap<_, _>>| map.as_ref().and_then(|map| map.get(*name)).and_then(milli);
            (read(&resources.requests), read(&resources.limits))
        };
        of(&asked) != of(actual)
    };
    RESOURCES.into_iter().filter(differs).collect()
}

/// Whether a change of these resources needs the container to start anew.
pub fn needs_restart(wanted: &Container, changed: &[&str]) -> bool {
    wanted
        .resize_policy
        .iter()
        .flatten()
        .any(|policy| policy.restart_policy == "RestartContainer" && changed.contains(&policy.resource_name.as_str()))
}

/// What a pod's containers ask for together: cpu in thousandths, memory in bytes.
fn asked(pod: &Pod, resource: &str) -> i64 {
    let unit = if resource == "cpu" { milli } else { bytes };
    let of = |container: &Container| request(container, resource).and_then(unit).unwrap_or(0);
    let Some(spec) = &pod.spec else { return 0 };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let (sidecars, once): (Vec<&Container>, Vec<&Container>) =
        init.iter().partition(|container| super::plan::is_sidecar(container));
    let together = bounded::sum(spec.containers.iter().chain(sidecars).map(of));
    let largest = once.into_iter().map(of).max().unwrap_or(0);
    let overhead = spec.overhead.as_ref().and_then(|overhead| overhead.get(resource));
    together
        .max(largest)
        .saturating_add(overhead.and_then(unit).unwrap_or(0))
}

/// Whether the node has room for what the pod asks for beside the others.
pub fn admit(pod: &Pod, others: &[Arc<Pod>], allocatable: &BTreeMap<String, i64>) -> Result<(), Pending> {
    let is_over = |pod: &&Arc<Pod>| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Failed" | "Succeeded"))
    };
    let others: Vec<_> = others
        .iter()
        .filter(|other| other.metadata.uid != pod.metadata.uid && !is_over(other))
        .collect();
    for resource in RESOURCES {
        let (requested, capacity) = (asked(pod, resource), allocatable.get(resource).copied().unwrap_or(0));
        let used = bounded::sum(others.iter().map(|other| asked(other, resource)));
        if requested > 0 && used.saturating_add(requested) > capacity {
            return Err(Pending {
                resource,
                requested,
                used,
                capacity,
            });
        }
    }
    Ok(())
}

/// The pod with what its containers may be given instead of what they ask for.
pub fn as_allocated(pod: &Pod, allocated: &BTreeMap<String, ResourceRequirements>) -> Pod {
    let mut pod = pod.clone();
    let Some(spec) = &mut pod.spec else { return pod };
    let all = spec
        .containers
        .iter_mut()
        .chain(spec.init_containers.iter_mut().flatten());
    for container in all {
        if let Some(resources) = allocated.get(&container.name) {
            container.resources = Some(resources.clone());
        }
    }
    pod
}

/// What each container of a pod asks for, by name.
pub fn of_spec(pod: &Pod) -> BTreeMap<String, ResourceRequirements> {
    fields::containers(pod)
        .map(|container| (container.name.clone(), container.resources.clone().unwrap_or_default()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(uid: &str, containers: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "spec": {"containers": containers}}))
            .expect("pod")
    }

    #[test]
    fn changes_are_found_by_value() {
        let table = [
            (
                json!({"requests": {"cpu": "1"}}),
                json!({"requests": {"cpu": "1000m"}}),
                vec![],
            ),
            (
                json!({"requests": {"cpu": "1"}}),
                json!({"requests": {"cpu": "2"}}),
                vec!["cpu"],
            ),
            (json!({}), json!({"limits": {"memory": "1Gi"}}), vec!["memory"]),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
                json!({"limits": {"cpu": "2", "memory": "2Gi"}}),
                vec!["cpu", "memory"],
            ),
        ];
        for (asked, given, expected) in table {
            let pod = pod("a", json!([{"name": "c", "resources": asked}]));
            let actual = serde_json::from_value(given).expect("resources");
            let container = &pod.spec.as_ref().expect("spec").containers[0];
            assert_eq!(changed(container, &actual), expected);
        }
    }

    #[test]
    fn only_named_resources_restart() {
        let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"},
            {"resourceName": "cpu", "restartPolicy": "NotRequired"}]);
        let pod = pod("a", json!([{"name": "c", "resizePolicy": policy}]));
        let container = &pod.spec.as_ref().expect("spec").containers[0];
        assert!(needs_restart(container, &["cpu", "memory"]));
        assert!(!needs_restart(container, &["cpu"]));
    }

    #[test]
    fn room_is_what_others_leave() {
        let ask = |uid: &str, cpu: &str| pod(uid, json!([{"name": "c", "resources": {"requests": {"cpu": cpu}}}]));
        let node = BTreeMap::from([("cpu".to_string(), 2000), ("memory".to_string(), 1 << 30)]);
        let others = [Arc::new(ask("b", "500m")), Arc::new(ask("a", "1900m"))];
        let reason = |cpu: &str| {
            admit(&ask("a", cpu), &others, &node)
                .err()
                .map(|pending| pending.reason())
        };
        assert_eq!(reason("1500m"), None);
        assert_eq!(reason("1600m"), Some("Deferred"));
        assert_eq!(reason("2100m"), Some("Infeasible"));
    }
}
