//! What claims ask for, which constraints and settings go with it, and what was allocated.

use super::super::access::{at, get, has, int_of, list, str_of, text};
use super::super::check::{self, strings};
use super::super::claim;
use super::super::pod::affinity;
use crate::field::{ErrorList, Path, duplicate, forbidden, invalid, not_supported, required, too_long, too_many};
use crate::names;
use serde_json::{Value, json};

/// The most requests, constraints and settings of a claim, and selectors of a request.
const PARTS_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;
const RESERVED_MAX: usize = 256;
const PARAMETERS_MAX: usize = 10 * 1024;
const EXPRESSION_MAX: usize = 10 * 1024;
const POOL_MAX: usize = 253;
const ID_MAX: usize = 32;
const CONDITIONS_MAX: usize = 8;

const NOT_A_REQUEST: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// Checks each item of a list, and that no two have the same key; a list that is too long is not looked at.
pub fn set<'a>(
    errors: &mut ErrorList,
    path: &Path,
    items: &'a [Value],
    max: usize,
    key: impl Fn(&'a Value) -> &'a str,
    mut check: impl FnMut(&mut ErrorList, &Path, &'a Value),
) {
    if items.len() > max {
        errors.push(too_many(path, items.len(), max));
        return;
    }
    for (i, item) in items.iter().enumerate() {
        check(errors, &path.index(i), item);
    }
    let repeated = check::repeats(items.iter().map(&key));
    for (i, (item, _)) in items
        .iter()
        .zip(repeated)
        .enumerate()
        .filter(|(_, (_, repeated))| *repeated)
    {
        errors.push(duplicate(&path.index(i), key(item)));
    }
}

fn itself(item: &Value) -> &str {
    item.as_str().unwrap_or("")
}

fn named(item: &Value) -> &str {
    str_of(item, "name")
}

/// `spec` of a claim.
pub fn claim(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let (path, devices) = (path.child("devices"), get(spec, "devices"));
    let requests = list(devices, "requests");
    let at_requests = path.child("requests");
    set(errors, &at_requests, requests, PARTS_MAX, named, request);
    let (constraints, at_constraints) = (list(devices, "constraints"), path.child("constraints"));
    if constraints.len() > PARTS_MAX {
        errors.push(too_many(&at_constraints, constraints.len(), PARTS_MAX));
    } else {
        for (i, item) in constraints.iter().enumerate() {
            constraint(errors, &at_constraints.index(i), item, requests);
        }
    }
    let (configs, at_configs) = (list(devices, "config"), path.child("config"));
    if configs.len() > PARTS_MAX {
        errors.push(too_many(&at_configs, configs.len(), PARTS_MAX));
        return;
    }
    for (i, item) in configs.iter().enumerate() {
        let place = at_configs.index(i);
        references(errors, &place, item, requests);
        config(errors, &place, item);
    }
}

fn request_name(errors: &mut ErrorList, path: &Path, request: &Value) {
    let name = named(request);
    if name.is_empty() {
        errors.push(required(&path.child("name"), ""));
    } else {
        check::dns_label(errors, &path.child("name"), name);
    }
}

fn request(errors: &mut ErrorList, path: &Path, request: &Value) {
    request_name(errors, path, request);
    let exactly = get(request, "exactly");
    let alternatives = list(request, "firstAvailable");
    match (exactly.is_object(), alternatives.is_empty()) {
        (false, true) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required";
            errors.push(required(path, detail));
        }
        (true, false) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.push(invalid(path, Value::Null, detail));
        }
        (true, true) => exact(errors, &path.child("exactly"), exactly),
        (false, false) => {
            let place = path.child("firstAvailable");
            set(
                errors,
                &place,
                alternatives,
                ALTERNATIVES_MAX,
                named,
                |errors, path, sub| {
                    request_name(errors, path, sub);
                    exact(errors, path, sub);
                },
            );
        }
    }
}

