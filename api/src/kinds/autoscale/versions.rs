//! Autoscalers in `autoscaling/v1`, whose newer members travel in annotations, and back.

use super::default_behavior;
use crate::kinds::access::{self, at, child, get, has, remove, set, set_default, str_of, text};
use crate::kinds::{go, tidy};
use serde_json::{Value, json};

pub(super) const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
pub(super) const CPU: &str = "targetCPUUtilizationPercentage";

/// Where v1's annotations and v2's members of one metric differ: v2 pointer, v1 name.
const PLACES: &[(&str, &[(&str, &str)])] = &[
    (
        "resource",
        &[
            ("/name", "name"),
            ("/target/averageUtilization", "targetAverageUtilization"),
            ("/target/averageValue", "targetAverageValue"),
        ],
    ),
    (
        "containerResource",
        &[
            ("/name", "name"),
            ("/target/averageUtilization", "targetAverageUtilization"),
            ("/target/averageValue", "targetAverageValue"),
            ("/container", "container"),
        ],
    ),
    (
        "pods",
        &[
            ("/metric/name", "metricName"),
            ("/target/averageValue", "targetAverageValue"),
            ("/metric/selector", "selector"),
        ],
    ),
    (
        "object",
        &[
            ("/describedObject", "target"),
            ("/metric/name", "metricName"),
            ("/target/value", "targetValue"),
            ("/metric/selector", "selector"),
            ("/target/averageValue", "averageValue"),
        ],
    ),
    (
        "external",
        &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "metricSelector"),
            ("/target/value", "targetValue"),
            ("/target/averageValue", "targetAverageValue"),
        ],
    ),
];

/// One metric as v1 writes it into its annotation.
fn metric_text(metric: &Value) -> String {
    let kind = str_of(metric, "type");
    let Some((member, places)) = PLACES.iter().find(|(m, _)| get(metric, m).is_object()) else {
        return format!("{{\"type\":{}}}", json!(kind));
    };
    let source = get(metric, member);
    let parts: Vec<String> = places
        .iter()
        .filter_map(|(pointer, name)| {
            source
                .pointer(pointer)
                .map(|v| format!("\"{name}\":{}", go::json_text(v)))
        })
        .collect();
    format!("{{\"type\":{},\"{member}\":{{{}}}}}", json!(kind), parts.join(","))
}

/// One metric read back from the annotation.
fn metric_from(old: &Value) -> Value {
    let mut metric = json!({"type": str_of(old, "type")});
    let Some((member, places)) = PLACES.iter().find(|(m, _)| get(old, m).is_object()) else {
        return metric;
    };
    let source = get(old, member);
    let mut made = json!({});
    for (pointer, name) in *places {
        let Some(value) = source.get(*name) else { continue };
        match pointer.trim_start_matches('/').split_once('/') {
            Some((outer, inner)) => set(child(&mut made, outer), inner, value.clone()),
            None => set(&mut made, &pointer[1..], value.clone()),
        }
    }
    let target = child(&mut made, "target");
    let kind = if has(target, "averageUtilization") {
        "Utilization"
    } else if has(target, "averageValue") {
        "AverageValue"
    } else {
        "Value"
    };
    set(target, "type", kind);
    set(&mut metric, member, made);
    metric
}

fn is_cpu_utilization(metric: &Value) -> bool {
    str_of(metric, "type") == "Resource"
        && text(metric, "/resource/name") == "cpu"
        && has(at(metric, "/resource/target"), "averageUtilization")
}

fn annotation(obj: &mut Value, key: &str) -> Option<Value> {
    let metadata = child(obj, "metadata");
    let taken = metadata.get_mut("annotations").and_then(|a| remove(a, key))?;
    tidy::drop_zero(metadata, &["annotations"]);
    serde_json::from_str(taken.as_str()?).ok()
}

fn annotate(obj: &mut Value, key: &str, value: String) {
    set(child(child(obj, "metadata"), "annotations"), key, value);
}

pub(super) fn to_v2(obj: &mut Value) {
    set(obj, "apiVersion", "autoscaling/v2");
    let others = annotation(obj, METRICS);
    let behavior = annotation(obj, BEHAVIOR);
    let conditions = annotation(obj, CONDITIONS);
    annotation(obj, CURRENT);
    let spec = child(obj, "spec");
    let mut metrics = Vec::new();
    if let Some(percent) = remove(spec, CPU) {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    metrics.extend(
        others
            .as_ref()
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(metric_from),
    );
    if !metrics.is_empty() {
        set(spec, "metrics", metrics);
    }
    if let Some(mut behavior) = behavior {
        default_behavior(&mut behavior);
        set(spec, "behavior", behavior);
    }
    let status = child(obj, "status");
    if let Some(percent) = remove(status, "currentCPUUtilizationPercentage") {
        let current = json!({"averageUtilization": percent});
        set(
            status,
            "currentMetrics",
            json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}]),
        );
    } else {
        set_default(status, "currentMetrics", Value::Null);
    }
    if let Some(conditions) = conditions {
        set(status, "conditions", conditions);
    }
}

pub(super) fn to_v1(obj: &mut Value) {
    set(obj, "apiVersion", "autoscaling/v1");
    let spec = child(obj, "spec");
    let metrics = remove(spec, "metrics")
        .and_then(|m| m.as_array().cloned())
        .unwrap_or_default();
    let behavior = remove(spec, "behavior");
    let cpu = metrics.iter().position(is_cpu_utilization);
    if let Some(metric) = cpu.and_then(|i| metrics.get(i)) {
        set(spec, CPU, at(metric, "/resource/target/averageUtilization").clone());
    }
    let others: Vec<String> = metrics
        .iter()
        .enumerate()
        .filter(|(i, _)| Some(*i) != cpu)
        .map(|(_, m)| metric_text(m))
        .collect();
    if !others.is_empty() {
        annotate(obj, METRICS, format!("[{}]", others.join(",")));
    }
    if let Some(behavior) = behavior.filter(Value::is_object) {
        annotate(obj, BEHAVIOR, go::json_text(&behavior));
    }
    let status = child(obj, "status");
    let current = remove(status, "currentMetrics")
        .and_then(|m| m.as_array().cloned())
        .unwrap_or_default();
    let conditions = remove(status, "conditions");
    let used = current
        .iter()
        .find(|m| text(m, "/resource/name") == "cpu")
        .map(|m| at(m, "/resource/current/averageUtilization").clone());
    if let Some(percent) = used.filter(|v| !v.is_null()) {
        set(status, "currentCPUUtilizationPercentage", percent);
    }
    set_default(status, "currentReplicas", 0);
    if let Some(conditions) = conditions.filter(|c| !access::is_empty(c)) {
        annotate(obj, CONDITIONS, go::json_text(&conditions));
    }
}
