//! ResourceQuota status: what may be used, and what is.
//!
//! Watches quotas, and what gives something back: objects that go away, pods that end, Services and claims that
//! shrink. Writes the quota's status, under the version that was counted for: a charge in between makes the write
//! fail, and the count is made again.
//! Does not: refuse anything (admission does, and charges each creation in its own transaction).

mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coxswain_api::Quantity;
use coxswain_client::discovery::preferred_resources;
use coxswain_client::k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use coxswain_client::{Cache, Change, ClientError, Failure, Next, ObjectKey, Queue};
use serde_json::Value;

use crate::context::{Context, MANAGER};
use crate::error::ControllerError;
use crate::wire::Gone;
use crate::{pods, single};

const PAGE: usize = 500;
/// After the first count, creations that were admitted before the quota was known are done; they are charged by nobody.
const COUNT_AGAIN_AFTER: Duration = Duration::from_secs(1);

struct Quotas {
    context: Context,
    quotas: Cache<ResourceQuota>,
}

/// Runs until cancelled. `gone` tells the namespaces of objects that went away.
pub(crate) async fn run(context: Context, gone: Gone) {
    let controller = Arc::new(Quotas {
        quotas: context.caches.of(),
        context: context.clone(),
    });
    let pods: Cache<Pod> = context.caches.of();
    let services: Cache<Service> = context.caches.of();
    let claims: Cache<PersistentVolumeClaim> = context.caches.of();
    controller.quotas.synced().await;
    let queue = Queue::new();
    let all_in = |namespace: &str| {
        let quotas = controller.quotas.list_in(namespace);
        quotas.iter().map(|q| ObjectKey::of(&q.metadata)).collect::<Vec<_>>()
    };
    let when = |condition: bool, namespace: &str| if condition { all_in(namespace) } else { Vec::new() };
    let by_quota = single::wake(&controller.quotas, &queue, |change| {
        let unsettled = change.new.as_ref().is_some_and(|q| !is_settled(q));
        if unsettled {
            vec![change.key.clone()]
        } else {
            Vec::new()
        }
    });
    let by_pod = single::wake(&pods, &queue, |change| {
        when(pod_gave_back(change), &change.key.namespace)
    });
    let by_service = single::wake(&services, &queue, |change| {
        let spec = |s: &Option<Arc<Service>>| s.as_ref().and_then(|s| s.spec.clone());
        let changed = change.old.is_some() && spec(&change.old) != spec(&change.new);
        when(changed, &change.key.namespace)
    });
    let by_claim = single::wake(&claims, &queue, |change| {
        let spec = |c: &Option<Arc<PersistentVolumeClaim>>| c.as_ref().and_then(|c| c.spec.clone());
        let changed = change.old.is_some() && spec(&change.old) != spec(&change.new);
        when(changed, &change.key.namespace)
    });
    let by_loss = async {
        let mut gone = gone.lock().await;
        while let Some(namespace) = gone.recv().await {
            all_in(&namespace).into_iter().for_each(|key| queue.add(key));
        }
    };
    let work = single::reconcile("resourcequota", &context, &queue, &controller, |c, key| async move {
        c.reconcile(&key).await
    });
    tokio::join!(by_quota, by_pod, by_service, by_claim, by_loss, work);
}

/// The status is about what the specification says now.
fn is_settled(quota: &ResourceQuota) -> bool {
    let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
    let status = quota.status.as_ref();
    let (said, used) = (
        status.and_then(|s| s.hard.clone()).unwrap_or_default(),
        status.and_then(|s| s.used.clone()).unwrap_or_default(),
    );
    hard == said && hard.keys().eq(used.keys())
}

/// A pod ended, or asks for something else than before.
fn pod_gave_back(change: &Change<Pod>) -> bool {
    let Some(old) = &change.old else { return false };
    let Some(new) = &change.new else { return true };
    let resources = |pod: &Pod| {
        let containers = pod.spec.as_ref().map(|s| s.containers.clone()).unwrap_or_default();
        containers.into_iter().map(|c| c.resources).collect::<Vec<_>>()
    };
    pods::is_finished(old) != pods::is_finished(new) || resources(old) != resources(new)
}

impl Quotas {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ControllerError> {
        let client = &self.context.client;
        let path = format!("/api/v1/namespaces/{}/resourcequotas", key.namespace);
        // Read before anything is counted: what is charged later changes its version.
        let found: Value = client
            .get(&format!("{path}?fieldSelector=metadata.name%3D{}", key.name))
            .await?;
        let Some(mut quota) = found["items"].get(0).cloned() else {
            return Ok(Next::Done);
        };
        let mut used: BTreeMap<String, Quantity> = BTreeMap::new();
        for question in plan::questions(&quota) {
            let Some(path) = self.path(&question, &key.namespace).await? else {
                continue;
            };
            if question.count_only {
                plan::counted(&mut used, &question, self.count(&path).await?);
            } else {
                self.sum(&mut used, &quota, &question, &path).await?;
            }
        }
        let Some(status) = plan::status(&quota, &used) else {
            return Ok(Next::Done);
        };
        let is_first = quota["status"]["hard"] != quota["spec"]["hard"];
        if let Some(members) = quota.as_object_mut() {
            members.insert("status".to_string(), status);
        }
        let path = format!("{path}/{}/status?fieldManager={MANAGER}", key.name);
        let written = client
            .request::<Value>(http::Method::PUT, &path, &[], Some(&quota))
            .await;
        match written {
            Ok(_) if is_first => Ok(Next::After(COUNT_AGAIN_AFTER)),
            Ok(_) => Ok(Next::Done),
            Err(error) => match error.failure() {
                Failure::Conflict => Ok(Next::Again),
                Failure::NotFound => Ok(Next::Done),
                _ => Err(error.into()),
            },
        }
    }

    /// Where the objects of a resource are; `None` when the cluster does not serve it.
    async fn path(&self, question: &plan::Question, namespace: &str) -> Result<Option<String>, ControllerError> {
        if question.group.is_empty() {
            return Ok(Some(format!("/api/v1/namespaces/{namespace}/{}", question.plural)));
        }
        let resources = preferred_resources(&self.context.client).await?;
        let found = resources
            .iter()
            .find(|r| r.group == question.group && r.plural == question.plural && r.namespaced);
        Ok(found.map(|resource| resource.path(Some(namespace))))
    }

    /// How many objects there are.
    async fn count(&self, path: &str) -> Result<i64, ClientError> {
        let list: Value = self.context.client.get(&format!("{path}?limit=1")).await?;
        let first = list["items"].as_array().map_or(0, Vec::len);
        let rest = list["metadata"]["remainingItemCount"].as_i64().unwrap_or(0);
        Ok(i64::try_from(first).unwrap_or(i64::MAX).saturating_add(rest))
    }

    async fn sum(
        &self,
        used: &mut BTreeMap<String, Quantity>,
        quota: &Value,
        question: &plan::Question,
        path: &str,
    ) -> Result<(), ClientError> {
        let mut next = String::new();
        loop {
            let list: Value = self
                .context
                .client
                .get(&format!("{path}?limit={PAGE}&continue={next}"))
                .await?;
            let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            plan::add(used, quota, question, items);
            match list["metadata"]["continue"].as_str() {
                Some(token) if !token.is_empty() => next = token.to_string(),
                _ => return Ok(()),
            }
        }
    }
}
