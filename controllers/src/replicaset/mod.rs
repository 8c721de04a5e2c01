//! ReplicaSet and its older form ReplicationController: keep as many pods as `spec.replicas` says.
//!
//! Watches them and pods. Writes pods (create, delete, owner references) and the status.
//! Guarantees: never creates a pod while its last creations are not yet visible (the executor
//! waits for the cache), creates in slow-start batches, deletes the least valuable pods first.
//! Does not: delete its pods when it is deleted itself (garbage collection does), or look at nodes.

mod apply;
mod plan;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::sync::Arc;

use coxswain_client::k8s_openapi::NamespaceResourceScope;
use coxswain_client::k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use coxswain_client::k8s_openapi::api::core::v1::{Pod, ReplicationController, ReplicationControllerCondition};
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use coxswain_client::kube::Resource;
use coxswain_client::{Cache, Change, Next, ObjectKey, Queue};
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::error::ControllerError;
use crate::{adoption, labels, pods, single};

/// What keeps a number of equal pods, seen as a ReplicaSet.
pub(crate) trait Replicated:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug + Send + Sync + 'static
{
    const NAME: &'static str;
    const API_VERSION: &'static str;
    const KIND: &'static str;
    /// Its status says how many pods are on their way out.
    const COUNTS_TERMINATING: bool;
    fn as_set(self: Arc<Self>) -> Arc<ReplicaSet>;
}

impl Replicated for ReplicaSet {
    const NAME: &'static str = "replicaset";
    const API_VERSION: &'static str = "apps/v1";
    const KIND: &'static str = "ReplicaSet";
    const COUNTS_TERMINATING: bool = true;

    fn as_set(self: Arc<Self>) -> Arc<ReplicaSet> {
        self
    }
}

impl Replicated for ReplicationController {
    const NAME: &'static str = "replicationcontroller";
    const API_VERSION: &'static str = "v1";
    const KIND: &'static str = "ReplicationController";
    const COUNTS_TERMINATING: bool = false;

    fn as_set(self: Arc<Self>) -> Arc<ReplicaSet> {
        let spec = self.spec.clone().map(|spec| ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: spec.replicas,
            selector: LabelSelector {
                match_labels: spec.selector,
                match_expressions: None,
            },
            template: spec.template,
        });
        let status = self.status.clone().map(|status| ReplicaSetStatus {
            available_replicas: status.available_replicas,
            conditions: status.conditions.map(|all| all.into_iter().map(condition).collect()),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
            terminating_replicas: None,
        });
        Arc::new(ReplicaSet {
            metadata: self.metadata.clone(),
            spec,
            status,
        })
    }
}

fn condition(condition: ReplicationControllerCondition) -> ReplicaSetCondition {
    ReplicaSetCondition {
        last_transition_time: condition.last_transition_time,
        message: condition.message,
        reason: condition.reason,
        status: condition.status,
        type_: condition.type_,
    }
}

pub(crate) struct ReplicaSets<K> {
    context: Context,
    sets: Cache<K>,
    pods: Cache<Pod>,
}

/// Runs until cancelled.
pub(crate) async fn run<K: Replicated>(context: Context) {
    let controller = Arc::new(ReplicaSets::<K> {
        sets: context.caches.of(),
        pods: context.caches.of(),
        context: context.clone(),
    });
    controller.sets.synced().await;
    controller.pods.synced().await;
    let queue = Queue::new();
    let by_set = single::wake(&controller.sets, &queue, |change| vec![change.key.clone()]);
    let by_pod = single::wake(&controller.pods, &queue, |change| controller.sets_of(change));
    let work = single::reconcile(K::NAME, &context, &queue, &controller, |c, key| async move {
        c.reconcile(key).await
    });
    tokio::join!(by_set, by_pod, work);
}

impl<K: Replicated> ReplicaSets<K> {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ControllerError> {
        let Some(object) = self.sets.by_key(&key) else {
            return Ok(Next::Done);
        };
        let set = object.clone().as_set();
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let mut candidates = self.pods.controlled_by(uid);
        let selector = set.spec.as_ref().map(|s| &s.selector);
        let orphans = self
            .pods
            .without_controller(&key.namespace, |l| labels::selected(selector, l));
        candidates.extend(orphans);
        let owner = pods::controller_of(&set.metadata).map(|o| o.uid.clone());
        let relatives = owner.map(|uid| self.relatives(&uid)).unwrap_or_default();
        let plan = plan::plan(plan::Observed {
            set: set.clone(),
            pods: candidates,
            relatives,
            counts_terminating: K::COUNTS_TERMINATING,
            now: Timestamp::now(),
        });
        self.apply(&object, &set, plan).await
    }

    /// Pods of all sets with the same owner: where they are decides who is doubled up.
    fn relatives(&self, owner_uid: &str) -> Vec<Arc<Pod>> {
        let sets = self.sets.controlled_by(owner_uid);
        let uids = sets.iter().filter_map(|s| s.meta().uid.as_deref());
        uids.flat_map(|uid| self.pods.controlled_by(uid)).collect()
    }

    fn sets_of(&self, change: &Change<Pod>) -> Vec<ObjectKey> {
        let named = |pod: &Pod| adoption::owner_of(pod, K::API_VERSION, K::KIND);
        adoption::owners_of(change, &self.sets, named, |set, pod| {
            let set = set.clone().as_set();
            let selector = set.spec.as_ref().map(|s| &s.selector);
            selector.is_some_and(|s| labels::matches(s, pod.metadata.labels.as_ref()))
        })
    }
}
