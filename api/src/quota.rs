//! What objects count for in ResourceQuotas. Admission charges by it, the quota controller counts by it.

use crate::Quantity;
use crate::kinds::access;
use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Core resources that a quota may count by their bare plural.
pub const COUNTED: [&str; 7] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];

/// The core resource, or `(plural, group)`, whose objects a quota's resource name is about.
pub fn counts_of(name: &str) -> (&str, &str) {
    if let Some(counted) = name.strip_prefix("count/") {
        return counted.split_once('.').unwrap_or((counted, ""));
    }
    if let Some(plain) = COUNTED.iter().find(|plain| **plain == name) {
        return (plain, "");
    }
    if name.starts_with("services.") {
        ("services", "")
    } else if name == "requests.storage" || name.contains(".storageclass.storage.k8s.io/") {
        ("persistentvolumeclaims", "")
    } else {
        ("pods", "")
    }
}

/// What an object of a resource uses, by quota resource name.
pub fn usage(group: &str, plural: &str, object: &Value) -> BTreeMap<String, Quantity> {
    let is = |name: &str| group.is_empty() && plural == name;
    let mut out = BTreeMap::new();
    let mut add = |name: String, amount: Quantity| {
        out.insert(name, amount);
    };
    let qualified = if group.is_empty() {
        plural.to_owned()
    } else {
        format!("{plural}.{group}")
    };
    add(format!("count/{qualified}"), Quantity::from_int(1));
    if is("pods") && matches!(access::text(object, "/status/phase"), "Succeeded" | "Failed") {
        return out;
    }
    if group.is_empty() && COUNTED.contains(&plural) {
        add(plural.to_owned(), Quantity::from_int(1));
    }
    if is("pods") {
        let resources = pod_resources(object);
        for (field, prefix) in [("requests", "requests."), ("limits", "limits.")] {
            for (name, value) in access::entries(&resources, field) {
                if let Some(amount) = quantity(Some(value)) {
                    let bare = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
                    if prefix == "requests." && (bare || name.starts_with("hugepages-")) {
                        add(name.clone(), amount);
                    }
                    add(format!("{prefix}{name}"), amount);
                }
            }
        }
    }
    if is("services") {
        let kind = access::text(object, "/spec/type");
        let ports = access::list_at(object, "/spec/ports");
        let balanced = kind == "LoadBalancer";
        let chosen_only =
            balanced && object.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
        let counted = ports
            .iter()
            .filter(|port| !chosen_only || access::has(port, "nodePort"));
        let ports = i64::try_from(counted.count()).unwrap_or(i64::MAX);
        add(
            "services.loadbalancers".to_owned(),
            Quantity::from_int(i64::from(balanced)),
        );
        let node_ports = if kind == "NodePort" || balanced { ports } else { 0 };
        add("services.nodeports".to_owned(), Quantity::from_int(node_ports));
    }
    if is("persistentvolumeclaims") {
        let size =
            quantity(object.pointer("/spec/resources/requests/storage")).unwrap_or_else(|| Quantity::from_int(0));
        let class = access::text(object, "/spec/storageClassName");
        if !class.is_empty() {
            let prefix = format!("{class}.storageclass.storage.k8s.io");
            add(format!("{prefix}/requests.storage"), size);
            add(format!("{prefix}/persistentvolumeclaims"), Quantity::from_int(1));
        }
        add("requests.storage".to_owned(), size);
    }
    out
}

/// Requests and limits of a pod: the sum of its containers, or the largest init container.
pub fn pod_resources(pod: &Value) -> Value {
    let mut out = Value::Object(Map::new());
    let spec = access::get(pod, "spec");
    for field in ["requests", "limits"] {
        let mut total: BTreeMap<String, Quantity> = BTreeMap::new();
        for container in access::list(spec, "containers") {
            for (name, value) in access::entries(access::get(container, "resources"), field) {
                let Some(value) = quantity(Some(value)) else { continue };
                let sum = total.get(name).map_or(value, |sum| sum.add(&value));
                total.insert(name.clone(), sum);
            }
        }
        for container in access::list(spec, "initContainers") {
            let sidecar = access::str_of(container, "restartPolicy") == "Always";
            for (name, value) in access::entries(access::get(container, "resources"), field) {
                let Some(value) = quantity(Some(value)) else { continue };
                let next = match total.get(name) {
                    Some(sum) if sidecar => sum.add(&value),
                    Some(sum) if sum.cmp(&value) != Ordering::Less => *sum,
                    _ => value,
                };
                total.insert(name.clone(), next);
            }
        }
        for (name, value) in access::entries(spec, "overhead") {
            if let (Some(sum), Some(value)) = (total.get(name).cloned(), quantity(Some(value))) {
                total.insert(name.clone(), sum.add(&value));
            }
        }
        let map: Map<String, Value> = total
            .into_iter()
            .map(|(name, sum)| (name, sum.canonical().into()))
            .collect();
        if !map.is_empty() {
            access::set(&mut out, field, map);
        }
    }
    out
}