fn exact(errors: &mut ErrorList, path: &Path, request: &Value) {
    check::required_subdomain(
        errors,
        &path.child("deviceClassName"),
        str_of(request, "deviceClassName"),
    );
    selectors(errors, &path.child("selectors"), request);
    let (mode, count) = (str_of(request, "allocationMode"), int_of(request, "count").unwrap_or(0));
    let at_count = path.child("count");
    match mode {
        "ExactCount" if count <= 0 => errors.push(invalid(&at_count, count, "must be greater than zero")),
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            errors.push(invalid(&at_count, count, detail));
        }
        _ => check::one_of(errors, &path.child("allocationMode"), mode, &["All", "ExactCount"]),
    }
    for (i, item) in list(request, "tolerations").iter().enumerate() {
        toleration(errors, &path.child("tolerations").index(i), item);
    }
}

/// The selectors of a request or a class, without their expressions.
pub fn selectors(errors: &mut ErrorList, path: &Path, owner: &Value) {
    let items = list(owner, "selectors");
    if items.len() > PARTS_MAX {
        errors.push(too_many(path, items.len(), PARTS_MAX));
        return;
    }
    for (i, item) in items.iter().enumerate() {
        let place = path.index(i).child("cel");
        if !has(item, "cel") {
            errors.push(required(&place, ""));
        } else if text(item, "/cel/expression").len() > EXPRESSION_MAX {
            errors.push(too_long(&place.child("expression"), EXPRESSION_MAX));
        }
    }
}

fn toleration(errors: &mut ErrorList, path: &Path, item: &Value) {
    let (key, value, operator) = (str_of(item, "key"), str_of(item, "value"), str_of(item, "operator"));
    if !key.is_empty() {
        check::qualified(errors, &path.child("key"), key);
    }
    match operator {
        "Exists" if !value.is_empty() => {
            let detail = "must be empty for operator `Exists`";
            errors.push(invalid(&path.child("value"), value, detail));
        }
        "Exists" => {}
        "Equal" => check::each(errors, &path.child("value"), value, names::label_value(value)),
        "" => errors.push(required(&path.child("operator"), "")),
        _ => errors.push(not_supported(&path.child("operator"), operator, &["Equal", "Exists"])),
    }
    effect(errors, path, item);
}

fn effect(errors: &mut ErrorList, path: &Path, item: &Value) {
    let effects = ["NoExecute", "NoSchedule", "None"];
    check::one_of_if(errors, &path.child("effect"), str_of(item, "effect"), &effects);
}

/// A taint of a device.
pub fn taint(errors: &mut ErrorList, path: &Path, item: &Value) {
    let value = str_of(item, "value");
    check::qualified(errors, &path.child("key"), str_of(item, "key"));
    check::each(errors, &path.child("value"), value, names::label_value(value));
    if str_of(item, "effect").is_empty() {
        errors.push(required(&path.child("effect"), ""));
    }
    effect(errors, path, item);
}

fn constraint(errors: &mut ErrorList, path: &Path, item: &Value, requests: &[Value]) {
    references(errors, path, item, requests);
    if has(item, "matchAttribute") {
        full_name(errors, &path.child("matchAttribute"), str_of(item, "matchAttribute"));
    } else if has(item, "distinctAttribute") {
        full_name(
            errors,
            &path.child("distinctAttribute"),
            str_of(item, "distinctAttribute"),
        );
    } else {
        let detail =
            "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
        errors.push(required(path, detail));
    }
}

/// The requests that a constraint or a setting is for.
fn references(errors: &mut ErrorList, path: &Path, item: &Value, requests: &[Value]) {
    let place = path.child("requests");
    set(
        errors,
        &place,
        list(item, "requests"),
        PARTS_MAX,
        itself,
        |errors, path, name| {
            reference(errors, path, itself(name), requests);
        },
    );
}

fn reference(errors: &mut ErrorList, path: &Path, name: &str, requests: &[Value]) {
    let segments: Vec<&str> = name.split('/').collect();
    if segments.len() > 2 {
        errors.push(invalid(path, name, NOT_A_REQUEST));
        return;
    }
    for segment in &segments {
        check::dns_label(errors, path, segment);
    }
    let found = segments
        .first()
        .and_then(|first| requests.iter().find(|r| named(r) == *first));
    let is_there = match (found, segments.get(1)) {
        (Some(request), Some(sub)) => list(request, "firstAvailable").iter().any(|r| named(r) == *sub),
        (found, _) => found.is_some(),
    };
    if !is_there {
        errors.push(invalid(path, name, NOT_A_REQUEST));
    }
}

