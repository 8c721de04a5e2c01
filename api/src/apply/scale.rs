//! Applying the `scale` subresource: an apply to the parent object that states only its replica count.

use serde_json::{Map, Value, json};

use crate::status::ApiError;

use super::{ApplyRequest, apply};

/// Applies a `Scale` body to its parent. `request` describes the parent (live object, version, kind, schema;
/// subresource `scale`) except for `applied`, which is the Scale; `path` leads to the parent's replica count,
/// such as `["spec", "replicas"]`. Returns the parent.
///
/// A count of zero counts as absent in the live object, as in Kubernetes, where a Scale omits it: applying
/// zero over somebody's zero is a conflict.
pub fn apply_scale(request: &ApplyRequest<'_>, path: &[&str]) -> Result<Value, ApiError> {
    let text = |key: &str| request.applied.get(key).and_then(Value::as_str).unwrap_or_default();
    if text("apiVersion") != "autoscaling/v1" || text("kind") != "Scale" {
        return Err(ApiError::bad_request(format!(
            "invalid object type: {}, Kind={}",
            text("apiVersion"),
            text("kind")
        )));
    }
    let mut applied = json!({"apiVersion": request.gv, "kind": request.kind});
    if let Some(metadata) = request.applied.get("metadata") {
        applied["metadata"] = metadata.clone();
    }
    if let Some(replicas) = request.applied.pointer("/spec/replicas") {
        insert(&mut applied, path, replicas.clone());
    }
    let mut live = request.live.cloned();
    let zero = Value::from(0);
    if let Some(live) = live.as_mut().filter(|live| lookup(live, path) == Some(&zero)) {
        take(live, path);
    }
    let mut merged = apply(&ApplyRequest {
        live: live.as_ref(),
        applied: &applied,
        ..*request
    })?;
    if lookup(&merged, path).is_none() {
        insert(&mut merged, path, zero);
    }
    Ok(merged)
}

fn lookup<'v>(object: &'v Value, path: &[&str]) -> Option<&'v Value> {
    path.iter().try_fold(object, |value, key| value.get(*key))
}

fn take(object: &mut Value, path: &[&str]) {
    let Some((last, parents)) = path.split_last() else {
        return;
    };
    let parent = parents.iter().try_fold(object, |value, key| value.get_mut(*key));
    if let Some(map) = parent.and_then(Value::as_object_mut) {
        map.remove(*last);
    }
}

fn insert(object: &mut Value, path: &[&str], value: Value) {
    let Some(map) = object.as_object_mut() else { return };
    match path {
        [] => {}
        [last] => {
            map.insert((*last).to_owned(), value);
        }
        [first, rest @ ..] => {
            let below = map
                .entry((*first).to_owned())
                .or_insert_with(|| Value::Object(Map::new()));
            insert(below, rest, value);
        }
    }
}
