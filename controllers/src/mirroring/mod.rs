//! EndpointSlices that repeat Endpoints made by hand, for Services without a selector.
//!
//! Watches Endpoints, Services and EndpointSlices. Owns the slices that it labels with its name.
//! Does not: repeat Endpoints of Services with a selector (those have slices of their own), or any that ask to be
//! skipped.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use coxswain_client::k8s_openapi::api::core::v1::{Endpoints, Service};
use coxswain_client::k8s_openapi::api::discovery::v1::EndpointSlice;
use coxswain_client::kube::Api;
use coxswain_client::{Cache, Failure, Next, ObjectKey, Queue, merge_diff, revision_of};
use serde_json::json;

use crate::context::{CATCH_UP, Context};
use crate::endpointslice::SERVICE_LABEL;
use crate::error::{ControllerError, call};
use crate::{single, writes};

struct Mirrors {
    context: Context,
    services: Cache<Service>,
    endpoints: Cache<Endpoints>,
    slices: Cache<EndpointSlice>,
}

/// Runs until cancelled.
pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Mirrors {
        services: context.caches.of(),
        endpoints: context.caches.of(),
        slices: context.caches.of(),
        context: context.clone(),
    });
    controller.services.synced().await;
    controller.endpoints.synced().await;
    controller.slices.synced().await;
    let queue = Queue::new();
    let by_endpoints = single::wake(&controller.endpoints, &queue, |change| vec![change.key.clone()]);
    let by_service = single::wake(&controller.services, &queue, |change| vec![change.key.clone()]);
    let by_slice = single::wake(&controller.slices, &queue, |change| {
        let slices = [&change.old, &change.new]
            .into_iter()
            .flatten()
            .filter(|slice| is_ours(slice));
        let names = slices.filter_map(|slice| slice.metadata.labels.as_ref()?.get(SERVICE_LABEL));
        names.map(|name| ObjectKey::new(&change.key.namespace, name)).collect()
    });
    let work = single::reconcile("mirroring", &context, &queue, &controller, |c, key| async move {
        c.reconcile(&key).await
    });
    tokio::join!(by_endpoints, by_service, by_slice, work);
}

fn is_ours(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels.and_then(|l| l.get(plan::MANAGED_BY)).map(String::as_str) == Some(plan::OURSELVES)
}

impl Mirrors {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ControllerError> {
        let bare = self.services.by_key(key).is_some_and(|service| {
            let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
            selector.is_none_or(|s| s.is_empty())
        });
        let endpoints = self.endpoints.by_key(key).filter(|e| bare && plan::wants_mirror(e));
        let mut slices = self.slices.list_in(&key.namespace);
        slices.retain(|slice| {
            let labels = slice.metadata.labels.as_ref();
            is_ours(slice) && labels.and_then(|l| l.get(SERVICE_LABEL)).map(String::as_str) == Some(&*key.name)
        });
        let plan = plan::plan(endpoints.as_deref(), slices);
        let api: Api<EndpointSlice> = self.context.client.namespaced(&key.namespace);
        let mut newest = 0;
        for slice in &plan.delete {
            writes::delete(&api, &slice.metadata, None).await?;
        }
        for (old, new) in &plan.update {
            let shape = |s: &EndpointSlice| {
                json!({"metadata": {"labels": s.metadata.labels, "annotations": s.metadata.annotations},
                    "endpoints": s.endpoints})
            };
            if let Some(patch) = merge_diff(&shape(old), &shape(new)) {
                match writes::patch(&api, &old.metadata, patch).await? {
                    Some(written) => newest = newest.max(revision_of(&written.metadata)),
                    None => return Ok(Next::Again),
                }
            }
        }
        let params = writes::creation();
        for slice in &plan.create {
            match api.create(&params, slice).await.map_err(call("creating a slice")) {
                Ok(created) => newest = newest.max(revision_of(&created.metadata)),
                Err(error) if error.failure() == Failure::NamespaceTerminating => return Ok(Next::Done),
                Err(error) => return Err(error),
            }
        }
        self.slices.caught_up(newest, CATCH_UP).await;
        let gone = |slice: &Arc<EndpointSlice>| self.slices.by_key(&ObjectKey::of(&slice.metadata)).is_none();
        self.slices.until(CATCH_UP, |_| plan.delete.iter().all(gone)).await;
        Ok(Next::Done)
    }
}
