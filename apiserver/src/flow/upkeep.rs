//! What the server keeps right about its flow control: the `Dangling` condition of FlowSchemas (whether the priority level
//! they name exists), and the objects without which requests have no place (`exempt`, `catch-all`).
//!
//! Watches both kinds; writes a schema's status when the condition is missing or wrong, and makes again what was deleted
//! of the latter. Nobody can change those: the kinds' rules refuse it.

use std::collections::BTreeSet;
use std::sync::Arc;

use coxswain_api::kinds::access;
use coxswain_store::Snapshot;
use http::Method;
use serde_json::{Value, json};

use super::{LEVELS, SCHEMAS};
use crate::answer::now_text;
use crate::bootstrap;
use crate::shared::Shared;

/// Runs until the server stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    shared.look_again(look).await;
}

async fn look(shared: Arc<Shared>, snapshot: Snapshot) -> &'static [&'static str] {
    for (path, object) in bootstrap::mandatory_flow() {
        let resource = if path.ends_with("/flowschemas") {
            SCHEMAS
        } else {
            LEVELS
        };
        if snapshot.find(resource, "", access::name(&object)).is_none() {
            bootstrap::send(&shared, Method::POST, &path, &object).await;
        }
    }
    for (name, status) in plan(&snapshot, &now_text()) {
        let path = format!("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/{name}/status");
        bootstrap::send(&shared, Method::PATCH, &path, &json!({"status": status})).await;
    }
    &[SCHEMAS, LEVELS]
}

/// The schemas whose condition is not what it should be, with their new status.
fn plan(snapshot: &Snapshot, now: &str) -> Vec<(String, Value)> {
    let levels: BTreeSet<String> = snapshot
        .list(LEVELS, None, None)
        .map(|stored| stored.key.name.to_string())
        .collect();
    let schemas = snapshot.list(SCHEMAS, None, None);
    schemas
        .filter_map(|stored| {
            let value = stored.value();
            let level = access::text(&value, "/spec/priorityLevelConfiguration/name");
            let wanted = condition(level, levels.contains(level), now);
            let conditions = access::list_at(&value, "/status/conditions");
            let same = conditions.iter().any(|c| {
                ["type", "status", "reason", "message"]
                    .iter()
                    .all(|field| access::str_of(c, field) == access::str_of(&wanted, field))
            });
            if same {
                return None;
            }
            let mut all: Vec<Value> = conditions
                .iter()
                .filter(|c| access::str_of(c, "type") != "Dangling")
                .cloned()
                .collect();
            all.push(wanted);
            Some((stored.key.name.to_string(), json!({"conditions": all})))
        })
        .collect()
}

fn condition(level: &str, exists: bool, now: &str) -> Value {
    let (status, reason, rest) = if exists {
        ("False", "Found", "and it exists")
    } else {
        ("True", "NotFound", "but there is no such object")
    };
    json!({
        "type": "Dangling", "status": status, "reason": reason, "lastTransitionTime": now,
        "message": format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {rest}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        assert_eq!(
            condition("x", true, "now"),
            json!({"type": "Dangling", "status": "False", "reason": "Found", "lastTransitionTime": "now",
                "message": "This FlowSchema references the PriorityLevelConfiguration object named \"x\" and it exists"})
        );
        assert_eq!(condition("x", false, "now")["reason"], "NotFound");
    }
}
