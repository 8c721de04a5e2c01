//! LimitRange objects: default requests and limits of containers, and the bounds of both.

use std::cmp::Ordering;

use coxswain_api::kinds::access;
use coxswain_api::{ApiError, Quantity, quota};
use serde_json::{Map, Value};

use super::Write;

const RANGES: &str = "limitranges";
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Every limit of the namespace of one type.
fn limits(write: &Write<'_>, kind: &str) -> Vec<Value> {
    let mut out = Vec::new();
    for stored in write.snapshot.list(RANGES, Some(write.call.namespace()), None) {
        let range = stored.value();
        out.extend(
            access::list_at(&range, "/spec/limits")
                .iter()
                .filter(|limit| access::str_of(limit, "type") == kind)
                .cloned(),
        );
    }
    out
}

/// Fills requests and limits that containers leave out, and notes it in an annotation.
pub(super) fn fill(write: &Write<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let limits = limits(write, "Container");
    if limits.is_empty() {
        return Ok(());
    }
    let mut notes = Vec::new();
    for (field, title) in [("containers", "container"), ("initContainers", "init container")] {
        for container in access::each_mut(access::child(pod, "spec"), field) {
            let name = access::str_of(container, "name").to_owned();
            let resources = access::child(container, "resources");
            let given = resources.clone();
            let mut set = (Vec::new(), Vec::new());
            for limit in &limits {
                fill_one(resources, &given, limit, &mut set);
            }
            for (names, what) in [(set.0, "request"), (set.1, "limit")] {
                if !names.is_empty() {
                    notes.push(format!("{} {what} for {title} {name}", names.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        let metadata = access::child(pod, "metadata");
        let text = format!("LimitRanger plugin set: {}", notes.join("; "));
        access::set(access::child(metadata, "annotations"), ANNOTATION, text);
    }
    Ok(())
}

/// One LimitRange item onto one container. A limit that the container gives itself is its request
/// too, as the kind's own defaults would have it.
fn fill_one(resources: &mut Value, given: &Value, limit: &Value, set: &mut (Vec<String>, Vec<String>)) {
    let own_limits = access::get(given, "limits").clone();
    let defaults = access::get(limit, "default").clone();
    let mut requests: Map<String, Value> = Map::new();
    for source in [
        access::get(limit, "max"),
        &defaults,
        access::get(limit, "defaultRequest"),
    ] {
        for (name, value) in source.as_object().into_iter().flatten() {
            requests.insert(name.clone(), value.clone());
        }
    }
    let mut upper: Map<String, Value> = Map::new();
    for source in [access::get(limit, "max"), &defaults] {
        for (name, value) in source.as_object().into_iter().flatten() {
            upper.insert(name.clone(), value.clone());
        }
    }
    for (name, value) in requests {
        if access::has(access::get(resources, "requests"), &name) {
            continue;
        }
        if let Some(own) = own_limits.get(&name) {
            access::set(access::child(resources, "requests"), &name, own.clone());
            continue;
        }
        access::set(access::child(resources, "requests"), &name, value);
        if !set.0.contains(&name) {
            set.0.push(name);
        }
    }
    for (name, value) in upper {
        if access::has(access::get(resources, "limits"), &name) {
            continue;
        }
        access::set(access::child(resources, "limits"), &name, value);
        if !set.1.contains(&name) {
            set.1.push(name);
        }
    }
}

fn parse(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => number.as_i64().map(Quantity::from_int),
        _ => None,
    }
}

fn quantity(map: &Value, name: &str) -> Option<Quantity> {
    parse(map.get(name)?)
}

/// Checks containers and the pod as a whole.
pub(super) fn check(write: &Write<'_>, pod: &Value) -> Result<(), ApiError> {
    let mut objections = Vec::new();
    for limit in limits(write, "Container") {
        for field in ["containers", "initContainers"] {
            for container in access::list(access::get(pod, "spec"), field) {
                check_limit(
                    &limit,
                    "Container",
                    access::get(container, "resources"),
                    &mut objections,
                );
            }
        }
    }
    let pod_limits = limits(write, "Pod");
    if !pod_limits.is_empty() {
        let total = quota::pod_resources(pod);
        for limit in pod_limits {
            check_limit(&limit, "Pod", &total, &mut objections);
        }
    }
    refuse(write, access::name(pod), objections)
}

/// Checks the size of a claim.
pub(super) fn check_claim(write: &Write<'_>, claim: &Value) -> Result<(), ApiError> {
    let mut objections = Vec::new();
    for limit in limits(write, "PersistentVolumeClaim") {
        check_limit(
            &limit,
            "PersistentVolumeClaim",
            access::at(claim, "/spec/resources"),
            &mut objections,
        );
    }
    refuse(write, access::name(claim), objections)
}

fn refuse(write: &Write<'_>, name: &str, objections: Vec<String>) -> Result<(), ApiError> {
    match objections.as_slice() {
        [] => Ok(()),
        [one] => Err(write.call.forbidden(name, one)),
        many => Err(write.call.forbidden(name, format!("[{}]", many.join(", ")))),
    }
}

fn check_limit(limit: &Value, kind: &str, resources: &Value, objections: &mut Vec<String>) {
    let requests = access::get(resources, "requests");
    let limits = access::get(resources, "limits");
    let claim = kind == "PersistentVolumeClaim";
    for (name, bound) in access::entries(limit, "min") {
        let Some(bound) = parse(bound) else { continue };
        let shown = bound.canonical();
        match (quantity(requests, name), quantity(limits, name)) {
            (None, _) => objections.push(format!(
                "minimum {name} usage per {kind} is {shown}. No request is specified"
            )),
            (Some(request), _) if request.cmp(&bound) == Ordering::Less => objections.push(format!(
                "minimum {name} usage per {kind} is {shown}, but request is {}",
                request.canonical()
            )),
            (_, Some(upper)) if upper.cmp(&bound) == Ordering::Less => {
                objections.push(format!(
                    "minimum {name} usage per {kind} is {shown}, but limit is {}",
                    upper.canonical()
                ));
            }
            _ => {}
        }
    }
    for (name, bound) in access::entries(limit, "max") {
        let Some(bound) = parse(bound) else { continue };
        let shown = bound.canonical();
        match (quantity(requests, name), quantity(limits, name)) {
            (_, None) if !claim => {
                objections.push(format!(
                    "maximum {name} usage per {kind} is {shown}. No limit is specified"
                ));
            }
            (_, Some(upper)) if upper.cmp(&bound) == Ordering::Greater => {
                objections.push(format!(
                    "maximum {name} usage per {kind} is {shown}, but limit is {}",
                    upper.canonical()
                ));
            }
            (Some(request), _) if request.cmp(&bound) == Ordering::Greater => objections.push(format!(
                "maximum {name} usage per {kind} is {shown}, but request is {}",
                request.canonical()
            )),
            _ => {}
        }
    }
    for (name, ratio) in access::entries(limit, "maxLimitRequestRatio") {
        let Some(ratio) = parse(ratio) else { continue };
        let shown = ratio.canonical();
        let prefix = format!("{name} max limit to request ratio per {kind} is {shown}");
        match (quantity(requests, name), quantity(limits, name)) {
            (None, _) => objections.push(format!("{prefix}, but no request is specified or request is 0")),
            (Some(request), _) if request.is_zero() => {
                objections.push(format!("{prefix}, but no request is specified or request is 0"));
            }
            (_, None) => objections.push(format!("{prefix}, but no limit is specified or limit is 0")),
            (Some(request), Some(upper)) => {
                let observed = upper.as_f64() / request.as_f64();
                if observed > ratio.as_f64() {
                    objections.push(format!("{prefix}, but provided ratio is {observed:.6}"));
                }
            }
        }
    }
}
