//! ReplicaSet: keeps as many pods as `spec.replicas` says.
//!
//! Watches ReplicaSets and pods. Writes pods (create, delete, owner references) and the status.
//! Guarantees: never creates a pod while its last creations are not yet visible (the executor
//! waits for the cache), creates in slow-start batches, deletes the least valuable pods first.
//! Does not: delete its pods when it is deleted itself (garbage collection does), or look at nodes.

mod apply;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use coxswain_client::k8s_openapi::api::apps::v1::ReplicaSet;
use coxswain_client::k8s_openapi::api::core::v1::Pod;
use coxswain_client::{Cache, Change, Next, ObjectKey, Queue, work};
use jiff::Timestamp;

use crate::context::Context;
use crate::error::ControllerError;
use crate::{labels, pods};

pub(crate) struct ReplicaSets {
    context: Context,
    sets: Cache<ReplicaSet>,
    pods: Cache<Pod>,
}

/// Runs until cancelled.
pub(crate) async fn run(context: Context) {
    let sets: Cache<ReplicaSet> = context.caches.of();
    let pods: Cache<Pod> = context.caches.of();
    sets.synced().await;
    pods.synced().await;
    let queue = Queue::new();
    let controller = Arc::new(ReplicaSets {
        context: context.clone(),
        sets: sets.clone(),
        pods: pods.clone(),
    });
    let worker = work(
        "replicaset",
        queue.clone(),
        context.config.workers,
        context.token.clone(),
        move |key| {
            let controller = controller.clone();
            async move { controller.reconcile(key).await }
        },
    );
    tokio::join!(worker, wake(sets, pods, queue));
}

impl ReplicaSets {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ControllerError> {
        let Some(set) = self.sets.by_key(&key) else {
            return Ok(Next::Done);
        };
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let mut candidates = self.pods.controlled_by(uid);
        candidates.extend(self.pods.without_controller(&key.namespace));
        let owner = pods::controller_of(&set.metadata).map(|o| o.uid.clone());
        let relatives = owner.map(|uid| self.relatives(&uid)).unwrap_or_default();
        let plan = plan::plan(plan::Observed {
            set: set.clone(),
            pods: candidates,
            relatives,
            now: Timestamp::now(),
        });
        self.apply(&set, plan).await
    }

    /// Pods of all sets with the same owner: where they are decides who is doubled up.
    fn relatives(&self, owner_uid: &str) -> Vec<Arc<Pod>> {
        let sets = self.sets.controlled_by(owner_uid);
        let uids = sets.iter().filter_map(|s| s.metadata.uid.as_deref());
        uids.flat_map(|uid| self.pods.controlled_by(uid)).collect()
    }
}

/// Turns changes into keys.
async fn wake(sets: Cache<ReplicaSet>, pods: Cache<Pod>, queue: Queue<ObjectKey>) {
    let mut set_changes = sets.changes();
    let mut pod_changes = pods.changes();
    loop {
        tokio::select! {
            change = set_changes.recv() => match change {
                Some(change) => queue.add(change.key),
                None => return,
            },
            change = pod_changes.recv() => match change {
                Some(change) => wake_for_pod(&change, &sets, &queue),
                None => return,
            },
        }
    }
}

fn wake_for_pod(change: &Change<Pod>, sets: &Cache<ReplicaSet>, queue: &Queue<ObjectKey>) {
    let mut orphan = false;
    for pod in [&change.old, &change.new].into_iter().flatten() {
        match pods::controller_of(&pod.metadata) {
            Some(owner) if owner.kind == "ReplicaSet" => {
                queue.add(ObjectKey::new(&change.key.namespace, &owner.name));
            }
            Some(_) => {}
            None => orphan = true,
        }
    }
    let Some(pod) = change.new.as_ref().filter(|_| orphan) else {
        return;
    };
    if pods::controller_of(&pod.metadata).is_some() {
        return;
    }
    for set in sets.list_in(&change.key.namespace) {
        let selector = set.spec.as_ref().map(|s| &s.selector);
        if selector.is_some_and(|s| labels::matches(s, pod.metadata.labels.as_ref())) {
            queue.add(ObjectKey::of(&set.metadata));
        }
    }
}