/// Settings that only the driver reads.
pub fn config(errors: &mut ErrorList, path: &Path, item: &Value) {
    let (opaque, path) = (get(item, "opaque"), path.child("opaque"));
    if !opaque.is_object() {
        errors.push(required(&path, ""));
        return;
    }
    claim::driver_name(errors, &path.child("driver"), str_of(opaque, "driver"));
    object(errors, &path.child("parameters"), get(opaque, "parameters"));
}

/// Something of any form, as long as it is an object that is not too big.
fn object(errors: &mut ErrorList, path: &Path, value: &Value) {
    if value.is_null() {
        errors.push(required(path, ""));
    } else if value.to_string().len() > PARAMETERS_MAX {
        errors.push(too_long(path, PARAMETERS_MAX));
    } else if !value.is_object() {
        errors.push(invalid(path, "<value omitted>", "must be a valid JSON object"));
    }
}

/// A name of an attribute or capacity: an identifier, with or without a domain.
pub fn qualified_name(errors: &mut ErrorList, path: &Path, name: &str) {
    let parts: Vec<&str> = name.split('/').collect();
    let identifier = |errors: &mut ErrorList, id: &str| {
        if id.len() > ID_MAX {
            errors.push(too_long(path, ID_MAX));
        }
        check::each(errors, path, id, names::c_identifier(id));
    };
    match parts.as_slice() {
        [id] => identifier(errors, id),
        [domain, id] => {
            if domain.is_empty() {
                errors.push(invalid(path, "", "the domain must not be empty"));
            } else {
                claim::driver_name(errors, path, domain);
            }
            if id.is_empty() {
                errors.push(invalid(path, "", "the name must not be empty"));
            } else {
                identifier(errors, id);
            }
        }
        _ => errors.push(invalid(path, name, "must not contain more than one slash")),
    }
}

fn full_name(errors: &mut ErrorList, path: &Path, name: &str) {
    qualified_name(errors, path, name);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(invalid(path, name, detail));
    }
}

/// The name of a pool: domains separated by slashes.
pub fn pool_name(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        errors.push(required(path, ""));
        return;
    }
    if name.len() > POOL_MAX {
        errors.push(too_long(path, POOL_MAX));
    }
    for part in name.split('/') {
        check::dns_subdomain(errors, path, part);
    }
}

/// `status` of a claim, and how it may change.
pub fn status(errors: &mut ErrorList, new: &Value, old: &Value) {
    let (path, status, was) = (Path::new("status"), at(new, "/status"), at(old, "/status"));
    let requests = list(at(new, "/spec/devices"), "requests");
    let (reserved, at_reserved) = (list(status, "reservedFor"), path.child("reservedFor"));
    set(
        errors,
        &at_reserved,
        reserved,
        RESERVED_MAX,
        |r| str_of(r, "uid"),
        |errors, path, user| {
            for key in ["resource", "name", "uid"] {
                if str_of(user, key).is_empty() {
                    errors.push(required(&path.child(key), ""));
                }
            }
        },
    );
    let allocation = get(status, "allocation");
    for (i, device) in list(status, "devices").iter().enumerate() {
        reported(errors, &path.child("devices").index(i), device, allocation);
    }
    if !reserved.is_empty() {
        if !allocation.is_object() {
            let detail = "may not be specified when `allocated` is not set";
            errors.push(forbidden(&at_reserved, detail));
        } else if has(at(new, "/metadata"), "deletionTimestamp")
            && reserved.iter().any(|r| !list(was, "reservedFor").contains(r))
        {
            let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.push(forbidden(&at_reserved, detail));
        }
    }
    let place = path.child("allocation");
    if allocation.is_object() && get(was, "allocation").is_object() {
        check::immutable(errors, &place, status.get("allocation"), was.get("allocation"));
    } else if allocation.is_object() {
        allocated(errors, &place, allocation, requests);
    }
}

