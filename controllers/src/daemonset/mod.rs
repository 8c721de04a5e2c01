//! DaemonSet: one pod on every node that its template allows.
//!
//! Watches DaemonSets, pods, nodes and ControllerRevisions. Writes pods (create, delete, owner references), revisions
//! and the status. A pod is made for its node by affinity; the scheduler binds it.
//! Guarantees: a node gets a new pod only when the old one is gone from the API; an update takes no more nodes out of
//! service than `maxUnavailable`.
//! Does not: run two pods on a node during an update: `maxSurge` counts as one node that may be missing.

mod apply;
mod nodes;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use coxswain_client::k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use coxswain_client::k8s_openapi::api::core::v1::{Node, Pod};
use coxswain_client::{Cache, Change, Next, ObjectKey, Queue};
use jiff::Timestamp;

use crate::context::Context;
use crate::error::ControllerError;
use crate::{adoption, labels, single};

struct DaemonSets {
    context: Context,
    sets: Cache<DaemonSet>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    revisions: Cache<ControllerRevision>,
}

/// Runs until cancelled.
pub(crate) async fn run(context: Context) {
    let controller = Arc::new(DaemonSets {
        sets: context.caches.of(),
        pods: context.caches.of(),
        nodes: context.caches.of(),
        revisions: context.caches.of(),
        context: context.clone(),
    });
    controller.sets.synced().await;
    controller.pods.synced().await;
    controller.nodes.synced().await;
    controller.revisions.synced().await;
    let queue = Queue::new();
    let by_set = single::wake(&controller.sets, &queue, |change| vec![change.key.clone()]);
    let by_pod = single::wake(&controller.pods, &queue, |change| controller.sets_of(change));
    let by_node = single::wake(&controller.nodes, &queue, |change| {
        if facts(change.old.as_deref()) == facts(change.new.as_deref()) {
            return Vec::new();
        }
        controller
            .sets
            .list()
            .iter()
            .map(|set| ObjectKey::of(&set.metadata))
            .collect()
    });
    let work = single::reconcile("daemonset", &context, &queue, &controller, |c, key| async move {
        c.reconcile(&key).await
    });
    tokio::join!(by_set, by_pod, by_node, work);
}

/// What decides about pods on a node.
fn facts(node: Option<&Node>) -> impl PartialEq {
    node.map(|node| {
        let taints = node.spec.as_ref().and_then(|s| s.taints.clone());
        (node.metadata.labels.clone(), taints)
    })
}

impl DaemonSets {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ControllerError> {
        let Some(set) = self.sets.by_key(key) else {
            return Ok(Next::Done);
        };
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let mut pods = self.pods.controlled_by(uid);
        let selector = set.spec.as_ref().map(|s| &s.selector);
        let orphans = self
            .pods
            .without_controller(&key.namespace, |l| labels::selected(selector, l));
        pods.extend(orphans);
        let plan = plan::plan(plan::Observed {
            set: set.clone(),
            nodes: self.nodes.list(),
            pods,
            revisions: self.revisions.controlled_by(uid),
            now: Timestamp::now(),
        });
        self.apply(&set, plan).await
    }

    fn sets_of(&self, change: &Change<Pod>) -> Vec<ObjectKey> {
        let named = |pod: &Pod| adoption::owner_of(pod, "apps/v1", "DaemonSet");
        adoption::owners_of(change, &self.sets, named, |set, pod| {
            let selector = set.spec.as_ref().map(|s| &s.selector);
            selector.is_some_and(|s| labels::matches(s, pod.metadata.labels.as_ref()))
        })
    }
}
