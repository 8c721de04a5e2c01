//! What a node may write: its own Node and that one's harmless labels, mirror pods and the status of
//! pods bound to it, tokens for those, its Lease, its CSINode, its slices. In Kubernetes' words.

use std::collections::BTreeSet;

use coxswain_api::ApiError;
use coxswain_api::kinds::access;
use coxswain_store::Snapshot;
use serde_json::Value;

use super::{Operation, Write};
use crate::authz::node::{node_of, visit_config_maps, visit_secrets};
use crate::call::Call;

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";

/// Annotation of a Node: the address that its own requests come from, as this server saw it. Only the server writes it for
/// a node; what a node reports of itself proves nothing.
const SOURCE: &str = "coxswain.io/source-address";
/// Annotation of a Node: the addresses that an administrator says it has, separated by commas. A node may not change it.
const ADDRESSES: &str = "coxswain.io/certificate-addresses";

/// Labels of the Kubernetes domains that a node may set on itself.
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// Records where a node's own requests come from, in place of whatever the node says of it.
pub(super) fn stamp(write: &Write<'_>, object: &mut Value) {
    if node_of(&write.call.user).is_none() {
        return;
    }
    let known = write
        .old
        .map(|old| annotation(old, SOURCE).to_owned())
        .unwrap_or_default();
    let from = write.call.source.map_or(known, |from| from.to_canonical().to_string());
    let metadata = access::child(object, "metadata");
    if !from.is_empty() {
        access::set(access::child(metadata, "annotations"), SOURCE, from);
    } else if let Some(annotations) = access::child_if(metadata, "annotations") {
        access::remove(annotations, SOURCE);
    }
}

fn annotation<'a>(object: &'a Value, key: &str) -> &'a str {
    access::str_of(access::at(object, "/metadata/annotations"), key)
}

/// Checks a write of a node; everybody else passes. `object` is `None` for deletes.
///
/// # Errors
/// 403.
pub(super) fn check(write: &Write<'_>, object: Option<&Value>) -> Result<(), ApiError> {
    let call = write.call;
    let Some(node) = node_of(&call.user) else {
        return Ok(());
    };
    let name = object.or(write.old).map(access::name).unwrap_or_default();
    let verdict = verdict(write, node, object, name);
    verdict.map_err(|why| call.forbidden(name, why))
}

/// Checks a POST of a node below an object. A pod is not bound, whichever way that is asked; evictions and tokens have
/// checks of their own.
///
/// # Errors
/// 403.
pub(super) fn check_posted(write: &Write<'_>, name: &str) -> Result<(), ApiError> {
    let call = write.call;
    let binds = match (&*call.row.group, &*call.row.plural, write.sub) {
        ("", "pods", Some(sub)) => sub != "eviction",
        ("", "bindings", _) => true,
        _ => false,
    };
    if !binds || node_of(&call.user).is_none() {
        return Ok(());
    }
    let sub = write.sub.unwrap_or("binding");
    Err(call.forbidden(name, unexpected(sub)))
}

fn unexpected(sub: &str) -> String {
    format!("unexpected pod subresource {sub:?}, only 'status' and 'eviction' are allowed")
}

fn verdict(write: &Write<'_>, node: &str, object: Option<&Value>, name: &str) -> Result<(), String> {
    let row = &write.call.row;
    let none = Value::Null;
    let (new, old) = (object.unwrap_or(&none), write.old.unwrap_or(&none));
    if node.is_empty() {
        return Err(format!("could not determine node from user {:?}", write.call.user.name));
    }
    match (&*row.group, &*row.plural, write.sub) {
        ("", "pods", None) => pod(write, node, new, old),
        ("", "pods", Some("status")) => pod_status(node, new, old),
        ("", "pods", Some(other)) => Err(unexpected(other)),
        ("", "nodes", _) => own_node(write.operation, node, name, new, old),
        ("", "persistentvolumeclaims", Some("status")) => claim_status(node, new, old),
        ("", "persistentvolumeclaims", _) => Err("may only update PVC status".to_owned()),
        ("coordination.k8s.io", "leases", _) => {
            if write.call.namespace() != LEASES {
                return Err(format!("can only access leases in the {LEASES:?} system namespace"));
            }
            if name != node {
                return Err("can only access node lease with the same name as the requesting node".to_owned());
            }
            Ok(())
        }
        ("storage.k8s.io", "csinodes", _) if name != node => {
            Err("can only access CSINode with the same name as the requesting node".to_owned())
        }
        ("resource.k8s.io", "resourceslices", _) => slice(write.operation, node, new, old),
        _ => Ok(()),
    }
}

