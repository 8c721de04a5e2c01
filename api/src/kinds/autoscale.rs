//! HorizontalPodAutoscalers in both versions. What is stored is `autoscaling/v2`; v1 keeps what it cannot say in
//! annotations.

mod versions;

use super::access::{self, at, child, get, has, int_of, list, set, set_default, str_of, text};
use super::check;
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, StatusRule, tidy};
use crate::field::{ErrorList, Path, forbidden, invalid, not_supported, required};
use jiff::Timestamp;
use serde_json::{Value, json};
use versions::{CPU, METRICS, to_v1, to_v2};

/// How the Scale of a workload is shown; it is never stored.
pub struct Scale;

impl Rules for Scale {
    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Desired", "integer", "Number of pods that are wanted."),
            shown("Available", "integer", "Number of pods that there are."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            json!(access::name(obj)),
            print::number(obj, "/spec/replicas"),
            print::number(obj, "/status/replicas"),
            print::age(obj, now),
        ]
    }
}

/// The rules of HorizontalPodAutoscalers.
pub struct Autoscaler;

fn is_v1(obj: &Value) -> bool {
    str_of(obj, "apiVersion") == "autoscaling/v1"
}

impl Rules for Autoscaler {
    fn looks_at_metadata_again(&self) -> bool {
        false
    }

    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        let v1 = is_v1(obj);
        let annotated = has(at(obj, "/metadata/annotations"), METRICS);
        let spec = child(obj, "spec");
        set_default(spec, "minReplicas", 1);
        if v1 {
            if !annotated {
                set_default(spec, CPU, 80);
            }
        } else {
            if list(spec, "metrics").is_empty() {
                let target = json!({"type": "Utilization", "averageUtilization": 80});
                set(
                    spec,
                    "metrics",
                    json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]),
                );
            }
            if let Some(behavior) = access::child_if(spec, "behavior") {
                default_behavior(behavior);
            }
        }
        let status = child(obj, "status");
        set_default(status, "desiredReplicas", 0);
        if v1 {
            set_default(status, "currentReplicas", 0);
        } else {
            set_default(status, "currentMetrics", Value::Null);
        }
    }

    fn on_create(&self, obj: &mut Value) {
        let status = if is_v1(obj) {
            json!({"currentReplicas": 0, "desiredReplicas": 0})
        } else {
            json!({"desiredReplicas": 0, "currentMetrics": null})
        };
        set(obj, "status", status);
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut v2;
        let obj = if is_v1(obj) {
            v2 = obj.clone();
            self.to_storage(&mut v2, "v1");
            &v2
        } else {
            obj
        };
        check_spec(at(obj, "/spec"))
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        if sub != Some("status") {
            let mut errors = self.check(new);
            // Groups that were wrong before are put up with.
            let before = self.check(old);
            let wrong = |object: bool| before.iter().any(|e| names_a_group(&e.field, object));
            let (target, objects) = (wrong(false), wrong(true));
            errors.retain(|e| !(target && names_a_group(&e.field, false) || objects && names_a_group(&e.field, true)));
            return errors;
        }
        let mut errors = ErrorList::new();
        check::non_negative_fields(
            &mut errors,
            &Path::new("status"),
            at(new, "/status"),
            &["currentReplicas", "desiredReplicas"],
        );
        errors
    }

    fn to_storage(&self, obj: &mut Value, _version: &str) {
        if is_v1(obj) {
            to_v2(obj);
        }
    }

    fn from_storage(&self, obj: &mut Value, version: &str) {
        if version == "v1" && !is_v1(obj) {
            to_v1(obj);
        }
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Reference", "string", "What is scaled."),
            shown("Targets", "string", "Current and wanted metrics."),
            shown("MinPods", "string", "Least number of pods."),
            shown("MaxPods", "string", "Most number of pods."),
            shown("Replicas", "string", "Current number of pods."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let mut v2 = obj.clone();
        self.to_storage(&mut v2, "v1");
        let spec = at(&v2, "/spec");
        let reference = get(spec, "scaleTargetRef");
        vec![
            json!(access::name(obj)),
            json!(format!("{}/{}", str_of(reference, "kind"), str_of(reference, "name"))),
            json!(targets(spec, at(&v2, "/status"))),
            json!(int_of(spec, "minReplicas").map_or_else(|| "<unset>".to_owned(), |n| n.to_string())),
            print::number(spec, "/maxReplicas"),
            print::number(&v2, "/status/currentReplicas"),
            print::age(obj, now),
        ]
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }
}

