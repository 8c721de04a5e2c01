//! ResourceSlices: which devices a driver offers, and on which nodes.

use super::super::access::{at, entries, get, has, int_of, list, same, str_of};
use super::super::check;
use super::super::claim;
use super::super::pod::affinity;
use super::capacity;
use super::request::{conditions, pool_name, qualified_name, set, taint};
use crate::field::{ErrorList, Path, forbidden, invalid, required, too_long, too_many};
use crate::names;
use serde_json::{Value, json};

const DEVICES_MAX: usize = 128;
/// The limit when devices have taints or share counters.
const RICH_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;
const COUNTERS_MAX: usize = 32;
const TAINTS_MAX: usize = 16;
const MEMBERS_MAX: usize = 32;
const VALUE_MAX: usize = 64;

/// Checks `spec`; `old` is what it was.
pub fn check(errors: &mut ErrorList, spec: &Value, old: Option<&Value>) {
    let path = Path::new("spec");
    claim::driver_name(errors, &path.child("driver"), str_of(spec, "driver"));
    let (pool, at_pool) = (get(spec, "pool"), path.child("pool"));
    pool_name(errors, &at_pool.child("name"), str_of(pool, "name"));
    let (count, generation) = (int_of(pool, "resourceSliceCount"), int_of(pool, "generation"));
    if let Some(n) = Some(count.unwrap_or(0)).filter(|n| *n <= 0) {
        errors.push(invalid(
            &at_pool.child("resourceSliceCount"),
            n,
            "must be greater than zero",
        ));
    }
    if let Some(n) = generation.filter(|n| *n < 0) {
        let detail = "must be greater than or equal to zero";
        errors.push(invalid(&at_pool.child("generation"), n, detail));
    }
    if let Some(old) = old {
        let changed = at_pool.child("name");
        check::immutable(errors, &changed, pool.get("name"), old.pointer("/pool/name"));
        for key in ["driver", "nodeName"] {
            check::immutable(errors, &path.child(key), spec.get(key), old.get(key));
        }
    }
    const NODES: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let places = nodes(
        errors,
        &path,
        spec,
        "must be either unset or set to a non-empty string",
        true,
    );
    match places.len() {
        0 => errors.push(required(&path, NODES)),
        1 => {}
        _ => {
            let detail = format!("{NODES}, but multiple fields are set");
            errors.push(invalid(&path, format!("{{{}}}", places.join(", ")), detail));
        }
    }
    if has(spec, "sharedCounters") && has(spec, "devices") {
        let detail = "only one of `sharedCounters` or `devices` is allowed";
        errors.push(invalid(&path, "", detail));
    }
    let devices = list(spec, "devices");
    let is_rich = |d: &Value| !list(d, "taints").is_empty() || !list(d, "consumesCounters").is_empty();
    let max = if devices.iter().any(is_rich) {
        RICH_DEVICES_MAX
    } else {
        DEVICES_MAX
    };
    let by_device = *get(spec, "perDeviceNodeSelection") == json!(true);
    let name = |d| str_of(d, "name");
    let before = old.map_or(&[] as &[Value], |old| list(old, "devices"));
    set(errors, &path.child("devices"), devices, max, name, |errors, path, d| {
        let old = before.iter().find(|old| name(old) == name(d));
        device(errors, path, d, old.unwrap_or(&Value::Null), by_device);
    });
    let counters = path.child("sharedCounters");
    set(
        errors,
        &counters,
        list(spec, "sharedCounters"),
        COUNTER_SETS_MAX,
        name,
        |errors, path, s| {
            counter_set(errors, path, s, "name");
        },
    );
}

/// Checks the members that say on which nodes devices are; gives those that are set.
fn nodes(errors: &mut ErrorList, path: &Path, owner: &Value, no_name: &str, is_slice: bool) -> Vec<&'static str> {
    let mut places = Vec::new();
    if let Some(node) = get(owner, "nodeName").as_str() {
        if node.is_empty() {
            errors.push(invalid(&path.child("nodeName"), "", no_name));
        } else {
            places.push("`nodeName`");
            check::each(errors, &path.child("nodeName"), node, names::dns1123_subdomain(node));
        }
    }
    if has(owner, "nodeSelector") {
        places.push("`nodeSelector`");
        let place = path.child("nodeSelector");
        affinity::node_selector(errors, &place, get(owner, "nodeSelector"));
        let terms = at(owner, "/nodeSelector/nodeSelectorTerms");
        if is_slice && terms.as_array().map_or(0, Vec::len) != 1 {
            let detail = "must have exactly one node selector term";
            errors.push(invalid(&place.child("nodeSelectorTerms"), terms.clone(), detail));
        }
    }
    let flags: &[(&str, &'static str)] = if is_slice {
        &[
            ("allNodes", "`allNodes`"),
            ("perDeviceNodeSelection", "`perDeviceNodeSelection`"),
        ]
    } else {
        &[("allNodes", "`allNodes`")]
    };
    for (key, shown) in flags {
        match get(owner, key).as_bool() {
            Some(true) => places.push(*shown),
            Some(false) => errors.push(invalid(&path.child(key), false, "must be either unset or set to true")),
            None => {}
        }
    }
    places
}

