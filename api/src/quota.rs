//! What objects count for in ResourceQuotas. Admission charges by it, the quota controller counts by it.

use crate::Quantity;
use crate::kinds::access;
use crate::kinds::pod::qos;
use serde_json::{Map, Value};
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

type Amounts = BTreeMap<String, Quantity>;

fn amounts(owner: &Value, field: &str) -> Amounts {
    let stated = access::entries(owner, field);
    stated
        .filter_map(|(name, value)| Some((name.clone(), quantity(Some(value))?)))
        .collect()
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = total.get(name).map_or(*amount, |sum| sum.add(amount));
        total.insert(name.clone(), sum);
    }
}

fn raise(total: &mut Amounts, least: &Amounts) {
    for (name, amount) in least {
        let before = total.entry(name.clone()).or_insert(*amount);
        *before = (*before).max(*amount);
    }
}

/// Requests and limits of a pod: the sum of its containers, or of what its start needs if that is more; instead of it
/// what the pod states as a whole; and overhead. Init containers that go on running count beside everything that
/// starts after them.
pub fn pod_resources(pod: &Value) -> Value {
    let spec = access::get(pod, "spec");
    let mut out = Value::Object(Map::new());
    for field in ["requests", "limits"] {
        let of = |holder: &Value| amounts(access::get(holder, "resources"), field);
        let (mut total, mut sidecars, mut start) = (Amounts::new(), Amounts::new(), Amounts::new());
        for container in access::list(spec, "containers") {
            add(&mut total, &of(container));
        }
        for container in access::list(spec, "initContainers") {
            let mut own = of(container);
            if access::str_of(container, "restartPolicy") == "Always" {
                add(&mut total, &own);
                add(&mut sidecars, &own);
                raise(&mut start, &sidecars);
            } else {
                add(&mut own, &sidecars);
                raise(&mut start, &own);
            }
        }
        raise(&mut total, &start);
        total.extend(of(spec));
        let mut overhead = amounts(spec, "overhead");
        overhead.retain(|name, _| field == "requests" || total.contains_key(name));
        add(&mut total, &overhead);
        let shown = total.into_iter().map(|(name, sum)| (name, sum.canonical().into()));
        let shown: Map<String, Value> = shown.collect();
        if !shown.is_empty() {
            access::set(&mut out, field, shown);
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

/// Whether a quota has scopes: it counts only what they choose then.
pub fn is_scoped(quota: &Value) -> bool {
    let listed = |pointer| !access::list_at(quota, pointer).is_empty();
    listed("/spec/scopes") || listed("/spec/scopeSelector/matchExpressions")
}

/// Whether scopes can choose among a resource's objects.
pub fn can_be_chosen(group: &str, plural: &str) -> bool {
    group.is_empty() && matches!(plural, "pods" | "persistentvolumeclaims")
}

/// Whether a quota's scopes choose an object of a resource.
pub fn in_scope(quota: &Value, group: &str, plural: &str, object: &Value) -> bool {
    if !is_scoped(quota) {
        return true;
    }
    if !can_be_chosen(group, plural) {
        return false;
    }
    let scopes = access::list_at(quota, "/spec/scopes");
    let expressions = access::list_at(quota, "/spec/scopeSelector/matchExpressions");
    let plain = scopes.iter().filter_map(Value::as_str);
    plain
        .map(|scope| (scope, "Exists", [].as_slice()))
        .chain(expressions.iter().map(|expression| {
            let word = |key| access::str_of(expression, key);
            (word("scopeName"), word("operator"), access::list(expression, "values"))
        }))
        .all(|(scope, operator, values)| chooses(scope, operator, values, plural, object))
}

fn chooses(scope: &str, operator: &str, values: &[Value], plural: &str, object: &Value) -> bool {
    let by_class = |pointers: &[&str]| {
        let named = pointers.iter().map(|pointer| access::text(object, pointer));
        let classes: Vec<&str> = named.filter(|class| !class.is_empty()).collect();
        let listed = values.iter().filter_map(Value::as_str).any(|v| classes.contains(&v));
        match operator {
            "In" => listed,
            "NotIn" => !listed,
            "DoesNotExist" => classes.is_empty(),
            _ => !classes.is_empty(),
        }
    };
    let ends = || access::int(object, "/spec/activeDeadlineSeconds").is_some();
    match (plural, scope) {
        ("pods", "Terminating") => ends(),
        ("pods", "NotTerminating") => !ends(),
        ("pods", "BestEffort") => qos::class(object) == "BestEffort",
        ("pods", "NotBestEffort") => qos::class(object) != "BestEffort",
        ("pods", "PriorityClass") => by_class(&["/spec/priorityClassName"]),
        ("pods", "CrossNamespacePodAffinity") => looks_into_other_namespaces(object),
        ("persistentvolumeclaims", "VolumeAttributesClass") => by_class(&[
            "/spec/volumeAttributesClassName",
            "/status/currentVolumeAttributesClassName",
            "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
        ]),
        _ => false,
    }
}

/// Whether a term of the pod's affinity names namespaces or selects them.
fn looks_into_other_namespaces(pod: &Value) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = access::get(access::at(pod, "/spec/affinity"), kind);
        let required = access::list(affinity, "requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = access::list(affinity, "preferredDuringSchedulingIgnoredDuringExecution");
        let preferred = preferred
            .iter()
            .map(|weighted| access::get(weighted, "podAffinityTerm"));
        required.iter().chain(preferred).any(|term| {
            !access::list(term, "namespaces").is_empty() || access::get(term, "namespaceSelector").is_object()
        })
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
    fn resources_of_pods() {
        let check = |spec: Value, requests: Value, limits: Value| {
            let found = pod_resources(&json!({"spec": spec}));
            assert_eq!((&found["requests"], &found["limits"]), (&requests, &limits), "{spec}");
        };
        let init =
            |cpu: &str, policy: Option<&str>| json!({"restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}});
        let one = json!([init("1", None)]);
        // A sidecar runs beside the containers, and beside what starts after it.
        let sidecar = || init("1", Some("Always"));
        check(
            json!({"containers": one, "initContainers": [sidecar(), init("2", None)]}),
            json!({"cpu": "3"}),
            Value::Null,
        );
        check(
            json!({"containers": one, "initContainers": [init("3", None), sidecar()]}),
            json!({"cpu": "3"}),
            Value::Null,
        );
        // The whole pod's word stands, overhead comes on top of what is bounded.
        let whole = json!({"requests": {"cpu": "5"}, "limits": {"memory": "1Gi"}});
        check(
            json!({"containers": one, "resources": whole, "overhead": {"cpu": "1", "memory": "1Gi"}}),
            json!({"cpu": "6", "memory": "1Gi"}),
            json!({"memory": "2Gi"}),
        );
    }

    #[test]
    fn scopes() {
        let check = |scope: Value, plural: &str, object: Value, expected: bool| {
            let quota = match &scope {
                Value::String(_) => json!({"spec": {"scopes": [scope]}}),
                _ => json!({"spec": {"scopeSelector": {"matchExpressions": [scope]}}}),
            };
            assert_eq!(
                in_scope(&quota, "", plural, &object),
                expected,
                "{scope} {plural} {object}"
            );
        };
        let asks = |name: &str| json!({"spec": {"containers": [{"resources": {"requests": {name: "1"}}}]}});
        // Only CPU and memory make a pod more than best effort.
        check(json!("BestEffort"), "pods", asks("ephemeral-storage"), true);
        check(json!("NotBestEffort"), "pods", asks("cpu"), true);
        check(json!("BestEffort"), "pods", asks("memory"), false);
        check(json!("BestEffort"), "services", json!({}), false);
        check(
            json!("Terminating"),
            "pods",
            json!({"spec": {"activeDeadlineSeconds": 1}}),
            true,
        );
        check(
            json!("NotTerminating"),
            "pods",
            json!({"spec": {"activeDeadlineSeconds": 1}}),
            false,
        );
        let term = |namespaces: Value| json!({"requiredDuringSchedulingIgnoredDuringExecution": [namespaces]});
        let near = |terms: Value| json!({"spec": {"affinity": {"podAntiAffinity": terms}}});
        let across = "CrossNamespacePodAffinity";
        check(json!(across), "pods", near(term(json!({"namespaces": ["x"]}))), true);
        check(
            json!(across),
            "pods",
            near(term(json!({"namespaceSelector": {}}))),
            true,
        );
        check(json!(across), "pods", near(term(json!({"topologyKey": "x"}))), false);
        let class = |operator: &str, values: Value| json!({"scopeName": "VolumeAttributesClass", "operator": operator, "values": values});
        let gold = || json!({"spec": {"volumeAttributesClassName": "gold"}});
        check(class("In", json!(["gold"])), "persistentvolumeclaims", gold(), true);
        check(class("In", json!(["silver"])), "persistentvolumeclaims", gold(), false);
        check(
            class("NotIn", json!(["silver"])),
            "persistentvolumeclaims",
            gold(),
            true,
        );
        check(
            class("DoesNotExist", json!([])),
            "persistentvolumeclaims",
            json!({}),
            true,
        );
        check(class("Exists", json!([])), "pods", gold(), false);
        let ranked = |operator: &str| json!({"scopeName": "PriorityClass", "operator": operator, "values": ["high"]});
        let high = || json!({"spec": {"priorityClassName": "high"}});
        check(ranked("In"), "pods", high(), true);
        check(ranked("NotIn"), "pods", high(), false);
        check(ranked("NotIn"), "pods", json!({}), true);
        check(ranked("Exists"), "pods", json!({}), false);
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
