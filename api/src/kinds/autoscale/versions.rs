//! Autoscalers in `autoscaling/v1`, whose newer members travel in annotations, and back.

use super::default_behavior;
use crate::codec::{Validation, check_fields};
use crate::kinds::access::{self, at, child, get, has, remove, set, set_default, str_of, text};
use crate::kinds::{go, tidy};
use serde_json::{Value, json};

pub(super) const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
pub(super) const CPU: &str = "targetCPUUtilizationPercentage";

/// Where v1's annotations and v2's members of one kind of metric differ: v2 pointer, v1 name. A name that ends in `!` is
/// always written.
type Places = &'static [(&'static str, &'static [(&'static str, &'static str)])];

const SPECS: Places = &[
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
        "pods",
        &[
            ("/metric/name", "metricName"),
            ("/target/averageValue", "targetAverageValue"),
            ("/metric/selector", "selector"),
        ],
    ),
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
        "external",
        &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "metricSelector"),
            ("/target/value", "targetValue"),
            ("/target/averageValue", "targetAverageValue"),
        ],
    ),
];

const STATUSES: Places = &[
    (
        "object",
        &[
            ("/describedObject", "target"),
            ("/metric/name", "metricName"),
            ("/current/value", "currentValue!"),
            ("/metric/selector", "selector"),
            ("/current/averageValue", "averageValue"),
        ],
    ),
    (
        "pods",
        &[
            ("/metric/name", "metricName"),
            ("/current/averageValue", "currentAverageValue!"),
            ("/metric/selector", "selector"),
        ],
    ),
    (
        "resource",
        &[
            ("/name", "name"),
            ("/current/averageUtilization", "currentAverageUtilization"),
            ("/current/averageValue", "currentAverageValue!"),
        ],
    ),
    (
        "containerResource",
        &[
            ("/name", "name"),
            ("/current/averageUtilization", "currentAverageUtilization"),
            ("/current/averageValue", "currentAverageValue!"),
            ("/container", "container"),
        ],
    ),
    (
        "external",
        &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "metricSelector"),
            ("/current/value", "currentValue!"),
            ("/current/averageValue", "currentAverageValue"),
        ],
    ),
];

const BEHAVIOR_TYPE: &str = "io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerBehavior";

/// The members of an object in this order, those that are absent left out; then what else there is.
fn in_order(object: &Value, order: &[&str]) -> String {
    let known = order.iter().filter_map(|key| Some((*key, object.get(*key)?)));
    let rest = object.as_object().into_iter().flatten();
    let rest = rest.filter(|(key, _)| !order.contains(&key.as_str()));
    let parts: Vec<String> = known
        .chain(rest.map(|(key, value)| (key.as_str(), value)))
        .map(|(key, value)| format!("{}:{}", json!(key), go::json_text(value)))
        .collect();
    format!("{{{}}}", parts.join(","))
}

/// One metric as v1 writes it into its annotation.
fn metric_text(metric: &Value, places: Places) -> String {
    let kind = str_of(metric, "type");
    let Some((member, places)) = places.iter().find(|(m, _)| get(metric, m).is_object()) else {
        return format!("{{\"type\":{}}}", json!(kind));
    };
    let source = get(metric, member);
    let parts: Vec<String> = places
        .iter()
        .filter_map(|(pointer, name)| {
            let text = match (source.pointer(pointer), name.strip_suffix('!')) {
                (Some(value), _) if name.ends_with("elector") => in_order(value, &["matchLabels"]),
                (Some(value), _) if *name == "target" => in_order(value, &["kind", "name"]),
                (Some(value), _) => go::json_text(value),
                (None, Some(_)) => "\"0\"".to_owned(),
                (None, None) => return None,
            };
            Some(format!("\"{}\":{text}", name.trim_end_matches('!')))
        })
        .collect();
    format!("{{\"type\":{},\"{member}\":{{{}}}}}", json!(kind), parts.join(","))
}

/// One metric read back from the annotation.
fn metric_from(old: &Value, places: Places) -> Value {
    let mut metric = json!({"type": str_of(old, "type")});
    let Some((member, known)) = places.iter().find(|(m, _)| get(old, m).is_object()) else {
        return metric;
    };
    let source = get(old, member);
    let mut made = json!({});
    for (pointer, name) in *known {
        let Some(value) = source.get(name.trim_end_matches('!')) else {
            continue;
        };
        match pointer.trim_start_matches('/').split_once('/') {
            Some((outer, inner)) => set(child(&mut made, outer), inner, value.clone()),
            None => set(&mut made, &pointer[1..], value.clone()),
        }
    }
    if std::ptr::eq(places, SPECS) {
        let target = child(&mut made, "target");
        let kind = if has(target, "averageUtilization") {
            "Utilization"
        } else if has(target, "averageValue") {
            "AverageValue"
        } else {
            "Value"
        };
        set(target, "type", kind);
    }
    set(&mut metric, member, made);
    metric
}