fn device(errors: &mut ErrorList, path: &Path, device: &Value, old: &Value, by_device: bool) {
    check::dns_label(errors, &path.child("name"), str_of(device, "name"));
    let members = entries(device, "attributes").count() + entries(device, "capacity").count();
    if members > MEMBERS_MAX {
        let detail = format!("the total number of attributes and capacities must not exceed {MEMBERS_MAX}");
        errors.push(invalid(path, members, detail));
    }
    let at_attributes = path.child("attributes");
    for (name, value) in entries(device, "attributes") {
        qualified_name(errors, &at_attributes, name);
        attribute(errors, &at_attributes.key(name), value);
    }
    let shares = *get(device, "allowMultipleAllocations") == json!(true);
    let at_capacity = path.child("capacity");
    for (name, value) in entries(device, "capacity") {
        qualified_name(errors, &at_capacity, name);
        if shares {
            let old = get(get(old, "capacity"), name);
            capacity::policy(errors, &at_capacity.key(name), value, old);
        } else if has(value, "requestPolicy") {
            let detail = "allowMultipleAllocations must be true";
            errors.push(forbidden(&at_capacity.key(name).child("requestPolicy"), detail));
        }
    }
    let (taints, at_taints) = (list(device, "taints"), path.child("taints"));
    if !old.is_null() && same(device.get("taints"), old.get("taints")) {
        // They were looked at when they came.
    } else if taints.len() > TAINTS_MAX {
        errors.push(too_many(&at_taints, taints.len(), TAINTS_MAX));
    } else {
        for (i, item) in taints.iter().enumerate() {
            taint(errors, &at_taints.index(i), item);
        }
    }
    let used = path.child("consumesCounters");
    let counter_sets = list(device, "consumesCounters");
    set(
        errors,
        &used,
        counter_sets,
        COUNTER_SETS_MAX,
        |c| str_of(c, "counterSet"),
        |errors, path, c| {
            counter_set(errors, path, c, "counterSet");
        },
    );
    const NODES: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    if by_device {
        let places = nodes(errors, path, device, "must not be empty", false);
        match places.len() {
            0 => errors.push(required(path, NODES)),
            1 => {}
            _ => errors.push(invalid(path, format!("{{{}}}", places.join(", ")), NODES)),
        }
    } else if ["nodeName", "nodeSelector", "allNodes"]
        .iter()
        .any(|key| has(device, key))
    {
        let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        errors.push(invalid(path, Value::Null, detail));
    }
    conditions(errors, path, device);
}

fn attribute(errors: &mut ErrorList, path: &Path, value: &Value) {
    for key in ["string", "version"] {
        let found = str_of(value, key);
        if key == "version" && has(value, key) && !is_version(found) {
            let detail = "must be a string compatible with semver.org spec 2.0.0";
            errors.push(invalid(&path.child(key), found, detail));
        }
        if found.len() > VALUE_MAX {
            errors.push(too_long(&path.child(key), VALUE_MAX));
        }
    }
    match ["bool", "int", "string", "version"]
        .iter()
        .filter(|key| has(value, key))
        .count()
    {
        0 => errors.push(invalid(path, "", "exactly one value must be specified")),
        1 => {}
        _ => errors.push(invalid(path, value.clone(), "exactly one value must be specified")),
    }
}

/// Whether text is a semantic version.
fn is_version(text: &str) -> bool {
    let (rest, build) = text.split_once('+').map_or((text, None), |(r, b)| (r, Some(b)));
    let (core, release) = rest.split_once('-').map_or((rest, None), |(c, r)| (c, Some(r)));
    let is_word = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let is_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let is_number = |s: &str| is_digits(s) && (s == "0" || !s.starts_with('0'));
    core.split('.').count() == 3
        && core.split('.').all(is_number)
        && release.is_none_or(|r| r.split('.').all(|s| is_word(s) && (!is_digits(s) || is_number(s))))
        && build.is_none_or(|b| b.split('.').all(is_word))
}

fn counter_set(errors: &mut ErrorList, path: &Path, item: &Value, key: &str) {
    let name = str_of(item, key);
    if name.is_empty() {
        errors.push(required(&path.child(key), ""));
    } else {
        check::dns_label(errors, &path.child(key), name);
    }
    let (place, count) = (path.child("counters"), entries(item, "counters").count());
    if count == 0 {
        errors.push(required(&place, ""));
    } else if count > COUNTERS_MAX {
        errors.push(too_many(&place, count, COUNTERS_MAX));
    } else {
        for (counter, _) in entries(item, "counters") {
            check::dns_label(errors, &place, counter);
        }
    }
}
