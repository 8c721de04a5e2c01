//! Which objects belong to a controller: those that it owns and that match its selector. It
//! adopts matching objects without a controller and releases owned ones that no longer match.

use std::sync::Arc;

use coxswain_client::Item;
use coxswain_client::k8s_openapi::api::core::v1::Pod;
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use coxswain_client::kube::api::Patch;
use coxswain_client::kube::{Api, Resource};
use coxswain_client::{Cache, Change, Failure, ObjectKey};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::{ControllerError, call};
use crate::labels;
use crate::pods::{controller_of, controller_reference};
use crate::writes::object_params;

/// The outcome of sorting candidates.
#[derive(Debug)]
pub(crate) struct Claim<K> {
    /// Owned and matching.
    pub owned: Vec<Arc<K>>,
    /// Matching, without controller, to be adopted; they count as owned too.
    pub adopt: Vec<Arc<K>>,
    /// Owned, no longer matching.
    pub release: Vec<Arc<K>>,
}

/// Sorts candidates. An owner that is being deleted neither adopts nor releases.
pub(crate) fn claim<K: Resource>(owner: &ObjectMeta, selector: &LabelSelector, candidates: Vec<Arc<K>>) -> Claim<K> {
    let uid = owner.uid.as_deref().unwrap_or_default();
    let deleting = owner.deletion_timestamp.is_some();
    let mut claim = Claim {
        owned: Vec::new(),
        adopt: Vec::new(),
        release: Vec::new(),
    };
    for object in candidates {
        let meta = object.meta();
        let fits = labels::matches(selector, meta.labels.as_ref());
        match controller_of(meta) {
            Some(controller) if controller.uid != uid => {}
            Some(_) if fits => claim.owned.push(object),
            Some(_) if !deleting => claim.release.push(object),
            Some(_) => {}
            None if fits && !deleting && meta.deletion_timestamp.is_none() => {
                claim.owned.push(object.clone());
                claim.adopt.push(object);
            }
            None => {}
        }
    }
    claim
}

/// The name of the pod's controller, when it is of that kind.
pub(crate) fn owner_of(pod: &Pod, api_version: &str, kind: &str) -> Option<String> {
    let owner = controller_of(&pod.metadata)?;
    (owner.kind == kind && owner.api_version == api_version).then(|| owner.name.clone())
}

/// Whom a pod's change concerns: the owners that it names now and named before, and those that may adopt it when it
/// is there and has no controller.
pub(crate) fn owners_of<K: Item>(
    change: &Change<Pod>,
    owners: &Cache<K>,
    named: impl Fn(&Pod) -> Option<String>,
    fits: impl Fn(&Arc<K>, &Pod) -> bool,
) -> Vec<ObjectKey> {
    let namespace = &change.key.namespace;
    let states = [&change.old, &change.new].into_iter().flatten();
    let mut keys: Vec<ObjectKey> = states
        .filter_map(|pod| named(pod))
        .map(|name| ObjectKey::new(namespace, &name))
        .collect();
    let orphan = change.new.as_ref().filter(|pod| controller_of(&pod.metadata).is_none());
    if let Some(pod) = orphan {
        let able = owners.list_in(namespace).into_iter().filter(|owner| fits(owner, pod));
        keys.extend(able.map(|owner| owner.key()));
    }
    keys
}

/// The patch that adopts an object, guarded by its uid.
fn adoption(api_version: &str, kind: &str, owner: &ObjectMeta, object: &ObjectMeta) -> Value {
    let reference = controller_reference(api_version, kind, owner);
    json!({"metadata": {"uid": object.uid, "ownerReferences": [reference]}})
}

/// The patch that releases an object, guarded by its uid.
fn release(owner: &ObjectMeta, object: &ObjectMeta) -> Value {
    json!({"metadata": {"uid": object.uid,
        "ownerReferences": [{"$patch": "delete", "uid": owner.uid}]}})
}

/// Writes adoptions and releases. An object that went away in between is no failure.
pub(crate) async fn apply<K>(
    api: &Api<K>,
    (api_version, kind): (&str, &str),
    owner: &ObjectMeta,
    adopt: &[Arc<K>],
    let_go: &[Arc<K>],
) -> Result<(), ControllerError>
where
    K: Resource + DeserializeOwned + Clone + std::fmt::Debug,
{
    let params = object_params();
    let adoptions = adopt.iter().map(|o| (o, adoption(api_version, kind, owner, o.meta())));
    let releases = let_go.iter().map(|o| (o, release(owner, o.meta())));
    for (object, patch) in adoptions.chain(releases) {
        let name = object.meta().name.as_deref().unwrap_or_default();
        let result = api.patch(name, &params, &Patch::Strategic(patch)).await;
        if let Err(error) = result.map_err(call(format!("changing the owner of {name}"))) {
            match error.failure() {
                Failure::NotFound | Failure::Invalid | Failure::Conflict => {}
                _ => return Err(error),
            }
        }
    }
    Ok(())
}
