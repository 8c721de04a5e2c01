//! Deployment: rolls a pod template out through ReplicaSets, one per template.
//!
//! ```text
//!   Deployment --owns--> ReplicaSet "name-<hash of template>" (new) --owns--> Pods
//!              --owns--> ReplicaSets of earlier templates (old, kept for undo)
//! ```
//!
//! Watches Deployments, ReplicaSets and pods. Writes ReplicaSets and the Deployment's status and
//! revision annotation. Guarantees Kubernetes' rollout rules: never fewer than
//! `replicas - maxUnavailable` available, never more than `replicas + maxSurge` pods in total.
//! Does not: touch pods, or undo (clients write the old template back).

mod apply;
mod plan;
mod replicas;
mod revision;
mod rollout;
mod status;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use coxswain_client::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use coxswain_client::k8s_openapi::api::core::v1::Pod;
use coxswain_client::{Cache, Change, Next, ObjectKey, Queue, work};
use jiff::Timestamp;

use crate::context::Context;
use crate::error::ControllerError;
use crate::{labels, pods, single};

pub(crate) struct Deployments {
    context: Context,
    deployments: Cache<Deployment>,
    sets: Cache<ReplicaSet>,
    pods: Cache<Pod>,
}

/// Runs until cancelled.
pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Deployments {
        deployments: context.caches.of(),
        sets: context.caches.of(),
        pods: context.caches.of(),
        context: context.clone(),
    });
    controller.deployments.synced().await;
    controller.sets.synced().await;
    controller.pods.synced().await;
    let queue = Queue::new();
    let reconciler = controller.clone();
    let worker = work(
        "deployment",
        queue.clone(),
        context.config.workers,
        context.token.clone(),
        move |key| {
            let controller = reconciler.clone();
            async move { controller.reconcile(key).await }
        },
    );
    tokio::join!(worker, controller.wake(queue));
}

impl Deployments {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ControllerError> {
        let Some(deployment) = self.deployments.by_key(&key) else {
            return Ok(Next::Done);
        };
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let mut sets = self.sets.controlled_by(uid);
        let selector = deployment.spec.as_ref().map(|s| &s.selector);
        let orphans = self
            .sets
            .without_controller(&key.namespace, |l| labels::selected(selector, l));
        sets.extend(orphans);
        let running = sets
            .iter()
            .filter_map(|set| set.metadata.uid.clone())
            .map(|uid| {
                let pods = self.pods.controlled_by(&uid);
                let unfinished = pods.iter().filter(|pod| !pods::is_finished(pod)).count();
                (uid, unfinished)
            })
            .collect::<HashMap<_, _>>();
        let plan = plan::plan(plan::Observed {
            deployment: deployment.clone(),
            sets,
            running,
            now: Timestamp::now(),
        });
        self.apply(&deployment, plan).await
    }

    /// Turns changes into keys.
    async fn wake(&self, queue: Queue<ObjectKey>) {
        let mut deployments = self.deployments.changes();
        let mut sets = self.sets.changes();
        let mut pods = self.pods.changes();
        loop {
            tokio::select! {
                change = deployments.recv() => match change {
                    Some(change) => queue.add(change.key),
                    None => return,
                },
                change = sets.recv() => match change {
                    Some(change) => single::apart(&change.key, || self.wake_for_set(&change, &queue)),
                    None => return,
                },
                change = pods.recv() => match change {
                    Some(change) => single::apart(&change.key, || self.wake_for_pod(&change, &queue)),
                    None => return,
                },
            }
        }
    }

    fn wake_for_set(&self, change: &Change<ReplicaSet>, queue: &Queue<ObjectKey>) {
        for set in [&change.old, &change.new].into_iter().flatten() {
            if let Some(owner) = pods::controller_of(&set.metadata) {
                if owner.kind == "Deployment" {
                    queue.add(ObjectKey::new(&change.key.namespace, &owner.name));
                }
                continue;
            }
            for deployment in self.deployments.list_in(&change.key.namespace) {
                let selector = deployment.spec.as_ref().map(|s| &s.selector);
                if selector.is_some_and(|s| labels::matches(s, set.metadata.labels.as_ref())) {
                    queue.add(ObjectKey::of(&deployment.metadata));
                }
            }
        }
    }

    /// Only the end of a pod matters: Recreate waits for it.
    fn wake_for_pod(&self, change: &Change<Pod>, queue: &Queue<ObjectKey>) {
        let ended = change.new.as_ref().is_none_or(|pod| pods::is_finished(pod));
        let Some(pod) = change.old.as_ref().filter(|_| ended) else {
            return;
        };
        let owner = pods::controller_of(&pod.metadata).filter(|o| o.kind == "ReplicaSet");
        let set = owner.and_then(|o| self.sets.get(&change.key.namespace, &o.name));
        let Some(set) = set else {
            return;
        };
        if let Some(owner) = pods::controller_of(&set.metadata).filter(|o| o.kind == "Deployment") {
            queue.add(ObjectKey::new(&change.key.namespace, &owner.name));
        }
    }
}
