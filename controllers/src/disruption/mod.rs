//! PodDisruptionBudget status: how many pods are healthy, how many must be, how many may go.
//!
//! Watches budgets, pods, and the controllers whose size a percentage refers to. Writes the
//! budget's status only. Does not: hold back an eviction itself (the API server does, by this
//! status).

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use coxswain_client::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use coxswain_client::k8s_openapi::api::core::v1::Pod;
use coxswain_client::k8s_openapi::api::policy::v1::PodDisruptionBudget;
use coxswain_client::{Cache, Next, ObjectKey, Queue};
use jiff::Timestamp;

use crate::context::Context;
use crate::error::ControllerError;
use crate::{labels, pods, single, writes};

struct Budgets {
    context: Context,
    budgets: Cache<PodDisruptionBudget>,
    pods: Cache<Pod>,
    sets: Cache<ReplicaSet>,
    deployments: Cache<Deployment>,
    stateful: Cache<StatefulSet>,
}

/// Runs until cancelled.
pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Budgets {
        budgets: context.caches.of(),
        pods: context.caches.of(),
        sets: context.caches.of(),
        deployments: context.caches.of(),
        stateful: context.caches.of(),
        context: context.clone(),
    });
    controller.budgets.synced().await;
    controller.pods.synced().await;
    controller.sets.synced().await;
    controller.deployments.synced().await;
    controller.stateful.synced().await;
    let queue = Queue::new();
    let all_in = |namespace: &str| {
        let budgets = controller.budgets.list_in(namespace);
        budgets.iter().map(|b| ObjectKey::of(&b.metadata)).collect::<Vec<_>>()
    };
    let by_budget = single::wake(&controller.budgets, &queue, |change| vec![change.key.clone()]);
    let by_pod = single::wake(&controller.pods, &queue, |change| {
        let budgets = controller.budgets.list_in(&change.key.namespace);
        let pods: Vec<&Arc<Pod>> = [&change.old, &change.new].into_iter().flatten().collect();
        let hit = budgets.iter().filter(|b| pods.iter().any(|pod| selects(b, pod)));
        hit.map(|b| ObjectKey::of(&b.metadata)).collect()
    });
    let by_set = single::wake(&controller.sets, &queue, |change| {
        let size = |s: &Option<Arc<ReplicaSet>>| s.as_ref().and_then(|s| s.spec.as_ref()?.replicas);
        let resized = size(&change.old) != size(&change.new);
        if resized {
            all_in(&change.key.namespace)
        } else {
            Vec::new()
        }
    });
    let work = single::reconcile("disruption", &context, &queue, &controller, |c, key| async move {
        c.reconcile(&key).await
    });
    tokio::join!(by_budget, by_pod, by_set, work);
}

/// The budget covers the pod. A missing selector covers nothing, an empty one everything.
fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some_and(|s| labels::matches(s, pod.metadata.labels.as_ref()))
}

impl Budgets {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ControllerError> {
        let Some(budget) = self.budgets.by_key(key) else {
            return Ok(Next::Done);
        };
        let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
        let mut covered = self.pods.labelled(&key.namespace, |l| labels::selected(selector, l));
        covered.retain(|pod| !pods::is_finished(pod));
        let sizes = self.sizes(&covered);
        let now = Timestamp::now();
        let plan = plan::plan(&budget, &covered, &sizes, now);
        let api = self.context.client.namespaced(&key.namespace);
        if !writes::status(&api, &self.budgets, &budget.metadata, &budget.status, &plan.status).await? {
            return Ok(Next::Again);
        }
        Ok(plan.requeue_after.map_or(Next::Done, Next::After))
    }

    /// The sizes of the controllers behind the pods, by uid: a ReplicaSet counts as its Deployment.
    fn sizes(&self, covered: &[Arc<Pod>]) -> BTreeMap<String, i32> {
        let mut sizes = BTreeMap::new();
        for pod in covered {
            let Some(owner) = pods::controller_of(&pod.metadata) else {
                continue;
            };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let found = match owner.kind.as_str() {
                "ReplicaSet" => self.sets.get(namespace, &owner.name).map(|set| self.set_size(&set)),
                "StatefulSet" => self.stateful.get(namespace, &owner.name).map(|set| {
                    let size = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
                    (owner.uid.clone(), size)
                }),
                _ => None,
            };
            if let Some((uid, size)) = found {
                sizes.insert(uid, size);
            }
        }
        sizes
    }

    fn set_size(&self, set: &ReplicaSet) -> (String, i32) {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let owner = pods::controller_of(&set.metadata).filter(|o| o.kind == "Deployment");
        let deployment = owner.and_then(|o| self.deployments.get(namespace, &o.name));
        match deployment {
            Some(d) => {
                let size = d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
                (d.metadata.uid.clone().unwrap_or_default(), size)
            }
            None => {
                let size = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
                (set.metadata.uid.clone().unwrap_or_default(), size)
            }
        }
    }
}
