//! Signing requests carry who asked, and their conditions when they were set.

use coxswain_api::kinds::access;
use serde_json::{Value, json};

use super::{Operation, Write};
use crate::answer::now_text;

/// Stamps the requester on creation and the times of new conditions on approval and status.
pub(super) fn stamp(write: &Write<'_>, request: &mut Value) {
    if write.operation == Operation::Create {
        let user = &write.call.user;
        let spec = access::child(request, "spec");
        access::set(spec, "username", user.name.as_str());
        access::set(spec, "groups", json!(user.groups));
        for (key, value) in [("uid", json!(user.uid)), ("extra", json!(user.extra))] {
            let empty = value.as_str() == Some("") || value.as_object().is_some_and(serde_json::Map::is_empty);
            if empty {
                access::remove(spec, key);
            } else {
                access::set(spec, key, value);
            }
        }
        return;
    }
    let now = now_text();
    let old = write.old.cloned().unwrap_or_default();
    for condition in access::each_mut(access::child(request, "status"), "conditions") {
        let before = access::list_at(&old, "/status/conditions")
            .iter()
            .find(|other| access::str_of(other, "type") == access::str_of(condition, "type"));
        for field in ["lastUpdateTime", "lastTransitionTime"] {
            if access::has(condition, field) {
                continue;
            }
            match before.filter(|before| access::has(before, field)) {
                Some(before) => access::copy(condition, before, field),
                None => access::set(condition, field, now.as_str()),
            }
        }
    }
}