/// The behaviour as v1 writes it into its annotation: Kubernetes prints a type that has no names for JSON.
fn behavior_text(behavior: &Value) -> String {
    let policy = |policy: &Value| json!([get(policy, "type"), get(policy, "value"), get(policy, "periodSeconds")]);
    let rules = |name: &str| match get(behavior, name) {
        rules if rules.is_object() => {
            let policies = get(rules, "policies").as_array().map(|policies| {
                let texts = policies.iter().map(policy).map(|policy| {
                    format!(
                        "{{\"Type\":{},\"Value\":{},\"PeriodSeconds\":{}}}",
                        policy[0], policy[1], policy[2]
                    )
                });
                format!("[{}]", texts.collect::<Vec<_>>().join(","))
            });
            format!(
                "{{\"StabilizationWindowSeconds\":{},\"SelectPolicy\":{},\"Policies\":{},\"Tolerance\":{}}}",
                get(rules, "stabilizationWindowSeconds"),
                get(rules, "selectPolicy"),
                policies.unwrap_or_else(|| "null".to_owned()),
                get(rules, "tolerance")
            )
        }
        _ => "null".to_owned(),
    };
    format!(
        "{{\"ScaleUp\":{},\"ScaleDown\":{}}}",
        rules("scaleUp"),
        rules("scaleDown")
    )
}

/// The behaviour read back, however its names are written; `None` when it says nothing or is none.
fn behavior_from(old: &Value) -> Option<Value> {
    let mut behavior = lower_names(old);
    check_fields(&mut behavior, BEHAVIOR_TYPE, Validation::Ignore).ok()?;
    (!access::is_empty(&behavior)).then_some(behavior)
}

fn lower_names(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let lowered = map.iter().map(|(key, value)| {
                let mut letters = key.chars();
                let first = letters.next().map(|c| c.to_ascii_lowercase());
                (first.into_iter().chain(letters).collect(), lower_names(value))
            });
            Value::Object(lowered.collect())
        }
        Value::Array(items) => items.iter().map(lower_names).collect(),
        other => other.clone(),
    }
}

fn is_cpu(metric: &Value) -> bool {
    str_of(metric, "type") == "Resource" && text(metric, "/resource/name") == "cpu"
}

