//! Guarded writes that every executor uses.

use std::fmt::Debug;

use coxswain_client::Failure;
use coxswain_client::Item;
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use coxswain_client::kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use coxswain_client::kube::{Api, Resource};
use coxswain_client::{Cache, Client, ClientError, merge, merge_diff};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::context::{CATCH_UP, MANAGER};
use crate::error::{ControllerError, call};

/// Parameters of the controllers' patches.
pub(crate) fn object_params() -> PatchParams {
    PatchParams {
        field_manager: Some(MANAGER.to_string()),
        ..PatchParams::default()
    }
}

/// Parameters of what the controllers create.
pub(crate) fn creation() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_string()),
        ..PostParams::default()
    }
}

/// Makes a patch apply only to exactly the object that was read.
fn guarded(meta: &ObjectMeta, mut patch: Value) -> Value {
    let guard = json!({"uid": meta.uid, "resourceVersion": meta.resource_version});
    let (Some(patch_object), Value::Object(guard)) = (patch.as_object_mut(), guard) else {
        return patch;
    };
    let metadata = patch_object.entry("metadata").or_insert_with(|| json!({}));
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.extend(guard);
    }
    patch
}

/// What Kubernetes' controllers may patch. They replace everything else, and have no right to patch it.
const PATCHED: [&str; 2] = ["Pod", "Node"];

/// Patches an object that must not have changed; `None` when it has, or is gone: a newer event
/// is on its way.
pub(crate) async fn patch<K>(api: &Api<K>, meta: &ObjectMeta, patch: Value) -> Result<Option<K>, ControllerError>
where
    K: Resource + DeserializeOwned + Clone + Debug,
    K::DynamicType: Default,
{
    let name = meta.name.as_deref().unwrap_or_default();
    if !PATCHED.contains(&&*K::kind(&K::DynamicType::default())) {
        return replace(api, meta, &patch, "").await;
    }
    let body = Patch::Merge(guarded(meta, patch));
    settle(api.patch(name, &object_params(), &body).await, name)
}

/// The same for the status.
pub(crate) async fn patch_status<K>(api: &Api<K>, meta: &ObjectMeta, patch: Value) -> Result<Option<K>, ControllerError>
where
    K: Resource + DeserializeOwned + Clone + Debug,
    K::DynamicType: Default,
{
    let name = meta.name.as_deref().unwrap_or_default();
    if !PATCHED.contains(&&*K::kind(&K::DynamicType::default())) {
        return replace(api, meta, &patch, "/status").await;
    }
    let body = Patch::Merge(guarded(meta, patch));
    settle(api.patch_status(name, &object_params(), &body).await, name)
}

/// Writes what differs between two statuses of an object and returns when the cache shows it; `false` when the object
/// has changed since, or is gone.
pub(crate) async fn status<K>(
    api: &Api<K>,
    cache: &Cache<K>,
    meta: &ObjectMeta,
    old: &impl Serialize,
    new: &impl Serialize,
) -> Result<bool, ControllerError>
where
    K: Item + Resource<DynamicType: Default>,
{
    let Some(patch) = merge_diff(&json!({"status": old}), &json!({"status": new})) else {
        return Ok(true);
    };
    let Some(written) = patch_status(api, meta, patch).await? else {
        return Ok(false);
    };
    cache.caught_up(written.revision(), CATCH_UP).await;
    Ok(true)
}

/// Reads the object whole, unknown fields included, merges the patch into it, and writes it back.
async fn replace<K>(
    api: &Api<K>,
    meta: &ObjectMeta,
    patch: &Value,
    subresource: &str,
) -> Result<Option<K>, ControllerError>
where
    K: Resource + DeserializeOwned + Clone + Debug,
{
    let client = Client::from(api.clone().into_client());
    let name = meta.name.as_deref().unwrap_or_default();
    let path = format!("{}/{name}", api.resource_url());
    let written = async {
        // Some controllers may list what they replace, but not get it.
        let mut found: Value = client
            .get(&format!("{}?fieldSelector=metadata.name%3D{name}", api.resource_url()))
            .await?;
        let Some(Value::Object(mut object)) = found.pointer_mut("/items/0").map(Value::take) else {
            return Ok(None);
        };
        let kind = found["kind"].as_str().unwrap_or_default().trim_end_matches("List");
        object.insert("kind".to_string(), json!(kind));
        object.insert("apiVersion".to_string(), found["apiVersion"].clone());
        let mut object = Value::Object(object);
        let read: ObjectMeta = serde_json::from_value(object["metadata"].clone()).unwrap_or_default();
        if read.uid != meta.uid || read.resource_version != meta.resource_version {
            return Ok(None);
        }
        merge(&mut object, patch);
        let path = format!("{path}{subresource}?fieldManager={MANAGER}");
        let written = client
            .request::<K>(http::Method::PUT, &path, &[], Some(&object))
            .await?;
        Ok::<_, ClientError>(Some(written))
    };
    match written.await {
        Ok(written) => Ok(written),
        Err(error) => match error.failure() {
            Failure::Conflict | Failure::NotFound => Ok(None),
            _ => Err(error.into()),
        },
    }
}

fn settle<K>(result: Result<K, coxswain_client::kube::Error>, name: &str) -> Result<Option<K>, ControllerError> {
    match result.map_err(call(format!("updating {name}"))) {
        Ok(written) => Ok(Some(written)),
        Err(error) => match error.failure() {
            Failure::Conflict | Failure::NotFound => Ok(None),
            _ => Err(error),
        },
    }
}

/// Deletes exactly this object; one that is gone or was replaced is no failure.
pub(crate) async fn delete<K>(
    api: &Api<K>,
    meta: &ObjectMeta,
    propagation: Option<PropagationPolicy>,
) -> Result<(), ControllerError>
where
    K: Resource + DeserializeOwned + Clone + Debug,
{
    let name = meta.name.as_deref().unwrap_or_default();
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: meta.uid.clone(),
            resource_version: None,
        }),
        propagation_policy: propagation,
        ..DeleteParams::default()
    };
    match api
        .delete(name, &params)
        .await
        .map_err(call(format!("deleting {name}")))
    {
        Ok(_) => Ok(()),
        Err(error) => match error.failure() {
            Failure::NotFound | Failure::Conflict => Ok(()),
            _ => Err(error),
        },
    }
}
