//! Objections to node and pod affinity, node selectors and topology spread.

use crate::field::{ErrorList, Path, duplicate, forbidden, invalid, required};
use crate::kinds::access::{get, has, int_of, list, str_of};
use crate::kinds::check::{self, strings};
use crate::names;
use serde_json::Value;
use std::collections::BTreeSet;

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
            node_term(errors, &path.child("preference"), get(preferred, "preference"));
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
        node_term(errors, &path.index(i), term);
    }
}

fn node_term(errors: &mut ErrorList, path: &Path, term: &Value) {
    for (i, requirement) in list(term, "matchExpressions").iter().enumerate() {
        node_requirement(errors, &path.child("matchExpressions").index(i), requirement);
    }
    for (i, requirement) in list(term, "matchFields").iter().enumerate() {
        field_requirement(errors, &path.child("matchFields").index(i), requirement);
    }
}

fn node_requirement(errors: &mut ErrorList, path: &Path, requirement: &Value) {
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
    for (i, value) in values.iter().enumerate() {
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
    for key in ["matchLabelKeys", "mismatchLabelKeys"] {
        match_label_keys(errors, &path.child(key), term, key);
    }
    topology_key(errors, path, term);
}

fn match_label_keys(errors: &mut ErrorList, path: &Path, owner: &Value, key: &str) {
    let keys = strings(owner, key);
    if !keys.is_empty() && !get(owner, "labelSelector").is_object() {
        errors.push(forbidden(path, "must not be specified when labelSelector is not set"));
        return;
    }
    for (i, label) in keys.iter().enumerate() {
        check::qualified(errors, &path.index(i), label);
    }
}

fn topology_key(errors: &mut ErrorList, path: &Path, owner: &Value) {
    let key = str_of(owner, "topologyKey");
    if key.is_empty() {
        errors.push(required(&path.child("topologyKey"), "can not be empty"));
    } else {
        check::qualified(errors, &path.child("topologyKey"), key);
    }
}

/// `spec.topologySpreadConstraints`.
pub fn topology_spread(errors: &mut ErrorList, path: &Path, constraints: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, c) in constraints.iter().enumerate() {
        let path = path.index(i);
        let skew = int_of(c, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.push(invalid(&path.child("maxSkew"), skew, "must be greater than zero"));
        }
        topology_key(errors, &path, c);
        let action = str_of(c, "whenUnsatisfiable");
        check::one_of(
            errors,
            &path.child("whenUnsatisfiable"),
            action,
            &["DoNotSchedule", "ScheduleAnyway"],
        );
        if !seen.insert((str_of(c, "topologyKey"), action)) {
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
        match_label_keys(errors, &path.child("matchLabelKeys"), c, "matchLabelKeys");
        if get(c, "labelSelector").is_object() {
            check::label_selector(errors, &path.child("labelSelector"), get(c, "labelSelector"));
        }
    }
}
