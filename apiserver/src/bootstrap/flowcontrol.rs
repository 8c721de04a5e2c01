//! Default priority levels, flow schemas and priority classes, from compact tables.

use coxswain_api::kinds::access;
use serde_json::{Value, json};

/// The annotation that says whether the specification follows the server's version.
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// See [`LEVELS`].
type Level = (&'static str, u32, u32, Option<(u32, u32, u32)>);

/// Name, shares, lendable percent, and queues, hand size and queue length (none: reject).
const LEVELS: &[Level] = &[
    ("catch-all", 5, 0, None),
    ("global-default", 20, 50, Some((128, 6, 50))),
    ("leader-election", 10, 0, Some((16, 4, 50))),
    ("node-high", 40, 25, Some((64, 6, 50))),
    ("system", 30, 33, Some((64, 6, 50))),
    ("workload-high", 40, 50, Some((128, 6, 50))),
    ("workload-low", 100, 90, Some((128, 6, 50))),
];

/// What a flow schema is about.
#[derive(Clone, Copy, PartialEq)]
enum About {
    Everything,
    Probes,
    ElectionLeases,
    NodeStatus,
}

/// See [`SCHEMAS`].
type Schema = (
    &'static str,
    u32,
    &'static str,
    &'static str,
    &'static [&'static str],
    About,
);

/// Name, precedence, level, distinguisher, subjects, subject matter. Subjects: `g:` group, `u:`
/// user, `s:` all service accounts of a namespace.
const SCHEMAS: &[Schema] = &[
    ("exempt", 1, "exempt", "", &["g:system:masters"], About::Everything),
    (
        "probes",
        2,
        "exempt",
        "",
        &["g:system:unauthenticated", "g:system:authenticated"],
        About::Probes,
    ),
    (
        "system-leader-election",
        100,
        "leader-election",
        "ByUser",
        &[
            "u:system:kube-controller-manager",
            "u:system:kube-scheduler",
            "s:kube-system",
        ],
        About::ElectionLeases,
    ),
    (
        "system-node-high",
        400,
        "node-high",
        "ByUser",
        &["g:system:nodes"],
        About::NodeStatus,
    ),
    (
        "system-nodes",
        500,
        "system",
        "ByUser",
        &["g:system:nodes"],
        About::Everything,
    ),
    (
        "kube-controller-manager",
        800,
        "workload-high",
        "ByNamespace",
        &["u:system:kube-controller-manager"],
        About::Everything,
    ),
    (
        "kube-scheduler",
        800,
        "workload-high",
        "ByNamespace",
        &["u:system:kube-scheduler"],
        About::Everything,
    ),
    (
        "kube-system-service-accounts",
        900,
        "workload-high",
        "ByNamespace",
        &["s:kube-system"],
        About::Everything,
    ),
    (
        "service-accounts",
        9000,
        "workload-low",
        "ByUser",
        &["g:system:serviceaccounts"],
        About::Everything,
    ),
    (
        "global-default",
        9900,
        "global-default",
        "ByUser",
        &["g:system:unauthenticated", "g:system:authenticated"],
        About::Everything,
    ),
    (
        "catch-all",
        10000,
        "catch-all",
        "ByUser",
        &["g:system:unauthenticated", "g:system:authenticated"],
        About::Everything,
    ),
];

/// Name, value, description.
const CLASSES: &[(&str, i64, &str)] = &[
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];

/// Every object with the path of its collection.
pub(super) fn objects() -> Vec<(String, Value)> {
    const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let mut out = Vec::new();
    let levels = format!("{GROUP}/prioritylevelconfigurations");
    let exempt = json!({"type": "Exempt", "exempt": {"lendablePercent": 0, "nominalConcurrencyShares": 0}});
    out.push((levels.clone(), json!({"metadata": metadata("exempt"), "spec": exempt})));
    for (name, shares, lendable, queues) in LEVELS {
        let response = match queues {
            None => json!({"type": "Reject"}),
            Some((queues, hand, length)) => {
                json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}})
            }
        };
        let limited =
            json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        let spec = json!({"type": "Limited", "limited": limited});
        out.push((levels.clone(), json!({"metadata": metadata(name), "spec": spec})));
    }
    for schema in SCHEMAS {
        out.push((format!("{GROUP}/flowschemas"), flow_schema(schema)));
    }
    for (name, value, description) in CLASSES {
        let class = json!({"metadata": {"name": name}, "value": value, "description": description});
        out.push(("/apis/scheduling.k8s.io/v1/priorityclasses".to_owned(), class));
    }
    out
}

