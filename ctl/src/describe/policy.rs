//! Quotas, limits, disruption budgets, priority classes and autoscalers.

use std::collections::BTreeSet;

use serde_json::Value;

use super::parts::{annotations, conditions_with, date, flat, head, labels, or_unset, shown};
use super::writer::Writer;
use crate::pods::{list, selector_text, text};

/// A ResourceQuota.
pub fn quota(out: &mut Writer, object: &Value) {
    head(out, object);
    scopes(out, 0, object);
    out.line(0, "Resource\tUsed\tHard");
    out.line(0, "--------\t----\t----");
    quota_rows(out, 0, object);
}

fn scopes(out: &mut Writer, level: usize, object: &Value) {
    let mut names: Vec<&str> = list(object, "/spec/scopes").iter().filter_map(Value::as_str).collect();
    names.sort_unstable();
    if !names.is_empty() {
        out.pair(level, "Scopes", &names.join(", "));
    }
}

fn quota_rows(out: &mut Writer, level: usize, object: &Value) {
    for (resource, hard) in object["status"]["hard"].as_object().into_iter().flatten() {
        let used = &object["status"]["used"][resource];
        let used = if used.is_null() { "0".to_owned() } else { shown(used) };
        out.line(level, &format!("{resource}\t{used}\t{}", shown(hard)));
    }
}

/// The quotas of a namespace.
pub fn quotas_of_namespace(out: &mut Writer, quotas: &[Value]) {
    if quotas.is_empty() {
        out.line(0, "No resource quota.");
        return;
    }
    out.line(0, "Resource Quotas");
    for quota in quotas {
        out.pair(1, "Name", text(quota, "/metadata/name"));
        scopes(out, 1, quota);
        out.line(1, "Resource\tUsed\tHard");
        out.line(1, "--------\t---\t---");
        quota_rows(out, 1, quota);
    }
}

/// A LimitRange.
pub fn limit_range(out: &mut Writer, object: &Value) {
    head(out, object);
    limit_rows(out, "", list(object, "/spec/limits").iter());
}

/// A table with a row for each resource of each limit.
pub fn limit_rows<'a>(out: &mut Writer, indent: &str, limits: impl Iterator<Item = &'a Value>) {
    out.line(
        0,
        &format!("{indent}Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio"),
    );
    out.line(
        0,
        &format!("{indent}----\t--------\t---\t---\t---------------\t-------------\t-----------------------"),
    );
    const COLUMNS: [&str; 5] = ["min", "max", "defaultRequest", "default", "maxLimitRequestRatio"];
    for limit in limits {
        let names: BTreeSet<&String> = COLUMNS
            .iter()
            .filter_map(|column| limit[*column].as_object())
            .flat_map(serde_json::Map::keys)
            .collect();
        for name in names {
            let cells: Vec<String> = COLUMNS
                .iter()
                .map(|column| limit[*column].get(name).map_or("-".to_owned(), shown))
                .collect();
            out.line(
                0,
                &format!("{indent}{}\t{name}\t{}", text(limit, "/type"), cells.join("\t")),
            );
        }
    }
}

/// A PodDisruptionBudget.
pub fn disruption_budget(out: &mut Writer, object: &Value) {
    head(out, object);
    for (name, key) in [("Min available", "minAvailable"), ("Max unavailable", "maxUnavailable")] {
        if !object["spec"][key].is_null() {
            out.pair(0, name, &shown(&object["spec"][key]));
        }
    }
    out.pair(0, "Selector", or_unset(&selector_text(&object["spec"]["selector"])));
    out.line(0, "Status:");
    for (name, key) in [
        ("Allowed disruptions", "disruptionsAllowed"),
        ("Current", "currentHealthy"),
        ("Desired", "desiredHealthy"),
        ("Total", "expectedPods"),
    ] {
        out.pair(2, name, &object["status"][key].as_i64().unwrap_or(0).to_string());
    }
}

/// A PriorityClass.
pub fn priority_class(out: &mut Writer, object: &Value) {
    out.pair(0, "Name", text(object, "/metadata/name"));
    out.pair(0, "Value", &shown(&object["value"]));
    out.pair(0, "GlobalDefault", &(object["globalDefault"] == true).to_string());
    let policy = text(object, "/preemptionPolicy");
    out.pair(
        0,
        "PreemptionPolicy",
        if policy.is_empty() {
            "PreemptLowerPriority"
        } else {
            policy
        },
    );
    out.pair(0, "Description", text(object, "/description"));
    out.pair(0, "Annotations", &flat(object.pointer("/metadata/annotations")));
}

/// A HorizontalPodAutoscaler.
pub fn autoscaler(out: &mut Writer, object: &Value) {
    head(out, object);
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    out.pair(
        0,
        "CreationTimestamp",
        &date(text(object, "/metadata/creationTimestamp")),
    );
    let target = &object["spec"]["scaleTargetRef"];
    out.pair(
        0,
        "Reference",
        &format!("{}/{}", text(target, "/kind"), text(target, "/name")),
    );
    out.pair(0, "Metrics", "( current / target )");
    for metric in list(object, "/spec/metrics") {
        let now = list(object, "/status/currentMetrics")
            .iter()
            .find(|now| same_metric(metric, now));
        let (name, values) = metric_line(metric, now);
        out.pair(1, &name, &values);
    }
    out.pair(
        0,
        "Min replicas",
        &object["spec"]["minReplicas"]
            .as_i64()
            .map_or("<unset>".into(), |n| n.to_string()),
    );
    out.pair(0, "Max replicas", &shown(&object["spec"]["maxReplicas"]));
    behavior(out, &object["spec"]["behavior"]);
    let count = |key: &str| object["status"][key].as_i64().unwrap_or(0);
    out.pair(
        0,
        &format!("{} pods", text(target, "/kind")),
        &format!(
            "{} current / {} desired",
            count("currentReplicas"),
            count("desiredReplicas")
        ),
    );
    conditions_with(
        out,
        list(object, "/status/conditions"),
        &["Type", "Status", "Reason", "Message"],
    );
}

