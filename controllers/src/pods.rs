//! Facts about pods that several controllers need.

use std::sync::Arc;
use std::time::Duration;

use coxswain_api::bounded;
use coxswain_client::k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use coxswain_client::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use jiff::{SignedDuration, Timestamp};

/// Letters of names that are made of hashes: none that could spell a word.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The pod's phase, `Pending` when it has none yet.
pub(crate) fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status.and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

/// It has ended, well or not.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// It is being deleted.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// It counts for its controller: neither finished nor being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

/// A condition of the pod.
pub(crate) fn condition<'a>(pod: &'a Pod, name: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == name)
}

/// Its Ready condition is true.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Since when it is ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
    ready.last_transition_time.as_ref().map(|t| t.0)
}

/// When the next ready pod becomes available, and a moment more.
pub(crate) fn next_available<'a>(
    pods: impl IntoIterator<Item = &'a Arc<Pod>>,
    min_ready_s: i32,
    now: Timestamp,
) -> Option<Duration> {
    let since = pods.into_iter().filter_map(|pod| ready_since(pod));
    let next = since
        .filter_map(|since| bounded::left(since, min_ready_s.into(), now))
        .min()?;
    Some(next.saturating_add(Duration::from_millis(20)))
}

/// It has been ready for at least `min_ready_s` seconds.
pub(crate) fn is_available(pod: &Pod, min_ready_s: i32, now: Timestamp) -> bool {
    if !is_ready(pod) {
        return false;
    }
    if min_ready_s <= 0 {
        return true;
    }
    let wait = SignedDuration::from_secs(i64::from(min_ready_s));
    ready_since(pod).is_some_and(|since| now.duration_since(since) >= wait)
}

/// The largest restart count of its containers.
pub(crate) fn restarts_max(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let containers = status.and_then(|s| s.container_statuses.as_ref());
    let counts = containers.into_iter().flatten().map(|c| c.restart_count);
    counts.max().unwrap_or(0)
}

/// The node it is bound to, empty when it is not.
pub(crate) fn node_name(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    spec.and_then(|s| s.node_name.as_deref()).unwrap_or("")
}

/// The reference that makes `owner` the controller of an object.
pub(crate) fn controller_reference(api_version: &str, kind: &str, owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_string(),
        kind: kind.to_string(),
        name: owner.name.clone().unwrap_or_default(),
        uid: owner.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The controller of an object, if it has one.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// A pod as the template describes it, owned by `owner`, its name generated from the owner's.
pub(crate) fn from_template(template: &PodTemplateSpec, owner: OwnerReference, namespace: &str) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let prefix: String = format!("{}-", owner.name);
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(prefix),
            namespace: Some(namespace.to_string()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// A short hash of a template, in an alphabet without vowels.
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let text = serde_json::to_string(template).unwrap_or_default();
    let mut hash: u32 = 0x811c_9dc5;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    feed(text.as_bytes());
    if let Some(collisions) = collisions {
        feed(&collisions.to_le_bytes());
    }
    let letter = |digit: u8| {
        let index = usize::from(digit).checked_rem(ALPHABET.len()).unwrap_or(0);
        ALPHABET.get(index).map_or('b', |c| char::from(*c))
    };
    hash.to_string().bytes().map(letter).collect()
}

/// An absolute number or a percentage of `total`.
pub(crate) fn resolve(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let scaled = percent.saturating_mul(i64::from(total));
            let rounded = if round_up {
                scaled.saturating_add(99) / 100
            } else {
                scaled / 100
            };
            i32::try_from(rounded).unwrap_or(if rounded < 0 { i32::MIN } else { i32::MAX })
        }
    }
}
