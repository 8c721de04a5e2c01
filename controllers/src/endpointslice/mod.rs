//! EndpointSlices: the addresses behind every Service that has a selector.
//!
//! Watches Services, pods, EndpointSlices and Nodes (zones). Owns the slices it labels with its
//! name. Guarantees: endpoints keep their slice while it fits, at most 100 in each.
//! Does not: touch slices of others, or Services without a selector.

mod plan;
pub(crate) mod ports;
#[cfg(test)]
mod tests;

pub(crate) use plan::SERVICE_LABEL;

use std::sync::Arc;

use coxswain_client::k8s_openapi::api::core::v1::{Node, Pod, Service};
use coxswain_client::k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use coxswain_client::kube::Api;
use coxswain_client::{Cache, Change, Failure, Next, ObjectKey, Queue, merge_diff, revision_of, work};
use serde_json::json;

use crate::context::{CATCH_UP, Context};
use crate::error::{ControllerError, call};
use crate::{labels, single, writes};

struct Slices {
    context: Context,
    services: Cache<Service>,
    pods: Cache<Pod>,
    slices: Cache<EndpointSlice>,
    nodes: Cache<Node>,
}

/// Runs until cancelled.
pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Slices {
        services: context.caches.of(),
        pods: context.caches.of(),
        slices: context.caches.of(),
        nodes: context.caches.of(),
        context: context.clone(),
    });
    controller.services.synced().await;
    controller.pods.synced().await;
    controller.slices.synced().await;
    controller.nodes.synced().await;
    let queue = Queue::new();
    let reconciler = controller.clone();
    let worker = work(
        "endpointslice",
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

/// The keys of the Services that a pod belonged or belongs to, when the change matters to them.
pub(crate) fn services_of(change: &Change<Pod>, services: &Cache<Service>) -> Vec<ObjectKey> {
    if let (Some(old), Some(new)) = (&change.old, &change.new)
        && old.metadata.uid == new.metadata.uid
        && plan::facts(old) == plan::facts(new)
    {
        return Vec::new();
    }
    let pods: Vec<&Arc<Pod>> = [&change.old, &change.new].into_iter().flatten().collect();
    let all = services.list_in(&change.key.namespace);
    let matching = all.iter().filter(|service| {
        let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
        selector.is_some_and(|wanted| {
            !wanted.is_empty()
                && pods
                    .iter()
                    .any(|pod| labels::contains(pod.metadata.labels.as_ref(), wanted))
        })
    });
    matching.map(|service| ObjectKey::of(&service.metadata)).collect()
}

impl Slices {
    async fn wake(&self, queue: Queue<ObjectKey>) {
        let mut services = self.services.changes();
        let mut pods = self.pods.changes();
        let mut slices = self.slices.changes();
        let mut nodes = self.nodes.changes();
        loop {
            tokio::select! {
                change = services.recv() => match change {
                    Some(change) => queue.add(change.key),
                    None => return,
                },
                change = pods.recv() => match change {
                    Some(change) => single::apart(&change.key, || services_of(&change, &self.services))
                        .into_iter()
                        .for_each(|key| queue.add(key)),
                    None => return,
                },
                change = slices.recv() => match change {
                    Some(change) => single::apart(&change.key, || wake_for_slice(&change, &queue)),
                    None => return,
                },
                change = nodes.recv() => match change {
                    Some(change) => single::apart(&change.key, || self.wake_for_node(&change, &queue)),
                    None => return,
                },
            }
        }
    }

    /// A node's zone is part of its pods' endpoints.
    fn wake_for_node(&self, change: &Change<Node>, queue: &Queue<ObjectKey>) {
        let zone = |node: &Option<Arc<Node>>| node.as_ref().and_then(|n| plan::zone(n));
        if zone(&change.old) == zone(&change.new) {
            return;
        }
        for slice in self.slices.list() {
            let on_node = |e: &Endpoint| e.node_name.as_deref() == Some(&*change.key.name);
            if slice.endpoints.iter().flatten().any(on_node)
                && let Some(key) = service_key(&slice)
            {
                queue.add(key);
            }
        }
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ControllerError> {
        let Some(service) = self.services.by_key(&key) else {
            return Ok(Next::Done);
        };
        let selector = service.spec.as_ref().and_then(|s| s.selector.clone());
        let Some(selector) = selector.filter(|s| !s.is_empty()) else {
            return Ok(Next::Done);
        };
        let pods = self.pods.labelled(&key.namespace, |l| labels::contains(l, &selector));
        let slices = self.slices.list_in(&key.namespace);
        let slices = slices.into_iter().filter(|s| plan::is_ours(s, &key.name)).collect();
        let node_zone = |name: &str| self.nodes.get("", name).and_then(|n| plan::zone(&n));
        let plan = plan::plan(&service, pods, slices, &node_zone);
        self.apply(&key, plan).await
    }

    async fn apply(&self, key: &ObjectKey, plan: plan::Plan) -> Result<Next, ControllerError> {
        let api: Api<EndpointSlice> = self.context.client.namespaced(&key.namespace);
        let params = writes::creation();
        let mut newest = 0;
        for (old, new) in &plan.update {
            let Some(patch) = merge_diff(&json!(**old), &json!(new)) else {
                continue;
            };
            match writes::patch(&api, &old.metadata, patch).await? {
                Some(written) => newest = newest.max(revision_of(&written.metadata)),
                None => return Ok(Next::Again),
            }
        }
        for slice in &plan.create {
            match api
                .create(&params, slice)
                .await
                .map_err(call("creating an endpoint slice"))
            {
                Ok(written) => newest = newest.max(revision_of(&written.metadata)),
                Err(error) => match error.failure() {
                    Failure::NamespaceTerminating | Failure::NotFound => return Ok(Next::Done),
                    _ => return Err(error),
                },
            }
        }
        for slice in &plan.delete {
            writes::delete(&api, &slice.metadata, None).await?;
        }
        self.slices.caught_up(newest, CATCH_UP).await;
        let gone = |slice: &Arc<EndpointSlice>| self.slices.by_key(&ObjectKey::of(&slice.metadata)).is_none();
        self.slices.until(CATCH_UP, |_| plan.delete.iter().all(gone)).await;
        Ok(Next::Done)
    }
}

fn service_key(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    let service = labels.get(SERVICE_LABEL)?;
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    Some(ObjectKey::new(namespace, service))
}

fn wake_for_slice(change: &Change<EndpointSlice>, queue: &Queue<ObjectKey>) {
    for slice in [&change.old, &change.new].into_iter().flatten() {
        if let Some(key) = service_key(slice).filter(|key| plan::is_ours(slice, &key.name)) {
            queue.add(key);
        }
    }
}
