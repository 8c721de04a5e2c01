//! Protection of storage in use: a PersistentVolumeClaim that a pod uses, a PersistentVolume that is bound to a claim,
//! and a VolumeAttributesClass that a claim or volume names stay until they are not.
//!
//! Watches claims, volumes and pods; adds and removes the protection finalizers. Does not: bind or
//! delete storage.

use std::sync::Arc;

use coxswain_client::k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use coxswain_client::k8s_openapi::api::storage::v1::VolumeAttributesClass;
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use coxswain_client::{Cache, Next, ObjectKey, Queue};
use serde_json::json;

use crate::context::Context;
use crate::error::ControllerError;
use crate::{pods, single, writes};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const CLASS: &str = "kubernetes.io/vac-protection";

struct Protection {
    context: Context,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    pods: Cache<Pod>,
    classes: Cache<VolumeAttributesClass>,
}

/// Runs until cancelled.
pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Protection {
        claims: context.caches.of(),
        volumes: context.caches.of(),
        pods: context.caches.of(),
        classes: context.caches.of(),
        context: context.clone(),
    });
    controller.claims.synced().await;
    controller.volumes.synced().await;
    controller.pods.synced().await;
    controller.classes.synced().await;
    let classes = Queue::new();
    let all_classes = || {
        controller
            .classes
            .list()
            .iter()
            .map(|c| ObjectKey::of(&c.metadata))
            .collect::<Vec<_>>()
    };
    let wake_classes = single::wake(&controller.classes, &classes, |change| vec![change.key.clone()]);
    let wake_users = single::wake(&controller.claims, &classes, |change| {
        let gone = change.old.as_ref().is_some_and(|old| class_of(old).is_some());
        if gone { all_classes() } else { Vec::new() }
    });
    let work_classes = single::reconcile(
        "class-protection",
        &context,
        &classes,
        &controller,
        |c, key| async move { c.class(&key).await },
    );
    let (claims, volumes) = (Queue::new(), Queue::new());
    let wake_claims = single::wake(&controller.claims, &claims, |change| vec![change.key.clone()]);
    let wake_volumes = single::wake(&controller.volumes, &volumes, |change| vec![change.key.clone()]);
    let wake_pods = single::wake(&controller.pods, &claims, |change| {
        let over = change.new.as_ref().is_none_or(|pod| pods::is_finished(pod));
        let pod = change.old.as_ref().or(change.new.as_ref()).filter(|_| over);
        pod.map(|pod| claims_of(pod)).unwrap_or_default()
    });
    let work_claims = single::reconcile(
        "claim-protection",
        &context,
        &claims,
        &controller,
        |c, key| async move { c.claim(&key).await },
    );
    let work_volumes = single::reconcile(
        "volume-protection",
        &context,
        &volumes,
        &controller,
        |c, key| async move { c.volume(&key).await },
    );
    tokio::join!(
        wake_claims,
        wake_volumes,
        wake_pods,
        work_claims,
        work_volumes,
        wake_classes,
        wake_users,
        work_classes
    );
}

/// The claims a pod uses, also those made for its ephemeral volumes.
fn claims_of(pod: &Pod) -> Vec<ObjectKey> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let names = volumes.filter_map(|volume| {
        let claim = volume.persistent_volume_claim.as_ref().map(|c| c.claim_name.clone());
        claim.or_else(|| volume.ephemeral.as_ref().map(|_| format!("{name}-{}", volume.name)))
    });
    names.map(|name| ObjectKey::new(namespace, &name)).collect()
}

/// The class a claim asks for.
fn class_of(claim: &PersistentVolumeClaim) -> Option<&String> {
    claim
        .spec
        .as_ref()
        .and_then(|s| s.volume_attributes_class_name.as_ref())
}

/// The finalizers an object should have; `None` when it has them.
fn plan(meta: &ObjectMeta, finalizer: &str, in_use: impl FnOnce() -> bool) -> Option<Vec<String>> {
    let current = meta.finalizers.clone().unwrap_or_default();
    let has = current.iter().any(|f| f == finalizer);
    let deleting = meta.deletion_timestamp.is_some();
    if deleting && has && !in_use() {
        return Some(current.into_iter().filter(|f| f != finalizer).collect());
    }
    if !deleting && !has {
        return Some(current.into_iter().chain([finalizer.to_string()]).collect());
    }
    None
}

impl Protection {
    async fn claim(&self, key: &ObjectKey) -> Result<Next, ControllerError> {
        let Some(claim) = self.claims.by_key(key) else {
            return Ok(Next::Done);
        };
        let used = || {
            let uses = |pod: &Pod| !pods::is_finished(pod) && claims_of(pod).contains(key);
            self.pods.any(&key.namespace, uses)
        };
        let Some(finalizers) = plan(&claim.metadata, CLAIM, used) else {
            return Ok(Next::Done);
        };
        let api = self.context.client.namespaced::<PersistentVolumeClaim>(&key.namespace);
        let patch = json!({"metadata": {"finalizers": finalizers}});
        let written = writes::patch(&api, &claim.metadata, patch).await?;
        Ok(written.map_or(Next::Again, |_| Next::Done))
    }

    async fn class(&self, key: &ObjectKey) -> Result<Next, ControllerError> {
        let Some(class) = self.classes.by_key(key) else {
            return Ok(Next::Done);
        };
        let used = || {
            let by_claim = self
                .claims
                .list()
                .iter()
                .any(|c| class_of(c).map(String::as_str) == Some(&key.name));
            let of_volume = |v: &PersistentVolume| v.spec.as_ref().and_then(|s| s.volume_attributes_class_name.clone());
            by_claim
                || self
                    .volumes
                    .list()
                    .iter()
                    .any(|v| of_volume(v).as_deref() == Some(&key.name))
        };
        let Some(finalizers) = plan(&class.metadata, CLASS, used) else {
            return Ok(Next::Done);
        };
        let account = self.context.account("volumeattributesclass-protection-controller");
        let api = account.api::<VolumeAttributesClass>();
        let patch = json!({"metadata": {"finalizers": finalizers}});
        let written = writes::patch(&api, &class.metadata, patch).await?;
        Ok(written.map_or(Next::Again, |_| Next::Done))
    }

    async fn volume(&self, key: &ObjectKey) -> Result<Next, ControllerError> {
        let Some(volume) = self.volumes.by_key(key) else {
            return Ok(Next::Done);
        };
        let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
        let Some(finalizers) = plan(&volume.metadata, VOLUME, || phase == Some("Bound")) else {
            return Ok(Next::Done);
        };
        let api = self
            .context
            .account("pv-protection-controller")
            .api::<PersistentVolume>();
        let patch = json!({"metadata": {"finalizers": finalizers}});
        let written = writes::patch(&api, &volume.metadata, patch).await?;
        Ok(written.map_or(Next::Again, |_| Next::Done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finalizers() {
        let check = |finalizers: &[&str], deleting: bool, used: bool, expected: Option<&[&str]>| {
            let meta = serde_json::from_value(json!({"finalizers": finalizers,
                "deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z")}));
            let planned = plan(&meta.expect("metadata"), CLAIM, || used);
            let expected = expected.map(|e| e.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(planned, expected, "{finalizers:?} {deleting} {used}");
        };
        check(&[], false, false, Some(&[CLAIM]));
        check(&[CLAIM], false, false, None);
        check(&[CLAIM, "x"], true, false, Some(&["x"]));
        check(&[CLAIM], true, true, None);
        check(&["x"], true, false, None);
    }
}
