//! `binding`: assigning a pod to a node, once.

use coxswain_api::field::{ErrorList, Path};
use coxswain_api::kinds::{access, check};
use coxswain_api::registry::Gvk;
use coxswain_api::{ApiError, Resource};
use coxswain_store::{Outcome, Precondition, Txn};
use serde_json::{Value, json};

use crate::admission;
use crate::answer::{self, Reply, now_text};
use crate::body;
use crate::call::{Call, draft};
use crate::options::WriteOptions;
use crate::verbs::update::other_object;

const ATTEMPTS_MAX: usize = 16;

/// `POST` to `bindings`: the pod is named in the body.
pub(super) async fn bind_by_body(call: &Call) -> Result<Reply, ApiError> {
    let options = WriteOptions::from_call(call, "CreateOptions")?;
    let binding = body::decode_builtin(call, &Gvk::new("", "v1", "Binding"), options.validation)?;
    let name = access::name(&binding).to_owned();
    admission::enter(call, &call.snapshot(), &name)?;
    run(call, &options, &name, &binding).await
}

/// `POST` to a pod's `binding`.
pub(super) async fn bind(call: &Call, name: &str) -> Result<Reply, ApiError> {
    let options = WriteOptions::from_call(call, "CreateOptions")?;
    let binding = body::decode_builtin(call, &Gvk::new("", "v1", "Binding"), options.validation)?;
    let given = access::name(&binding);
    if !given.is_empty() && given != name {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Binding object",
        ));
    }
    run(call, &options, name, &binding).await
}

async fn run(call: &Call, options: &WriteOptions, name: &str, binding: &Value) -> Result<Reply, ApiError> {
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
        assign(row, &mut pod, name, binding, &node)?;
        let node = snapshot.find("nodes", "", &node).map(|node| node.value());
        label(&mut pod, binding, node.as_deref());
        let errors = metadata_errors(&pod);
        if !errors.is_empty() {
            return Err(ApiError::invalid("", "Pod", name, errors));
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

/// Objections to what a pod took over from its binding: with labels that are none it could never be changed again.
fn metadata_errors(pod: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (path, metadata) = (Path::new("metadata"), access::get(pod, "metadata"));
    check::labels(&mut errors, &path.child("labels"), metadata, "labels");
    check::annotations(&mut errors, &path.child("annotations"), metadata);
    errors
}

/// Labels that a pod takes over from its node.
const TOPOLOGY: &[&str] = &["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

/// Gives a pod the labels of the binding and, where it has none of them, the labels that say where the node is.
fn label(pod: &mut Value, binding: &Value, node: Option<&Value>) {
    let mut binding = binding.clone();
    if let Some(node) = node.filter(|_| access::text(&binding, "/target/kind") == "Node") {
        place(&mut binding, node);
    }
    let labels = access::at(&binding, "/metadata/labels");
    for (key, value) in labels.as_object().into_iter().flatten() {
        let of_pod = access::child(access::child(pod, "metadata"), "labels");
        access::set(of_pod, key, value.clone());
    }
}

/// Adds where a node is to the labels of an object that does not say.
pub(crate) fn place(object: &mut Value, node: &Value) {
    let of_node = access::at(node, "/metadata/labels");
    for key in TOPOLOGY {
        if let Some(value) = of_node.get(*key) {
            let labels = access::child(access::child(object, "metadata"), "labels");
            access::set_default(labels, key, value.clone());
        }
    }
}

/// Makes the assigned pod. Pure apart from the time stamp.
fn assign(row: &Resource, pod: &mut Value, name: &str, binding: &Value, node: &str) -> Result<(), ApiError> {
    let conflict = |why: String| Err(ApiError::conflict("", "pods/binding", name, &why));
    let wanted_uid = access::text(binding, "/metadata/uid");
    let uid = access::text(pod, "/metadata/uid");
    if !wanted_uid.is_empty() && wanted_uid != uid {
        return Err(other_object(row, access::namespace(pod), name, wanted_uid, uid));
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
    access::remove(status, "nominatedNodeName");
    let scheduled = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now_text(),
    });
    set_condition(status, scheduled);
    Ok(())
}

/// Enters a condition; the time of the last transition stays when its status does.
pub(super) fn set_condition(status: &mut Value, mut condition: Value) {
    let mut conditions = access::list(status, "conditions").to_vec();
    let of_type = |other: &&mut Value| access::get(other, "type") == access::get(&condition, "type");
    match conditions.iter_mut().find(of_type) {
        Some(old) => {
            if access::get(old, "status") == access::get(&condition, "status") {
                access::copy(&mut condition, old, "lastTransitionTime");
            }
            *old = condition;
        }
        None => conditions.push(condition),
    }
    access::set(status, "conditions", conditions);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_say_where_they_are() {
        let node = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "other": "o"}}});
        let mut pod = json!({"metadata": {"labels": {"topology.kubernetes.io/region": "own"}}});
        let binding = |kind: &str| json!({"metadata": {"labels": {"topology.kubernetes.io/region": "b", "b": "c"}}, "target": {"kind": kind}});
        label(&mut pod, &binding(""), Some(&node));
        let labels = json!({"topology.kubernetes.io/region": "b", "b": "c"});
        assert_eq!(pod, json!({"metadata": {"labels": labels}}));
        label(&mut pod, &binding("Node"), Some(&node));
        let labels = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "b", "b": "c"});
        assert_eq!(pod, json!({"metadata": {"labels": labels}}));
    }
}
