//! `binding`: assigning a pod to a node, once.

use coxswain_api::ApiError;
use coxswain_api::kinds::access;
use coxswain_api::registry::Gvk;
use coxswain_store::{Outcome, Precondition, Txn};
use serde_json::{Value, json};

use crate::answer::{self, Reply, now_text};
use crate::body;
use crate::call::{Call, draft};
use crate::options::WriteOptions;

const ATTEMPTS_MAX: usize = 16;

/// `POST` to `bindings`: the pod is named in the body.
pub(super) async fn bind_by_body(call: &Call) -> Result<Reply, ApiError> {
    let binding = body::decode_builtin(call, &Gvk::new("", "v1", "Binding"))?;
    let name = access::name(&binding).to_owned();
    run(call, &name, &binding).await
}

/// `POST` to a pod's `binding`.
pub(super) async fn bind(call: &Call, name: &str) -> Result<Reply, ApiError> {
    let binding = body::decode_builtin(call, &Gvk::new("", "v1", "Binding"))?;
    let given = access::name(&binding);
    if !given.is_empty() && given != name {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Binding object",
        ));
    }
    run(call, name, &binding).await
}

async fn run(call: &Call, name: &str, binding: &Value) -> Result<Reply, ApiError> {
    let options = WriteOptions::from_call(call, "CreateOptions")?;
    let node = access::text(binding, "/target/name").to_owned();
    let kind = access::text(binding, "/target/kind");
    if node.is_empty() {
        return Err(ApiError::new(500, "", "target.name: Required value"));
    }
    if !kind.is_empty() && kind != "Node" {
        let message = format!("target.kind: Unsupported value: {kind:?}: supported values: \"Node\", \"<empty>\"");
        return Err(ApiError::new(500, "", message));
    }
    let row = call
        .registry
        .resource("", "v1", "pods")
        .ok_or_else(ApiError::unknown_resource)?;
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = call.snapshot();
        let found = snapshot.find("pods", &call.path.namespace, name);
        let live = found.ok_or_else(|| ApiError::not_found("", "pods", name))?;
        let mut pod = (*live.value()).clone();
        assign(&mut pod, name, binding, &node)?;
        if let Some(node) = snapshot.find("nodes", "", &node) {
            label(&mut pod, binding, &node.value());
        }
        if options.dry_run {
            break;
        }
        let txn = Txn::put(draft(row, &pod), Precondition::Revision(live.revision));
        if let Outcome::Committed { .. } = call.server.propose(txn).await? {
            break;
        }
    }
    let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(answer::plain(call, 201, &done))
}

/// Labels that a pod takes over from its node.
const TOPOLOGY: &[&str] = &["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

/// Adds the labels of the binding, and where the node is, to a pod that does not have them.
fn label(pod: &mut Value, binding: &Value, node: &Value) {
    let of = |object: &Value| {
        access::at(object, "/metadata/labels")
            .as_object()
            .cloned()
            .unwrap_or_default()
    };
    let of_node = of(node).into_iter().filter(|(key, _)| TOPOLOGY.contains(&key.as_str()));
    for (key, value) in of_node.chain(of(binding)) {
        access::set_default(access::child(access::child(pod, "metadata"), "labels"), &key, value);
    }
}

/// Makes the assigned pod. Pure apart from the time stamp.
fn assign(pod: &mut Value, name: &str, binding: &Value, node: &str) -> Result<(), ApiError> {
    let conflict = |why: String| Err(ApiError::conflict("", "pods/binding", name, &why));
    let wanted_uid = access::text(binding, "/metadata/uid");
    let uid = access::text(pod, "/metadata/uid");
    if !wanted_uid.is_empty() && wanted_uid != uid {
        return conflict(format!(
            "Precondition failed: UID in precondition: {wanted_uid}, UID in object meta: {uid}"
        ));
    }
    if access::has(access::get(pod, "metadata"), "deletionTimestamp") {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let current = access::text(pod, "/spec/nodeName");
    if !current.is_empty() {
        return conflict(format!("pod {name} is already assigned to node {current:?}"));
    }
    if !access::list_at(pod, "/spec/schedulingGates").is_empty() {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    access::set(access::child(pod, "spec"), "nodeName", node);
    let given = access::get(access::get(binding, "metadata"), "annotations");
    for (key, value) in given.as_object().into_iter().flatten() {
        let metadata = access::child(pod, "metadata");
        access::set(access::child(metadata, "annotations"), key, value.clone());
    }
    let status = access::child(pod, "status");
    let mut conditions = access::list(status, "conditions").to_vec();
    let scheduled = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now_text(),
    });
    match conditions
        .iter_mut()
        .find(|condition| access::str_of(condition, "type") == "PodScheduled")
    {
        Some(condition) if access::str_of(condition, "status") == "True" => {}
        Some(condition) => *condition = scheduled,
        None => conditions.push(scheduled),
    }
    access::set(status, "conditions", conditions);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_say_where_they_are() {
        let node = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "other": "o"}}});
        let mut pod = json!({"metadata": {"labels": {"topology.kubernetes.io/region": "own"}}});
        label(&mut pod, &json!({"metadata": {"labels": {"b": "c"}}}), &node);
        let labels = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "own", "b": "c"});
        assert_eq!(pod, json!({"metadata": {"labels": labels}}));
    }
}
