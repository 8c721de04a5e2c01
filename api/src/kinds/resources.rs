//! Resource names and quantities: containers, pod-level resources, quotas, limit ranges.

use super::access::{entries, get, list, str_of};
use super::check;
use super::pod::validate::not_found_because;
use crate::Quantity;
use crate::field::{ErrorList, Path, duplicate, forbidden, invalid, required};
use crate::names;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

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

/// Whether a resource is one of Kubernetes' own.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a resource is one that somebody else brings to nodes.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name) || is_huge_pages(name) || name.starts_with("requests.hugepages-")
}

/// Whether requests may be below limits.
pub fn overcommit_allowed(name: &str) -> bool {
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

/// Whether a name without a domain is a resource that quotas know.
pub fn is_quota_resource(name: &str) -> bool {
    QUOTA.contains(&name) || is_huge_pages(name) || name.starts_with("requests.hugepages-")
}

/// Whether a quota's scope tells uses of a resource apart.
pub fn scope_fits(scope: &str, name: &str) -> bool {
    const COMPUTE: &[&str] = &[
        "cpu",
        "memory",
        "limits.cpu",
        "limits.memory",
        "pods",
        "requests.cpu",
        "requests.memory",
    ];
    match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            COMPUTE.contains(&name)
        }
        "BestEffort" => name == "pods",
        "VolumeAttributesClass" => ["persistentvolumeclaims", "requests.storage"].contains(&name),
        _ => true,
    }
}

/// A resource that a quota may count.
pub fn quota_name(errors: &mut ErrorList, path: &Path, name: &str) {
    any_name(errors, path, name);
    if !name.contains('/') && !is_quota_resource(name) {
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
    requirements(errors, path, resources, container_name);
    claim_names(errors, &path.child("claims"), list(resources, "claims"), claims);
}

/// `overhead` of a pod or of a runtime class: limits of what a container may ask for.
pub fn overhead(errors: &mut ErrorList, path: &Path, overhead: &Value) {
    let limits = serde_json::json!({"limits": overhead});
    requirements(errors, path, &limits, container_name);
}

/// Requests and limits whose names satisfy `name_rule`.
fn requirements(errors: &mut ErrorList, path: &Path, resources: &Value, name_rule: fn(&mut ErrorList, &Path, &str)) {
    let (mut compute, mut huge) = (false, false);
    let limits = get(resources, "limits");
    for kind in ["limits", "requests"] {
        for (name, value) in entries(resources, kind) {
            let at = path.child(kind).key(name);
            name_rule(errors, &at, name);
            quantity_value(errors, &at, name, value);
            let text = value.as_str().unwrap_or("");
            if kind == "requests" {
                request_within_limit(errors, path, name, text, limits.get(name).and_then(Value::as_str));
            }
            compute |= name == "cpu" || name == "memory";
            if is_huge_pages(name) {
                huge = true;
                whole_pages(errors, &at, name, text);
            }
        }
    }
    if huge && !compute {
        errors.push(forbidden(path, "HugePages require cpu or memory"));
    }
}

fn whole_pages(errors: &mut ErrorList, path: &Path, name: &str, text: &str) {
    let Ok(quantity) = Quantity::parse(text) else { return };
    let page = name
        .strip_prefix("hugepages-")
        .and_then(|size| Quantity::parse(size).ok());
    let whole = page.is_some_and(|page| page.value() > 0 && quantity.value() % page.value() == 0);
    if !whole {
        let shown = quantity.canonical();
        let detail = format!("{shown} is not positive integer multiple of {name}");
        errors.push(invalid(path, shown, detail));
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
        let (name, request) = (str_of(claim, "name"), str_of(claim, "request"));
        if name.is_empty() {
            errors.push(required(&path, ""));
            continue;
        }
        if seen.contains(name) {
            errors.push(duplicate(&path, name));
        } else {
            let key = if request.is_empty() {
                name.to_owned()
            } else {
                check::dns_label(errors, &path.child("request"), request);
                format!("{name}/{request}")
            };
            let part_of = |k: &String| k.split_once('/').is_some_and(|(claim, _)| claim == name);
            if seen.contains(&key) {
                errors.push(duplicate(&path, key.as_str()));
            } else if request.is_empty() && seen.iter().any(part_of) {
                errors.push(duplicate(&path, name));
            }
            seen.insert(key);
        }
        if !known.contains(name) {
            let all: Vec<&str> = known.iter().copied().collect();
            let names = if all.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", all.join(", "))
            };
            let detail = format!("must be one of the names in pod.spec.resourceClaims{names}");
            errors.push(not_found_because(&path, name, detail));
        }
    }
}

