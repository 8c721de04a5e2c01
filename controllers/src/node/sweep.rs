//! Clears away pods that nobody will finish: on nodes that are gone, deleted before they were
//! placed, or finished and too many.

use std::collections::BTreeSet;
use std::sync::Arc;

use coxswain_client::ObjectKey;
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

/// What there is to sweep, found by looking at one pod after the other: there may be many.
#[derive(Default)]
pub(super) struct Sweep {
    swept: Vec<(ObjectKey, Reason)>,
    finished: Vec<(Option<Timestamp>, ObjectKey)>,
}

impl Sweep {
    /// Looks at a pod.
    pub fn look(&mut self, pod: &Pod, nodes: &BTreeSet<String>) {
        let (node, key) = (pods::node_name(pod), || ObjectKey::of(&pod.metadata));
        if node.is_empty() && pods::is_terminating(pod) {
            self.swept.push((key(), Reason::NeverPlaced));
        } else if !node.is_empty() && !nodes.contains(node) {
            self.swept.push((key(), Reason::NodeGone));
        } else if pods::is_finished(pod) && !pods::is_terminating(pod) {
            let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
            self.finished.push((created, key()));
        }
    }

    /// Which pods to sweep, when so many finished ones are kept.
    pub fn plan(mut self, finished_max: usize) -> Vec<(ObjectKey, Reason)> {
        let surplus = self.finished.len().saturating_sub(finished_max);
        self.finished.sort();
        let oldest = self.finished.into_iter().take(surplus);
        self.swept.extend(oldest.map(|(_, key)| (key, Reason::Surplus)));
        self.swept
    }
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
        pod_changes.skip();
        node_changes.skip();
        sweep(&nodes).await;
    }
}

async fn sweep(nodes: &Nodes) {
    let names = nodes.nodes.list().iter().map(|n| name_of(n).to_string()).collect();
    let max = nodes.context.config.finished_pods_max;
    let mut sweep = Sweep::default();
    nodes.pods.select(None, |pod| {
        sweep.look(pod, &names);
        false
    });
    for (key, reason) in sweep.plan(max) {
        let Some(pod) = nodes.pods.by_key(&key) else {
            continue;
        };
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