/// The part of a metric that its type names.
fn source(metric: &Value) -> &Value {
    let kind = text(metric, "/type");
    let mut key = kind.get(..1).unwrap_or_default().to_lowercase();
    key.push_str(kind.get(1..).unwrap_or_default());
    metric.get(&key).unwrap_or(&Value::Null)
}

fn same_metric(wanted: &Value, now: &Value) -> bool {
    let (left, right) = (source(wanted), source(now));
    wanted["type"] == now["type"]
        && left["name"] == right["name"]
        && left["container"] == right["container"]
        && left["metric"]["name"] == right["metric"]["name"]
}

fn metric_line(metric: &Value, now: Option<&Value>) -> (String, String) {
    let wanted = source(metric);
    let current = now.map_or(&Value::Null, |now| &source(now)["current"]);
    let target = &wanted["target"];
    let of = |key: &str| match &current[key] {
        Value::Null => "<unknown>".to_owned(),
        value => shown(value),
    };
    let name = text(wanted, "/metric/name");
    let by_pod = target["averageValue"].is_string();
    let amounts = if by_pod {
        format!("{} / {}", of("averageValue"), shown(&target["averageValue"]))
    } else {
        format!("{} / {}", of("value"), shown(&target["value"]))
    };
    match text(metric, "/type") {
        kind @ ("Resource" | "ContainerResource") => {
            let mut what = format!("resource {} on pods", text(wanted, "/name"));
            if kind == "ContainerResource" {
                what = format!(
                    "resource {} of container {:?} on pods",
                    text(wanted, "/name"),
                    text(wanted, "/container")
                );
            }
            let Some(percent) = target["averageUtilization"].as_i64() else {
                return (what, amounts);
            };
            let now = match current["averageUtilization"].as_i64() {
                Some(now) => format!("{now}% ({})", of("averageValue")),
                None => "<unknown>".to_owned(),
            };
            (
                format!("{what}  (as a percentage of request)"),
                format!("{now} / {percent}%"),
            )
        }
        "Pods" => (format!("{name:?} on pods"), amounts),
        "Object" => {
            let object = &wanted["describedObject"];
            let how = if by_pod { "target average value" } else { "target value" };
            let place = format!("{}/{}", text(object, "/kind"), text(object, "/name"));
            (format!("{name:?} on {place} ({how})"), amounts)
        }
        "External" => {
            let how = if by_pod { "target average value" } else { "target value" };
            (format!("{name:?} ({how})"), amounts)
        }
        other => (format!("<unknown metric type {other:?}>"), String::new()),
    }
}

fn behavior(out: &mut Writer, behavior: &Value) {
    if !behavior.is_object() {
        return;
    }
    out.line(0, "Behavior:");
    for (title, key) in [("Scale Up", "scaleUp"), ("Scale Down", "scaleDown")] {
        let rules = &behavior[key];
        if !rules.is_object() {
            continue;
        }
        out.line(1, &format!("{title}:"));
        if let Some(seconds) = rules["stabilizationWindowSeconds"].as_i64() {
            out.line(2, &format!("Stabilization Window: {seconds} seconds"));
        }
        let policies = list(rules, "/policies");
        if policies.is_empty() {
            continue;
        }
        let select = text(rules, "/selectPolicy");
        out.line(
            2,
            &format!("Select Policy: {}", if select.is_empty() { "Max" } else { select }),
        );
        out.line(2, "Policies:");
        for policy in policies {
            let (kind, value) = (text(policy, "/type"), shown(&policy["value"]));
            out.line(
                3,
                &format!(
                    "- Type: {kind}\tValue: {value}\tPeriod: {} seconds",
                    shown(&policy["periodSeconds"])
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metrics() {
        let cases = [
            (
                json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 50}}}),
                Some(
                    json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 10, "averageValue": "5m"}}}),
                ),
                ("resource cpu on pods  (as a percentage of request)", "10% (5m) / 50%"),
            ),
            (
                json!({"type": "Resource", "resource": {"name": "memory", "target": {"averageValue": "1Gi"}}}),
                None,
                ("resource memory on pods", "<unknown> / 1Gi"),
            ),
            (
                json!({"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"averageValue": "10"}}}),
                None,
                ("\"rps\" on pods", "<unknown> / 10"),
            ),
            (
                json!({"type": "External", "external": {"metric": {"name": "q"}, "target": {"value": "3"}}}),
                None,
                ("\"q\" (target value)", "<unknown> / 3"),
            ),
        ];
        for (metric, now, (name, values)) in cases {
            assert_eq!(metric_line(&metric, now.as_ref()), (name.to_owned(), values.to_owned()));
        }
    }
}