fn default_behavior(behavior: &mut Value) {
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let up = child(behavior, "scaleUp");
    set_default(up, "stabilizationWindowSeconds", 0);
    set_default(up, "selectPolicy", "Max");
    if list(up, "policies").is_empty() {
        set(
            up,
            "policies",
            json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, percent]),
        );
    }
    let down = child(behavior, "scaleDown");
    set_default(down, "selectPolicy", "Max");
    if list(down, "policies").is_empty() {
        set(down, "policies", json!([percent]));
    }
}

fn check_spec(spec: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let min = int_of(spec, "minReplicas");
    if let Some(n) = min.filter(|n| *n < 1) {
        errors.push(invalid(
            &path.child("minReplicas"),
            n,
            "must be greater than or equal to 1",
        ));
    }
    let max = int_of(spec, "maxReplicas").unwrap_or(0);
    if max < 1 {
        errors.push(required(&path.child("maxReplicas"), "must be set and greater than 0"));
    }
    if min.is_some_and(|min| max < min) {
        errors.push(invalid(
            &path.child("maxReplicas"),
            max,
            "must be greater than or equal to `minReplicas`",
        ));
    }
    let (target, at_target) = (get(spec, "scaleTargetRef"), path.child("scaleTargetRef"));
    let core = str_of(target, "kind") == "ReplicationController";
    reference(&mut errors, &at_target, target, core);
    metrics(&mut errors, &path.child("metrics"), spec, min);
    let behavior = get(spec, "behavior");
    for key in ["scaleUp", "scaleDown"] {
        if get(behavior, key).is_object() {
            scaling_rules(&mut errors, &path.child("behavior").child(key), get(behavior, key));
        }
    }
    errors
}

/// Whether this is the path of the group and version of what is scaled, or of the object of a metric.
fn names_a_group(path: &str, object: bool) -> bool {
    let member = if object { "describedObject" } else { "scaleTargetRef" };
    path.ends_with(&format!("{member}.apiVersion"))
}

/// An object by kind, name and version; one of the core group is a thing that not everything allows.
fn reference(errors: &mut ErrorList, path: &Path, reference: &Value, core: bool) {
    for key in ["kind", "name"] {
        let value = str_of(reference, key);
        if value.is_empty() {
            errors.push(required(&path.child(key), ""));
        } else {
            check::each(errors, &path.child(key), value, crate::names::path_segment(value));
        }
    }
    let version = str_of(reference, "apiVersion");
    let detail = match version.matches('/').count() {
        0 | 1 if core => return,
        1 if !version.starts_with('/') => return,
        0 | 1 => "apiVersion must specify API group".to_owned(),
        _ => format!("unexpected GroupVersion string: {version}"),
    };
    errors.push(invalid(&path.child("apiVersion"), version, detail));
}