fn pod(write: &Write<'_>, node: &str, new: &Value, old: &Value) -> Result<(), String> {
    match write.operation {
        Operation::Create => mirror_pod(write.snapshot, node, new),
        Operation::Delete if access::text(old, "/spec/nodeName") != node => Err(format!(
            "node {node:?} can only delete pods with spec.nodeName set to itself"
        )),
        Operation::Delete => Ok(()),
        Operation::Update => Err(format!(
            "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
        )),
    }
}

fn mirror_pod(snapshot: &Snapshot, node: &str, pod: &Value) -> Result<(), String> {
    let spec = access::get(pod, "spec");
    if access::text(pod, "/metadata/annotations/kubernetes.io~1config.mirror").is_empty() {
        return Err(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if access::str_of(spec, "nodeName") != node {
        return Err(format!(
            "node {node:?} can only create pods with spec.nodeName set to itself"
        ));
    }
    owner(snapshot, node, access::list_at(pod, "/metadata/ownerReferences"))?;
    let refers = |what: &str| Err(format!("node {node:?} can not create pods that reference {what}"));
    if !access::str_of(spec, "serviceAccountName").is_empty() {
        return refers("a service account");
    }
    let (mut secrets, mut maps) = (false, false);
    visit_secrets(spec, &mut |name| secrets |= !name.is_empty());
    visit_config_maps(spec, &mut |name| maps |= !name.is_empty());
    let volumes = access::list(spec, "volumes");
    let has = |pointer: &str| volumes.iter().any(|volume| volume.pointer(pointer).is_some());
    let bundles = volumes
        .iter()
        .flat_map(|volume| access::list_at(volume, "/projected/sources"))
        .any(|source| access::has(source, "clusterTrustBundle"));
    for (wrong, what) in [
        (secrets, "secrets"),
        (maps, "configmaps"),
        (bundles, "clustertrustbundles"),
        (has("/persistentVolumeClaim"), "persistentvolumeclaims"),
    ] {
        if wrong {
            return refers(what);
        }
    }
    Ok(())
}

/// A mirror pod belongs to its node, and says so.
fn owner(snapshot: &Snapshot, node: &str, owners: &[Value]) -> Result<(), String> {
    let only = |what: &str| Err(format!("node {node:?} can only create pods with {what} set to itself"));
    let owner = match owners {
        [] => return only("an owner reference"),
        [owner] => owner,
        _ => return only("a single owner reference"),
    };
    let text = |field: &str| access::str_of(owner, field);
    if text("apiVersion") != "v1" || text("kind") != "Node" || text("name") != node {
        return only("an owner reference");
    }
    if !access::flag(owner, "controller") {
        return only("a controller owner reference");
    }
    if access::flag(owner, "blockOwnerDeletion") {
        return Err(format!(
            "node {node:?} must not set blockOwnerDeletion on an owner reference"
        ));
    }
    let Some(live) = snapshot.find("nodes", "", node) else {
        return Err(format!("nodes {node:?} not found"));
    };
    if live.head.uid != text("uid") {
        return Err(format!(
            "node {node} UID mismatch: expected {} got {}",
            text("uid"),
            live.head.uid
        ));
    }
    Ok(())
}

fn pod_status(node: &str, new: &Value, old: &Value) -> Result<(), String> {
    if access::text(old, "/spec/nodeName") != node {
        return Err(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if access::at(new, "/metadata/labels") != access::at(old, "/metadata/labels") {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    let claims = "/status/resourceClaimStatuses";
    if access::list_at(new, claims) != access::list_at(old, claims) {
        return Err(format!("node {node:?} cannot update resource claim statues"));
    }
    Ok(())
}

fn own_node(operation: Operation, node: &str, name: &str, new: &Value, old: &Value) -> Result<(), String> {
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    if operation == Operation::Delete {
        return Ok(());
    }
    if annotation(new, ADDRESSES) != annotation(old, ADDRESSES) {
        return Err(format!("node {node:?} is not allowed to modify annotation {ADDRESSES}"));
    }
    let source = access::at(new, "/spec/configSource");
    if operation == Operation::Create {
        if !source.is_null() {
            return Err(format!(
                "node {node:?} is not allowed to create pods with a non-nil configSource"
            ));
        }
        let wrong = forbidden_labels(new, &Value::Null);
        if !wrong.is_empty() {
            return Err(format!(
                "node {node:?} is not allowed to set the following labels: {}",
                wrong.join(", ")
            ));
        }
        return Ok(());
    }
    if !source.is_null() && source != access::at(old, "/spec/configSource") {
        return Err(format!(
            "node {node:?} is not allowed to update configSource to a new non-nil configSource"
        ));
    }
    if access::list_at(new, "/spec/taints") != access::list_at(old, "/spec/taints") {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    let wrong = forbidden_labels(new, old);
    if !wrong.is_empty() {
        return Err(format!("is not allowed to modify labels: {}", wrong.join(", ")));
    }
    Ok(())
}

/// The labels that differ and that a node must leave alone, sorted.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let labels = |object: &'_ Value| access::at(object, "/metadata/labels").clone();
    let (new, old) = (labels(new), labels(old));
    let keys = |labels: &Value| -> BTreeSet<String> {
        let keys = labels.as_object().into_iter().flatten();
        keys.map(|(key, _)| key.clone()).collect()
    };
    let mut all = keys(&new);
    all.extend(keys(&old));
    all.into_iter()
        .filter(|key| access::get(&new, key) != access::get(&old, key) && is_forbidden(key))
        .collect()
}

fn is_forbidden(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else {
        return false;
    };
    let within = |parent: &str| domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    let own = OWN_LABELS.contains(&label) || within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    within("node-restriction.kubernetes.io") || ((within("kubernetes.io") || within("k8s.io")) && !own)
}

fn claim_status(node: &str, new: &Value, old: &Value) -> Result<(), String> {
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        for field in ["resourceVersion", "managedFields"] {
            access::remove(access::child(&mut claim, "metadata"), field);
        }
        for field in [
            "capacity",
            "conditions",
            "allocatedResourceStatuses",
            "allocatedResources",
        ] {
            access::remove(access::child(&mut claim, "status"), field);
        }
        claim
    };
    if rest(new) == rest(old) {
        Ok(())
    } else {
        Err(format!(
            "node {node:?} is not allowed to update fields other than status.capacity and status.conditions"
        ))
    }
}

fn slice(operation: Operation, node: &str, new: &Value, old: &Value) -> Result<(), String> {
    let (slice, verb) = match operation {
        Operation::Create => (new, "create"),
        Operation::Update => (old, "update"),
        Operation::Delete => (old, "delete"),
    };
    if access::text(slice, "/spec/nodeName") == node {
        Ok(())
    } else {
        Err(format!(
            "can only {verb} ResourceSlice with the same NodeName as the requesting node"
        ))
    }
}

/// Checks an eviction by a node.
pub(crate) fn check_eviction(call: &Call, pod: &Value) -> Result<(), ApiError> {
    match node_of(&call.user) {
        Some(node) if access::text(pod, "/spec/nodeName") != node => {
            let why = format!("node {node} can only evict pods with spec.nodeName set to itself");
            Err(call.forbidden(access::name(pod), why))
        }
        _ => Ok(()),
    }
}

/// Checks a node's request for a token: it is for a pod that runs there, and for an audience that the
/// pod asks for.
pub(crate) fn check_token(call: &Call, request: &Value, snapshot: &Snapshot) -> Result<(), ApiError> {
    let Some(node) = node_of(&call.user) else {
        return Ok(());
    };
    let refuse = |why: String| Err(call.forbidden(&call.path.name, why));
    let reference = access::at(request, "/spec/boundObjectRef");
    let text = |field: &str| access::str_of(reference, field);
    if text("apiVersion") != "v1" || text("kind") != "Pod" || text("name").is_empty() {
        return refuse("node requested token not bound to a pod".to_owned());
    }
    let uid = text("uid");
    if uid.is_empty() {
        return refuse("node requested token with a pod binding without a uid".to_owned());
    }
    let Some(stored) = snapshot.find("pods", &call.path.namespace, text("name")) else {
        return Err(ApiError::not_found("", "pods", text("name")));
    };
    if stored.head.uid != uid {
        return refuse(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
             deleted and then recreated"
        ));
    }
    let pod = stored.value();
    if access::text(&pod, "/spec/nodeName") != node {
        return refuse("node requested token bound to a pod scheduled on a different node".to_owned());
    }
    let audience = match access::list_at(request, "/spec/audiences") {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return refuse("node may only request 0 or 1 audiences".to_owned()),
    };
    if asks_for(&pod, audience, snapshot) {
        Ok(())
    } else {
        refuse(format!("audience {audience:?} not found in pod spec volume"))
    }
}

/// Whether a volume of a pod brings a token for an audience, itself or by its driver.
fn asks_for(pod: &Value, audience: &str, snapshot: &Snapshot) -> bool {
    access::list_at(pod, "/spec/volumes").iter().any(|volume| {
        let projected = access::list_at(volume, "/projected/sources").iter().any(|source| {
            let token = access::get(source, "serviceAccountToken");
            token.is_object() && access::str_of(token, "audience") == audience
        });
        let driver = access::text(volume, "/csi/driver");
        projected
            || snapshot
                .find("csidrivers.storage.k8s.io", "", driver)
                .is_some_and(|stored| {
                    access::list_at(&stored.value(), "/spec/tokenRequests")
                        .iter()
                        .any(|request| access::str_of(request, "audience") == audience)
                })
    })
}