fn is_cpu_utilization(metric: &Value) -> bool {
    is_cpu(metric) && has(at(metric, "/resource/target"), "averageUtilization")
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
    let behavior = annotation(obj, BEHAVIOR).as_ref().and_then(behavior_from);
    let conditions = annotation(obj, CONDITIONS);
    let current = annotation(obj, CURRENT);
    let read = |list: &Option<Value>, places| -> Vec<Value> {
        let items = list.as_ref().and_then(Value::as_array).into_iter().flatten();
        items.map(|metric| metric_from(metric, places)).collect()
    };
    let spec = child(obj, "spec");
    let mut metrics = read(&others, SPECS);
    if let Some(percent) = remove(spec, CPU) {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    if !metrics.is_empty() {
        set(spec, "metrics", metrics);
    }
    if let Some(mut behavior) = behavior {
        default_behavior(&mut behavior);
        set(spec, "behavior", behavior);
    }
    let status = child(obj, "status");
    let percent = remove(status, "currentCPUUtilizationPercentage");
    if current.as_ref().is_some_and(Value::is_array) {
        set(status, "currentMetrics", read(&current, STATUSES));
    } else if let Some(percent) = percent {
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
    // Only what is written here travels in the annotations.
    for key in [METRICS, CURRENT, BEHAVIOR, CONDITIONS] {
        annotation(obj, key);
    }
    let spec = child(obj, "spec");
    let metrics = remove(spec, "metrics")
        .and_then(|m| m.as_array().cloned())
        .unwrap_or_default();
    let behavior = remove(spec, "behavior");
    if let Some(metric) = metrics.iter().find(|m| is_cpu(m)).filter(|m| is_cpu_utilization(m)) {
        set(spec, CPU, at(metric, "/resource/target/averageUtilization").clone());
    }
    let others: Vec<String> = metrics
        .iter()
        .filter(|metric| !is_cpu_utilization(metric))
        .map(|metric| metric_text(metric, SPECS))
        .collect();
    if !others.is_empty() {
        annotate(obj, METRICS, format!("[{}]", others.join(",")));
    }
    if let Some(behavior) = behavior.filter(Value::is_object) {
        annotate(obj, BEHAVIOR, behavior_text(&behavior));
    }
    let status = child(obj, "status");
    let current = remove(status, "currentMetrics")
        .and_then(|m| m.as_array().cloned())
        .unwrap_or_default();
    let conditions = remove(status, "conditions");
    let used = current
        .iter()
        .filter(|metric| is_cpu(metric))
        .map(|metric| at(metric, "/resource/current/averageUtilization").clone())
        .rfind(|percent| !percent.is_null());
    if let Some(percent) = used {
        set(status, "currentCPUUtilizationPercentage", percent);
    }
    set_default(status, "currentReplicas", 0);
    if let Some(conditions) = conditions.filter(|c| !access::is_empty(c)) {
        let order = ["type", "status", "lastTransitionTime", "reason", "message"];
        let texts: Vec<String> = conditions
            .as_array()
            .into_iter()
            .flatten()
            .map(|c| in_order(c, &order))
            .collect();
        annotate(obj, CONDITIONS, format!("[{}]", texts.join(",")));
    }
    if !current.is_empty() {
        let texts: Vec<String> = current.iter().map(|metric| metric_text(metric, STATUSES)).collect();
        annotate(obj, CURRENT, format!("[{}]", texts.join(",")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The members of v1's annotations, as text; what v2 says afterwards is what it said before.
    #[test]
    fn there_and_back() {
        let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Mi"}}});
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
        let object = json!({"type": "Object", "object": {"metric": {"name": "o", "selector": {"matchExpressions": [], "matchLabels": {"a": "b"}}},
            "describedObject": {"apiVersion": "v1", "kind": "Service", "name": "s"}, "target": {"type": "Value", "value": "7"}}});
        let cases = [
            (
                "/spec/metrics",
                json!([memory, object, cpu]),
                METRICS,
                "[{\"type\":\"Resource\",\"resource\":{\"name\":\"memory\",\"targetAverageValue\":\"1Mi\"}},\
                 {\"type\":\"Object\",\"object\":{\"target\":{\"kind\":\"Service\",\"name\":\"s\",\"apiVersion\":\"v1\"},\
                 \"metricName\":\"o\",\"targetValue\":\"7\",\"selector\":{\"matchLabels\":{\"a\":\"b\"},\"matchExpressions\":[]}}}]",
            ),
            (
                "/spec/behavior",
                json!({"scaleDown": {"stabilizationWindowSeconds": 5, "selectPolicy": "Max",
                    "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]},
                    "scaleUp": {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 0,
                    "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}}),
                BEHAVIOR,
                "{\"ScaleUp\":{\"StabilizationWindowSeconds\":0,\"SelectPolicy\":\"Disabled\",\"Policies\":[{\"Type\":\"Pods\",\
                 \"Value\":4,\"PeriodSeconds\":15}],\"Tolerance\":null},\"ScaleDown\":{\"StabilizationWindowSeconds\":5,\
                 \"SelectPolicy\":\"Max\",\"Policies\":[{\"Type\":\"Percent\",\"Value\":100,\"PeriodSeconds\":15}],\
                 \"Tolerance\":null}}",
            ),
            (
                "/status/currentMetrics",
                json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 33, "averageValue": "10m"}}},
                    {"type": "External", "external": {"metric": {"name": "e"}, "current": {"value": "0", "averageValue": "3"}}}]),
                CURRENT,
                "[{\"type\":\"Resource\",\"resource\":{\"name\":\"cpu\",\"currentAverageUtilization\":33,\
                 \"currentAverageValue\":\"10m\"}},{\"type\":\"External\",\"external\":{\"metricName\":\"e\",\
                 \"currentValue\":\"0\",\"currentAverageValue\":\"3\"}}]",
            ),
            (
                "/status/conditions",
                json!([{"type": "T", "status": "True", "lastTransitionTime": null, "reason": "r", "message": "m"}]),
                CONDITIONS,
                "[{\"type\":\"T\",\"status\":\"True\",\"lastTransitionTime\":null,\"reason\":\"r\",\"message\":\"m\"}]",
            ),
        ];
        for (pointer, value, key, expected) in cases {
            let mut object = json!({"metadata": {}, "spec": {"maxReplicas": 1, "metrics": [cpu]}, "status": {}});
            let (outer, inner) = pointer[1..].split_once('/').expect("two parts");
            object[outer][inner] = value.clone();
            to_v1(&mut object);
            assert_eq!(object["metadata"]["annotations"][key], expected, "{pointer}");
            assert_eq!(object["spec"][CPU], 50, "{pointer}");
            to_v2(&mut object);
            assert_eq!(object.pointer(pointer), Some(&value), "{object}");
            assert_eq!(object["metadata"].get("annotations"), None, "{object}");
        }
    }

    /// What a client writes into the annotations: names in either case, and nothing of what is none.
    #[test]
    fn written_by_hand() {
        for (key, text, pointer, expected) in [
            (BEHAVIOR, "{\"ScaleUp\":5}", "/spec/behavior", None),
            (BEHAVIOR, "{\"ScaleUp\":null}", "/spec/behavior", None),
            (BEHAVIOR, "x", "/spec/behavior", None),
            (METRICS, "x", "/spec/metrics", None),
            (
                BEHAVIOR,
                "{\"scaleDown\":{\"SelectPolicy\":\"Min\"}}",
                "/spec/behavior/scaleDown/selectPolicy",
                Some(json!("Min")),
            ),
        ] {
            let mut object = json!({"metadata": {"annotations": {key: text}}, "spec": {}});
            to_v2(&mut object);
            assert_eq!(object.pointer(pointer), expected.as_ref(), "{text}");
        }
    }
}