fn pod_name(errors: &mut ErrorList, path: &Path, name: &str) {
    let before = errors.len();
    any_name(errors, path, name);
    if errors.len() == before && !["cpu", "memory"].contains(&name) && !is_huge_pages(name) {
        errors.push(crate::field::not_supported(
            path,
            name,
            &["cpu", "hugepages-", "memory"],
        ));
    }
}

/// `spec.resources` of a pod, against those of its containers.
pub fn pod_level(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let resources = get(spec, "resources");
    if str_of(get(spec, "os"), "name") == "windows" {
        errors.push(forbidden(path, "may not be set for a windows pod"));
        return;
    }
    let claims = list(resources, "claims");
    if !claims.is_empty() {
        errors.push(forbidden(
            &path.child("claims"),
            "claims may not be set for Resources at pod-level",
        ));
    }
    requirements(errors, path, resources, pod_name);
    let known = list(spec, "resourceClaims")
        .iter()
        .map(|c| str_of(c, "name"))
        .filter(|n| !n.is_empty());
    claim_names(errors, &path.child("claims"), claims, &known.collect());
    for kind in ["requests", "limits"] {
        for (name, all) in of_containers(spec, kind) {
            let Ok(own) = Quantity::parse(str_of(get(resources, kind), &name)) else {
                continue;
            };
            if all > own && (kind == "requests" || is_huge_pages(&name)) {
                let all = all.canonical();
                let detail = format!("must be greater than or equal to aggregate container {kind} of {all}");
                errors.push(invalid(&path.child(kind).key(&name), own.canonical(), detail));
            }
        }
    }
    let limits = get(resources, "limits");
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

/// What the containers of a pod ask for together at any time, or may use: the sum of those that keep running, or more
/// while an init container runs.
fn of_containers(spec: &Value, kind: &str) -> BTreeMap<String, Quantity> {
    let requests = |c: &Value| -> BTreeMap<String, Quantity> {
        entries(get(c, "resources"), kind)
            .filter_map(|(name, v)| Some((name.clone(), Quantity::parse(v.as_str()?).ok()?)))
            .collect()
    };
    let add = |to: &mut BTreeMap<String, Quantity>, more: &BTreeMap<String, Quantity>| {
        for (name, q) in more {
            let sum = to.get(name).map_or(*q, |have| have.add(q));
            to.insert(name.clone(), sum);
        }
    };
    let (mut total, mut sidecars, mut peak) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::<String, Quantity>::new());
    for c in list(spec, "containers") {
        add(&mut total, &requests(c));
    }
    for c in list(spec, "initContainers") {
        let mut now = requests(c);
        if str_of(c, "restartPolicy") == "Always" {
            add(&mut total, &now);
            add(&mut sidecars, &now);
            now.clone_from(&sidecars);
        } else {
            add(&mut now, &sidecars);
        }
        for (name, q) in now {
            let high = peak.get(&name).map_or(q, |have| (*have).max(q));
            peak.insert(name, high);
        }
    }
    for (name, q) in peak {
        let high = total.get(&name).map_or(q, |have| (*have).max(q));
        total.insert(name, high);
    }
    total
}
