//! Namespace deletion: empties a namespace that is being deleted, says what is left, and takes
//! away its last finalizer when nothing is.
//!
//! Watches Namespaces and, through the inventory, the metadata of everything. Pods go first, then
//! the rest. Guarantees: the finalizer goes only after a fresh list of every namespaced resource
//! came back empty. Does not: stop new objects from being made (the API server does).

mod plan;

use std::sync::Arc;
use std::time::Duration;

use coxswain_client::discovery::{ResourceInfo, preferred_resources};
use coxswain_client::k8s_openapi::api::core::v1::Namespace;
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta, Time};
use coxswain_client::{Cache, Failure, Next, Queue, merge_diff, work};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::ControllerError;
use crate::inventory::Inventory;
use crate::wire::Gone;
use crate::writes::patch_status;
use plan::{Left, Outcome, Trouble};

/// Objects of one resource in one namespace that are looked at to say what is left.
const LEFT_MAX: usize = 500;
/// A safety net behind the events that report each object's end.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

struct Lifecycle {
    context: Context,
    namespaces: Cache<Namespace>,
    inventory: Inventory,
}

/// Runs until cancelled. `gone` tells the namespaces of objects that went away.
pub(crate) async fn run(context: Context, inventory: Inventory, gone: Gone) {
    let lifecycle = Arc::new(Lifecycle {
        namespaces: context.caches.of(),
        inventory,
        context: context.clone(),
    });
    lifecycle.namespaces.synced().await;
    let queue: Queue<Arc<str>> = Queue::new();
    let reconciler = lifecycle.clone();
    let worker = work(
        "namespace",
        queue.clone(),
        4,
        context.token.clone(),
        move |name: Arc<str>| {
            let lifecycle = reconciler.clone();
            async move { lifecycle.reconcile(&name).await }
        },
    );
    let wake = async {
        let mut namespaces = lifecycle.namespaces.changes();
        let mut gone = gone.lock().await;
        loop {
            tokio::select! {
                change = namespaces.recv() => match change {
                    Some(change) => {
                        let deleting = change.new.as_ref().is_some_and(|n| is_deleting(n));
                        if deleting {
                            queue.add(change.key.name);
                        }
                    }
                    None => return,
                },
                name = gone.recv() => match name {
                    Some(name) => {
                        if lifecycle.namespaces.get("", &name).is_some_and(|n| is_deleting(&n)) {
                            queue.add_after(name, Duration::from_millis(5));
                        }
                    }
                    None => return,
                },
            }
        }
    };
    tokio::join!(worker, wake);
}

fn is_deleting(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.as_ref());
    namespace.metadata.deletion_timestamp.is_some() && finalizers.is_some_and(|f| f.iter().any(|f| f == "kubernetes"))
}

#[derive(Deserialize)]
struct MetaList {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default)]
    items: Vec<MetaItem>,
}

#[derive(Deserialize)]
struct MetaItem {
    #[serde(default)]
    metadata: ObjectMeta,
}

const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

impl Lifecycle {
    async fn reconcile(&self, name: &str) -> Result<Next, ControllerError> {
        let namespace = self.namespaces.get("", name).filter(|n| is_deleting(n));
        let Some(namespace) = namespace else {
            return Ok(Next::Done);
        };
        let mut outcome = Outcome::default();
        let resources = match preferred_resources(&self.context.client).await {
            Ok(resources) => resources,
            Err(error) => {
                outcome.discovery_error = Some(error.to_string());
                self.inventory.all().iter().map(|f| (*f.info).clone()).collect()
            }
        };
        let mut resources: Vec<ResourceInfo> = resources
            .into_iter()
            .filter(|r| r.namespaced && r.can(&["list", "delete"]))
            .filter(|r| !(r.group == "events.k8s.io" && r.plural == "events"))
            .collect();
        resources.sort_by_key(|r| r.plural != "pods");
        for resource in &resources {
            self.empty(name, resource, &mut outcome).await;
            let pods_left = resource.plural == "pods" && !outcome.left.is_empty();
            if pods_left {
                break;
            }
        }
        self.write_conditions(&namespace, &outcome).await?;
        if !outcome.is_empty() {
            let wait = outcome
                .grace_s
                .map_or(LOOK_AGAIN, |s| Duration::from_secs(s.clamp(1, 60)));
            return Ok(Next::After(wait.min(LOOK_AGAIN)));
        }
        self.finalize(&namespace).await
    }