/// A quantity as objects state it: a text or a whole number.
pub fn quantity(value: Option<&Value>) -> Option<Quantity> {
    match value? {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => number.as_i64().map(Quantity::from_int),
        _ => None,
    }
}

/// Whether a quota's scopes choose an object of a resource.
pub fn in_scope(quota: &Value, group: &str, plural: &str, object: &Value) -> bool {
    let spec = access::get(quota, "spec");
    let selector = access::list_at(quota, "/spec/scopeSelector/matchExpressions");
    if access::list(spec, "scopes").is_empty() && selector.is_empty() {
        return true;
    }
    if !group.is_empty() || plural != "pods" {
        return false;
    }
    let terminating = access::int(object, "/spec/activeDeadlineSeconds").is_some();
    let best_effort = pod_resources(object).as_object().is_none_or(Map::is_empty);
    let class = access::text(object, "/spec/priorityClassName");
    let matches = |scope: &str, operator: &str, values: &[Value]| match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => {
            let listed = values.iter().any(|value| value.as_str() == Some(class));
            match operator {
                "In" => listed,
                "NotIn" => !listed,
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        _ => false,
    };
    access::list(spec, "scopes")
        .iter()
        .filter_map(Value::as_str)
        .all(|scope| matches(scope, "Exists", &[]))
        && selector.iter().all(|expression| {
            let (scope, operator) = (
                access::str_of(expression, "scopeName"),
                access::str_of(expression, "operator"),
            );
            matches(scope, operator, access::list(expression, "values"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn uses() {
        let check = |plural: &str, object: Value, expected: &[(&str, &str)]| {
            let used = usage("", plural, &object);
            let shown: Vec<(String, String)> = used.iter().map(|(n, q)| (n.clone(), q.canonical())).collect();
            let expected: Vec<(String, String)> = expected
                .iter()
                .map(|(n, q)| ((*n).to_owned(), (*q).to_owned()))
                .collect();
            assert_eq!(shown, expected, "{object}");
        };
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}, "limits": {"memory": "1Gi"}}});
        check(
            "pods",
            json!({"spec": {"containers": [container("500m"), container("1")]}}),
            &[
                ("count/pods", "1"),
                ("cpu", "1500m"),
                ("limits.memory", "2Gi"),
                ("pods", "1"),
                ("requests.cpu", "1500m"),
            ],
        );
        check("pods", json!({"status": {"phase": "Failed"}}), &[("count/pods", "1")]);
        check(
            "services",
            json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}, {"port": 81}]}}),
            &[
                ("count/services", "1"),
                ("services", "1"),
                ("services.loadbalancers", "1"),
                ("services.nodeports", "2"),
            ],
        );
        check("secrets", json!({}), &[("count/secrets", "1"), ("secrets", "1")]);
    }

    #[test]
    fn names() {
        let check = |name: &str, expected: (&str, &str)| assert_eq!(counts_of(name), expected, "{name}");
        check("count/deployments.apps", ("deployments", "apps"));
        check("count/configmaps", ("configmaps", ""));
        check("configmaps", ("configmaps", ""));
        check("services.nodeports", ("services", ""));
        check("requests.storage", ("persistentvolumeclaims", ""));
        check(
            "gold.storageclass.storage.k8s.io/requests.storage",
            ("persistentvolumeclaims", ""),
        );
        check("requests.cpu", ("pods", ""));
        check("requests.nvidia.com/gpu", ("pods", ""));
    }
}
