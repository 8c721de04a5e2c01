//! Small pure pieces that writers share.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

/// The revision of an object as a number; 0 when it has none.
pub fn revision_of(meta: &ObjectMeta) -> u64 {
    meta.resource_version
        .as_deref()
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

/// The JSON merge patch that turns `old` into `new`; `None` when they are equal.
///
/// Lists are replaced whole, members that went away become `null`.
pub fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return Some(new.clone());
    };
    let mut patch = Map::new();
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in after {
        let change = match before.get(name) {
            Some(old) => merge_diff(old, value),
            None => Some(value.clone()),
        };
        if let Some(change) = change {
            patch.insert(name.clone(), change);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// Applies a JSON merge patch, such as [`merge_diff`] makes.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (name, change) in changes {
        if change.is_null() {
            members.remove(name);
        } else {
            merge(members.entry(name.clone()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences() {
        let check = |old: Value, new: Value, expected: Option<Value>| {
            assert_eq!(merge_diff(&old, &new), expected, "{old} -> {new}");
            let mut merged = old.clone();
            merge(&mut merged, &expected.unwrap_or_else(|| json!({})));
            assert_eq!(merged, new, "{old} -> {new}");
        };
        check(json!({"a": 1}), json!({"a": 1}), None);
        check(json!({"a": 1}), json!({}), Some(json!({"a": null})));
        check(
            json!({"a": {"b": 1, "c": 2}}),
            json!({"a": {"b": 1, "c": 3}}),
            Some(json!({"a": {"c": 3}})),
        );
        check(json!({"a": [1]}), json!({"a": [1, 2]}), Some(json!({"a": [1, 2]})));
        check(json!(null), json!({"a": 1}), Some(json!({"a": 1})));
    }
}