    /// Deletes what a namespace has of one resource and notes what is left.
    async fn empty(&self, namespace: &str, resource: &ResourceInfo, outcome: &mut Outcome) {
        let deleted = self.delete_all(namespace, resource).await;
        if let Err(error) = deleted {
            outcome.trouble.push(Trouble::of(resource, &error.to_string()));
        }
        match self.list(namespace, resource).await {
            Ok((left, _)) if left.is_empty() => {}
            Ok((left, _)) => {
                let grace = left.iter().filter_map(|m| m.deletion_grace_period_seconds).max();
                let grace = grace.and_then(|s| u64::try_from(s).ok());
                outcome.grace_s = outcome.grace_s.max(grace);
                outcome.left.push(Left::of(resource, &left));
            }
            Err(error) => outcome.trouble.push(Trouble::of(resource, &error.to_string())),
        }
    }

    /// Deletes what is not being deleted yet, some objects at a time, so that neither side holds all of them.
    async fn delete_all(&self, namespace: &str, resource: &ResourceInfo) -> Result<(), ControllerError> {
        loop {
            let (left, more) = self.list(namespace, resource).await?;
            let goes_on = left.iter().any(|meta| meta.deletion_timestamp.is_none());
            if goes_on {
                self.delete(namespace, resource, &left, Some(LEFT_MAX)).await?;
            } else if more {
                // Those at the front wait for something; the others must not wait for them.
                return self.delete(namespace, resource, &left, None).await;
            } else {
                return Ok(());
            }
        }
    }

    /// The first objects that a namespace has of one resource, and whether there are more.
    async fn list(&self, namespace: &str, resource: &ResourceInfo) -> Result<(Vec<ObjectMeta>, bool), ControllerError> {
        let path = format!("{}?limit={LEFT_MAX}", resource.path(Some(namespace)));
        let headers = [("accept", METADATA_LIST)];
        let request = self
            .context
            .client
            .request::<MetaList>(http::Method::GET, &path, &headers, None);
        match request.await {
            Ok(list) => {
                let more = !list.metadata.continue_.unwrap_or_default().is_empty();
                Ok((list.items.into_iter().map(|item| item.metadata).collect(), more))
            }
            Err(error) if error.failure() == Failure::NotFound => Ok((Vec::new(), false)),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(
        &self,
        namespace: &str,
        resource: &ResourceInfo,
        objects: &[ObjectMeta],
        limit: Option<usize>,
    ) -> Result<(), ControllerError> {
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
        let path = resource.path(Some(namespace));
        let client = &self.context.client;
        if resource.can(&["deletecollection"]) {
            let query = limit.map(|limit| format!("?limit={limit}")).unwrap_or_default();
            // The answer shows what was deleted, which is of no use here.
            client
                .request::<IgnoredAny>(http::Method::DELETE, &(path + &query), &[], Some(&options))
                .await?;
            return Ok(());
        }
        for name in objects.iter().filter_map(|meta| meta.name.as_deref()) {
            let path = format!("{path}/{name}");
            let request = client.request::<IgnoredAny>(http::Method::DELETE, &path, &[], Some(&options));
            match request.await {
                Err(error) if error.failure() != Failure::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    async fn write_conditions(&self, namespace: &Namespace, outcome: &Outcome) -> Result<(), ControllerError> {
        let old = namespace.status.clone().unwrap_or_default();
        let mut new = old.clone();
        let now = Time(Timestamp::now());
        new.conditions = Some(plan::conditions(old.conditions.as_deref(), outcome, &now));
        let diff = merge_diff(&json!({"status": old}), &json!({"status": new}));
        if let Some(patch) = diff {
            let api = self.context.client.api::<Namespace>();
            patch_status(&api, &namespace.metadata, patch).await?;
        }
        Ok(())
    }

    async fn finalize(&self, namespace: &Namespace) -> Result<Next, ControllerError> {
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        let api = self.context.client.api::<Namespace>();
        let current = match api.get(name).await {
            Ok(current) => current,
            Err(_) => return Ok(Next::Again),
        };
        if current.metadata.uid != namespace.metadata.uid {
            return Ok(Next::Done);
        }
        let mut body = json!(current);
        let finalizers = current.spec.and_then(|s| s.finalizers).unwrap_or_default();
        let kept: Vec<&String> = finalizers.iter().filter(|f| *f != "kubernetes").collect();
        if let Some(object) = body.as_object_mut() {
            object.insert("spec".to_string(), json!({"finalizers": kept}));
        }
        let path = format!("/api/v1/namespaces/{name}/finalize");
        let request = self
            .context
            .client
            .request::<Value>(http::Method::PUT, &path, &[], Some(&body));
        match request.await {
            Ok(_) => Ok(Next::Done),
            Err(error) => match error.failure() {
                Failure::NotFound => Ok(Next::Done),
                Failure::Conflict => Ok(Next::Again),
                _ => Err(error.into()),
            },
        }
    }
}