/// Metric types and the member each of them fills, in the order in which members are looked at.
const SOURCES: &[(&str, &str)] = &[
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

fn metrics(errors: &mut ErrorList, path: &Path, spec: &Value, min: Option<i64>) {
    let all = list(spec, "metrics");
    for (i, metric) in all.iter().enumerate() {
        one_metric(errors, &path.index(i), metric);
    }
    if min == Some(0) && !all.iter().any(|m| ["Object", "External"].contains(&str_of(m, "type"))) {
        errors.push(forbidden(
            path,
            "must specify at least one Object or External metric to support scaling to zero replicas",
        ));
    }
}

fn one_metric(errors: &mut ErrorList, path: &Path, metric: &Value) {
    const KNOWN: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
    let (kind, at_type) = (str_of(metric, "type"), path.child("type"));
    if kind.is_empty() {
        errors.push(required(&at_type, "must specify a metric source type"));
    }
    if !KNOWN.contains(&kind) {
        errors.push(not_supported(&at_type, kind, KNOWN));
    }
    let mut present: Vec<&str> = SOURCES
        .iter()
        .map(|(_, member)| *member)
        .filter(|member| get(metric, member).is_object())
        .collect();
    if let Some(first) = present.first() {
        metric_source(errors, &path.child(first), first, get(metric, first));
    }
    let expected = SOURCES.iter().find(|(k, _)| *k == kind).map(|(_, member)| *member);
    match expected {
        Some(member) if !present.contains(&member) => errors.push(required(
            &path.child(member),
            "must populate information for the given metric source",
        )),
        Some(_) => {}
        None => errors.push(not_supported(&at_type, kind, KNOWN)),
    }
    if present.len() != 1 {
        present.retain(|member| Some(*member) != expected);
        present.sort_unstable();
        for member in present {
            errors.push(forbidden(
                &path.child(member),
                "must populate the given metric source only",
            ));
        }
    }
}

fn metric_source(errors: &mut ErrorList, path: &Path, member: &str, source: &Value) {
    let target = get(source, "target");
    let at_target = path.child("target");
    if member == "resource" || member == "containerResource" {
        let name = str_of(source, "name");
        if name.is_empty() {
            errors.push(required(&path.child("name"), "must specify a resource name"));
        } else if member == "containerResource" {
            super::resources::container_name(errors, &path.child("name"), name);
        }
        if member == "containerResource" {
            match str_of(source, "container") {
                "" => errors.push(required(&path.child("container"), "must specify a container")),
                container => check::dns_label(errors, &path.child("container"), container),
            }
        }
    } else {
        if member == "object" {
            reference(
                errors,
                &path.child("describedObject"),
                get(source, "describedObject"),
                true,
            );
        }
        let (name, at_metric) = (text(source, "/metric/name"), path.child("metric"));
        if name.is_empty() {
            errors.push(required(&at_metric.child("name"), "must specify a metric name"));
        } else {
            check::each(errors, &at_metric.child("name"), name, crate::names::path_segment(name));
        }
    }
    target_numbers(errors, &at_target, target);
    let (utilization, average, value) = (
        has(target, "averageUtilization"),
        has(target, "averageValue"),
        has(target, "value"),
    );
    match member {
        "resource" | "containerResource" => {
            if !utilization && !average {
                errors.push(required(
                    &at_target.child("averageUtilization"),
                    "must set either a target raw value or a target utilization",
                ));
            }
            if utilization && average {
                errors.push(forbidden(
                    &at_target.child("averageValue"),
                    "may not set both a target raw value and a target utilization",
                ));
            }
        }
        "pods" if !average || !positive(target, "averageValue") => errors.push(required(
            &at_target.child("averageValue"),
            "must specify a positive target averageValue",
        )),
        "object" | "external" if !average && !value => {
            let detail = if member == "object" {
                "must set either a target value or averageValue"
            } else {
                "must set either a target value for metric or a per-pod target"
            };
            errors.push(required(&at_target.child("averageValue"), detail));
        }
        "external" if average && value => {
            errors.push(forbidden(
                &at_target.child("value"),
                "may not set both a target value for metric and a per-pod target",
            ));
        }
        _ => {}
    }
}

fn target_numbers(errors: &mut ErrorList, path: &Path, target: &Value) {
    let kind = str_of(target, "type");
    if kind.is_empty() {
        errors.push(required(&path.child("type"), "must specify a metric target type"));
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        errors.push(invalid(
            &path.child("type"),
            kind,
            "must be either Utilization, Value, or AverageValue",
        ));
    }
    for key in ["value", "averageValue"] {
        if !positive(target, key) {
            errors.push(invalid(&path.child(key), str_of(target, key), "must be positive"));
        }
    }
    if let Some(n) = int_of(target, "averageUtilization").filter(|n| *n < 1) {
        errors.push(invalid(&path.child("averageUtilization"), n, "must be greater than 0"));
    }
}

/// Whether a quantity, where it is one, is above zero.
fn positive(target: &Value, key: &str) -> bool {
    crate::Quantity::parse(str_of(target, key)).is_ok_and(|q| q > crate::Quantity::ZERO)
        || str_of(target, key).is_empty()
}

fn scaling_rules(errors: &mut ErrorList, path: &Path, rules: &Value) {
    let tolerance = str_of(rules, "tolerance");
    if crate::Quantity::parse(tolerance).is_ok_and(|q| q < crate::Quantity::ZERO) {
        errors.push(invalid(
            &path.child("tolerance"),
            tolerance,
            "must be greater or equal to zero",
        ));
    }
    if let Some(seconds) = int_of(rules, "stabilizationWindowSeconds") {
        let at = path.child("stabilizationWindowSeconds");
        if seconds < 0 {
            errors.push(invalid(&at, seconds, "must be greater than or equal to zero"));
        } else if seconds > 3600 {
            errors.push(invalid(&at, seconds, "must be less than or equal to 3600"));
        }
    }
    if has(rules, "selectPolicy") {
        check::one_of(
            errors,
            &path.child("selectPolicy"),
            str_of(rules, "selectPolicy"),
            &["Disabled", "Max", "Min"],
        );
    }
    if list(rules, "policies").is_empty() {
        errors.push(required(&path.child("policies"), "must specify at least one Policy"));
    }
    for (i, policy) in list(rules, "policies").iter().enumerate() {
        let path = path.child("policies").index(i);
        check::one_of(
            errors,
            &path.child("type"),
            str_of(policy, "type"),
            &["Percent", "Pods"],
        );
        for key in ["value", "periodSeconds"] {
            let n = int_of(policy, key).unwrap_or(0);
            if n <= 0 {
                errors.push(invalid(&path.child(key), n, "must be greater than zero"));
            }
            if key == "periodSeconds" && n > 1800 {
                errors.push(invalid(&path.child(key), n, "must be less than or equal to 1800"));
            }
        }
    }
}

fn targets(spec: &Value, status: &Value) -> String {
    const SHOWN_MAX: usize = 2;
    let metrics = list(spec, "metrics");
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let current = list(status, "currentMetrics");
    let shown: Vec<String> = metrics
        .iter()
        .enumerate()
        .map(|(i, m)| target_text(m, current.get(i)))
        .collect();
    let text = shown.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(", ");
    if shown.len() > SHOWN_MAX {
        format!("{text} + {} more...", shown.len() - SHOWN_MAX)
    } else {
        text
    }
}

/// `current/wanted` of one metric. An average value is asked for before anything else; what it is of is named only
/// where the name is that of a resource.
fn target_text(metric: &Value, current: Option<&Value>) -> String {
    let Some((_, member)) = SOURCES.iter().find(|(k, _)| *k == str_of(metric, "type")) else {
        return "<unknown type>".to_owned();
    };
    let target = at(get(metric, member), "/target");
    let now = current.map_or(&access::NOTHING, |c| at(get(c, member), "/current"));
    let of_resource = ["resource", "containerResource"].contains(member);
    let (key, suffix) = match (has(target, "averageValue"), of_resource) {
        (true, true) => ("averageValue", ""),
        (true, false) if *member != "pods" => ("averageValue", " (avg)"),
        (_, true) => ("averageUtilization", ""),
        (_, false) if *member == "pods" => ("averageValue", ""),
        (_, false) => ("value", ""),
    };
    let word = |v: &Value, missing: &str| match v {
        Value::String(s) => s.clone(),
        Value::Number(n) => format!("{n}%"),
        _ => missing.to_owned(),
    };
    let name = if of_resource {
        format!("{}: ", text(metric, &format!("/{member}/name")))
    } else {
        String::new()
    };
    format!(
        "{name}{}/{}{suffix}",
        word(get(now, key), "<unknown>"),
        word(get(target, key), "<auto>")
    )
}
