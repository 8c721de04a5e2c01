//! The specifications that `exempt` and `catch-all` must have, and how they are shown when they have another.

use serde_json::{Value, json};

use super::{access, get, go};
use crate::field::{ErrorList, Path};

/// Objects to a mandatory schema with another specification.
pub(super) fn schema(errors: &mut ErrorList, path: &Path, name: &str, spec: &Value) {
    let everything = json!([{"nonResourceURLs": ["*"], "verbs": ["*"]}]);
    let resources =
        json!([{"apiGroups": ["*"], "clusterScope": true, "namespaces": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    let groups = |names: &[&str]| -> Value {
        names
            .iter()
            .map(|name| json!({"kind": "Group", "group": {"name": name}}))
            .collect()
    };
    let rules =
        |names| json!([{"subjects": groups(names), "resourceRules": resources, "nonResourceRules": everything}]);
    let wanted = match name {
        "exempt" => {
            json!({"matchingPrecedence": 1, "priorityLevelConfiguration": {"name": name}, "rules": rules(&["system:masters"])})
        }
        "catch-all" => json!({"matchingPrecedence": 10_000, "priorityLevelConfiguration": {"name": name},
            "distinguisherMethod": {"type": "ByUser"}, "rules": rules(&["system:unauthenticated", "system:authenticated"])}),
        _ => return,
    };
    if !access::same(Some(spec), Some(&wanted)) {
        let detail = format!("spec of '{name}' must equal the fixed value");
        errors.push(go::invalid_shown(path, &shown(spec, SCHEMA), &detail));
    }
}

/// Objects to a mandatory level with another specification; what `exempt` has and lends may change.
pub(super) fn level(errors: &mut ErrorList, path: &Path, name: &str, spec: &Value) {
    let (fixed, detail) = match name {
        "exempt" => (
            access::str_of(spec, "type") == "Exempt" && !get(spec, "limited").is_object(),
            "spec of 'exempt' except the 'spec.exempt' field must equal the fixed value",
        ),
        "catch-all" => {
            let limited =
                json!({"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}});
            let wanted = json!({"type": "Limited", "limited": limited});
            (
                access::same(Some(spec), Some(&wanted)),
                "spec of 'catch-all' must equal the fixed value",
            )
        }
        _ => return,
    };
    if !fixed {
        errors.push(go::invalid_shown(path, &shown(spec, LEVEL), detail));
    }
}

/// A member of a Go struct: its name in JSON, its name in Go, and what it is.
type Member = (&'static str, &'static str, Kind);

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
    Flag,
    /// `null` when it is not there.
    Optional,
    Struct(&'static [Member]),
    Pointer(&'static [Member]),
    List(&'static [Member]),
}

const NAMED: &[Member] = &[("name", "Name", Kind::Text)];
const SCHEMA: &[Member] = &[
    (
        "priorityLevelConfiguration",
        "PriorityLevelConfiguration",
        Kind::Struct(NAMED),
    ),
    ("matchingPrecedence", "MatchingPrecedence", Kind::Number),
    (
        "distinguisherMethod",
        "DistinguisherMethod",
        Kind::Pointer(&[("type", "Type", Kind::Text)]),
    ),
    (
        "rules",
        "Rules",
        Kind::List(&[
            (
                "subjects",
                "Subjects",
                Kind::List(&[
                    ("kind", "Kind", Kind::Text),
                    ("user", "User", Kind::Pointer(NAMED)),
                    ("group", "Group", Kind::Pointer(NAMED)),
                    (
                        "serviceAccount",
                        "ServiceAccount",
                        Kind::Pointer(&[("namespace", "Namespace", Kind::Text), ("name", "Name", Kind::Text)]),
                    ),
                ]),
            ),
            (
                "resourceRules",
                "ResourceRules",
                Kind::List(&[
                    ("verbs", "Verbs", Kind::Optional),
                    ("apiGroups", "APIGroups", Kind::Optional),
                    ("resources", "Resources", Kind::Optional),
                    ("clusterScope", "ClusterScope", Kind::Flag),
                    ("namespaces", "Namespaces", Kind::Optional),
                ]),
            ),
            (
                "nonResourceRules",
                "NonResourceRules",
                Kind::List(&[
                    ("verbs", "Verbs", Kind::Optional),
                    ("nonResourceURLs", "NonResourceURLs", Kind::Optional),
                ]),
            ),
        ]),
    ),
];
const LEVEL: &[Member] = &[
    ("type", "Type", Kind::Text),
    (
        "limited",
        "Limited",
        Kind::Pointer(&[
            ("nominalConcurrencyShares", "NominalConcurrencyShares", Kind::Number),
            (
                "limitResponse",
                "LimitResponse",
                Kind::Struct(&[
                    ("type", "Type", Kind::Text),
                    (
                        "queuing",
                        "Queuing",
                        Kind::Pointer(&[
                            ("queues", "Queues", Kind::Number),
                            ("handSize", "HandSize", Kind::Number),
                            ("queueLengthLimit", "QueueLengthLimit", Kind::Number),
                        ]),
                    ),
                ]),
            ),
            ("lendablePercent", "LendablePercent", Kind::Optional),
            ("borrowingLimitPercent", "BorrowingLimitPercent", Kind::Optional),
        ]),
    ),
    (
        "exempt",
        "Exempt",
        Kind::Pointer(&[
            ("nominalConcurrencyShares", "NominalConcurrencyShares", Kind::Optional),
            ("lendablePercent", "LendablePercent", Kind::Optional),
        ]),
    ),
];

/// A struct as Go prints one whose members have no names for JSON.
fn shown(value: &Value, members: &[Member]) -> String {
    let parts = members.iter().map(|(json, go, kind)| {
        let member = value.get(*json).filter(|member| !member.is_null());
        let text = match (kind, member) {
            (Kind::Struct(members), member) => shown(member.unwrap_or(&Value::Null), members),
            (Kind::Pointer(members), Some(member)) => shown(member, members),
            (Kind::List(members), Some(Value::Array(items))) => {
                let items: Vec<String> = items.iter().map(|item| shown(item, members)).collect();
                format!("[{}]", items.join(","))
            }
            (_, Some(member)) => go::json_text(member),
            (Kind::Text, None) => "\"\"".to_owned(),
            (Kind::Number, None) => "0".to_owned(),
            (Kind::Flag, None) => "false".to_owned(),
            (_, None) => "null".to_owned(),
        };
        format!("\"{go}\":{text}")
    });
    format!("{{{}}}", parts.collect::<Vec<_>>().join(","))
}
