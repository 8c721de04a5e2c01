//! Brings a pod's status to the API server: the smallest patch from what was reported to what is.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Map, Value, json};

use coxswain_client::{Client, Failure, failure};

/// Keys of a status that this agent writes; everything else belongs to others.
const OWNED: [&str; 14] = [
    "phase",
    "reason",
    "message",
    "conditions",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "initContainerStatuses",
    "containerStatuses",
    "observedGeneration",
    "ephemeralContainerStatuses",
    "qosClass",
];

/// Conditions of this agent that go away again.
const PASSING: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// The strategic merge patch from one status to the next; absent when nothing differs.
pub fn patch(old: &Value, new: &PodStatus) -> Option<Value> {
    let new = serde_json::to_value(new).ok()?;
    let mut changes = Map::new();
    for key in OWNED {
        let (before, after) = (old.get(key), new.get(key));
        match (before, after) {
            (before, Some(after)) if before != Some(after) => {
                let value = match key {
                    "conditions" => conditions(before, after),
                    "podIPs" | "hostIPs" if before.is_some_and(|b| b.as_array().is_some_and(|b| !b.is_empty())) => {
                        replaced(after)
                    }
                    _ => after.clone(),
                };
                if key != "conditions" || value.as_array().is_some_and(|list| !list.is_empty()) {
                    changes.insert(key.to_string(), value);
                }
            }
            (Some(Value::Null) | None, None) | (_, Some(_)) => {}
            (Some(_), None) => {
                changes.insert(key.to_string(), Value::Null);
            }
        }
    }
    (!changes.is_empty()).then_some(Value::Object(changes))
}

/// Only conditions that differ; absent texts are removed explicitly.
fn conditions(before: Option<&Value>, after: &Value) -> Value {
    let old = |kind: &Value| {
        before
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .find(|c| c.get("type") == Some(kind))
    };
    let differs = |condition: &&Value| {
        let Some(kind) = condition.get("type") else {
            return false;
        };
        let Some(known) = old(kind) else { return true };
        [
            "status",
            "reason",
            "message",
            "observedGeneration",
            "lastTransitionTime",
        ]
        .iter()
        .any(|key| known.get(key).filter(|v| !v.is_null()) != condition.get(key).filter(|v| !v.is_null()))
    };
    let list = after.as_array().into_iter().flatten().filter(differs).map(|condition| {
        let mut condition = condition.clone();
        if let Some(fields) = condition.as_object_mut() {
            for key in ["reason", "message"] {
                fields.entry(key).or_insert(Value::Null);
            }
        }
        condition
    });
    let kept = |kind: &str| after.as_array().into_iter().flatten().any(|c| c["type"] == kind);
    let gone = PASSING
        .into_iter()
        .filter(|kind| old(&Value::from(*kind)).is_some() && !kept(kind));
    list.chain(gone.map(|kind| json!({"type": kind, "$patch": "delete"})))
        .collect()
}

fn replaced(after: &Value) -> Value {
    let mut list = after.as_array().cloned().unwrap_or_default();
    list.push(json!({"$patch": "replace"}));
    Value::Array(list)
}

/// How a write to the API server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Done.
    Written,
    /// The pod does not exist any more, or another one has its name.
    Gone,
    /// Not reachable or refused: try again.
    Failed,
}

/// Sends a status patch.
pub async fn send(client: &Client, pod: &Pod, changes: Value) -> Sent {
    let meta = &pod.metadata;
    let api = client.namespaced::<Pod>(meta.namespace.as_deref().unwrap_or_default());
    let body = json!({"metadata": {"uid": meta.uid}, "status": changes});
    let name = meta.name.as_deref().unwrap_or_default();
    match api
        .patch_status(name, &PatchParams::default(), &Patch::Strategic(body))
        .await
    {
        Ok(_) => Sent::Written,
        Err(error) => match failure(&error) {
            Failure::NotFound | Failure::Conflict => Sent::Gone,
            _ => {
                tracing::warn!(pod = name, %error, "reporting status");
                Sent::Failed
            }
        },
    }
}

/// Removes the pod's object: its containers ended.
pub async fn delete(client: &Client, pod: &Pod) -> Sent {
    let meta = &pod.metadata;
    let api = client.namespaced::<Pod>(meta.namespace.as_deref().unwrap_or_default());
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: meta.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(meta.name.as_deref().unwrap_or_default(), &params).await {
        Ok(_) => Sent::Written,
        Err(error) => match failure(&error) {
            Failure::NotFound | Failure::Conflict => Sent::Gone,
            _ => Sent::Failed,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_small() {
        let status: PodStatus = serde_json::from_value(json!({
            "phase": "Running", "podIPs": [{"ip": "10.0.0.2"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}],
        }))
        .expect("status");
        let old = json!({"phase": "Pending", "podIPs": [{"ip": "10.0.0.1"}], "message": "x",
            "conditions": [{"type": "Ready", "status": "False", "reason": "R"}, {"type": "Initialized", "status": "True"}]});
        let expected = json!({"phase": "Running", "message": null,
            "podIPs": [{"ip": "10.0.0.2"}, {"$patch": "replace"}],
            "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}]});
        assert_eq!(patch(&old, &status), Some(expected));
        let waited = json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.2"}], "conditions": [{"type": "Ready", "status": "True"},
            {"type": "Initialized", "status": "True"}, {"type": "PodResizePending", "status": "True"}]});
        assert_eq!(
            patch(&waited, &status),
            Some(json!({"conditions": [{"type": "PodResizePending", "$patch": "delete"}]}))
        );
        let same = serde_json::to_value(&status).expect("value");
        assert_eq!(patch(&same, &status), None);
    }
}
