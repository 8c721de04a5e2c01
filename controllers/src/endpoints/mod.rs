//! The legacy Endpoints object of every Service that has a selector; its name is the Service's.
//!
//! Watches Services, pods and Endpoints. Does not: change Endpoints of Services without selector.

mod plan;

use std::sync::Arc;

use coxswain_client::k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use coxswain_client::kube::Api;
use coxswain_client::{Cache, Failure, Next, ObjectKey, Queue, merge_diff, revision_of, work};
use serde_json::json;

use crate::context::{CATCH_UP, Context};
use crate::endpointslice::services_of;
use crate::error::{ControllerError, call};
use crate::{labels, single, writes};

struct Legacy {
    context: Context,
    services: Cache<Service>,
    pods: Cache<Pod>,
    endpoints: Cache<Endpoints>,
}

/// Runs until cancelled.
pub(crate) async fn run(context: Context) {
    let legacy = Arc::new(Legacy {
        services: context.caches.of(),
        pods: context.caches.of(),
        endpoints: context.caches.of(),
        context: context.clone(),
    });
    legacy.services.synced().await;
    legacy.pods.synced().await;
    legacy.endpoints.synced().await;
    let queue = Queue::new();
    let reconciler = legacy.clone();
    let worker = work(
        "endpoints",
        queue.clone(),
        context.config.workers,
        context.token.clone(),
        move |key| {
            let legacy = reconciler.clone();
            async move { legacy.reconcile(key).await }
        },
    );
    let wake = async {
        let mut services = legacy.services.changes();
        let mut pods = legacy.pods.changes();
        let mut endpoints = legacy.endpoints.changes();
        loop {
            tokio::select! {
                change = services.recv() => match change {
                    Some(change) => queue.add(change.key),
                    None => return,
                },
                change = pods.recv() => match change {
                    Some(change) => single::apart(&change.key, || services_of(&change, &legacy.services))
                        .into_iter()
                        .for_each(|key| queue.add(key)),
                    None => return,
                },
                change = endpoints.recv() => match change {
                    Some(change) => queue.add(change.key),
                    None => return,
                },
            }
        }
    };
    tokio::join!(worker, wake);
}

impl Legacy {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ControllerError> {
        let api: Api<Endpoints> = self.context.client.namespaced(&key.namespace);
        let current = self.endpoints.by_key(&key);
        let Some(service) = self.services.by_key(&key) else {
            // Endpoints go with their Service, those made by hand for nothing stay.
            if let Some(current) = current.filter(|e| plan::is_ours(e)) {
                writes::delete(&api, &current.metadata, None).await?;
            }
            return Ok(Next::Done);
        };
        let selector = service.spec.as_ref().and_then(|s| s.selector.clone());
        let Some(selector) = selector.filter(|s| !s.is_empty()) else {
            return Ok(Next::Done);
        };
        let pods = self.pods.labelled(&key.namespace, |l| labels::contains(l, &selector));
        let Some(wanted) = plan::plan(&service, &pods, current.as_deref()) else {
            return Ok(Next::Done);
        };
        let written = match current {
            Some(current) => match merge_diff(&json!(*current), &json!(wanted)) {
                Some(patch) => match writes::patch(&api, &current.metadata, patch).await? {
                    Some(written) => written,
                    None => return Ok(Next::Again),
                },
                None => return Ok(Next::Done),
            },
            None => {
                let params = writes::creation();
                match api.create(&params, &wanted).await.map_err(call("creating endpoints")) {
                    Ok(written) => written,
                    Err(error) => {
                        return match error.failure() {
                            Failure::AlreadyExists => Ok(Next::Again),
                            Failure::NamespaceTerminating | Failure::NotFound => Ok(Next::Done),
                            _ => Err(error),
                        };
                    }
                }
            }
        };
        self.endpoints.caught_up(revision_of(&written.metadata), CATCH_UP).await;
        Ok(Next::Done)
    }
}
