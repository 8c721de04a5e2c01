//! Resource names and quantities: containers, pod-level resources, quotas, limit ranges.

use super::access::{entries, get, list, str_of};
use super::check;
use super::pod::validate::not_found_because;
use crate::Quantity;
use crate::field::{ErrorList, Path, duplicate, forbidden, invalid, required};
use crate::names;
use serde_json::Value;
use std::collections::BTreeSet;

const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];
const QUOTA: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const NOT_STANDARD: &str = "must be a standard resource type or fully qualified";

fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name) || is_huge_pages(name) || name.starts_with("requests.hugepages-")
}

/// Whether requests may be below limits.
fn overcommit_allowed(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

fn any_name(errors: &mut ErrorList, path: &Path, name: &str) -> bool {
    let before = errors.len();
    check::qualified(errors, path, name);
    if errors.len() != before {
        return false;
    }
    if !name.contains('/') && !is_standard(name) {
        errors.push(invalid(path, name, NOT_STANDARD));
    }
    true
}

/// A resource that a container may ask for.
pub fn container_name(errors: &mut ErrorList, path: &Path, name: &str) {
    any_name(errors, path, name);
    if !name.contains('/') {
        if !["cpu", "memory", "ephemeral-storage"].contains(&name) && !is_huge_pages(name) {
            errors.push(invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

/// A resource that a quota may count.
pub fn quota_name(errors: &mut ErrorList, path: &Path, name: &str) {
    any_name(errors, path, name);
    if !name.contains('/') && !QUOTA.contains(&name) && !is_huge_pages(name) && !name.starts_with("requests.hugepages-")
    {
        errors.push(invalid(path, name, "must be a standard resource for quota"));
    }
}

/// A resource that a limit range of a type may bound.
pub fn limit_name(errors: &mut ErrorList, path: &Path, kind: &str, name: &str) {
    match kind {
        "Pod" | "Container" => container_name(errors, path, name),
        _ => {
            any_name(errors, path, name);
        }
    }
}

/// A quantity of a resource: not negative, whole where things are counted.
pub fn quantity_value(errors: &mut ErrorList, path: &Path, name: &str, value: &Value) {
    let text = value.as_str().unwrap_or("");
    let Ok(quantity) = Quantity::parse(text) else { return };
    if quantity < Quantity::ZERO {
        errors.push(invalid(path, text, check::NOT_NEGATIVE));
    }
    if (COUNTED.contains(&name) || is_extended(name)) && quantity.milli() % 1000 != 0 {
        errors.push(invalid(path, text, "must be an integer"));
    }
}

/// `resources` of a container.
pub fn container(errors: &mut ErrorList, path: &Path, resources: &Value, claims: &BTreeSet<&str>) {
    requirements(errors, path, resources);
    claim_names(errors, &path.child("claims"), list(resources, "claims"), claims);
}

fn requirements(errors: &mut ErrorList, path: &Path, resources: &Value) {
    let (mut compute, mut huge) = (false, false);
    for (name, value) in entries(resources, "limits") {
        let at = path.child("limits").key(name);
        container_name(errors, &at, name);
        quantity_value(errors, &at, name, value);
        compute |= name == "cpu" || name == "memory";
        huge |= is_huge_pages(name);
    }
    let limits = get(resources, "limits");
    for (name, value) in entries(resources, "requests") {
        let at = path.child("requests").key(name);
        container_name(errors, &at, name);
        quantity_value(errors, &at, name, value);
        request_within_limit(
            errors,
            path,
            name,
            value.as_str().unwrap_or(""),
            limits.get(name).and_then(Value::as_str),
        );
        compute |= name == "cpu" || name == "memory";
        huge |= is_huge_pages(name);
    }
    if huge && !compute {
        errors.push(forbidden(path, "HugePages require cpu or memory"));
    }
}

fn request_within_limit(errors: &mut ErrorList, path: &Path, name: &str, request: &str, limit: Option<&str>) {
    let Some(limit) = limit else {
        if !overcommit_allowed(name) {
            errors.push(required(
                &path.child("limits"),
                "Limit must be set for non overcommitable resources",
            ));
        }
        return;
    };
    let (Ok(asked), Ok(allowed)) = (Quantity::parse(request), Quantity::parse(limit)) else {
        return;
    };
    let at = path.child("requests");
    if asked != allowed && !overcommit_allowed(name) {
        errors.push(invalid(
            &at,
            request,
            format!("must be equal to {name} limit of {limit}"),
        ));
    } else if asked > allowed {
        errors.push(invalid(
            &at,
            request,
            format!("must be less than or equal to {name} limit of {limit}"),
        ));
    }
}

fn claim_names(errors: &mut ErrorList, path: &Path, claims: &[Value], known: &BTreeSet<&str>) {
    let mut seen = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let path = path.index(i);
        let name = str_of(claim, "name");
        if name.is_empty() {
            errors.push(required(&path, ""));
            continue;
        }
        let request = str_of(claim, "request");
        let key = if request.is_empty() {
            name.to_owned()
        } else {
            format!("{name}/{request}")
        };
        if !request.is_empty() {
            check::dns_label(errors, &path.child("request"), request);
        }
        if seen.contains(name) || !seen.insert(key.clone()) {
            errors.push(duplicate(&path, key));
        }
        if !known.contains(name) {
            let all: Vec<&str> = known.iter().copied().collect();
            let detail = if all.is_empty() {
                "must be one of the names in pod.spec.resourceClaims which is empty".to_owned()
            } else {
                format!(
                    "must be one of the names in pod.spec.resourceClaims: {}",
                    all.join(", ")
                )
            };
            errors.push(not_found_because(&path, name, detail));
        }
    }
}

/// `spec.resources` of a pod, against those of its containers.
pub fn pod_level(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let resources = get(spec, "resources");
    if !list(resources, "claims").is_empty() {
        errors.push(forbidden(
            &path.child("claims"),
            "claims cannot be set for Resources at pod-level",
        ));
    }
    for kind in ["limits", "requests"] {
        for (name, value) in entries(resources, kind) {
            let at = path.child(kind).key(name);
            if !["cpu", "memory"].contains(&name.as_str()) && !is_huge_pages(name) {
                errors.push(crate::field::not_supported(
                    &at,
                    name.as_str(),
                    &["cpu", "hugepages-", "memory"],
                ));
            }
            quantity_value(errors, &at, name, value);
        }
    }
    let limits = get(resources, "limits");
    for (name, value) in entries(resources, "requests") {
        request_within_limit(
            errors,
            path,
            name,
            value.as_str().unwrap_or(""),
            limits.get(name).and_then(Value::as_str),
        );
    }
    for (i, c) in list(spec, "containers").iter().enumerate() {
        for (name, value) in entries(get(c, "resources"), "limits") {
            let (own, pod) = (value.as_str().unwrap_or(""), str_of(limits, name));
            if let (Ok(a), Ok(b)) = (Quantity::parse(own), Quantity::parse(pod))
                && a > b
            {
                let at = path.child("containers").index(i).key(name).child("limits");
                errors.push(invalid(
                    &at,
                    own,
                    format!("must be less than or equal to pod limits of {pod}"),
                ));
            }
        }
    }
}
