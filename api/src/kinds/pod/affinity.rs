//! Objections to node and pod affinity, node selectors and topology spread.

use crate::field::{ErrorList, Path, duplicate, forbidden, invalid, required};
use crate::kinds::access::{at, child, child_if, each_mut, entries, get, has, int_of, list, set, str_of};
use crate::kinds::check::{self, strings};
use crate::names;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `spec.affinity`.
pub fn check(errors: &mut ErrorList, path: &Path, affinity: &Value) {
    let node = get(affinity, "nodeAffinity");
    if node.is_object() {
        let path = path.child("nodeAffinity");
        if get(node, REQUIRED).is_object() {
            node_selector(errors, &path.child(REQUIRED), get(node, REQUIRED));
        }
        for (i, preferred) in list(node, PREFERRED).iter().enumerate() {
            let path = path.child(PREFERRED).index(i);
            weight(errors, &path, preferred);
            let preference = get(preferred, "preference");
            node_term(errors, &path.child("preference"), preference, Values::Any);
        }
    }
    for key in ["podAffinity", "podAntiAffinity"] {
        let pods = get(affinity, key);
        let path = path.child(key);
        for (i, term) in list(pods, REQUIRED).iter().enumerate() {
            pod_term(errors, &path.child(REQUIRED).index(i), term);
        }
        for (i, preferred) in list(pods, PREFERRED).iter().enumerate() {
            let path = path.child(PREFERRED).index(i);
            weight(errors, &path, preferred);
            pod_term(
                errors,
                &path.child("podAffinityTerm"),
                get(preferred, "podAffinityTerm"),
            );
        }
    }
}

fn weight(errors: &mut ErrorList, path: &Path, owner: &Value) {
    let weight = int_of(owner, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.push(invalid(&path.child("weight"), weight, "must be in the range 1-100"));
    }
}

/// A node selector: at least one term.
pub fn node_selector(errors: &mut ErrorList, path: &Path, selector: &Value) {
    let terms = list(selector, "nodeSelectorTerms");
    let path = path.child("nodeSelectorTerms");
    if terms.is_empty() {
        errors.push(required(&path, "must have at least one node selector term"));
    }
    for (i, term) in terms.iter().enumerate() {
        node_term(errors, &path.index(i), term, Values::Labels);
    }
}

/// Which values expressions may list. Preferences may list what no node can have.
#[derive(Clone, Copy, PartialEq)]
enum Values {
    Any,
    Labels,
}

fn node_term(errors: &mut ErrorList, path: &Path, term: &Value, values: Values) {
    for (i, requirement) in list(term, "matchExpressions").iter().enumerate() {
        node_requirement(errors, &path.child("matchExpressions").index(i), requirement, values);
    }
    for (i, requirement) in list(term, "matchFields").iter().enumerate() {
        field_requirement(errors, &path.child("matchFields").index(i), requirement);
    }
}

