//! The few writes the scheduler makes: bindings, conditions, nominations, deletions of victims.

use coxswain_client::k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use coxswain_client::kube;
use coxswain_client::kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use coxswain_client::{Client, ObjectKey};
use serde_json::json;

/// Binds a pod to a node, if it is still the same pod.
///
/// # Errors
/// The server's answer.
pub async fn bind(client: &Client, key: &ObjectKey, uid: &str, node: &str) -> Result<(), kube::Error> {
    let mut binding = Binding::default();
    binding.metadata.name = Some(key.name.to_string());
    binding.metadata.namespace = Some(key.namespace.to_string());
    binding.metadata.uid = Some(uid.to_owned());
    binding.target = ObjectReference {
        kind: Some("Node".to_owned()),
        name: Some(node.to_owned()),
        ..ObjectReference::default()
    };
    let pods = client.namespaced::<Pod>(&key.namespace);
    pods.create_subresource::<_, serde_json::Value>("binding", &key.name, &PostParams::default(), &binding)
        .await
        .map(drop)
}

/// Says on the pod why it has no node yet, and which node it is promised.
///
/// # Errors
/// The server's answer.
pub async fn explain(
    client: &Client,
    key: &ObjectKey,
    uid: &str,
    message: &str,
    nominated: Option<&str>,
    now: &str,
) -> Result<(), kube::Error> {
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
        "lastProbeTime": null, "lastTransitionTime": now});
    let mut status = json!({"conditions": [condition]});
    if let Some(node) = nominated {
        status["nominatedNodeName"] = json!(node);
    }
    let patch = json!({"metadata": {"uid": uid}, "status": status});
    let pods = client.namespaced::<Pod>(&key.namespace);
    pods.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .map(drop)
}

/// Deletes a victim of preemption, after saying on it why.
///
/// # Errors
/// The server's answer.
pub async fn evict(client: &Client, victim: &Pod, scheduler: &str, now: &str) -> Result<(), kube::Error> {
    let key = ObjectKey::of(&victim.metadata);
    let pods = client.namespaced::<Pod>(&key.namespace);
    let message = format!("{scheduler}: preempting to accommodate a higher priority pod");
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": message, "lastTransitionTime": now});
    let patch = json!({"metadata": {"uid": victim.metadata.uid}, "status": {"conditions": [condition]}});
    pods.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
        .await?;
    let preconditions = Preconditions {
        uid: victim.metadata.uid.clone(),
        resource_version: None,
    };
    let params = DeleteParams {
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    pods.delete(&key.name, &params).await.map(drop)
}
