//! Default classes of claims and ingresses, and protection against deletion while in use.

use coxswain_api::kinds::access;
use coxswain_api::{ApiError, Quantity};
use coxswain_store::Stored;
use serde_json::{Value, json};
use std::sync::Arc;

use super::Write;

/// The newest object of a class resource marked as default by an annotation.
fn default_of(write: &Write<'_>, resource: &str, annotation: &str) -> Option<Arc<Stored>> {
    let marked = |stored: &&Arc<Stored>| {
        let value = stored.value();
        access::get(access::get(&value, "metadata"), "annotations")
            .get(annotation)
            .and_then(Value::as_str)
            == Some("true")
    };
    let created = |stored: &&Arc<Stored>| {
        (
            access::text(&stored.value(), "/metadata/creationTimestamp").to_owned(),
            std::cmp::Reverse(stored.key.name.clone()),
        )
    };
    write
        .snapshot
        .list(resource, None, None)
        .filter(marked)
        .max_by_key(created)
        .cloned()
}

/// A claim without a class gets the default StorageClass.
pub(super) fn default_class(write: &Write<'_>, claim: &mut Value) {
    let spec = access::child(claim, "spec");
    if access::has(spec, "storageClassName") {
        return;
    }
    if let Some(class) = default_of(
        write,
        "storageclasses.storage.k8s.io",
        "storageclass.kubernetes.io/is-default-class",
    ) {
        access::set(spec, "storageClassName", &*class.key.name);
    }
}

/// An ingress without a class gets the default IngressClass.
pub(super) fn default_ingress_class(write: &Write<'_>, ingress: &mut Value) {
    let annotated = access::has(
        access::get(access::get(ingress, "metadata"), "annotations"),
        "kubernetes.io/ingress.class",
    );
    let spec = access::child(ingress, "spec");
    if annotated || access::has(spec, "ingressClassName") {
        return;
    }
    let annotation = "ingressclass.kubernetes.io/is-default-class";
    if let Some(class) = default_of(write, "ingressclasses.networking.k8s.io", annotation) {
        access::set(spec, "ingressClassName", &*class.key.name);
    }
}

/// A claim grows only when it is bound and its class says that volumes can grow.
///
/// # Errors
/// 403 when it cannot grow.
pub(super) fn check_resize(write: &Write<'_>, claim: &Value) -> Result<(), ApiError> {
    let size = |claim: &Value| {
        let text = access::text(claim, "/spec/resources/requests/storage");
        Quantity::parse(text).unwrap_or(Quantity::ZERO)
    };
    let Some(old) = write.old.filter(|old| size(claim) > size(old)) else {
        return Ok(());
    };
    let refuse = |why: &str| Err(write.call.forbidden(access::name(claim), why));
    if access::text(old, "/status/phase") != "Bound" {
        return refuse("Only bound persistent volume claims can be expanded");
    }
    let class = access::text(claim, "/spec/storageClassName");
    let grows = write
        .snapshot
        .find("storageclasses.storage.k8s.io", "", class)
        .is_some_and(|class| access::flag(&class.value(), "allowVolumeExpansion"));
    if !grows {
        return refuse(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        );
    }
    Ok(())
}

/// Adds a protection finalizer.
pub(super) fn protect(object: &mut Value, finalizer: &str) {
    let metadata = access::child(object, "metadata");
    let mut finalizers = access::list(metadata, "finalizers").to_vec();
    if !finalizers.iter().any(|item| item.as_str() == Some(finalizer)) {
        finalizers.push(json!(finalizer));
        access::set(metadata, "finalizers", finalizers);
    }
}
