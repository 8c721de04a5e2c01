//! JSON Merge Patch (RFC 7386).

use serde_json::{Map, Value};

use crate::status::ApiError;

/// Merges `patch` into `doc`: objects key by key, null removes, everything else replaces.
/// Error: 400 when `patch` is not an object; `doc` is unchanged then.
pub fn merge_patch(doc: &mut Value, patch: &Value) -> Result<(), ApiError> {
    if !patch.is_object() {
        return Err(ApiError::bad_request("Invalid JSON Patch"));
    }
    merge(doc, patch);
    Ok(())
}

fn merge(doc: &mut Value, patch: &Value) {
    let Some(changes) = patch.as_object() else {
        *doc = patch.clone();
        prune(doc);
        return;
    };
    if !doc.is_object() {
        *doc = Value::Object(Map::new());
    }
    let Some(map) = doc.as_object_mut() else { return };
    for (key, change) in changes {
        if change.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

/// Takes null members out of the objects of a list.
fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, below| !below.is_null());
            map.values_mut().for_each(prune);
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}
