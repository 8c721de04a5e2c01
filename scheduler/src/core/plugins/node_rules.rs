//! Rules that look at the node alone: cordons, names, taints, affinity to labels, ports, images.

use coxswain_api::bounded;
use coxswain_client::k8s_openapi::api::core::v1::{Taint, Toleration};

use super::{SCORE_MAX, scaled};
use crate::core::explain::Refusal;
use crate::core::node::NodeInfo;
use crate::core::pod::PodInfo;
use crate::core::selector::{node_label, node_matches, term_matches};

const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// Images from this size on count in full; smaller than the first not at all.
const IMAGE_BYTES: (i64, i64) = (23 * 1024 * 1024, 1000 * 1024 * 1024);

fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| {
        let effect = t.effect.as_deref().unwrap_or_default();
        let key = t.key.as_deref().unwrap_or_default();
        let value = t.value.as_deref().unwrap_or_default();
        let taint_value = taint.value.as_deref().unwrap_or_default();
        (effect.is_empty() || effect == taint.effect)
            && (key.is_empty() || key == taint.key)
            && match t.operator.as_deref().unwrap_or("Equal") {
                "" | "Equal" => !key.is_empty() && value == taint_value,
                "Exists" => true,
                order @ ("Gt" | "Lt") => {
                    let parsed = taint_value.parse::<i64>().ok().zip(value.parse::<i64>().ok());
                    parsed.is_some_and(|(have, limit)| if order == "Gt" { have > limit } else { have < limit })
                }
                _ => false,
            }
    })
}

fn tolerations(pod: &PodInfo) -> &[Toleration] {
    pod.spec().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
}

/// A cordoned node takes only pods that tolerate its taint.
///
/// # Errors
/// The reason.
pub fn unschedulable(pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    let taint = Taint {
        key: UNSCHEDULABLE_TAINT.to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if node.is_unschedulable() && !tolerates(tolerations(pod), &taint) {
        Err(Refusal::Unschedulable)
    } else {
        Ok(())
    }
}

/// A pod may name its node.
///
/// # Errors
/// The reason.
pub fn name(pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    if pod.node().is_none_or(|n| n == node.name) {
        Ok(())
    } else {
        Err(Refusal::WrongName)
    }
}

/// Taints that keep pods away must be tolerated.
///
/// # Errors
/// The reason.
pub fn taints(pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    let hard = |t: &&Taint| t.effect == "NoSchedule" || t.effect == "NoExecute";
    if node
        .taints()
        .iter()
        .filter(hard)
        .all(|t| tolerates(tolerations(pod), t))
    {
        Ok(())
    } else {
        Err(Refusal::Taint)
    }
}

/// How many soft taints the pod does not tolerate.
#[must_use]
pub fn soft_taints(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let unwanted = node
        .taints()
        .iter()
        .filter(|t| t.effect == "PreferNoSchedule" && !tolerates(tolerations(pod), t));
    i64::try_from(unwanted.count()).unwrap_or(i64::MAX)
}

/// The node selector and required node affinity.
///
/// # Errors
/// The reason.
pub fn affinity(pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    let Some(spec) = pod.spec() else { return Ok(()) };
    let labels = node.labels();
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(k, v)| node_label(labels, k) == Some(v));
    let required = spec.affinity.as_ref().and_then(|a| {
        a.node_affinity
            .as_ref()?
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    if selected && required.is_none_or(|r| node_matches(r, &node.name, labels)) {
        Ok(())
    } else {
        Err(Refusal::NodeAffinity)
    }
}

/// Sum of the weights of the preferred terms that the node satisfies.
#[must_use]
pub fn preferred_affinity(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let preferred = pod.spec().and_then(|s| {
        s.affinity
            .as_ref()?
            .node_affinity
            .as_ref()?
            .preferred_during_scheduling_ignored_during_execution
            .as_deref()
    });
    let terms = preferred.unwrap_or_default().iter();
    let met = terms.filter(|t| term_matches(&t.preference, &node.name, node.labels()));
    bounded::sum(met.map(|t| i64::from(t.weight)))
}

/// Ports on the node can be had once.
///
/// # Errors
/// The reason.
pub fn ports(pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    let taken = || node.pods.values().filter(|p| p.key != pod.key).flat_map(|p| &p.ports);
    if pod.ports.iter().any(|want| taken().any(|have| want.conflicts(have))) {
        Err(Refusal::HostPorts)
    } else {
        Ok(())
    }
}

/// Nodes that have the pod's images start it sooner.
#[must_use]
pub fn image_locality(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let images = node
        .node
        .as_ref()
        .and_then(|n| n.status.as_ref()?.images.as_deref())
        .unwrap_or_default();
    let containers = pod.spec().map(|s| s.containers.as_slice()).unwrap_or_default();
    let found = containers.iter().filter_map(|c| {
        let wanted = c.image.as_deref()?;
        let found = images.iter().find(|i| {
            i.names
                .iter()
                .flatten()
                .any(|n| n == wanted || n.ends_with(&format!("/{wanted}")))
        })?;
        found.size_bytes
    });
    let there = bounded::sum(found);
    let count = i64::try_from(containers.len()).unwrap_or(1).max(1);
    let (low, high) = (IMAGE_BYTES.0, IMAGE_BYTES.1.saturating_mul(count));
    scaled(
        there.clamp(low, high).saturating_sub(low),
        SCORE_MAX,
        high.saturating_sub(low),
    )
}
