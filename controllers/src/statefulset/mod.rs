//! StatefulSet: members with names and claims that outlive their pods, made and ended in order.
//!
//! Watches StatefulSets, pods, claims and ControllerRevisions. Writes pods, claims (create; delete when the retention
//! policy says so), revisions, owner references and the status.
//! Guarantees: never two pods with one name: a member is made again only when its pod is gone from the API; with
//! `OrderedReady`, no member is touched while one before it is not available.
//! Does not: delete its pods when it is deleted itself (garbage collection does), or renew several members at a time.

mod apply;
mod members;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use coxswain_client::k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use coxswain_client::k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use coxswain_client::{Cache, Change, Next, ObjectKey, Queue};
use jiff::Timestamp;

use crate::context::Context;
use crate::error::ControllerError;
use crate::{adoption, labels, single};

struct StatefulSets {
    context: Context,
    sets: Cache<StatefulSet>,
    pods: Cache<Pod>,
    claims: Cache<PersistentVolumeClaim>,
    revisions: Cache<ControllerRevision>,
}

/// Runs until cancelled.
pub(crate) async fn run(context: Context) {
    let controller = Arc::new(StatefulSets {
        sets: context.caches.of(),
        pods: context.caches.of(),
        claims: context.caches.of(),
        revisions: context.caches.of(),
        context: context.clone(),
    });
    controller.sets.synced().await;
    controller.pods.synced().await;
    controller.claims.synced().await;
    controller.revisions.synced().await;
    let queue = Queue::new();
    let by_set = single::wake(&controller.sets, &queue, |change| vec![change.key.clone()]);
    let by_pod = single::wake(&controller.pods, &queue, |change| controller.sets_of(change));
    let work = single::reconcile("statefulset", &context, &queue, &controller, |c, key| async move {
        c.reconcile(&key).await
    });
    tokio::join!(by_set, by_pod, work);
}

impl StatefulSets {
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
            pods,
            claims: self.claims.list_in(&key.namespace),
            revisions: self.revisions.controlled_by(uid),
            now: Timestamp::now(),
        });
        self.apply(&set, plan).await
    }

    fn sets_of(&self, change: &Change<Pod>) -> Vec<ObjectKey> {
        let named = |pod: &Pod| adoption::owner_of(pod, "apps/v1", "StatefulSet");
        adoption::owners_of(change, &self.sets, named, |set, pod| {
            let selector = set.spec.as_ref().map(|s| &s.selector);
            selector.is_some_and(|s| labels::matches(s, pod.metadata.labels.as_ref()))
        })
    }
}
