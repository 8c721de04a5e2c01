use serde_json::{Value, json};

use super::{FlowSchema, PriorityLevel};
use crate::kinds::Rules;

fn said(rules: &dyn Rules, name: &str, spec: Value) -> Vec<String> {
    let mut object = json!({"metadata": {"name": name}, "spec": spec});
    rules.default(&mut object);
    rules.check(&object).iter().map(ToString::to_string).collect()
}

#[test]
fn schemas() {
    let rule = |rest: Value| {
        let mut rule = json!({"subjects": [{"kind": "User", "user": {"name": "u"}}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]});
        for (key, value) in rest.as_object().into_iter().flatten() {
            rule[key] = value.clone();
        }
        json!({"priorityLevelConfiguration": {"name": "l"}, "rules": [rule]})
    };
    let resource = |rest: Value| {
        let mut one = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]});
        for (key, value) in rest.as_object().into_iter().flatten() {
            one[key] = value.clone();
        }
        rule(json!({"resourceRules": [one]}))
    };
    let table: Vec<(Value, &[&str])> = vec![
        (rule(json!({})), &[]),
        (resource(json!({})), &[]),
        (
            rule(json!({"subjects": []})),
            &["spec.rules[0].subjects: Required value: subjects must contain at least one value"],
        ),
        (
            rule(
                json!({"subjects": [{"kind": "User"}, {"kind": "Group", "group": {"name": ""}, "user": {"name": "u"}}]}),
            ),
            &[
                "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                "spec.rules[0].subjects[1].group.name: Required value",
                "spec.rules[0].subjects[1].user: Forbidden: user is forbidden when subject kind is not 'User'",
            ],
        ),
        (
            rule(json!({"subjects": [{"kind": "ServiceAccount", "serviceAccount": {"name": "*"}}, {"kind": "X"}]})),
            &[
                "spec.rules[0].subjects[0].serviceAccount.namespace: Required value: must specify namespace for service account",
                "spec.rules[0].subjects[1].kind: Unsupported value: \"X\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
            ],
        ),
        (
            rule(
                json!({"nonResourceRules": [{"verbs": ["*", "get"], "nonResourceURLs": ["x", "/a//b", "/a*", "/a b", "/a/*", "/"]}]}),
            ),
            &[
                "spec.rules[0].nonResourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is present, must not specify other verbs",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"x\": must start with slash",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/a//b\": must not contain double slash",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[2]: Invalid value: \"/a*\": wildcard can only do suffix matching",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[3]: Invalid value: \"/a b\": must not contain white-space",
            ],
        ),
        (
            resource(json!({"namespaces": []})),
            &[
                "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
            ],
        ),
        (resource(json!({"namespaces": [], "clusterScope": true})), &[]),
        (
            resource(json!({"apiGroups": [], "resources": ["*", "a"]})),
            &[
                "spec.rules[0].resourceRules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "spec.rules[0].resourceRules[0].resources: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other resources",
            ],
        ),
    ];
    for (spec, wanted) in table {
        assert_eq!(said(&FlowSchema, "x", spec.clone()), wanted, "{spec}");
    }
    let changed = said(
        &FlowSchema,
        "exempt",
        json!({"matchingPrecedence": 1, "priorityLevelConfiguration": {"name": "exempt"}}),
    );
    assert_eq!(
        changed,
        [
            "spec: Invalid value: {\"PriorityLevelConfiguration\":{\"Name\":\"exempt\"},\"MatchingPrecedence\":1,\"DistinguisherMethod\":null,\"Rules\":null}: spec of 'exempt' must equal the fixed value"
        ]
    );
}

#[test]
fn levels() {
    let queue = |queuing: Value| json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": queuing}}});
    let table: Vec<(&str, Value, &[&str])> = vec![
        ("x", queue(json!({})), &[]),
        (
            "x",
            queue(json!({"queues": 10, "handSize": 11, "queueLengthLimit": -1})),
            &[
                "spec.limited.limitResponse.queuing.queueLengthLimit: Invalid value: -1: must be positive",
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 11: should not be greater than queues (10)",
            ],
        ),
        (
            "x",
            queue(json!({"queues": 512, "handSize": 8})),
            &[
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 512 and handSize 8 should not be greater than 60",
            ],
        ),
        (
            "x",
            json!({"type": "Limited", "exempt": {}, "limited": {"nominalConcurrencyShares": -1, "lendablePercent": 101, "borrowingLimitPercent": -1,
                "limitResponse": {"type": "Reject", "queuing": {"queues": 1}}}}),
            &[
                "spec.exempt: Forbidden: must be nil if the type is Limited",
                "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer",
                "spec.limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited",
                "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
                "spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer",
            ],
        ),
        (
            "x",
            json!({"type": "Exempt"}),
            &["spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'"],
        ),
        (
            "exempt",
            json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 7, "lendablePercent": 10}}),
            &[],
        ),
        (
            "catch-all",
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 6, "limitResponse": {"type": "Reject"}}}),
            &[
                "spec: Invalid value: {\"Type\":\"Limited\",\"Limited\":{\"NominalConcurrencyShares\":6,\"LimitResponse\":{\"Type\":\"Reject\",\"Queuing\":null},\"LendablePercent\":0,\"BorrowingLimitPercent\":null},\"Exempt\":null}: spec of 'catch-all' must equal the fixed value",
            ],
        ),
    ];
    for (name, spec, wanted) in table {
        assert_eq!(said(&PriorityLevel, name, spec.clone()), wanted, "{name} {spec}");
    }
}
