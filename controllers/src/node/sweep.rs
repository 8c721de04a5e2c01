//! Clears away pods that nobody will finish: on nodes that are gone, deleted before they were
//! placed, or finished and too many.

use std::collections::BTreeSet;
use std::sync::Arc;

use coxswain_client::k8s_openapi::api::core::v1::Pod;
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use coxswain_client::kube::Api;
use coxswain_client::kube::api::{DeleteParams, Preconditions};
use jiff::Timestamp;
use serde_json::json;

use super::{Nodes, SWEEP_AFTER, name_of};
use crate::pods;
use crate::writes::patch_status;

/// What a pod is swept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// Being deleted, and no node has it.
    NeverPlaced,
    /// Its node does not exist.
    NodeGone,
    /// Finished, and there are more finished pods than are kept.
    Surplus,
}

/// Which pods to sweep.
pub(super) fn plan(pods: &[Arc<Pod>], nodes: &BTreeSet<String>, finished_max: usize) -> Vec<(Arc<Pod>, Reason)> {
    let mut swept = Vec::new();
    let mut finished = Vec::new();
    for pod in pods {
        let node = pods::node_name(pod);
        if node.is_empty() && pods::is_terminating(pod) {
            swept.push((pod.clone(), Reason::NeverPlaced));
        } else if !node.is_empty() && !nodes.contains(node) {
            swept.push((pod.clone(), Reason::NodeGone));
        } else if pods::is_finished(pod) && !pods::is_terminating(pod) {
            finished.push(pod.clone());
        }
    }
    let surplus = finished.len().saturating_sub(finished_max);
    finished.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|t| t.0));
    swept.extend(finished.into_iter().take(surplus).map(|pod| (pod, Reason::Surplus)));
    swept
}

/// Runs until cancelled: looks when pods or nodes have changed, at most once in twenty seconds.
pub(super) async fn run(nodes: Arc<Nodes>) {
    let mut pod_changes = nodes.pods.changes();
    let mut node_changes = nodes.nodes.changes();
    loop {
        let relevant = tokio::select! {
            change = pod_changes.recv() => match change {
                Some(change) => change.new.is_some_and(|pod| {
                    let node = pods::node_name(&pod);
                    pods::is_finished(&pod)
                        || (node.is_empty() && pods::is_terminating(&pod))
                        || (!node.is_empty() && nodes.nodes.get("", node).is_none())
                }),
                None => return,
            },
            change = node_changes.recv() => match change {
                Some(change) => change.new.is_none(),
                None => return,
            },
        };
        if !relevant {
            continue;
        }
        tokio::select! {
            () = nodes.context.token.cancelled() => return,
            () = tokio::time::sleep(SWEEP_AFTER) => {}
        }
        while pod_changes.try_recv().is_some() {}
        while node_changes.try_recv().is_some() {}
        sweep(&nodes).await;
    }
}

async fn sweep(nodes: &Nodes) {
    let names = nodes.nodes.list().iter().map(|n| name_of(n).to_string()).collect();
    let max = nodes.context.config.finished_pods_max;
    for (pod, reason) in plan(&nodes.pods.list(), &names, max) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let api: Api<Pod> = nodes.context.account("pod-garbage-collector").namespaced(namespace);
        if reason == Reason::NodeGone && !pods::is_finished(&pod) {
            let patch = json!({"status": {"phase": "Failed", "conditions": conditions(&pod)}});
            if let Err(error) = patch_status(&api, &pod.metadata, patch).await {
                tracing::warn!(pod = name, "not marked as failed: {error}");
            }
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        if let Err(error) = api.delete(name, &params).await {
            tracing::debug!(pod = name, ?reason, "not swept: {error}");
        }
    }
}

fn conditions(pod: &Pod) -> serde_json::Value {
    let status = pod.status.clone().unwrap_or_default();
    let mut all = status.conditions.unwrap_or_default();
    all.retain(|c| c.type_ != "DisruptionTarget");
    let mut all = json!(all);
    if let Some(list) = all.as_array_mut() {
        list.push(json!({
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists",
            "lastTransitionTime": Time(Timestamp::now()),
        }));
    }
    all
}