/// The object with the specification that this version wants, when it has another one and is kept up to date: its
/// annotation says so, or nobody has said anything and changed anything.
pub(super) fn reconciled(current: &Value, wanted: &Value) -> Option<Value> {
    let said = access::str_of(access::at(current, "/metadata/annotations"), AUTO_UPDATE);
    let untouched = said.is_empty() && access::int(current, "/metadata/generation") == Some(1);
    if !(said == "true" || untouched) || access::same(current.get("spec"), wanted.get("spec")) {
        return None;
    }
    let mut repaired = current.clone();
    repaired["spec"] = wanted["spec"].clone();
    Some(repaired)
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "annotations": {AUTO_UPDATE: "true"}})
}

fn flow_schema(schema: &Schema) -> Value {
    let (name, precedence, level, distinguisher, subjects, about) = *schema;
    let resources = |groups: &[&str], resources: &[&str], verbs: &[&str], cluster: bool| {
        let mut rule = json!({"apiGroups": groups, "resources": resources, "verbs": verbs, "namespaces": ["*"]});
        if cluster {
            rule["clusterScope"] = json!(true);
        }
        rule
    };
    let any: &[&str] = &["*"];
    let mut rule = json!({"subjects": subjects.iter().map(|text| subject(text)).collect::<Vec<_>>()});
    if matches!(about, About::Everything | About::Probes) {
        let (urls, verbs): (&[&str], &[&str]) = if about == About::Probes {
            (&["/healthz", "/readyz", "/livez"], &["get"])
        } else {
            (any, any)
        };
        rule["nonResourceRules"] = json!([{"nonResourceURLs": urls, "verbs": verbs}]);
    }
    let leases = "coordination.k8s.io";
    match about {
        About::Everything => rule["resourceRules"] = json!([resources(any, any, any, true)]),
        About::ElectionLeases => {
            rule["resourceRules"] = json!([resources(&[leases], &["leases"], &["get", "create", "update"], false)]);
        }
        About::NodeStatus => {
            rule["resourceRules"] = json!([
                resources(&[""], &["nodes", "nodes/status"], any, true),
                resources(&[leases], &["leases"], any, false)
            ]);
        }
        About::Probes => {}
    }
    let mut spec = json!({
        "matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": level}, "rules": [rule],
    });
    if !distinguisher.is_empty() {
        spec["distinguisherMethod"] = json!({"type": distinguisher});
    }
    json!({"metadata": metadata(name), "spec": spec})
}

fn subject(text: &str) -> Value {
    match text.split_once(':').unwrap_or(("g", text)) {
        ("u", name) => json!({"kind": "User", "user": {"name": name}}),
        ("s", namespace) => json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": namespace}}),
        (_, name) => json!({"kind": "Group", "group": {"name": name}}),
    }
}

#[cfg(test)]
mod tests {
    use coxswain_api::ErrorList;

    use super::*;

    #[test]
    fn specifications_follow_unless_people_want_another() {
        let (_, wanted) = objects().into_iter().next().expect("an object");
        let with = |annotation: Value, generation: u64| json!({"metadata": {"name": "x", "generation": generation, "annotations": {AUTO_UPDATE: annotation}}, "spec": {}});
        for (current, repaired) in [
            (with(json!("true"), 3), true),
            (with(json!("false"), 1), false),
            (with(Value::Null, 1), true),
            (with(Value::Null, 2), false),
            (wanted.clone(), false),
        ] {
            let found = reconciled(&current, &wanted);
            assert_eq!(found.is_some(), repaired, "{current}");
            assert!(found.is_none_or(|found| found["spec"] == wanted["spec"]));
        }
    }

    #[test]
    fn the_rules_know_what_is_mandatory() {
        use coxswain_api::kinds::rules_for;
        for (path, object) in objects().iter().filter(|(path, _)| path.contains("flowcontrol")) {
            let kind = if path.ends_with("/flowschemas") {
                "FlowSchema"
            } else {
                "PriorityLevelConfiguration"
            };
            let rules = rules_for("flowcontrol.apiserver.k8s.io", kind);
            let mut object = object.clone();
            rules.default(&mut object);
            assert_eq!(rules.validate(&object), ErrorList::new(), "{object}");
        }
    }
}
