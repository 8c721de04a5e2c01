//! HorizontalPodAutoscaler: keeps its target between the smallest and the largest size.
//!
//! Watches autoscalers and the built-in workloads that they name. Writes the target's scale and the autoscaler's
//! status, with conditions in Kubernetes' words.
//! Does not: follow metrics. Nobody serves them yet, and the conditions say so.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use coxswain_api::bounded;
use coxswain_client::discovery::preferred_resources;
use coxswain_client::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use coxswain_client::k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use coxswain_client::k8s_openapi::api::core::v1::ReplicationController;
use coxswain_client::{Cache, Failure, Next, ObjectKey, Queue};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::context::{Context, MANAGER};
use crate::error::ControllerError;
use crate::single;
use crate::writes;

/// A new autoscaler is left alone for so long: its target is often made together with it.
const SETTLE_S: i64 = 3;

struct Scalers {
    context: Context,
    scalers: Cache<HorizontalPodAutoscaler>,
}

/// Runs until cancelled.
pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Scalers {
        scalers: context.caches.of(),
        context: context.clone(),
    });
    let deployments: Cache<Deployment> = context.caches.of();
    let sets: Cache<ReplicaSet> = context.caches.of();
    let stateful: Cache<StatefulSet> = context.caches.of();
    let older: Cache<ReplicationController> = context.caches.of();
    controller.scalers.synced().await;
    let queue = Queue::new();
    let of = |kind: &str, key: &ObjectKey, changed: bool| controller.scalers_of(kind, key, changed);
    let by_scaler = single::wake(&controller.scalers, &queue, |change| vec![change.key.clone()]);
    let by_deployment = single::wake(&deployments, &queue, |change| {
        let size = |d: &Option<Arc<Deployment>>| d.as_ref().map(|d| d.spec.as_ref().and_then(|s| s.replicas));
        of("Deployment", &change.key, size(&change.old) != size(&change.new))
    });
    let by_set = single::wake(&sets, &queue, |change| {
        let size = |s: &Option<Arc<ReplicaSet>>| s.as_ref().map(|s| s.spec.as_ref().and_then(|s| s.replicas));
        of("ReplicaSet", &change.key, size(&change.old) != size(&change.new))
    });
    let by_stateful = single::wake(&stateful, &queue, |change| {
        let size = |s: &Option<Arc<StatefulSet>>| s.as_ref().map(|s| s.spec.as_ref().and_then(|s| s.replicas));
        of("StatefulSet", &change.key, size(&change.old) != size(&change.new))
    });
    let by_older = single::wake(&older, &queue, |change| {
        let size =
            |s: &Option<Arc<ReplicationController>>| s.as_ref().map(|s| s.spec.as_ref().and_then(|s| s.replicas));
        of(
            "ReplicationController",
            &change.key,
            size(&change.old) != size(&change.new),
        )
    });
    let work = single::reconcile("autoscale", &context, &queue, &controller, |c, key| async move {
        c.reconcile(&key).await
    });
    tokio::join!(by_scaler, by_deployment, by_set, by_stateful, by_older, work);
}

impl Scalers {
    fn scalers_of(&self, kind: &str, key: &ObjectKey, changed: bool) -> Vec<ObjectKey> {
        if !changed {
            return Vec::new();
        }
        let scalers = self.scalers.list_in(&key.namespace);
        let about = scalers.iter().filter(|scaler| {
            let target = &scaler.spec.scale_target_ref;
            target.kind == kind && *target.name == *key.name
        });
        about.map(|scaler| ObjectKey::of(&scaler.metadata)).collect()
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ControllerError> {
        let Some(scaler) = self
            .scalers
            .by_key(key)
            .filter(|s| s.metadata.deletion_timestamp.is_none())
        else {
            return Ok(Next::Done);
        };
        let made = scaler
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        if let Some(left) = bounded::left(made, SETTLE_S, Timestamp::now()) {
            return Ok(Next::After(left));
        }
        let found = self.scale_of(&scaler, &key.namespace).await?;
        let size = match &found {
            Ok((_, scale)) => {
                let size = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
                Ok(i32::try_from(size).unwrap_or(i32::MAX))
            }
            Err(why) => Err(why.as_str()),
        };
        let plan = plan::plan(&scaler, size, Timestamp::now());
        if let (Some(wanted), Ok((path, mut scale))) = (plan.resize, found) {
            if let Some(spec) = scale.get_mut("spec").and_then(Value::as_object_mut) {
                spec.insert("replicas".to_string(), json!(wanted));
            }
            let path = format!("{path}?fieldManager={MANAGER}");
            let written = self
                .context
                .client
                .request::<Value>(http::Method::PUT, &path, &[], Some(&scale))
                .await;
            match written {
                Ok(_) => {}
                Err(error) if error.failure() == Failure::Conflict => return Ok(Next::Again),
                Err(error) => return Err(error.into()),
            }
        }
        for note in &plan.notes {
            let recorder = &self.context.recorder;
            if note.warning {
                recorder.warning(&*scaler, &note.reason, &note.message);
            } else {
                recorder.normal(&*scaler, &note.reason, &note.message);
            }
        }
        let Some(status) = plan.status else {
            return Ok(Next::Done);
        };
        let api = self.context.client.namespaced(&key.namespace);
        let written = writes::status(&api, &self.scalers, &scaler.metadata, &scaler.status, &status).await?;
        Ok(if written { Next::Done } else { Next::Again })
    }

    /// Where the target's scale is, and what it says; or why it cannot be read.
    async fn scale_of(
        &self,
        scaler: &HorizontalPodAutoscaler,
        namespace: &str,
    ) -> Result<Result<(String, Value), String>, ControllerError> {
        let target = &scaler.spec.scale_target_ref;
        let api_version = target.api_version.as_deref().unwrap_or_default();
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let resources = preferred_resources(&self.context.client).await?;
        let found = resources
            .iter()
            .find(|r| r.group == group && r.kind == target.kind && r.namespaced);
        let Some(resource) = found else {
            let kind = &target.kind;
            return Ok(Err(format!("no matches for kind {kind:?} in group {group:?}")));
        };
        let path = format!("{}/{}/scale", resource.path(Some(namespace)), target.name);
        match self.context.client.get::<Value>(&path).await {
            Ok(scale) => Ok(Ok((path, scale))),
            Err(error) if error.failure() == Failure::NotFound => Ok(Err(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }
}
