//! Admission: what the cluster adds to an object, and what it refuses, beyond the rules of a kind.
//!
//! Steps are plain functions over one [`Write`] and one snapshot; they run in a fixed order.
//! Mutating steps come before the kind's own preparation, [`stamp`] after it (for what depends on
//! the user or the clock), validating steps after validation, and [`effects`] last: what has to be
//! written in the same transaction (the addresses of Services).

mod certificates;
mod escalation;
mod limit_ranger;
mod namespace;
mod node;
pub(crate) mod node_restriction;
mod pod_security;
mod priority;
mod quota;
mod runtime_class;
pub(crate) mod service_account;
mod service_ip;
mod storage;
mod tolerations;

use coxswain_api::ApiError;
use coxswain_api::kinds::access;
use coxswain_store::{Op, Snapshot};
use serde_json::{Value, json};

use crate::call::Call;
use crate::subresources::place;

/// What is being done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

/// One write on its way in.
pub(crate) struct Write<'a> {
    pub call: &'a Call,
    pub operation: Operation,
    pub sub: Option<&'a str>,
    /// The live object, in the rules' shape.
    pub old: Option<&'a Value>,
    /// The state the decision is made on.
    pub snapshot: &'a Snapshot,
}

impl Write<'_> {
    /// Whether this writes an object of a kind itself (not a subresource).
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.sub.is_none() && &*self.call.row.group == group && &*self.call.row.plural == plural
    }

    /// A change of a pod through one of its subresources.
    pub fn changes_pod(&self, sub: &str) -> bool {
        let row = &self.call.row;
        let pod = row.group.is_empty() && &*row.plural == "pods";
        pod && self.operation == Operation::Update && self.sub == Some(sub)
    }

    /// The creation of an object of a kind.
    pub fn creates(&self, group: &str, plural: &str) -> bool {
        self.operation == Operation::Create && self.is(group, plural)
    }
}

/// What holds for every POST below an object (a binding, an eviction, a token), whose body is no stored object: the
/// namespace lives, and a node does not go beyond its own. `name` is the object's.
///
/// # Errors
/// 404 for a namespace that does not exist, 403.
pub(crate) fn enter(call: &Call, snapshot: &Snapshot, name: &str) -> Result<(), ApiError> {
    let object = json!({"metadata": {"name": name}});
    let write = Write {
        call,
        operation: Operation::Create,
        sub: Some(call.path.subresource.as_str()).filter(|sub| !sub.is_empty()),
        old: None,
        snapshot,
    };
    namespace::check(&write, &object)?;
    node_restriction::check_posted(&write, name)
}

/// Mutating steps.
pub(crate) fn mutate(write: &Write<'_>, object: &mut Value) -> Result<(), ApiError> {
    namespace::check(write, object)?;
    if write.creates("", "pods") || write.changes_pod("resize") {
        limit_ranger::fill(write, object)?;
    }
    if write.creates("", "pods") {
        service_account::mount(write, object)?;
    }
    node_restriction::check(write, Some(object))?;
    if write.creates("", "pods") {
        tolerations::add(object);
        priority::resolve(write, object)?;
        runtime_class::fill(write, object)?;
        let node = access::text(object, "/spec/nodeName");
        if let Some(node) = write.snapshot.find("nodes", "", node) {
            place(object, &node.value());
        }
    }
    if write.operation == Operation::Update && write.is("", "pods") {
        tolerations::add(object);
        priority::keep(write, object);
    }
    if write.creates("", "nodes") {
        node::taint(object);
    }
    if write.creates("", "persistentvolumeclaims") {
        storage::default_class(write, object);
        storage::protect(object, "kubernetes.io/pvc-protection");
    }
    if write.creates("", "persistentvolumes") {
        storage::protect(object, "kubernetes.io/pv-protection");
    }
    if write.creates("storage.k8s.io", "volumeattributesclasses") {
        storage::protect(object, "kubernetes.io/vac-protection");
    }
    if write.creates("networking.k8s.io", "ingresses") {
        storage::default_ingress_class(write, object);
    }
    Ok(())
}

/// What depends on who asks and when.
pub(crate) fn stamp(write: &Write<'_>, object: &mut Value) {
    if &*write.call.row.plural == "certificatesigningrequests" && &*write.call.row.group == "certificates.k8s.io" {
        certificates::stamp(write, object);
    }
    if &*write.call.row.plural == "nodes" && write.call.row.group.is_empty() {
        node_restriction::stamp(write, object);
    }
}

/// Validating steps; `object` is `None` for deletes.
pub(crate) fn validate(write: &Write<'_>, object: Option<&Value>) -> Result<(), ApiError> {
    let Some(object) = object else {
        node_restriction::check(write, None)?;
        return namespace::check_delete(write);
    };
    if write.creates("", "pods") || write.changes_pod("resize") {
        limit_ranger::check(write, object)?;
    }
    if write.creates("", "pods") || write.changes_pod("ephemeralcontainers") {
        service_account::check(write, object)?;
    }
    pod_security::check(write, object)?;
    if write.is("", "persistentvolumeclaims") {
        limit_ranger::check_claim(write, object)?;
        storage::check_resize(write, object)?;
    }
    if &*write.call.row.plural == "certificatesigningrequests" && &*write.call.row.group == "certificates.k8s.io" {
        certificates::check(write, object)?;
    }
    if &*write.call.row.group == "rbac.authorization.k8s.io" && write.sub.is_none() {
        escalation::check(write, object)?;
    }
    if write.is("scheduling.k8s.io", "priorityclasses") {
        priority::check_class(write, object)?;
    }
    Ok(())
}

/// The last step before proposing: fills what is allocated from the cluster's state and returns
/// the writes that must happen together with the object's own.
pub(crate) fn effects(write: &Write<'_>, object: &mut Value) -> Result<Vec<Op>, ApiError> {
    let mut ops = Vec::new();
    if write.is("", "services") {
        ops.extend(service_ip::allocate(write, object)?);
    }
    let resized = write.changes_pod("resize");
    let grown = write.is("", "services") || write.is("", "persistentvolumeclaims") || resized;
    if write.operation == Operation::Create && write.sub.is_none() || write.operation == Operation::Update && grown {
        ops.extend(quota::charge(write, object)?);
    }
    Ok(ops)
}

/// The writes that must happen together with the removal of an object.
pub(crate) fn effects_of_delete(write: &Write<'_>, object: &Value) -> Vec<Op> {
    if write.is("", "services") {
        service_ip::release(write, object)
    } else {
        Vec::new()
    }
}