fn node_requirement(errors: &mut ErrorList, path: &Path, requirement: &Value, allowed: Values) {
    let values = strings(requirement, "values");
    let operator = str_of(requirement, "operator");
    match operator {
        "In" | "NotIn" => {
            if values.is_empty() {
                errors.push(required(
                    &path.child("values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                ));
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                errors.push(forbidden(
                    &path.child("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ));
            }
        }
        "Gt" | "Lt" => {
            if values.len() != 1 {
                errors.push(required(
                    &path.child("values"),
                    "must be specified single value when `operator` is 'Lt' or 'Gt'",
                ));
            }
        }
        _ => errors.push(invalid(
            &path.child("operator"),
            operator,
            "not a valid selector operator",
        )),
    }
    check::qualified(errors, &path.child("key"), str_of(requirement, "key"));
    for (i, value) in values.iter().enumerate().filter(|_| allowed == Values::Labels) {
        check::each(errors, &path.child("values").index(i), value, names::label_value(value));
    }
}

fn field_requirement(errors: &mut ErrorList, path: &Path, requirement: &Value) {
    let values = strings(requirement, "values");
    let (operator, key) = (str_of(requirement, "operator"), str_of(requirement, "key"));
    match operator {
        "In" | "NotIn" => {
            if values.len() != 1 {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.push(required(&path.child("values"), detail));
            }
        }
        _ => errors.push(invalid(
            &path.child("operator"),
            operator,
            "not a valid selector operator",
        )),
    }
    if key != "metadata.name" {
        errors.push(invalid(&path.child("key"), key, "not a valid field selector key"));
        return;
    }
    for (i, value) in values.iter().enumerate() {
        check::dns_subdomain(errors, &path.child("values").index(i), value);
    }
}

fn pod_term(errors: &mut ErrorList, path: &Path, term: &Value) {
    for key in ["labelSelector", "namespaceSelector"] {
        if get(term, key).is_object() {
            check::label_selector(errors, &path.child(key), get(term, key));
        }
    }
    for name in strings(term, "namespaces") {
        check::dns_label(errors, &path.child("namespace"), name);
    }
    pod_label_keys(errors, path, term);
    let key = str_of(term, "topologyKey");
    if key.is_empty() {
        errors.push(required(&path.child("topologyKey"), "can not be empty"));
    }
    check::qualified(errors, &path.child("topologyKey"), key);
}

/// `matchLabelKeys` and `mismatchLabelKeys` of a term.
fn pod_label_keys(errors: &mut ErrorList, path: &Path, term: &Value) {
    let selector = get(term, "labelSelector");
    for key in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys = strings(term, key);
        if !keys.is_empty() && !selector.is_object() {
            errors.push(forbidden(
                &path.child(key),
                "must not be specified when labelSelector is not set",
            ));
            continue;
        }
        for (i, label) in keys.iter().enumerate() {
            check::qualified(errors, &path.child(key).index(i), label);
        }
    }
    let (matching, other) = (strings(term, "matchLabelKeys"), strings(term, "mismatchLabelKeys"));
    merged_twice(errors, path, &matching, selector);
    let other: BTreeSet<&str> = other.into_iter().collect();
    for (i, label) in matching.iter().enumerate().filter(|(_, label)| other.contains(**label)) {
        errors.push(invalid(
            &path.child("matchLabelKeys").index(i),
            *label,
            "exists in both matchLabelKeys and mismatchLabelKeys",
        ));
    }
}

/// Keys have been merged into the selector on creation; a second expression of a key is one that the client wrote.
fn merged_twice(errors: &mut ErrorList, path: &Path, keys: &[&str], selector: &Value) {
    let mut seen: BTreeSet<&str> = entries(selector, "matchLabels").map(|(k, _)| k.as_str()).collect();
    let places: BTreeMap<&str, usize> = keys.iter().enumerate().map(|(place, key)| (*key, place)).collect();
    for expression in list(selector, "matchExpressions") {
        let key = str_of(expression, "key");
        let place = places.get(key).copied();
        if let Some(i) = place.filter(|_| seen.contains(key)) {
            let detail = "exists in both matchLabelKeys and labelSelector";
            errors.push(invalid(&path.index(i), key, detail));
        }
        seen.insert(key);
    }
}

/// Adds what `matchLabelKeys` and `mismatchLabelKeys` say about a new pod's own labels to the selectors.
pub fn merge_label_keys(pod: &mut Value) {
    let labels = at(pod, "/metadata/labels").clone();
    let spec = child(pod, "spec");
    for constraint in each_mut(spec, "topologySpreadConstraints") {
        merge_keys(constraint, &labels, "matchLabelKeys", "In");
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(rules) = child_if(spec, "affinity").and_then(|a| child_if(a, kind)) else {
            continue;
        };
        each_mut(rules, REQUIRED).for_each(|term| merge_both(term, &labels));
        each_mut(rules, PREFERRED)
            .filter_map(|preferred| child_if(preferred, "podAffinityTerm"))
            .for_each(|term| merge_both(term, &labels));
    }
}

fn merge_both(term: &mut Value, labels: &Value) {
    merge_keys(term, labels, "matchLabelKeys", "In");
    merge_keys(term, labels, "mismatchLabelKeys", "NotIn");
}

fn merge_keys(owner: &mut Value, labels: &Value, keys: &str, operator: &str) {
    let fresh: Vec<Value> = strings(owner, keys)
        .into_iter()
        .filter_map(|key| {
            labels
                .get(key)
                .map(|v| json!({"key": key, "operator": operator, "values": [v]}))
        })
        .collect();
    if fresh.is_empty() || !get(owner, "labelSelector").is_object() {
        return;
    }
    let selector = child(owner, "labelSelector");
    let mut all = list(selector, "matchExpressions").to_vec();
    all.extend(fresh);
    set(selector, "matchExpressions", all);
}

/// `spec.topologySpreadConstraints`.
pub fn topology_spread(errors: &mut ErrorList, path: &Path, constraints: &[Value]) {
    let key = |c: &'_ Value| [str_of(c, "topologyKey"), str_of(c, "whenUnsatisfiable")].map(str::to_owned);
    // From the end: it is the last of equal ones that has none behind it.
    let mut repeated = check::repeats(constraints.iter().rev().map(key));
    repeated.reverse();
    for (i, (c, repeated)) in constraints.iter().zip(repeated).enumerate() {
        let path = path.index(i);
        let skew = int_of(c, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.push(invalid(&path.child("maxSkew"), skew, "must be greater than zero"));
        }
        if str_of(c, "topologyKey").is_empty() {
            errors.push(required(&path.child("topologyKey"), "can not be empty"));
        }
        let action = str_of(c, "whenUnsatisfiable");
        check::one_of(
            errors,
            &path.child("whenUnsatisfiable"),
            action,
            &["DoNotSchedule", "ScheduleAnyway"],
        );
        if repeated {
            let shown = format!("{{{}, {action}}}", str_of(c, "topologyKey"));
            errors.push(duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), shown));
        }
        if let Some(domains) = int_of(c, "minDomains") {
            if domains <= 0 {
                errors.push(invalid(&path.child("minDomains"), domains, "must be greater than zero"));
            }
            if action != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.push(invalid(&path.child("minDomains"), domains, detail));
            }
        }
        for key in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if has(c, key) {
                check::one_of(errors, &path.child(key), str_of(c, key), &["Honor", "Ignore"]);
            }
        }
        spread_label_keys(errors, &path, c);
        if get(c, "labelSelector").is_object() {
            check::label_selector(errors, &path.child("labelSelector"), get(c, "labelSelector"));
        }
    }
}

fn spread_label_keys(errors: &mut ErrorList, path: &Path, constraint: &Value) {
    let keys = strings(constraint, "matchLabelKeys");
    let selector = get(constraint, "labelSelector");
    let at = path.child("matchLabelKeys");
    if !keys.is_empty() && !selector.is_object() {
        errors.push(forbidden(&at, "must not be specified when labelSelector is not set"));
        return;
    }
    for (i, key) in keys.iter().enumerate() {
        check::qualified(errors, &at.index(i), key);
    }
    merged_twice(errors, path, &keys, selector);
}
