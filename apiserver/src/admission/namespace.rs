//! Namespaced objects need a namespace that exists and is not going away; some namespaces stay.

use coxswain_api::ApiError;
use coxswain_api::kinds::access;
use serde_json::{Value, json};

use super::{Operation, Write};

/// Namespaces that cannot be deleted.
const PERMANENT: &[&str] = &["default", "kube-system", "kube-public"];

/// Refuses creation outside a living namespace.
pub(super) fn check(write: &Write<'_>, object: &Value) -> Result<(), ApiError> {
    let call = write.call;
    if write.operation != Operation::Create || !call.row.namespaced {
        return Ok(());
    }
    let namespace = call.namespace();
    let Some(stored) = write.snapshot.find("namespaces", "", namespace) else {
        return Err(ApiError::not_found("", "namespaces", namespace));
    };
    if !stored.head.deleting {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut error = call.forbidden(access::name(object), why);
    if let Some(details) = error.details.as_mut() {
        let cause = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        }]);
        access::set(details, "causes", cause);
    }
    Err(error)
}

/// Refuses to delete the namespaces that every cluster has.
pub(super) fn check_delete(write: &Write<'_>) -> Result<(), ApiError> {
    let name = write.old.map(access::name).unwrap_or_default();
    if write.is("", "namespaces") && PERMANENT.contains(&name) {
        return Err(write.call.forbidden(name, "this namespace may not be deleted"));
    }
    Ok(())
}