fn device_place(errors: &mut ErrorList, path: &Path, device: &Value) {
    claim::driver_name(errors, &path.child("driver"), str_of(device, "driver"));
    pool_name(errors, &path.child("pool"), str_of(device, "pool"));
    check::dns_label(errors, &path.child("device"), str_of(device, "device"));
}

/// What a driver says about an allocated device.
fn reported(errors: &mut ErrorList, path: &Path, device: &Value, allocation: &Value) {
    device_place(errors, path, device);
    let keys = ["driver", "pool", "device", "shareID"];
    let is_same = |r: &&Value| keys.iter().all(|k| get(r, k) == get(device, k));
    if !list(at(allocation, "/devices"), "results").iter().any(|r| is_same(&r)) {
        let shown = json!({
            "Driver": str_of(device, "driver"),
            "Pool": str_of(device, "pool"),
            "Device": str_of(device, "device"),
            "ShareID": str_of(device, "shareID"),
        });
        errors.push(invalid(path, shown, "must be an allocated device in the claim"));
    }
    let conditions = list(device, "conditions").len();
    if conditions > CONDITIONS_MAX {
        errors.push(too_many(&path.child("conditions"), conditions, CONDITIONS_MAX));
    }
    super::super::conditions::check(errors, path, device);
    if !get(device, "data").is_null() {
        object(errors, &path.child("data"), get(device, "data"));
    }
    let (network, path) = (get(device, "networkData"), path.child("networkData"));
    for (key, max) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if str_of(network, key).len() > max {
            errors.push(too_long(&path.child(key), max));
        }
    }
}

fn allocated(errors: &mut ErrorList, path: &Path, allocation: &Value, requests: &[Value]) {
    let (devices, at_devices) = (get(allocation, "devices"), path.child("devices"));
    let (results, at_results) = (list(devices, "results"), at_devices.child("results"));
    if results.len() > PARTS_MAX {
        errors.push(too_many(&at_results, results.len(), PARTS_MAX));
    } else {
        for (i, result) in results.iter().enumerate() {
            let place = at_results.index(i);
            reference(errors, &place.child("request"), str_of(result, "request"), requests);
            device_place(errors, &place, result);
            conditions(errors, &place, result);
            for (j, item) in list(result, "tolerations").iter().enumerate() {
                toleration(errors, &place.child("tolerations").index(j), item);
            }
        }
    }
    let (configs, at_configs) = (list(devices, "config"), at_devices.child("config"));
    if configs.len() > 2 * PARTS_MAX {
        errors.push(too_many(&at_configs, configs.len(), 2 * PARTS_MAX));
    }
    for (i, item) in configs.iter().enumerate().filter(|_| configs.len() <= 2 * PARTS_MAX) {
        let place = at_configs.index(i);
        let source = str_of(item, "source");
        check::required_one_of(errors, &place.child("source"), source, &["FromClaim", "FromClass"]);
        references(errors, &place, item, requests);
        config(errors, &place, item);
    }
    if has(allocation, "nodeSelector") {
        affinity::node_selector(errors, &path.child("nodeSelector"), get(allocation, "nodeSelector"));
    }
}

/// The conditions that a device must, or must not, report before a pod is bound.
pub fn conditions(errors: &mut ErrorList, path: &Path, device: &Value) {
    const MAX: usize = 4;
    let binding = strings(device, "bindingConditions");
    for key in ["bindingConditions", "bindingFailureConditions"] {
        let (items, place) = (list(device, key), path.child(key));
        set(errors, &place, items, MAX, itself, |errors, path, name| {
            check::qualified(errors, path, itself(name));
        });
    }
    for (i, name) in strings(device, "bindingFailureConditions").iter().enumerate() {
        if binding.contains(name) {
            let detail = "bindingFailureConditions must not overlap with bindingConditions";
            errors.push(invalid(&path.child("bindingFailureConditions").index(i), *name, detail));
        }
    }
    for (key, other) in [
        ("bindingConditions", "bindingFailureConditions"),
        ("bindingFailureConditions", "bindingConditions"),
    ] {
        if list(device, key).is_empty() && !list(device, other).is_empty() {
            let detail = format!("{key} are required to use {other}");
            errors.push(invalid(&path.child(key), get(device, key).clone(), detail));
        }
    }
}
